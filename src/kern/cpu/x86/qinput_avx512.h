/* qinput_avx512.h - 32 inputs to integer form: X of 16 bits in the order 0 2 1 3 of each four, or of 8. */
#ifndef AP_KERN_CPU_X86_QINPUT_AVX512_H
#define AP_KERN_CPU_X86_QINPUT_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kern/cpu/micro/micro_qdot.h"

static inline __attribute__((always_inline)) void quantise_block(bool high, const float *x,
                                                                 ap_qx *out)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
    __m512i a = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                                 _mm512_and_si512(_mm512_castps_si512(x1), magnitude));
    int most = _mm512_reduce_max_epi32(a);
    float amax;
    memcpy(&amax, &most, 4);
    if (most >= 0x7f800000 || amax < 1e-30f) {
        memset(out, 0, sizeof *out);
        if (most >= 0x7f800000) out->d = out->xs = out->xs16[0] = out->xs16[1] = NAN;
        return;
    }
    __m512 inv = _mm512_set1_ps((high ? (float)AP_Q_HIGH : (float)AP_Q_FAST) / amax);
    __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inv)),
            q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inv));
    int s0 = _mm512_reduce_add_epi32(q0), s1 = _mm512_reduce_add_epi32(q1);
    if (high) {
        __m512i w = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(q0)),
                                       _mm512_cvtepi32_epi16(q1), 1);
        w = _mm512_shufflehi_epi16(_mm512_shufflelo_epi16(w, 0xd8), 0xd8);
        _mm512_storeu_si512(out->w, w);
    } else {
        _mm_storeu_si128((__m128i *)out->q, _mm512_cvtepi32_epi8(q0));
        _mm_storeu_si128((__m128i *)(out->q + 16), _mm512_cvtepi32_epi8(q1));
    }
    float d = amax * (high ? 1.0f / (float)AP_Q_HIGH : 1.0f / (float)AP_Q_FAST);
    out->d = d;
    out->xs = d * (float)(s0 + s1);
    out->xs16[0] = d * (float)s0;
    out->xs16[1] = d * (float)s1;
    out->sum = s0 + s1;
    out->sum16[0] = s0;
    out->sum16[1] = s1;
    out->pad = 0;
}

#endif
