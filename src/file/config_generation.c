/* generation_config.json: what the model's makers advise. It is advice, so nothing in it keeps a model
 * from loading: numbers are taken as their writers meant them (20.0, "0.7", top_k -1 for off), and what
 * cannot be understood is left out with a note. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "file/config_in.h"

typedef struct advice {
    const ap_fields *f;
    ap_config *c;
    ap_notes *notes;
} advice;

static void left_out(const advice *a, const char *key, const ap_json *v, const char *expected)
{
    char found[100];
    ap_field_describe(found, sizeof found, v);
    ap_note(a->notes, "%s: %s: expected %s, found %s; it is left out", a->f->file, key, expected,
            found);
}

/* A number, or a text that is one. */
static bool number_of(const ap_json *v, double *out)
{
    if (v->type == AP_JSON_STRING) {
        ap_arena arena;
        ap_json *inner;
        ap_arena_init(&arena, 1 << 16);
        bool ok = v->len < 64 && !ap_json_parse(&arena, v->str, v->len, "", 0, &inner, NULL) &&
                  inner->type != AP_JSON_STRING && number_of(inner, out);
        ap_arena_free(&arena);
        return ok;
    }
    *out = v->number;
    return (v->type == AP_JSON_INT || v->type == AP_JSON_DOUBLE) && isfinite(*out);
}

static bool whole_of(const ap_json *v, int64_t *out)
{
    double x;
    if (!number_of(v, &x) || x != floor(x) || fabs(x) > 1e15) return false;
    *out = (int64_t)x;
    return true;
}

/* lo <= value <= hi; *out stays as it is if there is none. */
static void real(const advice *a, const char *key, double lo, double hi, float *out)
{
    const ap_json *v = ap_field(a->f, key);
    double x;
    char expected[64];
    if (!v) return;
    if (number_of(v, &x) && x >= lo && x <= hi) {
        *out = (float)x;
        return;
    }
    snprintf(expected, sizeof expected, "a number from %g to %g", lo, hi);
    left_out(a, key, v, expected);
}

/* A count from 0 on; -1 means `all`, as several programs write it. */
static void count(const advice *a, const char *key, int *out)
{
    const ap_json *v = ap_field(a->f, key);
    int64_t x;
    if (!v) return;
    if (whole_of(v, &x) && x >= -1 && x <= INT32_MAX)
        *out = x < 0 ? 0 : (int)x;
    else
        left_out(a, key, v, "a whole number from 0 on, or -1");
}

static void flag(const advice *a, const char *key, bool *out)
{
    const ap_json *v = ap_field(a->f, key);
    int64_t x;
    if (!v) return;
    if (v->type == AP_JSON_BOOL)
        *out = v->boolean;
    else if (v->type == AP_JSON_STRING && (!strcmp(v->str, "true") || !strcmp(v->str, "True")))
        *out = true;
    else if (v->type == AP_JSON_STRING && (!strcmp(v->str, "false") || !strcmp(v->str, "False")))
        *out = false;
    else if (whole_of(v, &x) && (x == 0 || x == 1))
        *out = x == 1;
    else
        left_out(a, key, v, "true or false");
}

/* Ids that the vocabulary does not hold can never be produced and are left out without a word. */
static void ids(const advice *a, const char *key, bool (*add)(ap_config *, int64_t))
{
    const ap_json *v = ap_field(a->f, key);
    if (!v) return;
    const ap_json *e = v->type == AP_JSON_ARRAY ? v->first : v;
    for (; e; e = v->type == AP_JSON_ARRAY ? e->next : NULL) {
        int64_t id;
        if (!whole_of(e, &id)) {
            left_out(a, key, e, "token ids");
        } else if (!add(a->c, id)) {
            ap_note(a->notes, "%s: %s: more token ids than apus keeps; the rest is left out",
                    a->f->file, key);
            return;
        }
    }
}

static void one_id(const advice *a, const char *key, int *out)
{
    const ap_json *v = ap_field(a->f, key);
    int64_t id;
    if (!v || *out >= 0) return;
    if (!whole_of(v, &id))
        left_out(a, key, v, "a token id");
    else if (id >= 0 && id < a->c->vocab)
        *out = (int)id;
}

static void read_advice(const advice *a)
{
    ap_config *c = a->c;
    ids(a, "eos_token_id", ap_config_add_stop);
    ids(a, "suppress_tokens", ap_config_add_suppress);
    one_id(a, "bos_token_id", &c->bos);
    one_id(a, "pad_token_id", &c->pad);
    real(a, "temperature", 0, 1e6, &c->temperature);
    real(a, "top_p", 0, 1, &c->top_p);
    real(a, "min_p", 0, 1, &c->min_p);
    real(a, "repetition_penalty", 1e-6, 1e6, &c->repetition_penalty);
    count(a, "top_k", &c->top_k);
    count(a, "penalty_last_n", &c->penalty_last);
    flag(a, "do_sample", &c->do_sample);
}

apus_err ap_config_generation(const ap_config_text *text, ap_config *c, ap_notes *notes,
                              apus_diag *diag)
{
    ap_arena arena;
    ap_json *root = NULL;
    apus_diag why;
    ap_arena_init(&arena, AP_CFG_MAX_TREE);
    apus_err err = ap_json_parse(&arena, text->text, text->len, text->name, 0, &root, &why);
    if (err == APUS_ENOMEM) {
        if (diag) *diag = why;
    } else if (err) {
        ap_note(notes, "%s; the file is left out", why.text);
        err = APUS_OK;
    } else if (root->type != AP_JSON_OBJECT) {
        ap_note(notes, "%s: expected an object; the file is left out", text->name);
    } else {
        ap_fields f = {text->name, "", root, NULL, &err};
        read_advice(&(advice){&f, c, notes});
    }
    ap_arena_free(&arena);
    return err;
}
