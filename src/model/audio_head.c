/* audio_head.c - the convolutions at the foot of the audio tower: each makes one row of two, and one band of two.
 *
 * Both are products over squares of 3 x 3 neighbours. Those of the first are gathered on the host, where the sound is,
 * those of the second from the first one's rows on the device. What lies beyond the sound's end is zero in both. */
#include <math.h>
#include <string.h>

#include "base/num.h"
#include "model/audio_impl.h"

/* Rows of the first convolution that a piece of n soft tokens looks at: two for each, and the one before them. */
static int middle_rows(int n)
{
    return 2 * n + 1;
}

int ap_audio_head_rows(const ap_audio_work *w, int n)
{
    return middle_rows(n) * w->bands[0];
}

int ap_audio_square_rows(const ap_audio_work *w, int n)
{
    return n * w->bands[1];
}

/* The squares around rows 2 i of the sound, i from first on, of all bands. */
static void gather(const ap_audio_work *w, const float *values, int first, int rows, float *out)
{
    for (int r = 0; r < rows; r++)
        for (int band = 0; band < w->bands[0]; band++)
            for (int place = 0; place < AP_AUDIO_SQUARE; place++) {
                int64_t row = 2 * (int64_t)(first + r) - 1 + place / 3;
                int col = 2 * band - 1 + place % 3;
                bool there = row >= 0 && row < w->n_in && col >= 0 && col < w->width;
                *out++ = there ? values[row * w->width + col] : 0;
            }
}

/* Which rows of head_mid make the squares of n soft tokens; head_mid begins at row `first` of its kind. */
static void square_up(const ap_audio_work *w, int first, int n, int32_t *tap, float *weight)
{
    int have = ap_div_up(w->n_in, 2);
    for (int t = 0; t < n; t++)
        for (int band = 0; band < w->bands[1]; band++)
            for (int place = 0; place < AP_AUDIO_SQUARE; place++) {
                int row = 2 * t + place / 3, col = 2 * band - 1 + place % 3;
                bool there =
                    first + row >= 0 && first + row < have && col >= 0 && col < w->bands[0];
                *tap++ = there ? row * w->bands[0] + col : 0;
                *weight++ = there ? 1.0f : 0.0f;
            }
}

/* x = relu(layer norm(x)) */
static void norm_relu(const ap_audio_work *w, int i, float *x, int rows)
{
    int n = w->t->a.channels[i];
    w->ex.k->layer_norm(&w->ex, &(ap_layer_norm_args){.x = x,
                                                      .weight = w->t->norm[i],
                                                      .out = x,
                                                      .ldx = n,
                                                      .ldout = n,
                                                      .rows = rows,
                                                      .n = n,
                                                      .eps = w->t->a.norm_eps});
    ap_tower_clamp(&w->ex, 0, INFINITY, x, x, rows, n);
}

/* What the host tells of a piece, to the device. */
static void fill_piece(const ap_audio_work *w, const float *values, int first, int n)
{
    ap_device *dev = w->ex.dev;
    size_t in = (size_t)ap_audio_head_rows(w, n) * AP_AUDIO_SQUARE,
           taps = (size_t)ap_audio_square_rows(w, n) * AP_AUDIO_SQUARE;
    float *squares = w->stage ? (float *)(void *)w->stage : w->head_in;
    float *weight = w->stage ? squares + in : w->tap_weight;
    int32_t *tap = w->stage ? (int32_t *)(void *)(weight + taps) : w->tap;
    gather(w, values, 2 * first - 1, middle_rows(n), squares);
    square_up(w, 2 * first - 1, n, tap, weight);
    if (!w->stage) return;
    dev->op->put(dev, w->head_in, squares, in * sizeof *squares);
    dev->op->put(dev, w->tap_weight, weight, taps * sizeof *weight);
    dev->op->put(dev, w->tap, tap, taps * sizeof *tap);
}

void ap_audio_head(const ap_audio_work *w, const float *values)
{
    const ap_audio_tower *t = w->t;
    int in = t->a.channels[0];
    for (int first = 0; first < w->n; first += w->head_piece) {
        int n = ap_min_int(w->head_piece, w->n - first);
        int rows = ap_audio_head_rows(w, n), squares = ap_audio_square_rows(w, n);
        fill_piece(w, values, first, n);
        ap_matmul(&w->ex, w->head_in, &t->conv[0], w->head_mid, rows);
        norm_relu(w, 0, w->head_mid, rows);
        w->ex.k->blend(&w->ex, &(ap_blend_args){.x = w->head_mid,
                                                .row = w->tap,
                                                .weight = w->tap_weight,
                                                .out = w->head_square,
                                                .ldx = in,
                                                .ldout = in,
                                                .rows = squares * AP_AUDIO_SQUARE,
                                                .n = in,
                                                .n_tap = 1});
        ap_matmul(&w->ex, w->head_square, &t->conv[1], w->head_out, squares);
        norm_relu(w, 1, w->head_out, squares);
        ap_matmul(&w->ex, w->head_out, &t->input, w->x + (size_t)first * (size_t)t->a.hidden, n);
    }
}
