#include "file/quant_config.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "file/fields.h"
#include "file/tensor_table.h"

#define MAX_TREE_BYTES ((size_t)256 << 20)

static const struct {
    const char *name;
    ap_quant_mode
        mode; /* with the group that is the mode's default; affine: bits as the shapes tell */
} modes[] = {{"affine", {AP_MLX_AFFINE, 0, 64, 1, false}},
             {"mxfp4", {AP_MLX_MXFP4, 4, 32, 1, false}},
             {"nvfp4", {AP_MLX_NVFP4, 4, 16, 1, false}},
             {"mxfp8", {AP_MLX_MXFP8, 8, 32, 1, false}}};

/* {"group_size": 64, "bits": 4, "mode": "affine"} */
static ap_quant_mode read_mlx(const ap_fields *f)
{
    const char *name = ap_field_str(f, "mode", "affine");
    ap_quant_mode m = {AP_F32, 0, 0, 0, false};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(modes[i].name, name)) m = modes[i].mode;
    if (m.dtype == AP_F32)
        ap_field_fail(f, APUS_EUNSUPPORTED, "mode", NULL,
                      "\"%.40s\" is not supported; supported are affine, mxfp4, nvfp4 and mxfp8",
                      name);
    int bits = (int)ap_field_int(f, "bits", 1, 32, m.bits);
    int group = (int)ap_field_int(f, "group_size", 1, 65536, m.group);
    bool fits = m.dtype == AP_MLX_AFFINE ? (bits == 0 || (bits >= 2 && bits <= 8 && bits != 7)) &&
                                               (group == 32 || group == 64 || group == 128)
                                         : bits == m.bits && group == m.group;
    if (!fits)
        ap_field_fail(f, APUS_EUNSUPPORTED, "bits", NULL,
                      "%d bits in groups of %d are not a format of mode \"%.20s\"", bits, group,
                      name);
    m.bits = bits;
    m.group = group;
    return m;
}

static bool same(const ap_quant_mode *a, const ap_quant_mode *b)
{
    return a->dtype == b->dtype && a->bits == b->bits && a->group == b->group;
}

/* Of names that are equal without their prefixes, one is kept. */
static bool index_plain(ap_quant_config *c)
{
    for (size_t i = 0; i < c->overrides.n; i++) {
        const ap_name *n = &c->overrides.item[i];
        const char *plain = ap_plain_name(n->s);
        if (!ap_names_add(&c->plain, plain, n->len - (size_t)(plain - n->s), n->value))
            return false;
    }
    if (ap_names_sort(&c->plain)) {
        size_t kept = 0;
        for (size_t i = 0; i < c->plain.n; i++) {
            ap_name *now = &c->plain.item[i], *last = kept ? &c->plain.item[kept - 1] : NULL;
            if (!last || last->len != now->len || memcmp(last->s, now->s, now->len))
                c->plain.item[kept++] = *now;
            else if (last->value != SIZE_MAX && !same(&c->mode[last->value], &c->mode[now->value]))
                last->value = SIZE_MAX;
        }
        c->plain.n = kept;
    }
    return ap_names_index(&c->plain);
}

static void read_overrides(const ap_fields *f, ap_quant_config *c)
{
    size_t n = 0;
    for (const ap_json *e = f->o->first; e; e = e->next)
        n += e->type == AP_JSON_OBJECT || e->type == AP_JSON_BOOL;
    c->mode = ap_calloc(n, sizeof *c->mode);
    for (const ap_json *e = f->o->first; e && c->mode && !*f->err; e = e->next) {
        if (e->type != AP_JSON_OBJECT && e->type != AP_JSON_BOOL) continue;
        char prefix[200];
        ap_quant_mode m = {AP_F32, 0, 0, 0, true};
        ap_fields g = *f;
        g.o = e;
        snprintf(prefix, sizeof prefix, "%s%.150s.", f->prefix, e->key);
        g.prefix = prefix;
        if (e->type == AP_JSON_OBJECT) {
            m = read_mlx(&g);
            m.own = true;
        } else if (e->boolean) {
            m = c->standard;
        }
        const char *key = ap_arena_strndup(&c->arena, e->key, e->key_len);
        if (!key || !ap_names_add(&c->overrides, key, e->key_len, c->n)) {
            *f->err = ap_fail_nomem(f->diag, e->key_len, "the quantisation table");
            return;
        }
        c->mode[c->n++] = m;
    }
    if (!c->mode)
        *f->err = ap_fail_nomem(f->diag, n * sizeof *c->mode, "the quantisation table");
    else if (ap_names_sort(&c->overrides))
        ap_field_fail(f, APUS_EFORMAT, ap_names_sort(&c->overrides), NULL, "appears twice");
    else if (!ap_names_index(&c->overrides) || !index_plain(c))
        *f->err = ap_fail_nomem(f->diag, n, "the quantisation table");
}

/* {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], ...}. What stays
 * unquantised shows by the absence of scales, so that list is not needed. */
static void read_fp8(const ap_fields *f, ap_quant_config *c)
{
    ap_field_expect(f, "fmt", "e4m3");
    ap_field_expect(f, "activation_scheme", "dynamic");
    const ap_json *block = ap_field_array(f, "weight_block_size");
    const ap_json *rows = block ? ap_json_at(block, 0) : NULL,
                  *cols = block ? ap_json_at(block, 1) : NULL;
    if (!rows || !cols || rows->type != AP_JSON_INT || cols->type != AP_JSON_INT ||
        rows->integer != 128 || cols->integer != 128)
        ap_field_fail(f, APUS_EUNSUPPORTED, "weight_block_size", block, "expected [128, 128]");
    c->standard = (ap_quant_mode){AP_FP8_BLOCK, 8, 128, 128, false};
}

static void read(const ap_fields *root, ap_quant_config *c)
{
    bool mlx = ap_field(root, "quantization") != NULL;
    const ap_json *o = ap_field_object(root, mlx ? "quantization" : "quantization_config");
    if (!o || *root->err) return;
    ap_fields f = *root;
    f.o = o;
    f.prefix = mlx ? "quantization." : "quantization_config.";
    c->present = true;
    const char *method = ap_field_str(&f, "quant_method", "mlx");
    if (!strcmp(method, "fp8"))
        read_fp8(&f, c);
    else if (strcmp(method, "mlx"))
        ap_field_fail(&f, APUS_EUNSUPPORTED, "quant_method", NULL,
                      "\"%.40s\" is not supported; supported are fp8 and "
                      "MLX's own",
                      method);
    else {
        c->standard = read_mlx(&f);
        if (!*root->err) read_overrides(&f, c);
    }
}

apus_err ap_quant_config_parse(const char *text, size_t len, const char *name, ap_quant_config *out,
                               apus_diag *diag)
{
    ap_arena tree;
    ap_json *root = NULL;
    memset(out, 0, sizeof *out);
    ap_arena_init(&out->arena, 0);
    ap_arena_init(&tree, MAX_TREE_BYTES);
    apus_err err = ap_json_parse(&tree, text, len, name, 0, &root, diag);
    if (!err && root->type == AP_JSON_OBJECT) {
        ap_fields f = {name, "", root, diag, &err};
        read(&f, out);
        if (!out->present && ap_field_object(&f, "text_config")) {
            f.o = ap_field_object(&f, "text_config");
            read(&f, out);
        }
    }
    ap_arena_free(&tree);
    if (err) ap_quant_config_free(out);
    return err;
}

void ap_quant_config_free(ap_quant_config *c)
{
    ap_names_free(&c->overrides);
    ap_names_free(&c->plain);
    ap_free(c->mode);
    ap_arena_free(&c->arena);
    memset(c, 0, sizeof *c);
}

ap_quant_mode ap_quant_config_of(const ap_quant_config *c, const char *module, size_t len)
{
    const ap_name *n = c->n ? ap_names_find(&c->overrides, module, len) : NULL;
    const char *plain = ap_plain_name(module);
    if (!n && c->n && plain < module + len)
        n = ap_names_find(&c->plain, plain, len - (size_t)(plain - module));
    return n && n->value != SIZE_MAX ? c->mode[n->value] : c->standard;
}
