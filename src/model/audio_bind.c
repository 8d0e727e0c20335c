/* audio_bind.c - the tensors of Gemma's audio tower. Source: the Gemma 4 specification section 5 and transformers'
 * Gemma4AudioModel, checked against tests/golden_media. */
#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "model/audio_impl.h"

#define NAME_ROOM 96

static const char *in_layer(char name[NAME_ROOM], int l, const char *leaf)
{
    snprintf(name, NAME_ROOM, "audio_tower.layers.%d.%s", l, leaf);
    return name;
}

static void bind_norm(ap_bind *b, const float **out, int n, int l, const char *leaf)
{
    char name[NAME_ROOM];
    ap_bind_vec(b, out, n, 0, "%s.weight", in_layer(name, l, leaf));
}

/* What is shared is added to the input in part: the norm has the part. */
static void bind_ffn(ap_bind *b, const ap_audio_config *a, int l, int i, ap_audio_ffn *out)
{
    char module[NAME_ROOM], name[NAME_ROOM + 32];
    int H = a->hidden;
    snprintf(module, sizeof module, "audio_tower.layers.%d.feed_forward%d", l, i + 1);
    ap_bind_vec(b, &out->norm_in, H, 0, "%s.pre_layer_norm.weight", module);
    float *w = ap_bind_vec(b, &out->norm_out, H, 0, "%s.post_layer_norm.weight", module);
    for (int k = 0; w && k < H; k++) w[k] *= a->share;
    snprintf(name, sizeof name, "%s.ffw_layer_1", module);
    ap_bind_clipped(b, a->clipped, &out->up, a->ffn, H, name);
    snprintf(name, sizeof name, "%s.ffw_layer_2", module);
    ap_bind_clipped(b, a->clipped, &out->down, H, a->ffn, name);
}

/* The reference scales keys too, and nothing else that they meet: so queries are scaled by that, and positions, which
 * stand beside the keys, by its inverse (bind_distance). */
static double key_scale(void)
{
    return log(1 + exp(1.0)) / log(2.0);
}

/* Queries times softplus of a weight for each dim, and a constant. */
static void bind_q_scale(ap_bind *b, const ap_audio_config *a, int l, ap_audio_layer *y)
{
    char name[NAME_ROOM];
    double fixed = 1 / sqrt((double)a->head_dim) / log(2.0) * key_scale();
    float *w = ap_bind_vec(b, &y->q_scale, a->head_dim, 0, "%s",
                           in_layer(name, l, "self_attn.per_dim_scale"));
    for (int i = 0; w && i < a->head_dim; i++) {
        double v = w[i], soft = v > 30 ? v : log1p(exp(v));
        w[i] = (float)(soft * fixed);
    }
}

/* [H, 1, n_tap] in the file, tap by tap here. */
static void bind_taps(ap_bind *b, const ap_audio_config *a, int l, ap_audio_layer *y)
{
    char name[NAME_ROOM];
    int H = a->hidden, n = a->n_tap;
    float *w = ap_bind_vec(b, &y->taps, H * n, 0, "%s",
                           in_layer(name, l, "lconv1d.depthwise_conv1d.weight"));
    float *copy = w ? ap_malloc((size_t)(H * n), sizeof *copy) : NULL;
    if (!w) return;
    if (!copy) {
        b->err = ap_fail_nomem(b->diag, (size_t)(H * n) * sizeof *copy, "a convolution");
        return;
    }
    for (int i = 0; i < H * n; i++) copy[i % n * H + i / n] = w[i];
    for (int i = 0; i < H * n; i++) w[i] = copy[i];
    ap_free(copy);
}

static void bind_layer(ap_bind *b, const ap_audio_config *a, int l, ap_audio_layer *y)
{
    char name[NAME_ROOM];
    int H = a->hidden;
    bool clip = a->clipped;
    for (int i = 0; i < 2; i++) bind_ffn(b, a, l, i, &y->ffn[i]);
    bind_norm(b, &y->norm_pre_attn, H, l, "norm_pre_attn");
    bind_norm(b, &y->norm_post_attn, H, l, "norm_post_attn");
    bind_norm(b, &y->norm_out, H, l, "norm_out");
    ap_bind_clipped(b, clip, &y->q, H, H, in_layer(name, l, "self_attn.q_proj"));
    ap_bind_clipped(b, clip, &y->k, H, H, in_layer(name, l, "self_attn.k_proj"));
    ap_bind_clipped(b, clip, &y->v, H, H, in_layer(name, l, "self_attn.v_proj"));
    ap_bind_clipped(b, clip, &y->post, H, H, in_layer(name, l, "self_attn.post"));
    ap_bind_mat(b, &y->relative, H, H, "%s.weight", in_layer(name, l, "self_attn.relative_k_proj"));
    bind_q_scale(b, a, l, y);
    bind_norm(b, &y->norm_conv_in, H, l, "lconv1d.pre_layer_norm");
    bind_norm(b, &y->norm_conv, H, l, "lconv1d.conv_norm");
    ap_bind_clipped(b, clip, &y->start, 2 * H, H, in_layer(name, l, "lconv1d.linear_start"));
    ap_bind_clipped(b, clip, &y->end, H, H, in_layer(name, l, "lconv1d.linear_end"));
    bind_taps(b, a, l, y);
}

/* The second convolution: [C, inputs, 3, 3] in the file, here input by input within each place of the square. */
static void bind_square(ap_bind *b, ap_audio_tower *t, const ap_tensor *view)
{
    int in = t->a.channels[0], n = in * AP_AUDIO_SQUARE;
    int *col = b->err ? NULL : ap_malloc((size_t)n, sizeof *col);
    if (!col && !b->err) b->err = ap_fail_nomem(b->diag, (size_t)n * sizeof *col, "a convolution");
    if (!col) return;
    for (int i = 0; i < n; i++) col[i] = i % in * AP_AUDIO_SQUARE + i / in;
    ap_tensor flat = *view;
    flat.rank = 2;
    flat.shape[1] = n;
    ap_bind_mat_cols(b, &t->conv[1], &flat, col);
    ap_free(col);
}

/* Sines, then cosines, of the distance at wavelengths from 2 pi to 10,000 times that. In f32, as the reference has it. */
static void bind_distance(ap_bind *b, ap_audio_tower *t)
{
    const ap_audio_config *a = &t->a;
    int half = a->hidden / 2;
    float *d = ap_bind_floats(b, (size_t)a->reach * (size_t)a->hidden, &t->distance);
    double step = log(1e4) / (half > 1 ? half - 1 : 1);
    for (int j = 0; d && j < a->reach; j++)
        for (int i = 0; i < half; i++) {
            float *at = d + (size_t)j * (size_t)a->hidden + i;
            float angle = (float)(j + a->shift) * expf((float)-step * (float)i);
            bool told = j + a->shift >= 0;
            at[0] = told ? (float)(sin((double)angle) / key_scale()) : 0;
            at[half] = told ? (float)(cos((double)angle) / key_scale()) : 0;
        }
}

static void bind_conformer(ap_bind *b, ap_audio_tower *t)
{
    const ap_audio_config *a = &t->a;
    static const char head[] = "audio_tower.subsample_conv_projection";
    int64_t square[4] = {a->channels[1], a->channels[0], 3, 3};
    ap_bind_mat_flat(b, &t->conv[0], a->channels[0], AP_AUDIO_SQUARE, "%s.layer0.conv.weight",
                     head);
    ap_tensor second = ap_bind_view(b, 4, square, "%s.layer1.conv.weight", head);
    bind_square(b, t, &second);
    for (int i = 0; i < 2; i++)
        ap_bind_vec(b, &t->norm[i], a->channels[i], 0, "%s.layer%d.norm.weight", head, i);
    ap_bind_mat(b, &t->input, a->hidden, a->width, "%s.input_proj_linear.weight", head);
    bind_distance(b, t);
    for (int l = 0; l < a->n_layer && !b->err; l++) bind_layer(b, a, l, &t->layer[l]);
    ap_bind_mat(b, &t->output, a->middle, a->hidden, "audio_tower.output_proj.weight");
    ap_bind_vec(b, &t->output_bias, a->middle, 0, "audio_tower.output_proj.bias");
}

void ap_audio_bind(ap_bind *b, ap_audio_tower *t)
{
    const ap_audio_config *a = &t->a;
    bool tower = a->kind == AP_AUDIO_CONFORMER;
    if (tower) bind_conformer(b, t);
    ap_bind_mat(b, &t->project, a->out, tower ? a->middle : a->width,
                "embed_audio.embedding_projection.weight");
}
