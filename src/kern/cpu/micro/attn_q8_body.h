/* attn_q8_body.h - q8 pages where rows of queries and of weights are 16-bit numbers: included by
 * attn_LEVEL.c behind its scores8 and values8 of a fixed number of rows (at most Q8_ROWS, 4). */
#include "kern/cpu/page/kv_page.h"

_Static_assert(Q8_ROWS == 4, "rows of the switches");

/* Weights of a page times the units of its values, as integers; returns their unit. */
static float weigh(const float *p, int lo, int hi, const float *unit, int16_t *out)
{
    float w[AP_PAGE];
    for (int j = 0; j < AP_PAGE; j++) w[j] = j >= lo && j < hi ? p[j] * unit[j] : 0;
    return ap_kv_ints(w, AP_PAGE, 32767, out);
}

static void scores_q8(const float *q, int n_row, const ap_kv_head *h, int head_dim, float *s,
                      int64_t ahead)
{
    const query8 *x = (const query8 *)(const void *)q;
    switch (n_row) {
    case 1:
        scores8(1, x, h, head_dim, s, ahead);
        break;
    case 2:
        scores8(2, x, h, head_dim, s, ahead);
        break;
    case 3:
        scores8(3, x, h, head_dim, s, ahead);
        break;
    case 4:
        scores8(4, x, h, head_dim, s, ahead);
        break;
    default:
        break;
    }
}

static void values_q8(const float *p, int n_row, const int *lo, const int *hi, const ap_kv_head *h,
                      int head_dim, float *const *o, int64_t ahead)
{
    int16_t w[Q8_ROWS * AP_PAGE];
    float unit[Q8_ROWS];
    for (int r = 0; r < n_row; r++)
        unit[r] = weigh(p + r * AP_PAGE, lo[r], hi[r], h->vs, w + r * AP_PAGE);
    switch (n_row) {
    case 1:
        values8(1, w, unit, h, head_dim, o, ahead);
        break;
    case 2:
        values8(2, w, unit, h, head_dim, o, ahead);
        break;
    case 3:
        values8(3, w, unit, h, head_dim, o, ahead);
        break;
    case 4:
        values8(4, w, unit, h, head_dim, o, ahead);
        break;
    default:
        break;
    }
}
