/* recur_cut_body.h - convolution and product cut into what a level has kernels for: included by
 * recur_LEVEL.c behind its conv_tokens and the tile of tile_LEVEL.h. */
#include "kern/cpu/micro/micro_recur.h"

static void recur_conv(const float *const *row, int n_tok, int n_tap, const float *w, int64_t ldw,
                       int n, bool plain, float *out, int64_t ldout)
{
    if (n_tok == AP_CONV_TOKENS && n_tap == 4 && !plain) {
        conv_tokens(AP_CONV_TOKENS, 4, row, w, ldw, n, false, out, ldout);
        return;
    }
    for (int t = 0; t < n_tok; t++)
        conv_tokens(1, n_tap, row + t, w, ldw, n, plain, out + t * ldout, ldout);
}

static void recur_gemm(int m, int n, int kk, const float *a, int64_t ra, int64_t ca, const float *b,
                       int64_t ldb, float *c, int64_t ldc, bool accumulate, ap_feed *feed)
{
    /* Columns outside: the strip of b stays in L1 for all rows. */
    for (int j = 0; j < n; j += 64) {
        int cols = n - j < 64 ? n - j : 64;
        for (int i = 0; i < m;) {
            int blocks = (m - i + 5) / 6, rows = (m - i + blocks - 1) / blocks;
            const float *ar[6];
            float *cr[6];
            for (int r = 0; r < rows; r++) {
                ar[r] = a + (i + r) * ra;
                cr[r] = c + (i + r) * ldc + j;
            }
            tile(rows, cols, ar, ca, b + j, ldb, kk, cr, accumulate, 0);
            ap_feed_some(feed);
            i += rows;
        }
    }
}
