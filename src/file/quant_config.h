/* quant_config.h - which modules of a safetensors checkpoint are quantised, and how: the
 * "quantization" of MLX and the "quantization_config" of the FP8 releases. */
#ifndef AP_FILE_QUANT_CONFIG_H
#define AP_FILE_QUANT_CONFIG_H

#include "base/json.h"
#include "file/names.h"
#include "tensor/dtype.h"

/* How a module's weight is stored. dtype AP_F32 = not quantised by this module's entry. */
typedef struct ap_quant_mode {
    ap_dtype dtype;  /* AP_MLX_*, AP_FP8_BLOCK */
    int bits, group; /* AP_MLX_AFFINE: 0 = not said, the shapes tell */
    int group_rows;
    bool own; /* an entry speaks of this very module; else it is what the file says of all */
} ap_quant_mode;

typedef struct ap_quant_config { /* {0} = nothing is said */
    bool present;
    ap_quant_mode standard;
    ap_quant_mode *mode; /* of the overrides */
    size_t n;
    ap_names overrides; /* module name -> index into mode */
    ap_names plain; /* the same without prefixes; SIZE_MAX: entries that contradict each other */
    ap_arena arena;
} ap_quant_config;

/* As MLX has it, an entry of a module takes nothing from the file's own: without "mode" it is affine,
 * without "group_size" the mode's default.
 * Read config.json text. name is used in errors. EUNSUPPORTED: another method, by name. */
apus_err ap_quant_config_parse(const char *text, size_t len, const char *name, ap_quant_config *out,
                               apus_diag *diag);
void ap_quant_config_free(ap_quant_config *c);

/* The mode of a module such as "model.layers.0.mlp.down_proj", whatever prefix the entries have. Nothing is
 * said: dtype AP_F32, not own. */
ap_quant_mode ap_quant_config_of(const ap_quant_config *c, const char *module, size_t len);

#endif
