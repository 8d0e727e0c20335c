#include "media/resize.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* Along one axis: pixel i of the result is the sum of `count[i]` pixels from first[i] on, times the weights at
 * weight + i * taps, over 2^bits. */
typedef struct axis {
    int n, taps, bits;
    int *first, *count;
    double *exact; /* weights before rounding; only while planning */
    int16_t *weight;
} axis;

static void axis_free(axis *a)
{
    ap_free(a->first);
    ap_free(a->count);
    ap_free(a->exact);
    ap_free(a->weight);
}

static double cubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

/* The window of result i and its weights, which sum to 1. */
static void weigh(axis *a, int i, int from, double scale, double *largest)
{
    double support = scale >= 1 ? 2 * scale : 2, inverse = scale >= 1 ? 1 / scale : 1;
    double center = scale * (i + 0.5), total = 0, *w = a->exact + (size_t)i * (size_t)a->taps;
    int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
    if (first < 0) first = 0;
    if (end > from) end = from;
    int count = end - first;
    if (count > a->taps) count = a->taps;
    for (int j = 0; j < count; j++) {
        w[j] = cubic((j + first - center + 0.5) * inverse);
        total += w[j];
    }
    for (int j = 0; j < count; j++) {
        if (total != 0) w[j] /= total;
        if (w[j] > *largest) *largest = w[j];
    }
    a->first[i] = first;
    a->count[i] = count;
}

/* As many fractional bits as the largest weight leaves in 16. */
static int weight_bits(double largest)
{
    int bits = 0;
    while (bits < 22 && (int)(0.5 + largest * (1 << (bits + 1))) < 1 << 15) bits++;
    return bits;
}

static apus_err axis_plan(axis *a, int from, int to, apus_diag *diag)
{
    double scale = (double)from / to, largest = 0;
    memset(a, 0, sizeof *a);
    a->n = to;
    a->taps = (int)ceil(scale >= 1 ? 2 * scale : 2) * 2 + 1;
    size_t n = (size_t)to, cells = n * (size_t)a->taps; /* both below 2^18 */
    a->first = ap_calloc(n, sizeof *a->first);
    a->count = ap_calloc(n, sizeof *a->count);
    a->exact = ap_calloc(cells, sizeof *a->exact);
    a->weight = ap_calloc(cells, sizeof *a->weight);
    if (!a->first || !a->count || !a->exact || !a->weight)
        return ap_fail_nomem(diag, cells * 10, "the weights of a resized picture");
    for (int i = 0; i < to; i++) weigh(a, i, from, scale, &largest);
    a->bits = weight_bits(largest);
    for (size_t k = 0; k < cells; k++) {
        double v = a->exact[k] * (1 << a->bits);
        a->weight[k] = (int16_t)(v < 0 ? v - 0.5 : v + 0.5);
    }
    return APUS_OK;
}

static uint8_t to_byte(int32_t sum, int bits)
{
    int32_t v = sum >> bits;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* One row of a->n pixels. */
static void across(const axis *a, const uint8_t *row, uint8_t *out)
{
    for (int i = 0; i < a->n; i++) {
        const int16_t *w = a->weight + (size_t)i * (size_t)a->taps;
        const uint8_t *p = row + 3 * (size_t)a->first[i];
        int32_t half = a->bits ? 1 << (a->bits - 1) : 0, r = half, g = half, b = half;
        for (int j = 0; j < a->count[i]; j++, p += 3) {
            r += w[j] * p[0];
            g += w[j] * p[1];
            b += w[j] * p[2];
        }
        out[3 * i] = to_byte(r, a->bits);
        out[3 * i + 1] = to_byte(g, a->bits);
        out[3 * i + 2] = to_byte(b, a->bits);
    }
}

/* Row i of the result out of rows of n bytes; sum [n] is scratch. */
static void down(const axis *a, int i, const uint8_t *rows, size_t n, int32_t *sum, uint8_t *out)
{
    const int16_t *w = a->weight + (size_t)i * (size_t)a->taps;
    for (size_t k = 0; k < n; k++) sum[k] = a->bits ? 1 << (a->bits - 1) : 0;
    for (int j = 0; j < a->count[i]; j++) {
        const uint8_t *row = rows + n * (size_t)(a->first[i] + j);
        int32_t weight = w[j];
        for (size_t k = 0; k < n; k++) sum[k] += weight * row[k];
    }
    for (size_t k = 0; k < n; k++) out[k] = to_byte(sum[k], a->bits);
}

static apus_err resample(const ap_picture *src, const axis *x, const axis *y, const ap_picture *out,
                         apus_diag *diag)
{
    ap_picture narrow;
    size_t n = 3 * (size_t)out->width;
    int32_t *sum = ap_malloc(n, sizeof *sum);
    if (!sum) return ap_fail_nomem(diag, n * sizeof *sum, "a row of a resized picture");
    apus_err err = ap_picture_create(out->width, src->height, &narrow, diag);
    if (!err) {
        for (int r = 0; r < src->height; r++)
            across(x, src->rgb + 3 * (size_t)src->width * (size_t)r, narrow.rgb + n * (size_t)r);
        for (int r = 0; r < out->height; r++)
            down(y, r, narrow.rgb, n, sum, out->rgb + n * (size_t)r);
        ap_picture_clear(&narrow);
    }
    ap_free(sum);
    return err;
}

apus_err ap_picture_resize(const ap_picture *src, int width, int height, ap_picture *out,
                           apus_diag *diag)
{
    axis x = {0}, y = {0};
    apus_err err = ap_picture_create(width, height, out, diag);
    if (!err) err = axis_plan(&x, src->width, width, diag);
    if (!err) err = axis_plan(&y, src->height, height, diag);
    if (!err) err = resample(src, &x, &y, out, diag);
    axis_free(&x);
    axis_free(&y);
    if (err) ap_picture_clear(out);
    return err;
}
