#include "text/normalizer.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/nfc.h"

/* ---------------------------------------------------------------- components */

const char *ap_component_type(const ap_json *j)
{
    const ap_json *t = ap_json_get(j, "type");
    return t && t->type == AP_JSON_STRING ? t->str : "";
}

void ap_component_where(char *out, size_t size, const char *name, const char *section,
                        const char *type)
{
    snprintf(out, size, "%.160s: %s %.40s", name, section, type);
}

apus_err ap_component_string(const ap_json *j, const char *key, const char *where, char **out,
                             size_t *len, apus_diag *diag)
{
    const ap_json *v = ap_json_get(j, key);
    if (!v || v->type != AP_JSON_STRING)
        return ap_fail(diag, APUS_EFORMAT, "%s: \"%s\" is missing or not a string", where, key);
    ap_free(*out);
    *out = ap_strndup(v->str, v->len);
    if (!*out) return ap_fail_nomem(diag, v->len, "a tokenizer component");
    *len = v->len;
    return APUS_OK;
}

apus_err ap_component_bool(const ap_json *j, const char *key, bool dflt, const char *where,
                           bool *out, apus_diag *diag)
{
    const ap_json *v = ap_json_get(j, key);
    *out = dflt;
    if (!v || v->type == AP_JSON_NULL) return APUS_OK;
    if (v->type != AP_JSON_BOOL)
        return ap_fail(diag, APUS_EFORMAT, "%s: \"%s\" is not true or false", where, key);
    *out = v->boolean;
    return APUS_OK;
}

apus_err ap_component_pattern(const ap_json *j, const char *where, char **text, size_t *len,
                              ap_regex **regex, apus_diag *diag)
{
    const ap_json *p = ap_json_get(j, "pattern");
    const ap_json *s = ap_json_get(p, "String"), *r = ap_json_get(p, "Regex");
    if (s && s->type == AP_JSON_STRING) {
        if (!s->len) return ap_fail(diag, APUS_EUNSUPPORTED, "%s: an empty String pattern", where);
        return ap_component_string(p, "String", where, text, len, diag);
    }
    if (r && r->type == AP_JSON_STRING) return ap_regex_compile(r->str, r->len, where, regex, diag);
    return ap_fail(diag, APUS_EFORMAT, "%s: \"pattern\" has neither a String nor a Regex", where);
}

bool ap_find_text(const char *s, size_t n, const char *what, size_t m, ap_spans *out)
{
    for (size_t i = 0; n - i >= m;) {
        const char *p = memchr(s + i, what[0], n - i - m + 1);
        if (!p) break;
        i = (size_t)(p - s);
        if (memcmp(p, what, m) == 0) {
            if (!ap_spans_add(out, i, m)) return false;
            i += m;
        } else {
            i++;
        }
    }
    return true;
}

/* ---------------------------------------------------------------- reading */

#define MAX_STEPS 64

void ap_normalizer_free(ap_normalizer *z)
{
    for (size_t i = 0; i < z->n; i++) {
        ap_free(z->steps[i].what);
        ap_free(z->steps[i].with);
        ap_regex_free(z->steps[i].regex);
    }
    ap_free(z->steps);
    memset(z, 0, sizeof *z);
}

static apus_err add(ap_normalizer *z, const ap_json *j, const char *name, int depth,
                    apus_diag *diag);

static apus_err add_all(ap_normalizer *z, const ap_json *list, const char *name, int depth,
                        apus_diag *diag)
{
    if (!list || list->type != AP_JSON_ARRAY)
        return ap_fail(diag, APUS_EFORMAT, "%s: normalizer Sequence without its list", name);
    apus_err err = APUS_OK;
    for (const ap_json *e = list->first; e && !err; e = e->next) err = add(z, e, name, depth, diag);
    return err;
}

static apus_err add(ap_normalizer *z, const ap_json *j, const char *name, int depth,
                    apus_diag *diag)
{
    const char *type = ap_component_type(j);
    if (strcmp(type, "Sequence") == 0 && depth < 8)
        return add_all(z, ap_json_get(j, "normalizers"), name, depth + 1, diag);
    if (z->n >= MAX_STEPS)
        return ap_fail(diag, APUS_EFORMAT, "%s: more than %d normalizers", name, MAX_STEPS);
    if (!ap_vec_reserve(&z->steps, &z->cap, z->n + 1, sizeof *z->steps))
        return ap_fail_nomem(diag, MAX_STEPS, "normalizers");
    struct ap_norm_step *st = &z->steps[z->n++];
    memset(st, 0, sizeof *st);
    if (strcmp(type, "NFC") == 0) {
        st->kind = AP_NORM_NFC;
        return APUS_OK;
    }
    char where[256];
    ap_component_where(where, sizeof where, name, "normalizer", type);
    if (strcmp(type, "Prepend") == 0) {
        st->kind = AP_NORM_PREPEND;
        return ap_component_string(j, "prepend", where, &st->with, &st->with_len, diag);
    }
    if (strcmp(type, "Replace") == 0) {
        st->kind = AP_NORM_REPLACE;
        apus_err err = ap_component_pattern(j, where, &st->what, &st->what_len, &st->regex, diag);
        return err ? err : ap_component_string(j, "content", where, &st->with, &st->with_len, diag);
    }
    return ap_fail(diag, APUS_EUNSUPPORTED, "%s: normalizer \"%.60s\" is not supported", name,
                   type);
}

apus_err ap_normalizer_parse(const ap_json *j, const char *name, ap_normalizer *out,
                             apus_diag *diag)
{
    memset(out, 0, sizeof *out);
    if (!j || j->type == AP_JSON_NULL) return APUS_OK;
    snprintf(out->name, sizeof out->name, "%s", name);
    apus_err err = add(out, j, name, 0, diag);
    if (err) ap_normalizer_free(out);
    return err;
}

/* ---------------------------------------------------------------- running */

void ap_norm_work_free(ap_norm_work *w)
{
    ap_buf_free(&w->buf[0]);
    ap_buf_free(&w->buf[1]);
    ap_free(w->spans.v);
    ap_regex_work_free(&w->regex);
    memset(w, 0, sizeof *w);
}

/* Places that are replaced, then the bytes of the result: in w->spans and *size. */
static apus_err find_places(const struct ap_norm_step *st, ap_norm_work *w, const char *s, size_t n,
                            size_t *size, apus_diag *diag)
{
    w->spans.n = 0;
    if (st->regex) {
        apus_err err = ap_regex_find_all(st->regex, &w->regex, s, n, &w->spans, diag);
        if (err) return err;
    } else if (!ap_find_text(s, n, st->what, st->what_len, &w->spans)) {
        return ap_fail_nomem(diag, n, "normalised text");
    }
    size_t removed = 0;
    for (size_t i = 0; i < w->spans.n; i++) removed += w->spans.v[i].len;
    if (!ap_mul_size(w->spans.n, st->with_len, size) || *size > SIZE_MAX - (n - removed))
        *size = SIZE_MAX;
    else
        *size += n - removed;
    return APUS_OK;
}

static void replace(const struct ap_norm_step *st, const ap_spans *spans, const char *s, size_t n,
                    ap_buf *out)
{
    size_t done = 0;
    for (size_t i = 0; i < spans->n; i++) {
        ap_buf_add(out, s + done, spans->v[i].off - done);
        ap_buf_add(out, st->with, st->with_len);
        done = spans->v[i].off + spans->v[i].len;
    }
    ap_buf_add(out, s + done, n - done);
}

/* One step on s: *changed, then the result is in out. At most `most` bytes are made. */
static apus_err run_step(const ap_normalizer *z, const struct ap_norm_step *st, ap_norm_work *w,
                         const char *s, size_t n, size_t most, ap_buf *out, bool *changed,
                         apus_diag *diag)
{
    size_t size = n;
    apus_err err = APUS_OK;
    if (st->kind == AP_NORM_NFC) return ap_nfc(s, n, out, changed, diag);
    if (st->kind == AP_NORM_REPLACE) {
        err = find_places(st, w, s, n, &size, diag);
        *changed = w->spans.n > 0;
    } else {
        *changed = n > 0;
        size = n + st->with_len;
    }
    if (err || !*changed) return err;
    if (size > most)
        return ap_fail(
            diag, APUS_EFORMAT,
            "%s: the normalizer's rules make more than %zu bytes of a text, because each "
            "one works on what the last one made",
            z->name, most);
    if (st->kind == AP_NORM_REPLACE) {
        replace(st, &w->spans, s, n, out);
    } else {
        ap_buf_add(out, st->with, st->with_len);
        ap_buf_add(out, s, n);
    }
    return APUS_OK;
}

apus_err ap_normalize(const ap_normalizer *z, ap_norm_work *w, const char *s, size_t n,
                      const char **text, size_t *len, apus_diag *diag)
{
    int next = 0;
    size_t most = n > (SIZE_MAX - AP_NORM_FREE) / AP_NORM_GROWTH
                      ? SIZE_MAX
                      : n * AP_NORM_GROWTH + AP_NORM_FREE;
    for (size_t i = 0; i < z->n; i++) {
        ap_buf *out = &w->buf[next];
        out->len = 0;
        out->failed = false;
        bool changed = false;
        apus_err err = run_step(z, &z->steps[i], w, s, n, most, out, &changed, diag);
        if (err) return err;
        if (out->failed) return ap_fail_nomem(diag, n, "normalised text");
        if (!changed) continue;
        s = out->data ? out->data : "";
        n = out->len;
        next = !next;
    }
    *text = s;
    *len = n;
    return APUS_OK;
}
