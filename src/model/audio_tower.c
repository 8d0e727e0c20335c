/* audio_tower.c - loading an audio tower, its memory, and the walk of a sound through it. */
#include "model/audio_tower.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "model/audio_impl.h"

#define PIECE_ROWS 512 /* soft tokens that layers work on at once */
#define HEAD_ROWS  32  /* likewise the convolutions, which take a hundred times as much for each */
#define MAX_ROWS   (1 << 22) /* of a sound: products of sizes stay far below 2^63 */

/* ---------------------------------------------------------------- weights */

static void bind_tower(ap_bind *b, void *arg)
{
    ap_audio_bind(b, arg);
}

/* An empty tower and the sizing pass over its tensors. */
static apus_err measure(const ap_audio_config *a, const ap_config *c, const ap_weights *w,
                        ap_device *dev, ap_bind *b, ap_audio_tower **out, apus_diag *diag)
{
    static const char mark[] = "embed_audio.embedding_projection.weight";
    char name[sizeof mark + 8];
    snprintf(name, sizeof name, "model.%s", mark);
    const char *prefix = ap_weights_find(w, name) ? "model." : ap_weights_find(w, mark) ? "" : NULL;
    if (!prefix)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s\" is missing: the weights hold no audio tower",
                       ap_weights_file(w, ""), name);
    ap_audio_tower *t = ap_calloc(1, sizeof *t);
    if (t) t->layer = ap_calloc((size_t)a->n_layer + 1, sizeof *t->layer);
    if (!t || !t->layer) {
        ap_free(t);
        return ap_fail_nomem(diag, sizeof *t, "the audio tower");
    }
    t->a = *a;
    t->c = c;
    t->dev = dev;
    *b = (ap_bind){.c = c, .w = w, .dev = dev, .k = dev->kern, .prefix = prefix, .diag = diag};
    if (ap_bind_size(b, bind_tower, t, &t->bound))
        ap_audio_tower_free(t);
    else
        *out = t;
    return b->err;
}

apus_err ap_audio_tower_measure(const ap_audio_config *a, const ap_config *c, const ap_weights *w,
                                ap_device *dev, size_t *bytes, apus_diag *diag)
{
    ap_bind b;
    ap_audio_tower *t = NULL;
    apus_err err = measure(a, c, w, dev, &b, &t, diag);
    if (err) return err;
    *bytes = t->bound.bytes + t->bound.in_place;
    ap_audio_tower_free(t);
    return APUS_OK;
}

apus_err ap_audio_tower_load(const ap_audio_config *a, const ap_config *c, const ap_weights *w,
                             ap_device *dev, apus_progress_fn progress, void *ctx,
                             ap_audio_tower **out, apus_diag *diag)
{
    ap_bind b;
    ap_audio_tower *t = NULL;
    apus_err err = measure(a, c, w, dev, &b, &t, diag);
    if (err) return err;
    b.progress = progress;
    b.progress_ctx = ctx;
    err = ap_bind_fill(&b, bind_tower, t, &t->bound);
    if (err)
        ap_audio_tower_free(t);
    else
        *out = t;
    return err;
}

void ap_audio_tower_free(ap_audio_tower *t)
{
    if (!t) return;
    ap_bound_free(&t->bound, t->dev);
    ap_free(t->layer);
    ap_free(t);
}

/* ---------------------------------------------------------------- memory of a sound */

static void *carve(uint8_t *mem, size_t *at, size_t n, size_t size)
{
    void *p = mem ? mem + *at : NULL;
    *at += ap_round_up(n * size, AP_ALIGN);
    return p;
}

/* The widest row that passes through h, a and b. */
static size_t widest(const ap_audio_config *a)
{
    int most = ap_max_int(a->ffn, a->middle);
    return (size_t)ap_max_int(ap_max_int(most, 2 * a->hidden), a->width);
}

static void carve_head(ap_audio_work *w, uint8_t *mem, size_t *at)
{
    const ap_audio_config *a = &w->t->a;
    size_t rows = (size_t)ap_audio_head_rows(w, w->head_piece), F32 = sizeof(float);
    size_t squares = (size_t)ap_audio_square_rows(w, w->head_piece);
    w->head_in = carve(mem, at, rows * AP_AUDIO_SQUARE, F32);
    w->head_mid = carve(mem, at, rows * (size_t)a->channels[0], F32);
    w->head_square = carve(mem, at, squares * AP_AUDIO_SQUARE * (size_t)a->channels[0], F32);
    w->head_out = carve(mem, at, squares * (size_t)a->channels[1], F32);
    w->tap = carve(mem, at, squares * AP_AUDIO_SQUARE, sizeof(int32_t));
    w->tap_weight = carve(mem, at, squares * AP_AUDIO_SQUARE, F32);
    w->stage_bytes = (rows + 2 * squares) * AP_AUDIO_SQUARE * F32;
}

/* All memory of the device, or only its size: sizes are bounded by MAX_ROWS and the configuration's. */
static void carve_work(ap_audio_work *w, uint8_t *mem)
{
    const ap_audio_config *a = &w->t->a;
    size_t n = (size_t)w->n, piece = (size_t)w->piece, H = (size_t)a->hidden, F32 = sizeof(float);
    size_t at = 0, wide = widest(a);
    if (a->kind == AP_AUDIO_CONFORMER) {
        carve_head(w, mem, &at);
        w->seq = carve(mem, &at, 2, sizeof *w->seq);
        w->x = carve(mem, &at, n * H, F32);
        w->k = carve(mem, &at, n * H, F32);
        w->v = carve(mem, &at, n * H, F32);
        w->relative = carve(mem, &at, (size_t)a->reach * H, F32);
        w->conv_state = carve(mem, &at, (size_t)a->n_tap * H, F32);
    }
    w->h = carve(mem, &at, piece * wide, F32);
    w->a = carve(mem, &at, piece * wide, F32);
    w->b = carve(mem, &at, piece * wide, F32);
    w->out = carve(mem, &at, piece * (size_t)a->out, F32);
    w->ex.input_bytes = w->ex.precision == APUS_PRECISION_EXACT ? 0 : piece * wide * 3;
    w->ex.inputs = carve(mem, &at, w->ex.input_bytes, 1);
    w->mem_bytes = at;
}

static int soft_tokens(const ap_audio_config *a, size_t rows)
{
    return (int)(a->kind == AP_AUDIO_CONFORMER ? ((rows + 1) / 2 + 1) / 2 : rows);
}

static void begin_work(ap_audio_work *w, const ap_audio_tower *t, const ap_exec *ex,
                       const ap_patches *p)
{
    *w = (ap_audio_work){.t = t, .ex = *ex, .n_in = (int)p->n, .width = (int)p->width};
    w->bands[0] = ap_div_up(w->width, 2);
    w->bands[1] = ap_div_up(w->bands[0], 2);
    w->n = soft_tokens(&t->a, p->n);
    w->piece = ap_min_int(PIECE_ROWS, w->n);
    w->head_piece = ap_min_int(HEAD_ROWS, w->n);
    w->host_seq[0].n_tok = w->piece;
    w->host_seq[1].n_tok = w->n % w->piece;
    carve_work(w, NULL);
}

static apus_err take_memory(ap_audio_work *w, apus_diag *diag)
{
    ap_device *dev = w->ex.dev;
    w->mem = dev->op->alloc(dev, w->mem_bytes);
    if (!w->mem) return ap_fail_nomem(diag, w->mem_bytes, "the work on a sound");
    carve_work(w, w->mem);
    if (w->t->a.kind != AP_AUDIO_CONFORMER) return APUS_OK;
    dev->op->put(dev, w->seq, w->host_seq, sizeof w->host_seq);
    if (dev->is_host) return APUS_OK;
    w->stage = ap_malloc(w->stage_bytes, 1);
    return w->stage ? APUS_OK : ap_fail_nomem(diag, w->stage_bytes, "the work on a sound");
}

static void give_memory(ap_audio_work *w)
{
    ap_device *dev = w->ex.dev;
    ap_free(w->stage);
    if (w->mem) dev->op->free(dev, w->mem, w->mem_bytes);
}

/* ---------------------------------------------------------------- a sound */

/* Rows [first, first + n) of what is projected. */
static const float *inputs(const ap_audio_work *w, const float *values, int first, int n)
{
    const ap_audio_tower *t = w->t;
    ap_device *dev = w->ex.dev;
    if (t->a.kind == AP_AUDIO_EMBEDDER) {
        size_t width = (size_t)t->a.width;
        dev->op->put(dev, w->a, values + (size_t)first * width, (size_t)n * width * sizeof *values);
        return w->a;
    }
    ap_matmul(&w->ex, w->x + (size_t)first * (size_t)t->a.hidden, &t->output, w->a, n);
    w->ex.k->elem(&w->ex, &(ap_elem_args){.op = AP_ELEM_ADD,
                                          .y = w->a,
                                          .x = t->output_bias,
                                          .ldy = t->a.middle,
                                          .rows = n,
                                          .n = t->a.middle,
                                          .n_block = 1});
    return w->a;
}

static void project(const ap_audio_work *w, const float *values, float *out)
{
    const ap_audio_config *a = &w->t->a;
    size_t width = (size_t)a->out;
    int middle = a->kind == AP_AUDIO_EMBEDDER ? a->width : a->middle;
    for (int first = 0; first < w->n; first += w->piece) {
        int n = ap_min_int(w->piece, w->n - first);
        ap_norm(&w->ex, inputs(w, values, first, n), NULL, w->h, n, middle, a->norm_eps);
        ap_matmul(&w->ex, w->h, &w->t->project, w->out, n);
        w->ex.dev->op->get(w->ex.dev, out + (size_t)first * width, w->out,
                           (size_t)n * width * sizeof(float));
    }
}

static apus_err run(ap_audio_work *w, const ap_patches *p, float *out, const volatile int *cancel,
                    apus_diag *diag)
{
    const ap_audio_config *a = &w->t->a;
    if (a->kind == AP_AUDIO_CONFORMER) ap_audio_head(w, p->values);
    for (int l = 0; l < a->n_layer; l++) {
        if (ap_step_cancelled(cancel))
            return ap_fail(diag, APUS_ECANCELLED, "the work on a sound was cancelled");
        ap_audio_layer_run(w, &w->t->layer[l]);
    }
    project(w, p->values, out);
    return w->ex.dev->op->finish(w->ex.dev, diag);
}

/* ---------------------------------------------------------------- entries */

apus_err ap_audio_tower_check(const ap_audio_tower *t, const ap_patches *p, const char *name,
                              int *n, apus_diag *diag)
{
    const ap_audio_config *a = &t->a;
    size_t width = a->kind == AP_AUDIO_CONFORMER ? (size_t)a->channels[0] / 4 : (size_t)a->width;
    size_t found =
        a->kind == AP_AUDIO_CONFORMER ? ((p->width + 1) / 2 + 1) / 2 : p->width; /* halved twice */
    if (found != width)
        return ap_fail(diag, APUS_EINVAL, "%s: expected rows of %zu values, found %zu", name,
                       a->kind == AP_AUDIO_CONFORMER ? 4 * width : width, p->width);
    if (p->n < 1 || p->n > MAX_ROWS)
        return ap_fail(diag, APUS_EINVAL, "%s: expected 1 to %d rows of a sound, found %zu", name,
                       MAX_ROWS, p->n);
    *n = soft_tokens(a, p->n);
    return APUS_OK;
}

apus_err ap_audio_tower_encode(const ap_audio_tower *t, const ap_exec *ex, const ap_patches *p,
                               float *out, const volatile int *cancel, apus_diag *diag)
{
    ap_audio_work w;
    begin_work(&w, t, ex, p);
    apus_err err = take_memory(&w, diag);
    if (!err) err = run(&w, p, out, cancel, diag);
    give_memory(&w);
    return err;
}
