/* check_rope.c - the tables of cos and sin. */
#include <math.h>
#include <string.h>

#include "kcheck.h"

#define T 19

void check_rope(kc *c)
{
    static const int angles[] = {0, 1, 7, 32, 65, 256};
    for (size_t i = 0; i < sizeof angles / sizeof *angles; i++) {
        int n = angles[i], count = T * n;
        int32_t *pos = kc_bytes(c, T * sizeof *pos);
        float *freq = kc_out(c, (size_t)n);
        float *cos_ref = kc_out(c, (size_t)count), *sin_ref = kc_out(c, (size_t)count);
        double *cos_want = kc_f64(c, (size_t)count), *sin_want = kc_f64(c, (size_t)count);
        kc_case(c, "n_angle=%d", n);
        for (int j = 0; j < n; j++) freq[j] = powf(1e4f, -2.0f * (float)j / (2 * (float)n + 1));
        for (int t = 0; t < T; t++) {
            pos[t] = t == 0 ? 0 : t == 1 ? 262143 : kc_int(c, 1, 262143);
            for (int j = 0; j < n; j++) {
                volatile float angle = (float)pos[t] * freq[j]; /* rounded: the definition */
                cos_want[t * n + j] = 1.25 * cos((double)angle);
                sin_want[t * n + j] = 1.25 * sin((double)angle);
            }
        }
        ap_rope_args a = {pos, freq, 1.25f, cos_ref, sin_ref, T, n};
        c->ref->rope(c->ref, &a);
        kc_close(c, "cos", KC_ROUNDED, cos_ref, n, cos_want, NULL, T, n);
        kc_close(c, "sin", KC_ROUNDED, sin_ref, n, sin_want, NULL, T, n);
        for (int k = 0; k < c->n_kern; k++) {
            a.cos = kc_out(c, (size_t)count);
            a.sin = kc_out(c, (size_t)count);
            c->kern[k].k.rope(&c->kern[k].k, &a);
            kc_same(c, c->kern[k].name, "cos", a.cos, n, cos_ref, n, T, n);
            kc_same(c, c->kern[k].name, "sin", a.sin, n, sin_ref, n, T, n);
        }
    }
}

static void run(const ap_kern *k, void *arg)
{
    k->rope(k, arg);
}

void bench_rope(kc_bench *b)
{
    enum { tok = 512, angle = 32 };
    int32_t *pos = kc_bytes(b->c, tok * sizeof *pos);
    for (int t = 0; t < tok; t++) pos[t] = 1000 + t;
    float *freq = kc_out(b->c, angle), *cos = kc_out(b->c, tok * angle);
    float *sin = kc_out(b->c, tok * angle);
    for (int j = 0; j < angle; j++) freq[j] = 1.0f / (float)(1 << (j / 2));
    ap_rope_args a = {pos, freq, 1, cos, sin, tok, angle};
    kc_time(b, "T=512 angles=32", 0, 2.0 * tok * angle * sizeof(float), run, &a);
}
