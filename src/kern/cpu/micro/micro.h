/* micro.h - inner kernels of the CPU backend, one table per processor level.
 *
 * ops_*.c hold the loops, threading and layout logic and call these on L1/L2-sized blocks. Each
 * slot has a scalar `_ref` version that is its definition; the levels agree with it to the bit
 * (kern.h, "Order"). A level may leave a slot to the level below: micro.c says which it uses. */
#ifndef AP_KERN_CPU_MICRO_MICRO_H
#define AP_KERN_CPU_MICRO_MICRO_H

#include "kern/kern.h"

typedef struct ap_micro ap_micro;

/* The scalar functions every level reproduces, in ref/math_ref.c. f32 in, f32 out, no libm:
 * only +, -, *, /, fma, sqrt, and bit operations, so that vector versions can be bit-equal. */
float ap_expf(float x); /* <= 2 ulp; 0 below -87.3 (denormals flushed), inf above 88.7; -inf -> 0 */
float ap_logf(float x); /* <= 2 ulp for normal positive x */
float ap_sigmoidf(float x);   /* 1 / (1 + ap_expf(-x)) */
float ap_siluf(float x);      /* x / (1 + ap_expf(-x)); 0 for x = -inf */
float ap_tanhf(float x);      /* odd, 1 - 2/(ap_expf(2|x|)+1), series or x itself for small |x| */
float ap_gelu_tanhf(float x); /* x / (1 + ap_expf(-2u)), u = 0.79788456f*(x + 0.044715f x^3) */
float ap_softplusf(
    float x); /* x > 20: x; else log1p(exp(x)) to f32 accuracy also for very negative x */
float ap_sum16(const float s[16]); /* halves added: 8 of s[j]+s[j+8], then 4, 2, 1 */

struct ap_micro {
    apus_cpu level;
    const struct ap_micro_matmul *matmul; /* micro_matmul.h */
    const struct ap_micro_qdot *qdot;     /* micro_qdot.h */
    const struct ap_micro_qwiden *qwiden; /* micro_qwiden.h */
    const struct ap_micro_amx *amx;       /* micro_amx.h; NULL without tiles */
    const struct ap_micro_elem *elem;     /* micro_elem.h */
    const struct ap_micro_attn *attn;     /* micro_attn.h */
    const struct ap_micro_fast *fast;   /* BF16 pages with precision FAST, where usable; or NULL */
    const struct ap_micro_recur *recur; /* micro_recur.h */
};

/* The table of each level of this architecture. */
extern const ap_micro ap_micro_ref_table;
#if defined(__x86_64__)
extern const ap_micro ap_micro_avx2_table, ap_micro_avx512_table, ap_micro_amx_table;
#elif defined(__aarch64__)
extern const ap_micro ap_micro_neon_table, ap_micro_dot_table, ap_micro_i8mm_table;
#endif

#endif
