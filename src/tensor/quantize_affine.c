#include "tensor/quantize_affine.h"

#include <math.h>
#include <stdbool.h>

static void store(ap_dtype to, void *dst, size_t i, float v)
{
    if (to == AP_F32) {
        memcpy((uint8_t *)dst + i * 4, &v, 4);
        return;
    }
    uint16_t h = to == AP_BF16 ? ap_f32_to_bf16(v) : ap_f32_to_f16(v);
    memcpy((uint8_t *)dst + i * 2, &h, 2);
}

typedef struct step {
    float scale, bias;
} step;

static step choose(const float *w, int group, float last)
{
    float lo = w[0], hi = w[0];
    for (int i = 1; i < group; i++) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    /* q counts from the end farther from zero; a floor keeps constant groups from dividing by 0 */
    bool down = !(fabsf(lo) > fabsf(hi));
    float end = down ? hi : lo, size = (hi - lo) / last;
    size = size > 1e-7f ? size : 1e-7f;
    step s = {down ? -size : size, 0};
    float steps = rintf(end / s.scale);
    if (steps != 0) s = (step){end / steps, end};
    return s;
}

void ap_quantize_affine(const float *w, size_t n, int bits, int group, ap_dtype to, uint8_t *packed,
                        void *scales, void *biases)
{
    long most = (1 << bits) - 1;
    float last = (float)most;
    for (size_t g = 0; g < n / (size_t)group; g++, w += group) {
        step s = choose(w, group, last);
        uint32_t held = 0; /* bits not yet written, fewer than 8 between values */
        int n_held = 0;
        for (int i = 0; i < group; i++) {
            long q = lrintf((w[i] - s.bias) / s.scale); /* nearest even, as rintf, and quicker */
            q = q > 0 ? q : 0;
            q = q < most ? q : most;
            held |= (uint32_t)q << n_held;
            for (n_held += bits; n_held >= 8; n_held -= 8, held >>= 8) *packed++ = (uint8_t)held;
        }
        store(to, scales, g, s.scale);
        store(to, biases, g, s.bias);
    }
}
