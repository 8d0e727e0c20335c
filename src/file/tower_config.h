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

typedef enum ap_audio_kind {
    AP_AUDIO_NONE,
    AP_AUDIO_CONFORMER, /* Gemma: convolutions over mel bands, then conformer layers */
    AP_AUDIO_EMBEDDER   /* Gemma without a tower: samples are projected as they are */
} ap_audio_kind;

typedef struct ap_audio_config {
    ap_audio_kind kind;
    int width; /* values of a row that goes in, once its bands are merged; embedder: samples */
    int channels[2]; /* of the two convolutions, each of which halves rows and bands */
    int n_layer, hidden, ffn, n_head, head_dim;
    int n_tap;   /* of a layer's convolution */
    int reach;   /* rows that a row sees: itself and those before it */
    int shift;   /* positions are told as distance + shift, and not where that is below 0 */
    float cap;   /* of the scores */
    float share; /* of a feed-forward's output that is added to its input */
    int middle;  /* outputs of the tower, before they are projected to the text model's width */
    int out;     /* width of a soft token */
    float norm_eps;
    bool clipped; /* inputs and outputs of products have bounds */
} ap_audio_config;

/* audio_config of a config.json, likewise. */
apus_err ap_audio_config_parse(const ap_config_text *file, const ap_config *text,
                               ap_audio_config *out, apus_diag *diag);

#endif
