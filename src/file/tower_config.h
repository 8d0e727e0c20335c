/* tower_config.h - what config.json says about the towers that see and hear, beside the text model.
 *
 * Read only where pictures or sound are wanted: a text model is used whatever stands there. */
#ifndef AP_FILE_TOWER_CONFIG_H
#define AP_FILE_TOWER_CONFIG_H

#include "file/config.h"

typedef enum ap_vision_kind {
    AP_VISION_NONE,
    AP_VISION_QWEN,    /* blocks with biases, a learned square of positions, a merger */
    AP_VISION_GEMMA,   /* gated blocks, positions of two axes, pooling */
    AP_VISION_EMBEDDER /* Gemma without a tower: patches are projected as they are */
} ap_vision_kind;

typedef struct ap_vision_config {
    ap_vision_kind kind;
    int n_layer, hidden, ffn, n_head, n_kv_head, head_dim;
    int patch_width;   /* values of a patch */
    int merge;         /* soft tokens are squares of merge x merge patches */
    int positions;     /* of an axis of the position table */
    int position_rows; /* qwen: rows of the table, of which positions^2 are used */
    int out;           /* width of a soft token */
    float inv_freq
        [AP_MAX_ROT]; /* head_dim / 2 angles: those of the first axis, those of the second */
    float norm_eps;
    bool gelu_erf;    /* else its form with tanh */
    bool clipped;     /* inputs and outputs of products have bounds */
    bool standardize; /* pooled rows are shifted and scaled */
} ap_vision_config;

/* vision_config of a config.json. text: the same file's, read before.
 * EUNSUPPORTED: there is none, or a setting by name; EFORMAT. */
apus_err ap_vision_config_parse(const ap_config_text *file, const ap_config *text,
                                ap_vision_config *out, apus_diag *diag);

#endif
