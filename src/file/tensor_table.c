#include "file/tensor_table.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "file/model_tensors.h"

typedef struct making {
    ap_tensor_table *t;
    apus_diag *diag;
} making;

static apus_err add(void *ctx, const ap_model_tensor *m)
{
    making *x = ctx;
    size_t len = strlen(m->name);
    const char *name = ap_arena_strndup(&x->t->arena, m->name, len);
    if (!name || !ap_names_add(&x->t->names, name, len, (uintptr_t)m->shape[m->rank - 1]))
        return ap_fail_nomem(x->diag, len, "the table of tensors");
    return APUS_OK;
}

apus_err ap_tensor_table_make(const ap_config *c, ap_tensor_table *out, apus_diag *diag)
{
    memset(out, 0, sizeof *out);
    ap_arena_init(&out->arena, 0);
    apus_err err = ap_model_tensors(c, add, &(making){out, diag});
    ap_names_sort(&out->names);
    if (!err && !ap_names_index(&out->names))
        err = ap_fail_nomem(diag, out->names.n * sizeof(ap_name), "the table of tensors");
    if (err) ap_tensor_table_free(out);
    return err;
}

void ap_tensor_table_free(ap_tensor_table *t)
{
    ap_names_free(&t->names);
    ap_arena_free(&t->arena);
    memset(t, 0, sizeof *t);
}

const char *ap_plain_name(const char *name)
{
    static const char *const before[] = {"model.", "language_model."};
    for (size_t i = 0; i < 2; i++)
        if (!strncmp(name, before[i], strlen(before[i]))) {
            name += strlen(before[i]);
            i = (size_t)-1; /* from the start again */
        }
    return name;
}

/* Parts of a quantised module stand beside its weight. */
static void as_weight(char *name, size_t cap)
{
    static const char *const tails[] = {".scales", ".biases", ".weight_scale_inv"};
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        if (!ap_ends_with(name, tails[i])) continue;
        size_t stem = strlen(name) - strlen(tails[i]);
        snprintf(name + stem, cap - stem, ".weight");
        return;
    }
}

/* "A.experts.3.up_proj.weight", "A.switch_mlp.up_proj.weight" and their like are parts of
 * "A.experts.gate_up_proj". */
static void as_experts(char *name, size_t cap)
{
    static const char *const places[] = {".switch_mlp.", ".experts."};
    for (size_t i = 0; i < 2; i++) {
        char *at = strstr(name, places[i]);
        if (!at) continue;
        bool down = strstr(at, "down_proj") != NULL;
        if (!down && !strstr(at, "gate_proj") && !strstr(at, "up_proj")) return;
        size_t stem = (size_t)(at - name);
        snprintf(at, cap - stem, ".experts.%s", down ? "down_proj" : "gate_up_proj");
        return;
    }
}

int64_t ap_tensor_table_width(const ap_tensor_table *t, const char *name)
{
    char plain[256];
    int n = snprintf(plain, sizeof plain, "%s", ap_plain_name(name));
    if (n <= 0 || n >= (int)sizeof plain - 32 || !t->names.n) return -1;
    as_weight(plain, sizeof plain);
    as_experts(plain, sizeof plain);
    const ap_name *f = ap_names_find(&t->names, plain, strlen(plain));
    return f ? (int64_t)f->value : -1;
}
