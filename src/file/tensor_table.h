/* tensor_table.h - which of a model's tensors (model_tensors.h) a name in a file speaks of. */
#ifndef AP_FILE_TENSOR_TABLE_H
#define AP_FILE_TENSOR_TABLE_H

#include "base/arena.h"
#include "file/config.h"
#include "file/names.h"

typedef struct ap_tensor_table {
    ap_names names; /* without the text model's prefix; value: the last axis */
    ap_arena arena;
} ap_tensor_table;

/* ENOMEM. */
apus_err ap_tensor_table_make(const ap_config *c, ap_tensor_table *out, apus_diag *diag);
void ap_tensor_table_free(ap_tensor_table *t);

/* Values in a row of the model's tensor that `name` is, or is a part of: an expert of a layer's experts, the
 * scales or biases of a quantised one. -1: the model has no such tensor. */
int64_t ap_tensor_table_width(const ap_tensor_table *t, const char *name);

/* A name, or a module's, without what writers put before the text model's. */
const char *ap_plain_name(const char *name);

#endif
