/* model_tensors.h - the tensors that a text model of a configuration has, from the configuration
 * alone: names, shapes and what each is for. The order is that of the layers. */
#ifndef AP_FILE_MODEL_TENSORS_H
#define AP_FILE_MODEL_TENSORS_H

#include "base/err.h"
#include "file/config.h"

typedef enum ap_tensor_role {
    AP_ROLE_MATRIX,      /* [out, in]; of experts [E, out, in] */
    AP_ROLE_EMBED,       /* [V, H] */
    AP_ROLE_HEAD,        /* [V, H], not tied */
    AP_ROLE_PLE_EMBED,   /* [V, L * P] */
    AP_ROLE_ROUTER,      /* [E, H] */
    AP_ROLE_ROUTER_UNIT, /* [E, H], of inputs of length 1 */
    AP_ROLE_GATE_ROW,    /* [1, H] shared expert's gate */
    AP_ROLE_NORM,        /* multiplies: near 1 */
    AP_ROLE_NORM_OFFSET, /* 1 + w multiplies: near 0 */
    AP_ROLE_QK_NORM,     /* multiplies queries or keys whose product is not scaled by D^-1/2 */
    AP_ROLE_SCALE,       /* multiplies a stream: 1 */
    AP_ROLE_CONV,        /* [C, 1, taps] */
    AP_ROLE_A_LOG,       /* [Hv] */
    AP_ROLE_DT_BIAS      /* [Hv] */
} ap_tensor_role;

typedef struct ap_model_tensor {
    const char *name; /* Hugging Face, without the text model's prefix; for the call only */
    ap_tensor_role role;
    int layer; /* -1: none */
    int rank;
    int64_t shape[3];
} ap_model_tensor;

/* Anything but OK stops the walk and is returned. Experts of a layer are one tensor, gate and up rows
 * of each expert joined: "layers.0.mlp.experts.gate_up_proj", as Hugging Face has them since 2025. */
typedef apus_err (*ap_model_tensor_fn)(void *ctx, const ap_model_tensor *t);

apus_err ap_model_tensors(const ap_config *c, ap_model_tensor_fn fn, void *ctx);

/* ---------------------------------------------------------------- for the families (family_NAME.c) */

typedef struct ap_tensor_walk {
    const ap_config *c;
    const struct ap_family *f;
    ap_model_tensor_fn fn;
    void *ctx;
    int layer; /* -1: outside */
    apus_err err;
} ap_tensor_walk;

/* leaf: the name behind "layers.N.", or a whole name outside the layers. */
void ap_walk_emit(ap_tensor_walk *w, ap_tensor_role role, int rank, const int64_t *shape,
                  const char *leaf);
void ap_walk_vec(ap_tensor_walk *w, ap_tensor_role role, int64_t n, const char *leaf);
void ap_walk_mat(ap_tensor_walk *w, ap_tensor_role role, int64_t rows, int64_t cols,
                 const char *leaf);
/* All experts of a layer, and a dense feed-forward part. */
void ap_walk_experts(ap_tensor_walk *w, const char *gate_up, const char *down);
void ap_walk_dense(ap_tensor_walk *w, int64_t ffn);
/* Of the family's norms. */
ap_tensor_role ap_walk_norm(const ap_tensor_walk *w);

#endif
