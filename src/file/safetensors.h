/* safetensors.h - one safetensors file: its header checked completely, its tensors as views.
 *
 * Layout: u64 little-endian header length, that many bytes of JSON
 *   {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, ...,
 *    "__metadata__": {"key": "text", ...}}
 * (trailing spaces allowed; a null __metadata__ counts as none), then the data section, which the tensors cover exactly: no overlap, no
 * holes, nothing behind the last one. A rank of 0 (one element) and sizes of 0 are legal.
 * Refused besides what the format forbids: header over 100 MB, rank over AP_MAX_RANK, a zero byte
 * or emptiness in a name, unknown keys of a tensor. Memory taken is bounded by a small multiple of
 * the header's real length.
 * Source: the format's README and reference reader, huggingface/safetensors. */
#ifndef AP_FILE_SAFETENSORS_H
#define AP_FILE_SAFETENSORS_H

#include "base/arena.h"
#include "base/err.h"
#include "base/file.h"
#include "tensor/tensor.h"

#define AP_ST_MAX_HEADER ((uint64_t)100 << 20)

typedef struct ap_st_entry {
    const char *name; /* zero-terminated, no zero byte inside */
    size_t name_len;
    uint64_t begin, end; /* bytes in the data section */
    ap_tensor tensor;
} ap_st_entry;

typedef struct ap_safetensors {
    ap_map map; /* empty when made by ap_safetensors_parse */
    ap_arena names;
    ap_st_entry *entry; /* by position in the file */
    size_t n;
} ap_safetensors;

/* Map and check a file. EFILE, EFORMAT, EUNSUPPORTED (an element type, by name), ENOMEM; *out is
 * untouched on error. */
apus_err ap_safetensors_open(const char *path, ap_safetensors *out, apus_diag *diag);

/* The same on bytes that stay the caller's and must outlive *out. */
apus_err ap_safetensors_parse(const uint8_t *data, size_t len, const char *name,
                              ap_safetensors *out, apus_diag *diag);

void ap_safetensors_close(ap_safetensors *s);

#endif
