/* qwiden_ref.c - the scalar definition of widening packed weights (micro_qwiden.h). */
#include <math.h>

#include "kern/cpu/micro/micro_qdot.h"
#include "kern/cpu/micro/micro_qwiden.h"

/* 4 exponent bits with bias 7, 3 fraction bits, no infinities. */
static float e4m3(uint8_t b)
{
    int exp = b >> 3 & 15, frac = b & 7;
    float v = exp == 15 && frac == 7 ? NAN
              : exp                  ? ldexpf((float)(8 + frac), exp - 10)
                                     : ldexpf((float)frac, -9);
    return b & 0x80 ? -v : v;
}

static void widen(ap_qform f, const uint8_t *panel, int cols, int b0, int n, float *out)
{
    ap_qpanel w;
    int groups = ap_q_halves(f) ? 2 : 1;
    for (int i = 0; i < n; i++) {
        ap_qdot_ref.unpack(f, panel, cols, b0 + i, 1, &w);
        for (int k = 0; k < AP_Q_BLOCK; k++)
            for (int r = 0; r < AP_PANEL; r++) {
                int g = groups == 2 ? k / 16 * AP_PANEL + r : r;
                uint8_t q = w.q[k / 4 * 64 + r * 4 + k % 4];
                float v = f.is_float ? e4m3(q) * w.s[g] : w.s[g] * (float)(q - f.zero);
                out[(i * AP_Q_BLOCK + k) * AP_PANEL + r] = f.affine ? v + w.b[g] : v;
            }
    }
}

const ap_micro_qwiden ap_qwiden_ref = {.widen = widen};
