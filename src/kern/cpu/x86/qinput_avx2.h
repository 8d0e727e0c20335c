/* qinput_avx2.h - 32 inputs to integer form: X of 16 bits in the order 0 2 1 3 of each four, or of 8. */
#ifndef AP_KERN_CPU_X86_QINPUT_AVX2_H
#define AP_KERN_CPU_X86_QINPUT_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kern/cpu/micro/micro_qdot.h"

static inline int most_of(__m256i v)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}

static inline int sum_of(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

static inline __attribute__((always_inline)) void quantise_block(bool high, const float *x,
                                                                 ap_qx *out)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256 v[4];
    __m256i q[4], a = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        a = _mm256_max_epi32(a, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    }
    int most = most_of(a);
    float amax;
    memcpy(&amax, &most, 4);
    if (most >= 0x7f800000 || amax < 1e-30f) {
        memset(out, 0, sizeof *out);
        if (most >= 0x7f800000) out->d = out->xs = out->xs16[0] = out->xs16[1] = NAN;
        return;
    }
    __m256 inv = _mm256_set1_ps((high ? (float)AP_Q_HIGH : (float)AP_Q_FAST) / amax);
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inv));
    int s0 = sum_of(_mm256_add_epi32(q[0], q[1])), s1 = sum_of(_mm256_add_epi32(q[2], q[3]));
    __m256i w[2] = {_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3])};
    if (high) {
        for (int i = 0; i < 2; i++) {
            __m256i p = _mm256_permute4x64_epi64(w[i], 0xd8);
            p = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(p, 0xd8), 0xd8);
            _mm256_storeu_si256((__m256i *)(out->w + 16 * i), p);
        }
    } else {
        __m256i p = _mm256_packs_epi16(w[0], w[1]);
        p = _mm256_permutevar8x32_epi32(p, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)out->q, p);
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
