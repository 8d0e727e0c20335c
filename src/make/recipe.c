#include "make/recipe.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "file/gguf_write.h"
#include "tensor/quantize_row.h"

typedef struct line {
    char *pattern;
    ap_choice choice;
    int number;
    bool used;
} line;

struct ap_recipe {
    line *item;
    size_t n, cap;
};

bool ap_gguf_known(const char *name, ap_dtype *out)
{
    for (int t = 0; t < AP_DTYPE_COUNT; t++)
        if (!strcmp(ap_dtype_name((ap_dtype)t), name) && ap_gguf_type_number((ap_dtype)t) >= 0) {
            *out = (ap_dtype)t;
            return true;
        }
    return false;
}

bool ap_gguf_target(const char *name, ap_dtype *out)
{
    return ap_gguf_known(name, out) && ap_quantize_can(*out);
}

/* ---------------------------------------------------------------- files */

static bool mlx_choice(const char *s, ap_choice *out)
{
    if (!strncmp(s, "mlx", 3)) s += 3;
    if (!strcmp(s, "keep")) {
        out->bits = 0;
        return true;
    }
    out->bits = strlen(s) == 1 && strchr("234568", *s) ? *s - '0' : 0;
    return out->bits > 0;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next word of [*at, end), zero-terminated in out; false if there is none or it is too long. */
static bool word(const char **at, const char *end, char *out, size_t cap)
{
    while (*at < end && is_space(**at)) ++*at;
    size_t n = 0;
    while (*at < end && !is_space(**at) && n + 1 < cap) out[n++] = *(*at)++;
    out[n] = 0;
    return n && (*at == end || is_space(**at));
}

static apus_err add_line(ap_recipe *r, const char *pattern, ap_choice choice, int number,
                         apus_diag *diag)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 16;
        line *p = ap_realloc(r->item, cap, sizeof *p);
        if (!p) return ap_fail_nomem(diag, cap * sizeof *p, "the recipe");
        r->item = p;
        r->cap = cap;
    }
    line *l = &r->item[r->n];
    *l = (line){.pattern = ap_strdup(pattern), .choice = choice, .number = number};
    if (!l->pattern) return ap_fail_nomem(diag, strlen(pattern), "the recipe");
    r->n++;
    return APUS_OK;
}

static apus_err read_line(ap_recipe *r, const char *at, const char *end, const char *name,
                          bool gguf, int number, apus_diag *diag)
{
    char pattern[256], type[32], rest[32];
    ap_choice c = {0};
    const char *hash = memchr(at, '#', (size_t)(end - at));
    if (hash) end = hash;
    while (at < end && is_space(*at)) at++;
    if (at == end) return APUS_OK;
    if (!word(&at, end, pattern, sizeof pattern) || !word(&at, end, type, sizeof type) ||
        word(&at, end, rest, sizeof rest))
        return ap_fail(diag, APUS_EFORMAT, "%s: line %d: expected a pattern and a type", name,
                       number);
    if (gguf ? !ap_gguf_target(type, &c.dtype) : !mlx_choice(type, &c))
        return ap_fail(
            diag, APUS_EFORMAT, "%s: line %d: \"%s\" is not a type of %s", name, number, type,
            gguf ? "GGUF files, such as q4_k or bf16" : "MLX folders: 2, 3, 4, 5, 6, 8 or keep");
    return add_line(r, pattern, c, number, diag);
}

apus_err ap_recipe_parse(const char *text, size_t len, const char *name, bool gguf, ap_recipe **out,
                         apus_diag *diag)
{
    ap_recipe *r = ap_calloc(1, sizeof *r);
    if (!r) return ap_fail_nomem(diag, sizeof *r, "the recipe");
    apus_err err = APUS_OK;
    const char *end = text + len;
    for (int n = 1; text < end && !err; n++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop) stop = end;
        err = read_line(r, text, stop, name, gguf, n, diag);
        text = stop < end ? stop + 1 : end;
    }
    if (err)
        ap_recipe_free(r);
    else
        *out = r;
    return err;
}

void ap_recipe_free(ap_recipe *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n; i++) ap_free(r->item[i].pattern);
    ap_free(r->item);
    ap_free(r);
}

/* '*' any characters, '?' one; linear memory, goes back to the last '*' only. */
static bool fits(const char *pattern, const char *s)
{
    const char *star = NULL, *from = NULL;
    while (*s) {
        if (*pattern == '*') {
            star = ++pattern;
            from = s;
        } else if (*pattern == '?' || *pattern == *s) {
            pattern++;
            s++;
        } else if (star) {
            pattern = star;
            s = ++from;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return !*pattern;
}

bool ap_recipe_find(ap_recipe *r, const char *tensor, ap_choice *out)
{
    for (size_t i = 0; r && i < r->n; i++) {
        if (!fits(r->item[i].pattern, tensor)) continue;
        r->item[i].used = true;
        *out = r->item[i].choice;
        return true;
    }
    return false;
}

const char *ap_recipe_unused(const ap_recipe *r, int *number)
{
    for (size_t i = 0; r && i < r->n; i++)
        if (!r->item[i].used) {
            *number = r->item[i].number;
            return r->item[i].pattern;
        }
    return NULL;
}

/* ---------------------------------------------------------------- defaults */

/* The next larger types, for matrices that matter more than the others. */
typedef struct ladder {
    ap_dtype target, more, most;
} ladder;

static const ladder *ladder_of(ap_dtype target)
{
    static const ladder known[] = {
        {AP_Q2_K, AP_Q3_K, AP_Q4_K}, {AP_Q3_K, AP_Q4_K, AP_Q5_K},   {AP_Q4_0, AP_Q5_0, AP_Q6_K},
        {AP_Q4_1, AP_Q5_1, AP_Q6_K}, {AP_IQ4_NL, AP_Q5_K, AP_Q6_K}, {AP_IQ4_XS, AP_Q5_K, AP_Q6_K},
        {AP_Q4_K, AP_Q5_K, AP_Q6_K}, {AP_Q5_0, AP_Q6_K, AP_Q8_0},   {AP_Q5_1, AP_Q6_K, AP_Q8_0},
        {AP_Q5_K, AP_Q6_K, AP_Q8_0}, {AP_Q6_K, AP_Q6_K, AP_Q8_0},   {AP_MXFP4, AP_Q8_0, AP_Q8_0}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].target == target) return &known[i];
    return NULL;
}

ap_dtype ap_type_for_width(ap_dtype want, size_t cols)
{
    if (cols % (size_t)ap_dtype_block(want) == 0) return want;
    if (cols % 32) return AP_BF16;
    switch (want) {
    case AP_Q2_K:
    case AP_Q3_K:
        return AP_IQ4_NL;
    case AP_Q4_K:
    case AP_IQ4_XS:
        return AP_Q5_0;
    case AP_Q5_K:
        return AP_Q5_1;
    default:
        return AP_Q8_0;
    }
}

static bool is_one_of(const char *name, const char *const *ends)
{
    for (; *ends; ends++)
        if (ap_ends_with(name, *ends)) return true;
    return false;
}

/* The first and last eighth of the layers and every third between: errors there weigh more. */
static bool is_heavy_layer(int l, int n)
{
    int eighth = n / 8;
    return l < eighth || l >= n - eighth || (l - eighth) % 3 == 2;
}

static ap_dtype of_layer(const ladder *s, const ap_config *c, const ap_model_tensor *t)
{
    static const char *const most[] = {
        "self_attn.v_proj.weight", "mlp.shared_expert.gate_proj.weight",
        "mlp.shared_expert.up_proj.weight", "mlp.shared_expert.down_proj.weight", NULL};
    static const char *const more[] = {"self_attn.k_proj.weight",
                                       "in_proj_qkv.weight",
                                       "in_proj_qkvz.weight",
                                       "linear_attn.out_proj.weight",
                                       "per_layer_projection.weight",
                                       "per_layer_input_gate.weight",
                                       NULL};
    /* Beside Gemma's experts stands a dense branch that every token takes. */
    bool shared = strstr(t->name, ".mlp.") && c->layer[t->layer].moe && c->layer[t->layer].ffn;
    if (is_one_of(t->name, most)) return s->most;
    /* Where keys serve as values, errors in them count twice. */
    if (ap_ends_with(t->name, "self_attn.k_proj.weight") && c->layer[t->layer].k_eq_v)
        return s->most;
    if (is_one_of(t->name, more) || shared) return s->more;
    if (ap_ends_with(t->name, "down_proj") && is_heavy_layer(t->layer, c->n_layer)) return s->more;
    if (ap_ends_with(t->name, "mlp.down_proj.weight") && is_heavy_layer(t->layer, c->n_layer))
        return s->most;
    return s->target;
}

ap_dtype ap_recipe_default(ap_dtype target, const ap_config *c, const ap_model_tensor *t)
{
    static const char *const small[] = {"in_proj_a.weight", "in_proj_b.weight", "in_proj_ba.weight",
                                        "per_layer_model_projection.weight", NULL};
    const ladder *s = ladder_of(target);
    if (t->role == AP_ROLE_ROUTER || t->role == AP_ROLE_ROUTER_UNIT || t->role == AP_ROLE_GATE_ROW)
        return AP_F32;
    if (!s) return target; /* floats, Q8_0 */
    if (is_one_of(t->name, small)) return AP_Q8_0;
    bool experts = strstr(t->name, "experts.") != NULL;
    if (target == AP_MXFP4) return experts ? AP_MXFP4 : AP_Q8_0;
    if (t->role == AP_ROLE_HEAD) return s->most;
    if (t->role == AP_ROLE_EMBED) return c->tie_embeddings ? s->most : target;
    if (t->role == AP_ROLE_PLE_EMBED) return s->more;
    return of_layer(s, c, t);
}

/* Few weights decide much in the sensitive ones. */
int ap_recipe_mlx_default(int bits, const char *name)
{
    static const char *const kept[] = {"conv1d.weight", "shared_expert_gate.weight", "norm.weight",
                                       NULL};
    static const char *const sensitive[] = {
        "embed_tokens.weight", "lm_head.weight",   "mlp.gate.weight",   "router.proj.weight",
        "in_proj_a.weight",    "in_proj_b.weight", "in_proj_ba.weight", NULL};
    if (is_one_of(name, kept)) return 0;
    return bits <= 4 && is_one_of(name, sensitive) ? 8 : bits;
}
