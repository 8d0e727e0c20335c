/* qdot_ref.c - what products in integer form are, one number at a time. */
#include <math.h>
#include <string.h>

#include "kern/cpu/micro/micro_qdot.h"

static void quantise_block(int largest, const float *x, ap_qx *out)
{
    uint32_t most = 0;
    for (int i = 0; i < AP_Q_BLOCK; i++) {
        uint32_t u;
        memcpy(&u, &x[i], 4);
        u &= 0x7fffffffu;
        if (u > most) most = u;
    }
    memset(out, 0, sizeof *out);
    if (most >= 0x7f800000u) {
        out->d = out->xs = out->xs16[0] = out->xs16[1] = NAN;
        return;
    }
    float a;
    memcpy(&a, &most, 4);
    if (a < 1e-30f) return;
    float inv = (float)largest / a;
    out->d = a * (1.0f / (float)largest);
    for (int i = 0; i < AP_Q_BLOCK; i++) {
        int v = (int)rintf(x[i] * inv);
        out->w[i] = (int16_t)v;
        out->sum16[i / 16] += v;
    }
    out->sum = out->sum16[0] + out->sum16[1];
    out->xs = out->d * (float)out->sum;
    for (int h = 0; h < 2; h++) out->xs16[h] = out->d * (float)out->sum16[h];
}

static void quantise(const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++) quantise_block(AP_Q_HIGH, x + (size_t)i * AP_Q_BLOCK, &out[i]);
}

static void quantise8(const float *x, int n, ap_qx *out)
{
    for (int i = 0; i < n; i++) quantise_block(AP_Q_FAST, x + (size_t)i * AP_Q_BLOCK, &out[i]);
}

static void unpack_block(ap_qform f, const uint8_t *p, uint8_t *q)
{
    if (f.bits == 8) {
        memcpy(q, p, 512);
        return;
    }
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 64; i++) {
            int two = f.bits < 4 ? p[j / 4 * 64 + i] >> 2 * (j / 2 % 2) & 0x33 : p[j / 2 * 64 + i];
            if (f.bits == 3) two |= (p[128 + i] >> j / 2 & 0x11) << 2;
            int v = two >> 4 * (j % 2) & 15;
            if (f.table) v = ap_qtable[f.table][v];
            if (f.bits == 5) v |= (p[256 + i] >> j & 1) << 4;
            if (f.bits == 6) v |= (p[256 + j / 4 * 64 + i] >> 2 * (j % 4) & 3) << 4;
            q[j * 64 + i] = (uint8_t)v;
        }
}

static float number(ap_qform f, const uint8_t *p, int r)
{
    uint16_t h;
    float v;
    if (f.scale == AP_QS_F32) {
        memcpy(&v, p + 4 * r, 4);
        return v;
    }
    memcpy(&h, p + 2 * r, 2);
    return f.scale == AP_QS_BF16 ? ap_bf16_to_f32(h) : ap_f16_to_f32(h);
}

static float super(const uint8_t *p, int r)
{
    uint16_t h;
    memcpy(&h, p + 2 * r, 2);
    return ap_f16_to_f32(h);
}

/* s and b of one group. */
static void scales(ap_qform f, const ap_qscales *at, float *s, float *b)
{
    const uint8_t *second = at->at + at->step / 2;
    for (int r = 0; r < AP_PANEL; r++) {
        if (f.scale == AP_QS_SUPER) {
            int factor = f.is_signed ? (int8_t)at->at[r] : f.nibbles ? at->at[r] & 15 : at->at[r];
            s[r] = super(at->super, r) * ap_q_unit(f) * (float)factor;
            if (f.affine)
                b[r] =
                    -(super(at->super + 32, r) * (float)(f.nibbles ? at->at[r] >> 4 : second[r]));
        } else {
            s[r] = number(f, at->at, r);
            if (f.affine) b[r] = number(f, second, r);
        }
    }
}

static void unpack(ap_qform f, const uint8_t *panel, int cols, int b0, int n, ap_qpanel *out)
{
    int groups = ap_q_halves(f) ? 2 : 1;
    const uint8_t *p = panel + (size_t)b0 * ap_q_block_bytes(f);
    for (int i = 0; i < n; i++, p += ap_q_block_bytes(f)) {
        ap_qscales at = ap_q_scales_at(f, panel, cols, b0 + i);
        unpack_block(f, p, out->q + (size_t)i * 512);
        for (int g = 0; g < groups; g++, at.at += at.step)
            scales(f, &at, out->s + (i * groups + g) * AP_PANEL,
                   out->b + (i * groups + g) * AP_PANEL);
    }
}

/* sum of q X over inputs [from, to) of a block, plus start */
static int dot(const uint8_t *q, const int16_t *x, int row, int from, int to, int start)
{
    for (int k = from; k < to; k++) start += q[k / 4 * 64 + row * 4 + k % 4] * x[k];
    return start;
}

static float block(ap_qform f, const uint8_t *q, const float *s, const float *b, const ap_qx *x,
                   int row, float acc)
{
    if (ap_q_halves(f)) {
        for (int h = 0; h < 2; h++) {
            int v = dot(q, x->w, row, 16 * h, 16 * h + 16, -f.zero * x->sum16[h]);
            acc = fmaf(s[h * AP_PANEL + row] * (float)v, x->d, acc);
        }
        for (int h = 0; h < 2 && f.affine; h++) acc = fmaf(b[h * AP_PANEL + row], x->xs16[h], acc);
        return acc;
    }
    acc = fmaf(s[row] * (float)dot(q, x->w, row, 0, 32, -f.zero * x->sum), x->d, acc);
    return f.affine ? fmaf(b[row], x->xs, acc) : acc;
}

static void few(ap_qform f, const uint8_t *panel, int cols, const ap_qx *const *x, int rows,
                float *out, int ld)
{
    ap_qpanel w;
    int groups = ap_q_halves(f) ? 2 : 1, blocks = cols / AP_Q_BLOCK;
    for (int r = 0; r < rows; r++) memset(out + (size_t)r * ld, 0, AP_PANEL * sizeof *out);
    for (int b0 = 0; b0 < blocks; b0 += AP_Q_K_BLOCKS) {
        int n = blocks - b0 < AP_Q_K_BLOCKS ? blocks - b0 : AP_Q_K_BLOCKS;
        unpack(f, panel, cols, b0, n, &w);
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < n; i++) {
                const ap_qx *at = &x[r][b0 + i];
                for (int c = 0; c < AP_PANEL; c++) {
                    float *o = &out[(size_t)r * ld + c];
                    *o = block(f, w.q + i * 512, w.s + i * groups * AP_PANEL,
                               w.b + i * groups * AP_PANEL, at, c, *o);
                }
            }
    }
}

static void tile(ap_qform f, const ap_qpanel *w, int n_panel, const ap_qx *const *x, int rows,
                 int n, float *out, int ld, bool add)
{
    int groups = ap_q_halves(f) ? 2 : 1;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < n_panel * AP_PANEL; c++) {
            const ap_qpanel *p = &w[c / AP_PANEL];
            float acc = add ? out[(size_t)r * ld + c] : 0;
            for (int i = 0; i < n; i++)
                acc = block(f, p->q + i * 512, p->s + i * groups * AP_PANEL,
                            p->b + i * groups * AP_PANEL, &x[r][i], c % AP_PANEL, acc);
            out[(size_t)r * ld + c] = acc;
        }
}

const ap_micro_qdot ap_qdot_ref = {.fast = &ap_qdot8_ref,
                                   .k_blocks = 16,
                                   .tile_rows = AP_Q_TILE,
                                   .quantise = quantise,
                                   .few = few,
                                   .unpack = unpack,
                                   .tile = tile};
const ap_micro_qdot ap_qdot8_ref = {.k_blocks = 16,
                                    .tile_rows = AP_Q_TILE,
                                    .quantise = quantise8,
                                    .few = few,
                                    .unpack = unpack,
                                    .tile = tile};
