/* quant_size.c - how large the weights of a model would be in another type, from its configuration. */
#include <string.h>

#include "apus/apus_unstable.h"

#include "base/mem.h"
#include "engine/model.h"
#include "file/gguf_layout.h"
#include "make/recipe.h"

enum { MLX_GROUP = 64 };

typedef struct sizing {
    const ap_config *config;
    ap_dtype target; /* of a GGUF file */
    int bits;        /* of MLX's format; 0 = GGUF */
    uint64_t bytes;
} sizing;

/* As quantize_gguf.c chooses. */
static apus_err add_gguf(void *ctx, const ap_model_tensor *t)
{
    sizing *s = ctx;
    ap_gguf_out out[2];
    int n = ap_gguf_layout(s->config, t, out);
    for (int i = 0; i < n; i++) {
        ap_dtype type =
            out[i].vector
                ? AP_F32
                : ap_type_for_width(ap_recipe_default(s->target, s->config, t), out[i].cols);
        uint64_t row = out[i].cols / (size_t)ap_dtype_block(type) * ap_dtype_block_bytes(type);
        s->bytes += row * out[i].rows;
    }
    return APUS_OK;
}

/* As quantize_mlx.c chooses: integers, and a scale and a bias of two bytes for each group. */
static apus_err add_mlx(void *ctx, const ap_model_tensor *t)
{
    sizing *s = ctx;
    uint64_t n = 1, cols = (uint64_t)t->shape[t->rank - 1];
    for (int i = 0; i < t->rank; i++) n *= (uint64_t)t->shape[i];
    bool matrix =
        t->rank == 3 ? t->role == AP_ROLE_MATRIX : t->rank == 2 && t->role != AP_ROLE_GATE_ROW;
    int bits = matrix && cols % MLX_GROUP == 0 ? ap_recipe_mlx_default(s->bits, t->name) : 0;
    s->bytes += bits ? n * (uint64_t)bits / 8 + n / MLX_GROUP * 4 : n * 2;
    return APUS_OK;
}

apus_err apus_quantized_bytes(const apus_model *m, const char *type, uint64_t *bytes,
                              apus_diag *diag)
{
    if (!m || !type || !bytes)
        return ap_fail(diag, APUS_EINVAL, "apus_quantized_bytes: model, type and bytes are needed");
    sizing s = {.config = &m->config};
    bool mlx = !strncmp(type, "mlx", 3) && strlen(type) == 4 && strchr("234568", type[3]);
    if (mlx)
        s.bits = type[3] - '0';
    else if (!ap_gguf_target(type, &s.target))
        return ap_fail(diag, APUS_EINVAL, "\"%.40s\" is not a type that can be written", type);
    apus_err err = ap_model_tensors(&m->config, mlx ? add_mlx : add_gguf, &s);
    if (!err) *bytes = s.bytes;
    return err;
}
