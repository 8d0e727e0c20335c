/* gguf_types.h - the type numbers of GGUF tensors: ggml's, and those that ik_llama.cpp adds. */
#ifndef AP_FILE_GGUF_TYPES_H
#define AP_FILE_GGUF_TYPES_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

typedef struct ap_ggml_type {
    int id;
    const char *name;
    ap_dtype dtype; /* if known */
    bool known;     /* apus reads it; others are there to be refused by name */
    bool ik;        /* of ik_llama.cpp only */
} ap_ggml_type;

/* NULL: no such number is known. */
const ap_ggml_type *ap_ggml_type_of(uint64_t id);

#endif
