/* packed.h - files of packed experts: one record each, as memory has it while it is computed with, so that one
 * aligned read brings it there.
 *
 *   0     magic "APUSEXP1"
 *   8     u64 fingerprint   of the model whose experts these are
 *   16    u64 form          how they are packed
 *   24    u32 layers, u32 experts of a layer
 *   32    u64 XXH3 of the header up to here, and of the table
 *   40    zeros up to 4096
 *   4096  the table: {u64 offset, u64 XXH3 of the record} [layers][experts]; 0, 0 = there is none
 *         records, in the order of the table, each at a multiple of 4096
 *
 * Numbers are little-endian. Files are opened by the machine that computes, so a form that another kind of machine
 * has packed is refused, as is another model's. */
#ifndef AP_FILE_PACKED_H
#define AP_FILE_PACKED_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define AP_PACKED_ALIGN 4096

typedef struct ap_packed {
    char *path;
    uint64_t fingerprint, form;
    int n_layer, n_expert;
    uint64_t *offset, *sum; /* [L][E] */
} ap_packed;

/* Read header and table; records are read by others. EFILE; EFORMAT: not such a file, damaged or cut; ENOMEM. */
apus_err ap_packed_open(const char *path, ap_packed *out, apus_diag *diag);
/* The same from a file's bytes. */
apus_err ap_packed_parse(const uint8_t *data, size_t len, const char *path, ap_packed *out,
                         apus_diag *diag);
void ap_packed_close(ap_packed *p);

/* EFORMAT with the way out unless the file is of that model, form and shape, and every record of bytes[L][E] lies
 * in it. */
apus_err ap_packed_check(const ap_packed *p, uint64_t fingerprint, uint64_t form, int n_layer,
                         int n_expert, const size_t *bytes, apus_diag *diag);

/* To write one: offsets for records of bytes[L][E] (0 = none) into p->offset; returns the size of the file, 0 = it
 * cannot be addressed. */
uint64_t ap_packed_lay_out(ap_packed *p, const size_t *bytes);
/* Header and table as they stand in the file: *data, ap_free it, from offset 0 on. */
apus_err ap_packed_head(const ap_packed *p, uint8_t **data, size_t *len, apus_diag *diag);

#endif
