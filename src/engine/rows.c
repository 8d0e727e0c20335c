#include "engine/rows.h"

#include <string.h>

#include "base/mem.h"

#define ARRAYS                                                                                     \
    10 /* of a token: tok, pos, three of rope_pos, see_end, see_past, seq_of, out_row, embed_row */

/* n numbers at *at, which moves behind them; offsets are multiples of AP_ALIGN. */
static size_t place(size_t *at, size_t n, size_t size)
{
    size_t here = *at;
    *at = ap_round_up(here + n * size, AP_ALIGN);
    return here;
}

bool ap_rows_bytes(int n_tok, int n_seq, size_t *bytes)
{
    size_t tok, seq;
    if (!ap_mul_size((size_t)n_tok, ARRAYS * sizeof(int32_t), &tok)) return false;
    if (!ap_mul_size((size_t)n_seq, sizeof(ap_seq), &seq) || !ap_add_size(tok, seq, bytes))
        return false;
    return ap_add_size(*bytes, (ARRAYS + 1) * AP_ALIGN, bytes);
}

apus_err ap_rows_create(ap_rows *r, ap_device *dev, int n_tok, int n_seq, apus_diag *diag)
{
    *r = (ap_rows){.dev = dev};
    bool ok = ap_rows_bytes(n_tok, n_seq, &r->bytes);
    if (ok) r->mem = dev->op->alloc(dev, r->bytes);
    if (ok) r->host = dev->is_host ? r->mem : ap_calloc(1, r->bytes);
    return r->mem && r->host ? APUS_OK : ap_fail_nomem(diag, r->bytes, "the rows of a step");
}

void ap_rows_destroy(ap_rows *r)
{
    if (!r->dev) return;
    if (!r->dev->is_host) ap_free(r->host);
    if (r->mem) r->dev->op->free(r->dev, r->mem, r->bytes);
}

void ap_rows_begin(ap_rows *r, int n_tok, int n_seq, int n_out)
{
    size_t T = (size_t)n_tok, I = sizeof(int32_t), at = 0;
    size_t seq = place(&at, (size_t)n_seq, sizeof(ap_seq)), tok = place(&at, T, I),
           pos = place(&at, T, I);
    size_t rope_pos = place(&at, 3 * T, I), see_end = place(&at, T, I), seq_of = place(&at, T, I);
    size_t see_past = place(&at, T, I), embed_row = place(&at, T, I);
    size_t out_row = place(&at, (size_t)n_out, I);
    r->used = at;
    r->seq = (ap_seq *)(void *)(r->host + seq);
    r->tok = (int32_t *)(void *)(r->host + tok);
    r->pos = (int32_t *)(void *)(r->host + pos);
    r->rope_pos = (int32_t *)(void *)(r->host + rope_pos);
    r->see_end = (int32_t *)(void *)(r->host + see_end);
    r->see_past = (int32_t *)(void *)(r->host + see_past);
    r->embed_row = (int32_t *)(void *)(r->host + embed_row);
    r->seq_of = (int32_t *)(void *)(r->host + seq_of);
    r->out_row = (int32_t *)(void *)(r->host + out_row);
    r->batch = (ap_batch){.n_tok = n_tok,
                          .n_seq = n_seq,
                          .n_out = n_out,
                          .seq = r->seq,
                          .seq_dev = (const ap_seq *)(void *)(r->mem + seq),
                          .tok = (const int32_t *)(void *)(r->mem + tok),
                          .pos = (const int32_t *)(void *)(r->mem + pos),
                          .rope_pos = (const int32_t *)(void *)(r->mem + rope_pos),
                          .see_end = (const int32_t *)(void *)(r->mem + see_end),
                          .see_past = (const int32_t *)(void *)(r->mem + see_past),
                          .embed_row = (const int32_t *)(void *)(r->mem + embed_row),
                          .seq_of = (const int32_t *)(void *)(r->mem + seq_of),
                          .out_row = (const int32_t *)(void *)(r->mem + out_row)};
}

void ap_rows_fill(ap_rows *r, int i, int begin, const int32_t *tok, int n, int pos)
{
    r->seq[i].begin = begin;
    r->seq[i].n_tok = n;
    r->seq[i].pos = pos;
    r->seq[i].keep = -1;
    memcpy(r->tok + begin, tok, (size_t)n * sizeof *tok);
    for (int j = 0; j < n; j++) {
        int t = begin + j;
        r->pos[t] = pos + j;
        for (int axis = 0; axis < 3; axis++) r->rope_pos[axis * r->batch.n_tok + t] = pos + j;
        r->see_end[t] = r->see_past[t] = pos + j + 1;
        r->embed_row[t] = -1;
        r->seq_of[t] = i;
    }
}

void ap_rows_put(ap_rows *r)
{
    if (!r->dev->is_host) r->dev->op->put(r->dev, r->mem, r->host, r->used);
}
