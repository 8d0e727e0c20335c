/* delta.h - what the two forms of the delta rule share. */
#ifndef AP_KERN_CPU_OPS_DELTA_H
#define AP_KERN_CPU_OPS_DELTA_H

#include "kern/cpu/micro/micro_recur.h"

/* A layer's state of a sequence. */
static inline float *ap_recur_state(const ap_recur_at *at, const ap_seq *s)
{
    return at->base + (size_t)s->state * at->block_floats + at->offset;
}

/* Row i of what sequence s keeps, and its parts; NULL: its states are replaced. */
static inline float *ap_kept_row(const ap_kept_rows *k, const ap_seq *s, int i)
{
    return k->base && s->keep >= 0 ? k->base + (size_t)(s->keep + i) * k->row_floats : NULL;
}

typedef struct ap_kept_parts {
    size_t k, d, decay, less1; /* floats from the row's beginning, where x is */
} ap_kept_parts;

static inline ap_kept_parts ap_kept_parts_of(int n_k_head, int n_v_head, int k_dim, int v_dim)
{
    size_t keys = (size_t)n_k_head * (size_t)k_dim, heads = (size_t)n_v_head,
           values = heads * (size_t)v_dim;
    size_t k = 2 * keys + values, d = k + keys, decay = d + values;
    return (ap_kept_parts){k, d, decay, decay + heads};
}

static inline const float *ap_delta_row(const ap_delta_args *a, int64_t t)
{
    return a->qkv + t * (2 * (int64_t)a->n_k_head * a->k_dim + (int64_t)a->n_v_head * a->v_dim);
}

static inline const float *ap_delta_query(const ap_delta_args *a, int64_t t, int key_head)
{
    return ap_delta_row(a, t) + (int64_t)key_head * a->k_dim;
}

static inline const float *ap_delta_value(const ap_delta_args *a, int64_t t, int h)
{
    return ap_delta_row(a, t) + 2 * (int64_t)a->n_k_head * a->k_dim + (int64_t)h * a->v_dim;
}

static inline const float *ap_delta_z(const ap_delta_args *a, int64_t t, int h)
{
    return a->z + t * a->ldz + (int64_t)h * a->v_dim;
}

static inline float *ap_delta_out(const ap_delta_args *a, int64_t t, int h)
{
    return a->out + (t * a->n_v_head + h) * (int64_t)a->v_dim;
}

/* A task's heads: value heads `head` .. that read one key head, so that q^ and k^ are made once. */
typedef struct ap_delta_heads {
    int key, first, stride, n; /* value head i: first + i*stride, i < n */
} ap_delta_heads;

/* Group g of those of n value heads each: n is 1 or all that share a key head. */
static inline ap_delta_heads ap_delta_group(const ap_delta_args *a, int g, int n)
{
    int share = a->n_v_head / a->n_k_head;
    if (n == 1) return (ap_delta_heads){a->tiled ? g % a->n_k_head : g / share, g, 0, 1};
    return a->tiled ? (ap_delta_heads){g, g, a->n_k_head, n} : (ap_delta_heads){g, g * n, 1, n};
}

/* The key head of value head h. */
static inline int ap_delta_key_head(int n_k_head, int n_v_head, bool tiled, int h)
{
    return tiled ? h % n_k_head : h / (n_v_head / n_k_head);
}

/* Rows of the step lie a power of two apart: nothing prefetches them but us. */
static inline void ap_prefetch_row(const float *p, int n)
{
    for (int i = 0; i < n; i += 16) __builtin_prefetch(p + i);
}

/* The convolution of channels [c, c + n) of a sequence, all of its tokens; their state is replaced. */
void ap_conv_channels(const ap_micro_recur *m, const ap_conv_args *a, const ap_seq *s, int c,
                      int n);

/* q^ (times Dk^-1/2) and k^ of x and y, each f32 [Dk]. */
void ap_delta_keys(const ap_micro_recur *m, const float *x, const float *y, int Dk, float *q,
                   float *k);

/* Log decays and writing gates of rows [t, t + n) for value head h, n <= AP_DELTA_CHUNK. */
void ap_delta_gates(const ap_micro_recur *m, const ap_delta_args *a, int64_t t, int n, int h,
                    double *g, float *beta);

/* The chunked form for some value heads of one sequence: outputs written, state replaced; fast: with
 * m->split where it is. scratch: ap_delta_chunk_bytes, AP_ALIGN-aligned. */
void ap_delta_chunks(const ap_micro_recur *m, const ap_delta_args *a, const ap_seq *s,
                     const ap_delta_heads *heads, bool fast, void *scratch);
size_t ap_delta_chunk_bytes(const ap_micro_recur *m, int k_dim, int v_dim, int n_heads);

#endif
