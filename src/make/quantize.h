/* quantize.h - what the writers of quantised models share. */
#ifndef AP_MAKE_QUANTIZE_H
#define AP_MAKE_QUANTIZE_H

#include "apus/apus_unstable.h"

#include "base/pool.h"
#include "file/config.h"
#include "file/weights.h"
#include "make/recipe.h"

typedef struct ap_quantizer {
    apus_quantize_settings s;
    char *src;
    const char *out; /* the folder or file that is being written (base/stage.h) */
    ap_config *config;
    char *config_text;
    size_t config_len;
    bool from_gguf; /* the source is a GGUF file */
    ap_weights *weights;
    const char *prefix; /* of the text model's tensors */
    ap_recipe *recipe;  /* NULL: none given */
    ap_pool *pool;
    uint64_t done, total; /* bytes or values of the source, for the progress bar */
    int64_t told_us;
    apus_diag *diag;
} ap_quantizer;

/* Count units as done; ECANCELLED if the caller's progress function wants to stop. */
apus_err ap_quantizer_tell(ap_quantizer *q, uint64_t units);

/* A text file of the source; *text NULL if there is none. ap_free it. */
apus_err ap_quantizer_text(ap_quantizer *q, const char *name, char **text, size_t *len);

/* Every line of the recipe fitted something. */
apus_err ap_quantizer_check_recipe(const ap_quantizer *q);

/* Write q->out; what there is of it after an error is left to the caller. A GGUF file of `target`. */
apus_err ap_quantize_gguf(ap_quantizer *q, ap_dtype target);
/* The files of a folder of MLX's format. */
apus_err ap_quantize_mlx(ap_quantizer *q);

#endif
