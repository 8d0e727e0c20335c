/* weights_join.c - packed integers of safetensors files with their scales and biases. */
#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "file/weights_impl.h"

static const struct item *sibling(const ap_weights *w, const char *module, size_t len,
                                  const char *suffix)
{
    char name[1024];
    if (len > 900) return NULL;
    int n = snprintf(name, sizeof name, "%.*s%s", (int)len, module, suffix);
    const ap_name *f = ap_names_find(&w->names, name, (size_t)n);
    return f ? &w->item[f->value] : NULL;
}

/* Axes before the last one are equal, the last one of b is `last`. */
static bool fits(const ap_tensor *a, const ap_tensor *b, int64_t last)
{
    if (a->rank != b->rank || b->shape[b->rank - 1] != last) return false;
    for (int i = 0; i + 1 < a->rank; i++)
        if (a->shape[i] != b->shape[i]) return false;
    return true;
}

static bool is_float(ap_dtype t)
{
    return t == AP_F32 || t == AP_F16 || t == AP_BF16;
}

/* What is wrong with the parts of a module: weight u32 [.., K*bits/32], scales (and biases) [.., K/group].
 * NULL: nothing, and *cols is K. */
static const char *mlx_fault(const ap_tensor *t, const ap_tensor *scales, const ap_tensor *biases,
                             ap_quant_mode m, int64_t *cols)
{
    bool affine = m.dtype == AP_MLX_AFFINE;
    if (t->dtype != AP_U32 || t->rank < 2) return "its weight is not a matrix of u32";
    int64_t words = t->shape[t->rank - 1];
    if (words > INT64_MAX / 32 || words * 32 % m.bits)
        return "its weight does not hold whole values";
    *cols = words * 32 / m.bits;
    if (*cols % m.group) return "its rows are not whole groups";
    if (!fits(t, scales, *cols / m.group)) return "its scales have another shape";
    if (affine ? !is_float(scales->dtype) : scales->dtype != AP_U8)
        return "its scales have another type";
    if (affine != (biases != NULL)) return affine ? "its biases are missing" : "it has biases";
    if (affine && !fits(t, biases, *cols / m.group)) return "its biases have another shape";
    if (affine && biases->dtype != scales->dtype)
        return "its biases have another type than its scales";
    return NULL;
}

static bool is_affine_format(int64_t bits, int64_t group)
{
    return bits >= 2 && bits <= 8 && bits != 7 && (group == 32 || group == 64 || group == 128);
}

/* Bits and group of an affine module, from the width that the model's configuration gives the matrix
 * (-1: it gives none) or, where the file does not say both, from their product. */
static void settle_affine(ap_quant_mode *m, int64_t words, int64_t groups, int64_t width)
{
    static const int usual[] = {64, 32, 128};
    int64_t product = words * 32 / groups;
    if (width > 0 && words * 32 % width == 0 && width % groups == 0 &&
        is_affine_format(words * 32 / width, width / groups)) {
        m->bits = (int)(words * 32 / width);
        m->group = (int)(width / groups);
        return;
    }
    if (m->bits && m->group) return;
    if (m->group && product % m->group == 0 && is_affine_format(product / m->group, m->group)) {
        m->bits = (int)(product / m->group);
        return;
    }
    for (int i = 0; i < 3; i++)
        if (is_affine_format(product / usual[i], usual[i]) && product % usual[i] == 0) {
            m->bits = (int)(product / usual[i]);
            m->group = usual[i];
            return;
        }
}

/* What an entry of the module's own says counts. Beyond that, the parts tell: biases are there in affine
 * mode only, and the modes without differ in bits * group. */
static void settle_mode(ap_quant_mode *m, const ap_tensor *t, const ap_tensor *scales,
                        const ap_tensor *biases, int64_t width)
{
    static const ap_quant_mode floats[] = {{AP_MLX_MXFP4, 4, 32, 1, false},
                                           {AP_MLX_NVFP4, 4, 16, 1, false},
                                           {AP_MLX_MXFP8, 8, 32, 1, false}};
    int64_t words = t->rank ? t->shape[t->rank - 1] : 0,
            groups = scales->rank ? scales->shape[scales->rank - 1] : 0;
    if (t->dtype != AP_U32 || groups < 1 || words < 1 || words > INT64_MAX / 32) return;
    int64_t product = words * 32 / groups;
    if (m->own && m->dtype == AP_MLX_AFFINE && !m->bits && product % m->group == 0)
        m->bits = (int)(is_affine_format(product / m->group, m->group) ? product / m->group : 0);
    if (m->own) return;
    if (biases && is_float(scales->dtype) && m->dtype != AP_MLX_AFFINE)
        *m = (ap_quant_mode){AP_MLX_AFFINE, 0, 0, 1, false};
    if (m->dtype == AP_MLX_AFFINE && (biases || scales->dtype != AP_U8))
        settle_affine(m, words, groups, width);
    else
        for (int i = 0; i < 3; i++)
            if (!biases && floats[i].bits * floats[i].group == product) *m = floats[i];
}

static apus_err join_mlx(const ap_weights *w, struct item *it, const ap_tensor *scales,
                         const ap_tensor *biases, ap_quant_mode m, int64_t width, apus_diag *diag)
{
    ap_tensor *t = &it->tensor;
    int64_t cols = 0;
    const char *file = w->shard[it->shard].path;
    settle_mode(&m, t, scales, biases, width);
    if (m.dtype < AP_MLX_AFFINE || m.dtype > AP_MLX_MXFP8)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s\" has scales, but config.json does not say it is quantised",
                       file, it->name);
    if (m.dtype == AP_MLX_AFFINE && !m.bits) m.bits = 4; /* for the sentence: nothing fits */
    if (!m.group) m.group = 64;
    const char *fault = mlx_fault(t, scales, biases, m, &cols);
    if (fault)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s\": %s, expected %s, %d bits, groups of %d", file, it->name,
                       fault, ap_dtype_name(m.dtype), m.bits, m.group);
    t->dtype = m.dtype;
    t->bits = m.bits;
    t->group = m.group;
    t->group_rows = 1;
    t->scales = scales->data;
    t->scale_dtype = m.dtype == AP_MLX_NVFP4 ? AP_F8_E4M3 : scales->dtype;
    t->biases = biases ? biases->data : NULL;
    t->shape[t->rank - 1] = cols;
    return APUS_OK;
}

/* weight e4m3 [R, K], weight_scale_inv [ceil(R/128), ceil(K/128)] */
static apus_err join_fp8(const ap_weights *w, struct item *it, const ap_tensor *s, apus_diag *diag)
{
    ap_tensor *t = &it->tensor;
    if (t->dtype != AP_F8_E4M3 || t->rank != 2 || s->rank != 2 ||
        s->shape[0] != (t->shape[0] + 127) / 128 || s->shape[1] != (t->shape[1] + 127) / 128 ||
        !is_float(s->dtype))
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tensor \"%s\": its weight_scale_inv does not fit blocks of 128 x 128",
                       w->shard[it->shard].path, it->name);
    t->dtype = AP_FP8_BLOCK;
    t->bits = 8;
    t->group = t->group_rows = 128;
    t->scales = s->data;
    t->scale_dtype = s->dtype;
    return APUS_OK;
}

apus_err ap_weights_join_quantised(ap_weights *w, const ap_quant_config *q,
                                   const ap_tensor_table *table, apus_diag *diag)
{
    static const char tail[] = ".weight";
    for (size_t i = 0; i < w->n; i++) {
        struct item *it = &w->item[i];
        /* MLX writes convolutions with the channel last, and shifts the norms in the same pass. */
        if (ap_ends_with(it->name, "linear_attn.conv1d.weight") && it->tensor.rank == 3 &&
            it->tensor.shape[2] == 1 && it->tensor.shape[1] > 1)
            w->traits.norms_shifted = true;
        if (!ap_ends_with(it->name, tail)) continue;
        size_t len = it->name_len - (sizeof tail - 1);
        const struct item *scales = sibling(w, it->name, len, ".scales"),
                          *biases = sibling(w, it->name, len, ".biases");
        const struct item *inv = sibling(w, it->name, len, ".weight_scale_inv");
        apus_err err = APUS_OK;
        if (scales)
            err = join_mlx(w, it, &scales->tensor, biases ? &biases->tensor : NULL,
                           ap_quant_config_of(q, it->name, len),
                           table ? ap_tensor_table_width(table, it->name) : -1, diag);
        else if (inv)
            err = join_fp8(w, it, &inv->tensor, diag);
        if (err) return err;
    }
    return APUS_OK;
}
