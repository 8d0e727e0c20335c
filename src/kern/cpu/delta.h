/* delta.h - what the two forms of the delta rule share. */
#ifndef AP_KERN_CPU_DELTA_H
#define AP_KERN_CPU_DELTA_H

#include "kern/cpu/micro_recur.h"

static inline const float *ap_delta_row(const ap_delta_args *a, int64_t t)
{
    return a->qkv + t * (2 * (int64_t)a->n_k_head * a->k_dim + (int64_t)a->n_v_head * a->v_dim);
}

static inline const float *ap_delta_value(const ap_delta_args *a, int64_t t, int h)
{
    return ap_delta_row(a, t) + 2 * (int64_t)a->n_k_head * a->k_dim + (int64_t)h * a->v_dim;
}

static inline float *ap_delta_out(const ap_delta_args *a, int64_t t, int h)
{
    return a->out + (t * a->n_v_head + h) * (int64_t)a->v_dim;
}

/* Gates of row t and value head h, without kq; *g the log of the decay. */
ap_delta_gate ap_delta_gate_of(const ap_delta_args *a, int64_t t, int h, double *g);

/* q^ (times k_dim^-1/2) and k^ of row t for value head h, each f32 [k_dim]. */
void ap_delta_keys(const ap_micro_recur *m, const ap_delta_args *a, int64_t t, int h, float *q,
                   float *k);

/* The chunked form for one sequence and value head: outputs before the norm to `out`, state
 * replaced. scratch: ap_delta_chunk_bytes, AP_ALIGN-aligned. */
void ap_delta_chunks(const ap_micro_recur *m, const ap_delta_args *a, const ap_recur_seq *s, int h,
                     void *scratch);
size_t ap_delta_chunk_bytes(int k_dim, int v_dim);

#endif
