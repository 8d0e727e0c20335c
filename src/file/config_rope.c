#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/config_in.h"
#include "file/family.h"

#define PI 3.14159265358979323846

/* The power is taken in double and rounded once, which gives the correctly rounded f32 result (and
 * that of glibc's powf). torch's vectorised power differs from it by one unit in the last place at
 * about one exponent in 128. */
void ap_rope_frequencies(double base, int dim, int n, float *out)
{
    for (int i = 0; i < n; i++) {
        float exponent = (float)(2 * i) / (float)dim;
        float power = (float)pow((double)(float)base, (double)exponent);
        out[i] = 1.0f / power;
    }
}

static double theta(const ap_fields *f, double def)
{
    return ap_field_num(f, "rope_theta", 1.0001, 1e15, def);
}

/* rope_type, or its old name. */
static const char *rope_type(const ap_fields *f)
{
    return ap_field_str(f, "rope_type", ap_field_str(f, "type", "default"));
}

/* ---------------------------------------------------------------- yarn */

static double mscale_of(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static void yarn_attention_factor(const ap_fields *f, double factor, ap_rope *out)
{
    double a = ap_field_num(f, "attention_factor", 0, 1e6, -1);
    double m = ap_field_num(f, "mscale", 0, 1e6, 0),
           all = ap_field_num(f, "mscale_all_dim", 0, 1e6, 0);
    if (a < 0)
        a = m != 0 && all != 0 ? mscale_of(factor, m) / mscale_of(factor, all)
                               : mscale_of(factor, 1);
    out->attention_factor = (float)a;
}

/* Dimension whose angle makes `rotations` turns in `length` positions. */
static double yarn_dim(double rotations, int dim, double base, double length)
{
    return dim * log(length / (rotations * 2 * PI)) / (2 * log(base));
}

/* Blend of f and f / factor by a ramp over the dimensions (Peng et al. 2023, arXiv 2309.00071);
 * operations and their order in f32 as transformers has them. */
static void yarn(const ap_fields *f, double base, int dim, const ap_config *c, int64_t original,
                 ap_rope *out)
{
    double factor = ap_field_num(f, "factor", 1e-3, 1e6, c->context / (double)original);
    double fast = ap_field_num(f, "beta_fast", 0, 1e9, 32),
           slow = ap_field_num(f, "beta_slow", 0, 1e9, 1);
    bool truncate = ap_field_bool(f, "truncate", true);
    yarn_attention_factor(f, factor, out);
    if (!ap_json_get(f->o, "factor")) ap_field_fail(f, APUS_EFORMAT, "factor", NULL, "is missing");
    if (fast < 1e-6) fast = 32; /* zero counts as not given */
    if (slow < 1e-6) slow = 1;
    double lo = yarn_dim(fast, dim, base, (double)original);
    double hi = yarn_dim(slow, dim, base, (double)original);
    if (truncate) {
        lo = floor(lo);
        hi = ceil(hi);
    }
    if (lo < 0) lo = 0;
    if (hi > dim - 1) hi = dim - 1;
    if (lo == hi) hi += 0.001;
    for (int i = 0; i < dim / 2; i++) {
        float power = (float)pow((double)(float)base, (double)((float)(2 * i) / (float)dim));
        float ramp = ((float)i - (float)lo) / (float)(hi - lo);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1.0f - ramp;
        float slowed = 1.0f / ((float)factor * power) * (1.0f - keep);
        out->inv_freq[i] = slowed + 1.0f / power * keep;
    }
}

/* ---------------------------------------------------------------- Qwen */

/* Which axis turns which angle: time, height, width by turns, the last two as often as their section says. */
static void rope_axes(const ap_fields *f, ap_config *c)
{
    int64_t section[3] = {11, 11, 10};
    const ap_json *list = ap_field_array(f, "mrope_section"), *e = list ? list->first : NULL;
    for (int i = 0; i < 3 && e; i++, e = e->next) {
        section[i] = e->type == AP_JSON_INT ? e->integer : -1;
        if (section[i] < 0 || section[i] > AP_MAX_ROT)
            ap_field_fail(f, APUS_EFORMAT, "mrope_section", e, "expected three numbers of angles");
    }
    if (list && list->len < 3)
        ap_field_fail(f, APUS_EFORMAT, "mrope_section", list, "expected three numbers of angles");
    c->rope_axes = true;
    for (int axis = 1; axis < 3 && !*f->err; axis++)
        for (int i = axis; i < 3 * section[axis] && i < AP_MAX_ROT; i += 3)
            c->rope_axis[i] = (uint8_t)axis;
}

/* The dict wins over keys beside it; rope_scaling, if given, over rope_parameters (as transformers
 * has it). */
void ap_config_rope_qwen(const ap_fields *t, int head_dim, double partial_default, ap_config *c)
{
    char prefix[64];
    ap_rope *r = &c->rope_full;
    const char *name = ap_field(t, "rope_scaling") ? "rope_scaling" : "rope_parameters";
    ap_fields f = *t;
    snprintf(prefix, sizeof prefix, "%s%s.", t->prefix, name);
    f.o = ap_field_object(t, name);
    f.prefix = prefix;
    double base = theta(&f, -1), partial = ap_field_num(&f, "partial_rotary_factor", 0, 1, -1);
    if (base < 0) base = theta(t, NAN);
    if (partial < 0) partial = ap_field_num(t, "partial_rotary_factor", 0, 1, partial_default);
    const char *type = rope_type(&f);
    int64_t original =
        ap_field_int(&f, "original_max_position_embeddings", 1, AP_CFG_MAX_CONTEXT, c->context);
    original = ap_field_int(t, "original_max_position_embeddings", 1, AP_CFG_MAX_CONTEXT, original);
    if (*t->err) return;
    int dim = (int)(head_dim * partial);
    if (dim < 2 || dim % 2 || dim / 2 > AP_MAX_ROT) {
        ap_field_fail(
            &f, APUS_EFORMAT, "partial_rotary_factor", NULL,
            "%g of %d dimensions gives %d rotated ones, expected an even number from 2 to "
            "%d",
            partial, head_dim, dim, 2 * AP_MAX_ROT);
        return;
    }
    r->n_angle = r->pair_offset = dim / 2;
    r->attention_factor = 1;
    if (ap_family_of(c->arch)->sections) rope_axes(&f, c);
    if (!strcmp(type, "default")) {
        ap_rope_frequencies(base, dim, dim / 2, r->inv_freq);
    } else if (!strcmp(type, "yarn")) {
        yarn(&f, base, dim, c, original, r);
    } else {
        ap_field_fail(&f, APUS_EUNSUPPORTED, "rope_type", NULL,
                      "\"%.60s\" is not supported, only \"default\" and \"yarn\"", type);
    }
}

/* ---------------------------------------------------------------- Gemma 4 */

/* Proportional: the first share of d/2 angles, exponents over the whole head, pairs d/2 apart. */
static void proportional(const ap_fields *f, double base, int head_dim, ap_rope *out)
{
    double share = ap_field_num(f, "partial_rotary_factor", 0, 1, 1);
    double factor = ap_field_num(f, "factor", 1e-6, 1e9, 1);
    out->n_angle = (int)floor(share * head_dim / 2);
    if (out->n_angle < 1)
        ap_field_fail(f, APUS_EFORMAT, "partial_rotary_factor", NULL, "%g of %d rotates nothing",
                      share, head_dim);
    ap_rope_frequencies(base, head_dim, out->n_angle, out->inv_freq);
    for (int i = 0; i < out->n_angle; i++) out->inv_freq[i] /= (float)factor;
}

void ap_config_rope_gemma4(const ap_fields *dict, const char *layer_type, int head_dim,
                           ap_rope *out)
{
    char prefix[96];
    bool full = !strcmp(layer_type, "full_attention");
    out->pair_offset = head_dim / 2;
    out->attention_factor = 1;
    if (!dict->o) { /* the class's defaults */
        out->n_angle = full ? head_dim / 8 : head_dim / 2;
        ap_rope_frequencies(full ? 1e6 : 1e4, head_dim, out->n_angle, out->inv_freq);
        return;
    }
    ap_fields f = *dict;
    f.o = ap_field_object(dict, layer_type);
    if (!f.o) {
        ap_field_fail(dict, APUS_EFORMAT, layer_type, NULL, "is missing");
        return;
    }
    snprintf(prefix, sizeof prefix, "%s%s.", dict->prefix, layer_type);
    f.prefix = prefix;
    double base = theta(&f, NAN);
    const char *type = rope_type(&f);
    if (*f.err) return;
    if (!strcmp(type, "default")) { /* the partial factor plays no part here */
        out->n_angle = head_dim / 2;
        ap_rope_frequencies(base, head_dim, out->n_angle, out->inv_freq);
    } else if (!strcmp(type, "proportional")) {
        proportional(&f, base, head_dim, out);
    } else {
        ap_field_fail(&f, APUS_EUNSUPPORTED, "rope_type", NULL,
                      "\"%.60s\" is not supported, only \"default\" and \"proportional\"", type);
    }
}
