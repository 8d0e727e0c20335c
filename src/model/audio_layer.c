/* audio_layer.c - a conformer layer: half a feed-forward, attention to the rows right before, a convolution over time,
 * the other half. Source: the Gemma 4 specification section 5.3. */
#include "base/num.h"
#include "model/audio_impl.h"

/* Rows of a sound: [first, first + n). */
typedef struct piece {
    int first, n;
    float *x; /* f32 [n, H] */
} piece;

static void norm(const ap_audio_work *w, const float *weight, const piece *p)
{
    ap_norm(&w->ex, p->x, weight, w->h, p->n, w->t->a.hidden, AP_AUDIO_NORM_EPS);
}

/* x += norm(from) */
static void norm_add(const ap_audio_work *w, const float *from, const float *weight, const piece *p)
{
    ap_norm_add(&w->ex, from, weight, p->x, p->n, w->t->a.hidden, AP_AUDIO_NORM_EPS, 1.0f);
}

static void silu(const ap_audio_work *w, float *y, int rows, int n)
{
    w->ex.k->elem(
        &w->ex,
        &(ap_elem_args){.op = AP_ELEM_SILU, .y = y, .ldy = n, .rows = rows, .n = n, .n_block = 1});
}

static void feed_forward(const ap_audio_work *w, const ap_audio_ffn *f, const piece *p)
{
    norm(w, f->norm_in, p);
    ap_linear_run(&w->ex, &f->up, w->h, w->b, w->a, p->n);
    silu(w, w->a, p->n, w->t->a.ffn);
    ap_linear_run(&w->ex, &f->down, w->a, w->b, w->h, p->n);
    norm_add(w, w->h, f->norm_out, p);
}

static void scale_queries(const ap_audio_work *w, const ap_audio_layer *y, float *q, int rows)
{
    const ap_audio_config *a = &w->t->a;
    w->ex.k->elem(&w->ex, &(ap_elem_args){.op = AP_ELEM_MUL,
                                          .y = q,
                                          .x = y->q_scale,
                                          .ldy = a->hidden,
                                          .rows = rows,
                                          .n = a->head_dim,
                                          .n_block = a->n_head,
                                          .y_block = a->head_dim});
}

static void attention(const ap_audio_work *w, const ap_audio_layer *y, const piece *p)
{
    const ap_audio_config *a = &w->t->a;
    const ap_exec *ex = &w->ex;
    int H = a->hidden;
    float *k = w->k + (size_t)p->first * (size_t)H, *v = w->v + (size_t)p->first * (size_t)H;
    norm(w, y->norm_pre_attn, p);
    ap_linear_run(ex, &y->q, w->h, w->b, w->a, p->n);
    ap_linear_run(ex, &y->k, w->h, w->b, k, p->n);
    ap_linear_run(ex, &y->v, w->h, w->b, v, p->n);
    scale_queries(w, y, w->a, p->n);
    ex->k->attn_near(ex, &(ap_attn_near_args){.q = w->a,
                                              .k = k,
                                              .v = v,
                                              .distant = w->relative,
                                              .out = w->h,
                                              .ldq = H,
                                              .ldkv = H,
                                              .ldout = H,
                                              .n_tok = p->n,
                                              .n_past = p->first,
                                              .n_head = a->n_head,
                                              .head_dim = a->head_dim,
                                              .reach = a->reach,
                                              .cap = a->cap});
    ap_linear_run(ex, &y->post, w->h, w->b, w->a, p->n);
    norm_add(w, w->a, y->norm_post_attn, p);
}

/* Over the rows of a piece and the last ones before it; from w->h to w->b. */
static void convolve(const ap_audio_work *w, const ap_audio_layer *y, const piece *p)
{
    const ap_audio_config *a = &w->t->a;
    int H = a->hidden, which = p->n == w->piece ? 0 : 1;
    ap_batch batch = {
        .n_tok = p->n, .n_seq = 1, .seq = w->host_seq + which, .seq_dev = w->seq + which};
    w->ex.k->conv(&w->ex,
                  &(ap_conv_args){.x = w->a,
                                  .weight = y->taps,
                                  .out = w->b,
                                  .ldx = 2 * H,
                                  .state = {.base = w->conv_state,
                                            .block_floats = (size_t)(a->n_tap - 1) * (size_t)H,
                                            .batch = &batch},
                                  .n_tok = p->n,
                                  .n_channel = H,
                                  .n_tap = a->n_tap,
                                  .plain = true});
}

static void convolution(const ap_audio_work *w, const ap_audio_layer *y, const piece *p)
{
    const ap_audio_config *a = &w->t->a;
    const ap_exec *ex = &w->ex;
    int H = a->hidden;
    ap_norm(ex, p->x, y->norm_conv_in, w->h, p->n, H, a->norm_eps);
    ap_linear_run(ex, &y->start, w->h, w->b, w->a, p->n);
    ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_MUL_SIGMOID,
                                    .y = w->a,
                                    .x = w->a + H,
                                    .ldy = 2 * H,
                                    .ldx = 2 * H,
                                    .rows = p->n,
                                    .n = H,
                                    .n_block = 1});
    convolve(w, y, p);
    ap_norm(ex, w->b, y->norm_conv, w->h, p->n, H, a->norm_eps);
    silu(w, w->h, p->n, H);
    ap_linear_run(ex, &y->end, w->h, w->b, w->a, p->n);
    ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_ADD,
                                    .y = p->x,
                                    .x = w->a,
                                    .ldy = H,
                                    .ldx = H,
                                    .rows = p->n,
                                    .n = H,
                                    .n_block = 1});
}

void ap_audio_layer_run(const ap_audio_work *w, const ap_audio_layer *y)
{
    const ap_audio_config *a = &w->t->a;
    ap_device *dev = w->ex.dev;
    int H = a->hidden;
    dev->op->zero(dev, w->conv_state, (size_t)(a->n_tap - 1) * (size_t)H * sizeof(float));
    ap_matmul(&w->ex, w->t->distance, &y->relative, w->relative, a->reach);
    for (int first = 0; first < w->n; first += w->piece) {
        piece p = {first, ap_min_int(w->piece, w->n - first), w->x + (size_t)first * (size_t)H};
        feed_forward(w, &y->ffn[0], &p);
        attention(w, y, &p);
        convolution(w, y, &p);
        feed_forward(w, &y->ffn[1], &p);
        ap_norm(&w->ex, p.x, y->norm_out, p.x, p.n, H, AP_AUDIO_NORM_EPS);
    }
}
