/* check_rope.c - the tables of cos and sin. */
#include <math.h>
#include <string.h>

#include "kcheck.h"

#define T 19

/* Positions of three axes: far apart where angles turn with more than one. */
static int32_t *positions(kc *c)
{
    int32_t *pos = kc_bytes(c, 3 * T * sizeof *pos);
    for (int t = 0; t < 3 * T; t++)
        pos[t] = t % T == 0 ? 0 : t % T == 1 ? 262143 : kc_int(c, 1, 262143);
    return pos;
}

static void check_angles(kc *c, int n, bool axes)
{
    int count = T * n;
    int32_t *pos = positions(c);
    uint8_t *axis = kc_bytes(c, (size_t)n);
    float *freq = kc_out(c, (size_t)n);
    float *cos_ref = kc_out(c, (size_t)count), *sin_ref = kc_out(c, (size_t)count);
    double *cos_want = kc_f64(c, (size_t)count), *sin_want = kc_f64(c, (size_t)count);
    kc_case(c, "n_angle=%d%s", n, axes ? " axes" : "");
    for (int j = 0; j < n; j++) {
        freq[j] = powf(1e4f, -2.0f * (float)j / (2 * (float)n + 1));
        axis[j] = axes ? (uint8_t)kc_int(c, 0, 2) : 0;
    }
    for (int t = 0; t < T; t++)
        for (int j = 0; j < n; j++) {
            volatile float angle =
                (float)pos[axis[j] * T + t] * freq[j]; /* rounded: the definition */
            cos_want[t * n + j] = 1.25 * cos((double)angle);
            sin_want[t * n + j] = 1.25 * sin((double)angle);
        }
    ap_rope_args a = {pos, axes ? axis : NULL, freq, 1.25f, cos_ref, sin_ref, T, n};
    kc_call(c->ref, rope, &a);
    kc_close(c, "cos", KC_ROUNDED, cos_ref, n, cos_want, NULL, T, n);
    kc_close(c, "sin", KC_ROUNDED, sin_ref, n, sin_want, NULL, T, n);
    for (int k = 0; k < c->n_kern; k++) {
        a.cos = kc_out(c, (size_t)count);
        a.sin = kc_out(c, (size_t)count);
        kc_call(&c->kern[k].x, rope, &a);
        kc_same(c, &c->kern[k], "cos", a.cos, n, cos_ref, n, T, n);
        kc_same(c, &c->kern[k], "sin", a.sin, n, sin_ref, n, T, n);
    }
}

void check_rope(kc *c)
{
    static const int angles[] = {0, 1, 7, 32, 65, 256};
    for (size_t i = 0; i < sizeof angles / sizeof *angles; i++)
        for (int axes = 0; axes < 2; axes++) check_angles(c, angles[i], axes);
}

static void run(const ap_exec *ex, void *arg)
{
    ex->k->rope(ex, arg);
}

void bench_rope(kc_bench *b)
{
    enum { tok = 512, angle = 32 };
    int32_t *pos = kc_bytes(b->c, 3 * tok * sizeof *pos);
    for (int t = 0; t < 3 * tok; t++) pos[t] = 1000 + t % tok;
    float *freq = kc_out(b->c, angle), *cos = kc_out(b->c, tok * angle);
    float *sin = kc_out(b->c, tok * angle);
    for (int j = 0; j < angle; j++) freq[j] = 1.0f / (float)(1 << (j / 2));
    ap_rope_args a = {pos, NULL, freq, 1, cos, sin, tok, angle};
    kc_time(b, "T=512 angles=32", 0, 2.0 * tok * angle * sizeof(float), run, &a);
}
