/* quantize_k.c - superblocks of 256: Q2_K to Q6_K, IQ4_XS, and IQ4_NL which shares its codebook. */
#include <math.h>
#include <stdbool.h>

#include "tensor/quantize_blocks.h"

enum { SUPER = 256, GROUP = 32, MAX_GROUPS = 16, LANES = 8 };

/* ---------------------------------------------------------------- weighted sums */

/* Sums over groups of 16 or 32 in LANES parts, so that compilers may use vectors without changing
 * the order of any addition. */
static float add_lanes(const float *s)
{
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static float dot(const float *a, const float *b, int n)
{
    float s[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int j = 0; j < LANES; j++) s[j] += a[i + j] * b[i + j];
    return add_lanes(s);
}

/* What an error at each value costs: large values matter more, none matters nothing. */
static void weigh(const float *x, int n, float *weight)
{
    float rms = sqrtf(dot(x, x, n) / (float)n);
    for (int i = 0; i < n; i++) weight[i] = rms + fabsf(x[i]);
}

static float clamp(float q, float lo, float hi)
{
    q = q > lo ? q : lo;
    return q < hi ? q : hi;
}

/* ---------------------------------------------------------------- one group */

/* scale * q + low, 0 <= q <= most, low <= 0, scale >= 0 */
typedef struct line {
    float scale, low;
} line;

/* The best line for given integers, and how much of the sum of squares it explains. */
static float solve_line(const float *x, const float *weight, const float *q, int n, line *out)
{
    float s[5][LANES] = {{0}}; /* w, wx, wq, wqq, wqx */
    for (int i = 0; i < n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float w = weight[i + j], wq = w * q[i + j];
            s[0][j] += w;
            s[1][j] += w * x[i + j];
            s[2][j] += wq;
            s[3][j] += wq * q[i + j];
            s[4][j] += wq * x[i + j];
        }
    double w = add_lanes(s[0]), wx = add_lanes(s[1]), wq = add_lanes(s[2]), wqq = add_lanes(s[3]),
           wqx = add_lanes(s[4]);
    double det = w * wqq - wq * wq, scale, low = 0;
    if (wqq <= 0) return -1;
    if (det > 0) low = (wqq * wx - wq * wqx) / det;
    if (low >= 0 || det <= 0)
        low = 0, scale = wqx / wqq;
    else
        scale = (w * wqx - wq * wx) / det;
    if (!(scale > 0)) return -1;
    *out = (line){(float)scale, (float)low};
    return (float)(2 * (scale * wqx + low * wx) - scale * scale * wqq - 2 * scale * low * wq -
                   low * low * w);
}

static line fit_line(const float *x, const float *weight, int n, int most)
{
    enum { TRIES = 16 };
    float lo = 0, hi = x[0], q[GROUP], best_gain = -1;
    for (int i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    line best = {0, lo};
    if (!(hi - lo > 0)) return best;
    for (int t = 0; t < TRIES; t++) {
        line l = best;
        float inverse = ((float)most + 1.0f - 0.12f * (float)t) / (hi - lo);
        for (int i = 0; i < n; i++)
            q[i] = clamp(ap_round_near((x[i] - lo) * inverse), 0, (float)most);
        float gain = solve_line(x, weight, q, n, &l);
        if (gain > best_gain) {
            best_gain = gain;
            best = l;
        }
    }
    return best;
}

/* scale * q, -half <= q < half */
static float fit_ray(const float *x, const float *weight, int n, int half)
{
    enum { TRIES = 19 };
    float most = 0, q[GROUP], wx[GROUP], best = 0, best_gain = 0;
    for (int i = 0; i < n; i++) {
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
        wx[i] = weight[i] * x[i];
    }
    if (most == 0) return 0;
    for (int t = 0; t < TRIES; t++) {
        float inverse = -((float)half + 0.1f * (float)(t - TRIES / 2)) / most, sqq[LANES] = {0};
        for (int i = 0; i < n; i++)
            q[i] = clamp(ap_round_near(x[i] * inverse), (float)-half, (float)(half - 1));
        float qx = dot(q, wx, n);
        for (int i = 0; i < n; i += LANES)
            for (int j = 0; j < LANES; j++) sqq[j] += weight[i + j] * q[i + j] * q[i + j];
        float qq = add_lanes(sqq);
        if (qq > 0 && qx * qx > best_gain * qq) {
            best_gain = qx * qx / qq;
            best = qx / qq;
        }
    }
    return best;
}

/* ---------------------------------------------------------------- Q2_K, Q4_K, Q5_K */

/* A superblock in the making: w = d * scale[g] * q - dmin * min[g]. */
typedef struct affine_block {
    int groups, per_group, most, limit; /* q <= most; scales and minima <= limit */
    float weight[SUPER], q[SUPER];
    int scale[MAX_GROUPS], min[MAX_GROUPS];
    float d, dmin; /* values of f16 */
} affine_block;

static float as_half(float f)
{
    return ap_f16_to_f32(ap_f32_to_f16(f));
}

static void choose_integers(affine_block *b, const float *x)
{
    for (int g = 0; g < b->groups; g++) {
        float scale = b->d * (float)b->scale[g], low = b->dmin * (float)b->min[g];
        float inverse = scale > 0 ? 1.0f / scale : 0;
        for (int i = g * b->per_group; i < (g + 1) * b->per_group; i++)
            b->q[i] = clamp(ap_round_near((x[i] + low) * inverse), 0, (float)b->most);
    }
}

static double error_of(const affine_block *b, const float *x)
{
    double error = 0;
    for (int g = 0; g < b->groups; g++) {
        float scale = b->d * (float)b->scale[g], low = b->dmin * (float)b->min[g], s[LANES] = {0};
        int at = g * b->per_group;
        for (int i = at; i < at + b->per_group; i += LANES)
            for (int j = 0; j < LANES; j++) {
                float e = scale * b->q[i + j] - low - x[i + j];
                s[j] += b->weight[i + j] * e * e;
            }
        error += (double)add_lanes(s);
    }
    return error;
}

/* d and dmin that fit the integers best; false if there are none. */
static bool refit(affine_block *b, const float *x)
{
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int g = 0; g < b->groups; g++) {
        const float *w = b->weight + g * b->per_group, *q = b->q + g * b->per_group,
                    *v = x + g * b->per_group;
        double sc = b->scale[g], mn = -b->min[g], w1 = 0, wq = 0, wqq = 0, wx = 0, wqx = 0;
        for (int i = 0; i < b->per_group; i++) {
            w1 += (double)w[i];
            wx += (double)(w[i] * v[i]);
            wq += (double)(w[i] * q[i]);
            wqq += (double)(w[i] * q[i] * q[i]);
            wqx += (double)(w[i] * q[i] * v[i]);
        }
        aa += sc * sc * wqq;
        ab += sc * mn * wq;
        bb += mn * mn * w1;
        ax += sc * wqx;
        bx += mn * wx;
    }
    double det = aa * bb - ab * ab;
    if (aa <= 0) return false;
    if (bb > 0 && det > 1e-9 * aa * bb) {
        double d = (ax * bb - bx * ab) / det, dmin = (aa * bx - ab * ax) / det;
        if (d <= 0 || dmin < 0) return false;
        b->d = as_half((float)d);
        b->dmin = as_half((float)dmin);
    } else {
        if (ax <= 0) return false;
        b->d = as_half((float)(ax / aa));
    }
    return true;
}

static int nearest(float x, int limit)
{
    return (int)clamp(ap_round_near(x), 0, (float)limit);
}

static void fit_affine_block(affine_block *b, const float *x)
{
    line l[MAX_GROUPS];
    float most_scale = 0, most_min = 0;
    for (int g = 0; g < b->groups; g++) {
        int at = g * b->per_group;
        weigh(x + at, b->per_group, b->weight + at);
        l[g] = fit_line(x + at, b->weight + at, b->per_group, b->most);
        most_scale = l[g].scale > most_scale ? l[g].scale : most_scale;
        most_min = -l[g].low > most_min ? -l[g].low : most_min;
    }
    b->d = as_half(most_scale / (float)b->limit);
    b->dmin = as_half(most_min / (float)b->limit);
    for (int g = 0; g < b->groups; g++) {
        b->scale[g] = b->d > 0 ? nearest(l[g].scale / b->d, b->limit) : 0;
        b->min[g] = b->dmin > 0 ? nearest(-l[g].low / b->dmin, b->limit) : 0;
    }
    choose_integers(b, x);
    double error = error_of(b, x);
    for (int pass = 0; pass < 3; pass++) {
        affine_block c = *b;
        if (!refit(&c, x)) return;
        choose_integers(&c, x);
        double now = error_of(&c, x);
        if (!(now < error)) return;
        *b = c;
        error = now;
    }
}

/* The 12 bytes that Q4_K and Q5_K share: 6 bits each. */
static void put_scales(const affine_block *b, uint8_t *p)
{
    for (int j = 0; j < 4; j++) {
        p[j] = (uint8_t)(b->scale[j] | b->scale[j + 4] >> 4 << 6);
        p[j + 4] = (uint8_t)(b->min[j] | b->min[j + 4] >> 4 << 6);
        p[j + 8] = (uint8_t)((b->scale[j + 4] & 15) | (b->min[j + 4] & 15) << 4);
    }
}

/* Low nibbles: group 2k beside group 2k + 1. */
static void put_group_nibbles(const float *q, uint8_t *dst)
{
    for (int k = 0; k < 4; k++)
        for (int j = 0; j < 32; j++)
            dst[32 * k + j] =
                (uint8_t)(((int)q[64 * k + j] & 15) | ((int)q[64 * k + 32 + j] & 15) << 4);
}

void ap_encode_q2_k(const float *w, uint8_t *dst)
{
    affine_block b = {.groups = 16, .per_group = 16, .most = 3, .limit = 15};
    fit_affine_block(&b, w);
    for (int g = 0; g < 16; g++) dst[g] = (uint8_t)(b.scale[g] | b.min[g] << 4);
    for (int half = 0; half < 2; half++)
        for (int j = 0; j < 32; j++) {
            int v = 0;
            for (int k = 0; k < 4; k++) v |= (int)b.q[128 * half + 32 * k + j] << 2 * k;
            dst[16 + 32 * half + j] = (uint8_t)v;
        }
    ap_store_half(dst + 80, b.d);
    ap_store_half(dst + 82, b.dmin);
}

void ap_encode_q4_k(const float *w, uint8_t *dst)
{
    affine_block b = {.groups = 8, .per_group = 32, .most = 15, .limit = 63};
    fit_affine_block(&b, w);
    ap_store_half(dst, b.d);
    ap_store_half(dst + 2, b.dmin);
    put_scales(&b, dst + 4);
    put_group_nibbles(b.q, dst + 16);
}

void ap_encode_q5_k(const float *w, uint8_t *dst)
{
    affine_block b = {.groups = 8, .per_group = 32, .most = 31, .limit = 63};
    fit_affine_block(&b, w);
    ap_store_half(dst, b.d);
    ap_store_half(dst + 2, b.dmin);
    put_scales(&b, dst + 4);
    for (int j = 0; j < 32; j++) {
        int high = 0;
        for (int g = 0; g < 8; g++) high |= ((int)b.q[32 * g + j] >> 4) << g;
        dst[16 + j] = (uint8_t)high;
    }
    put_group_nibbles(b.q, dst + 48);
}

/* ---------------------------------------------------------------- Q3_K, Q6_K */

/* w = d * scale[g] * q, g of 16 groups of 16 */
typedef struct ray_block {
    int half, limit; /* -half <= q < half, -limit <= scale < limit */
    float weight[SUPER], q[SUPER];
    int scale[16];
    float d; /* value of f16 */
} ray_block;

static void choose_ray_integers(ray_block *b, const float *x)
{
    for (int g = 0; g < 16; g++) {
        float scale = b->d * (float)b->scale[g], inverse = scale != 0 ? 1.0f / scale : 0;
        for (int i = 16 * g; i < 16 * g + 16; i++)
            b->q[i] = clamp(ap_round_near(x[i] * inverse), (float)-b->half, (float)(b->half - 1));
    }
}

/* Error of the block as it is; *d: the factor that would fit its integers best. */
static double ray_error(const ray_block *b, const float *x, double *d)
{
    double error = 0, aa = 0, ax = 0;
    for (int i = 0; i < SUPER; i++) {
        double a = b->scale[i / 16] * (double)b->q[i], w = (double)b->weight[i],
               e = (double)b->d * a - (double)x[i];
        error += w * e * e;
        aa += w * a * a;
        ax += w * a * (double)x[i];
    }
    *d = aa > 0 ? ax / aa : 0;
    return error;
}

static void fit_ray_block(ray_block *b, const float *x)
{
    float s[16], most = 0;
    for (int g = 0; g < 16; g++) {
        weigh(x + 16 * g, 16, b->weight + 16 * g);
        s[g] = fit_ray(x + 16 * g, b->weight + 16 * g, 16, b->half);
        if (fabsf(s[g]) > fabsf(most)) most = s[g];
    }
    b->d = as_half(most / (float)-b->limit);
    for (int g = 0; g < 16; g++)
        b->scale[g] = b->d != 0 ? (int)clamp(ap_round_near(s[g] / b->d), (float)-b->limit,
                                             (float)(b->limit - 1))
                                : 0;
    choose_ray_integers(b, x);
    double d, error = ray_error(b, x, &d);
    for (int pass = 0; pass < 3; pass++) {
        ray_block c = *b;
        c.d = as_half((float)d);
        choose_ray_integers(&c, x);
        double now = ray_error(&c, x, &d);
        if (!(now < error)) return;
        *b = c;
        error = now;
    }
}

void ap_encode_q3_k(const float *w, uint8_t *dst)
{
    ray_block b = {.half = 4, .limit = 32};
    fit_ray_block(&b, w);
    uint8_t *high = dst, *low = dst + 32, *packed = dst + 96;
    memset(dst, 0, 108);
    for (int i = 0; i < SUPER; i++) {
        int q = (int)b.q[i] + 4, half = i / 128, k = i / 32 % 4, j = i % 32;
        low[32 * half + j] |= (uint8_t)((q & 3) << 2 * k);
        high[j] |= (uint8_t)(q >> 2 << (4 * half + k));
    }
    for (int g = 0; g < 16; g++) {
        int v = b.scale[g] + 32;
        packed[g % 8] |= (uint8_t)((v & 15) << (g < 8 ? 0 : 4));
        packed[8 + g % 4] |= (uint8_t)(v >> 4 << 2 * (g / 4));
    }
    ap_store_half(dst + 108, b.d);
}

void ap_encode_q6_k(const float *w, uint8_t *dst)
{
    ray_block b = {.half = 32, .limit = 128};
    fit_ray_block(&b, w);
    memset(dst, 0, 192);
    for (int i = 0; i < SUPER; i++) {
        int q = (int)b.q[i] + 32, half = i / 128, quarter = i / 32 % 4, j = i % 32;
        dst[64 * half + 32 * (quarter & 1) + j] |= (uint8_t)((q & 15) << 4 * (quarter >> 1));
        dst[128 + 32 * half + j] |= (uint8_t)(q >> 4 << 2 * quarter);
    }
    for (int g = 0; g < 16; g++) dst[192 + g] = (uint8_t)(int8_t)b.scale[g];
    ap_store_half(dst + 208, b.d);
}

/* ---------------------------------------------------------------- IQ4_NL, IQ4_XS */

static const float codes[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                1,    13,   25,  38,  53,  69,  89,  113};

/* Half-way between a code and the next. */
static const float borders[15] = {-115.5f, -93.5f, -74,   -57,   -42, -28.5f, -16, -4.5f,
                                  7,       19,     31.5f, 45.5f, 61,  79,     101};

/* Numbers of the codes nearest to x[i] * inverse, and the codes. */
static void choose_codes(const float *x, float inverse, int *number, float *value)
{
    for (int i = 0; i < GROUP; i++) {
        float v = x[i] * inverse;
        int k = 8 * (v > borders[7]);
        k += 4 * (v > borders[k + 3]);
        k += 2 * (v > borders[k + 1]);
        k += v > borders[k];
        number[i] = k;
        value[i] = codes[k];
    }
}

static float fit_codes(const float *x, const float *weight)
{
    enum { TRIES = 15 };
    int number[GROUP];
    float most = 0, value[GROUP], wx[GROUP], best = 0, best_gain = 0;
    for (int i = 0; i < GROUP; i++) {
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
        wx[i] = weight[i] * x[i];
    }
    if (most == 0) return 0;
    for (int t = 0; t < TRIES; t++) {
        float inverse = (codes[0] + 4.0f * (float)(t - TRIES / 2)) / most, sqq[LANES] = {0};
        choose_codes(x, inverse, number, value);
        float qx = dot(value, wx, GROUP);
        for (int i = 0; i < GROUP; i += LANES)
            for (int j = 0; j < LANES; j++) sqq[j] += weight[i + j] * value[i + j] * value[i + j];
        float qq = add_lanes(sqq);
        if (qq > 0 && qx * qx > best_gain * qq) {
            best_gain = qx * qx / qq;
            best = qx / qq;
        }
    }
    return best;
}

static void put_codes(const float *x, float scale, uint8_t *dst)
{
    int number[GROUP];
    float value[GROUP];
    choose_codes(x, scale != 0 ? 1.0f / scale : 0, number, value);
    for (int j = 0; j < 16; j++) dst[j] = (uint8_t)(number[j] | number[j + 16] << 4);
}

void ap_encode_iq4_nl(const float *w, uint8_t *dst)
{
    float weight[GROUP];
    weigh(w, GROUP, weight);
    put_codes(w, ap_store_half(dst, fit_codes(w, weight)), dst + 2);
}

void ap_encode_iq4_xs(const float *w, uint8_t *dst)
{
    float s[8], most = 0, weight[GROUP];
    unsigned high = 0;
    for (int g = 0; g < 8; g++) {
        weigh(w + GROUP * g, GROUP, weight);
        s[g] = fit_codes(w + GROUP * g, weight);
        if (fabsf(s[g]) > fabsf(most)) most = s[g];
    }
    float d = ap_store_half(dst, most / -32.0f);
    memset(dst + 4, 0, 4);
    for (int g = 0; g < 8; g++) {
        int scale = d != 0 ? (int)clamp(ap_round_near(s[g] / d), -32, 31) : 0, v = scale + 32;
        dst[4 + g / 2] |= (uint8_t)((v & 15) << 4 * (g % 2));
        high |= (unsigned)(v >> 4) << 2 * g;
        put_codes(w + GROUP * g, d * (float)scale, dst + 8 + 16 * g);
    }
    ap_store16(dst + 2, (uint16_t)high);
}
