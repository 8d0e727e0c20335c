/* rows.h - the arrays of a step (ap_batch in kern.h): filled on the host, put to the device once a step. They
 * are at the same addresses in every step with as many tokens and sequences. */
#ifndef AP_ENGINE_ROWS_H
#define AP_ENGINE_ROWS_H

#include "kern/kern.h"

typedef struct ap_rows {
    ap_device *dev;
    uint8_t *host, *mem; /* of the host and of the device: one memory on the CPU */
    size_t bytes, used;
    ap_batch batch; /* of the running step, but for the page tables */
    /* what is to be filled, on the host */
    ap_seq *seq;
    int32_t *tok, *pos, *rope_pos, *see_end, *see_past, *seq_of, *out_row, *embed_row;
} ap_rows;

/* Bytes for steps of at most n_tok tokens of n_seq sequences; false on overflow. */
bool ap_rows_bytes(int n_tok, int n_seq, size_t *bytes);

/* Take the memory. ENOMEM. */
apus_err ap_rows_create(ap_rows *r, ap_device *dev, int n_tok, int n_seq, apus_diag *diag);
void ap_rows_destroy(ap_rows *r); /* of a zeroed struct too */

/* Place the arrays of a step with these sizes; the batch tells of them. */
void ap_rows_begin(ap_rows *r, int n_tok, int n_seq, int n_out);
/* Rows [begin, begin + n) of sequence i: text from position pos on. seq[i] but for table and state. */
void ap_rows_fill(ap_rows *r, int i, int begin, const int32_t *tok, int n, int pos);
/* What was filled goes to the device. */
void ap_rows_put(ap_rows *r);

#endif
