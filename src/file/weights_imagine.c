/* weights_imagine.c - the tensors that a configuration speaks of, without any data. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "file/model_tensors.h"
#include "file/weights_impl.h"

typedef struct imagining {
    ap_weights *w;
    size_t cap;
    apus_diag *diag;
} imagining;

static apus_err imagine_tensor(void *ctx, const ap_model_tensor *t)
{
    imagining *x = ctx;
    char name[128];
    if (x->w->n == x->cap) {
        size_t cap = x->cap ? x->cap * 2 : 256;
        struct item *p = ap_realloc(x->w->item, cap, sizeof *p);
        if (!p) return ap_fail_nomem(x->diag, cap * sizeof *p, "the tensor list");
        x->w->item = p;
        x->cap = cap;
    }
    snprintf(name, sizeof name, "%s%s", strcmp(t->name, "lm_head.weight") ? "model." : "", t->name);
    size_t len = strlen(name);
    char *kept = ap_arena_strndup(&x->w->arena, name, len);
    if (!kept) return ap_fail_nomem(x->diag, len, "a tensor's name");
    ap_tensor tensor = {.dtype = AP_BF16, .rank = t->rank};
    memcpy(tensor.shape, t->shape, sizeof t->shape);
    return ap_weights_add_item(x->w, kept, len, &tensor, 0, x->diag);
}

apus_err ap_weights_imagine(const char *dir, const ap_config *c, ap_weights **out, apus_diag *diag)
{
    imagining x = {.w = ap_calloc(1, sizeof *x.w), .diag = diag};
    if (!x.w) return ap_fail_nomem(diag, sizeof *x.w, "the weights");
    ap_arena_init(&x.w->arena, 0);
    x.w->dir = ap_strdup(dir);
    apus_err err = x.w->dir ? APUS_OK : ap_fail_nomem(diag, strlen(dir), "a path");
    if (!err) err = ap_weights_add_shard(x.w, "config.json", diag);
    if (!err) err = ap_model_tensors(c, imagine_tensor, &x);
    if (!err) err = ap_weights_index(x.w, diag);
    if (!err) err = ap_weights_find_prefix(x.w, diag);
    if (err)
        ap_weights_close(x.w);
    else
        *out = x.w;
    return err;
}
