/* config_in.h - between the parts of the configuration reader. */
#ifndef AP_FILE_CONFIG_IN_H
#define AP_FILE_CONFIG_IN_H

#include "file/config.h"
#include "file/fields.h"

/* Bounds that keep every product of two fields far below 2^63. */
enum {
    AP_CFG_MAX_HIDDEN = 1 << 18,
    AP_CFG_MAX_VOCAB = 1 << 24,
    AP_CFG_MAX_HEADS = 4096,
    AP_CFG_MAX_HEAD_DIM = 2 * AP_MAX_ROT,
    AP_CFG_MAX_FFN = 1 << 22,
    AP_CFG_MAX_EXPERTS = 65536,
    AP_CFG_MAX_CONTEXT = 1 << 28,
    AP_CFG_MAX_TREE = 256 << 20 /* bytes of a parsed file */
};

/* What the families share: sizes, head, norm, activation-independent refusals. */
void ap_config_common(const ap_fields *t, int default_context, ap_config *c);

/* layer_types into c->layer[].kind. other: the second kind and its name. Absent: every
 * interval-th layer is full. */
void ap_config_layer_types(const ap_fields *t, const char *other_name, ap_layer_kind other,
                           int interval, ap_config *c);

/* Text parts of the families (ap_family.config); t is text_config or the flat file. */
void ap_config_gemma4(const ap_fields *t, const char *type, ap_config *c);
void ap_config_gemma3(const ap_fields *t, const char *type, ap_config *c);
void ap_config_qwen3(const ap_fields *t, const char *type, ap_config *c);

/* 1 / base^(2i/dim), i in [0, n): powers and reciprocals each rounded to f32. */
void ap_rope_frequencies(double base, int dim, int n, float *out);

/* Rope of a Qwen model: one dict for all layers. partial_default: rotated share if not given. */
void ap_config_rope_qwen(const ap_fields *t, int head_dim, double partial_default, ap_config *c);

/* Rope of one layer type of Gemma 4. dict: rope_parameters, or NULL for the class defaults. */
void ap_config_rope_gemma4(const ap_fields *dict, const char *layer_type, int head_dim,
                           ap_rope *out);

/* generation_config.json, over what config.json said. ENOMEM only. */
apus_err ap_config_generation(const ap_config_text *text, ap_config *c, ap_notes *notes,
                              apus_diag *diag);

#endif
