#include "text/pretok.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/unicode_fix.h"

/* The pattern of GPT-2, for ByteLevel with use_regex. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---------------------------------------------------------------- reading */

#define MAX_STEPS 64

typedef struct ap_pretok_step step;

void ap_pretok_free(ap_pretok *p)
{
    for (size_t i = 0; i < p->n; i++) {
        ap_free(p->steps[i].what);
        ap_regex_free(p->steps[i].regex);
    }
    ap_free(p->steps);
    memset(p, 0, sizeof *p);
}

static apus_err read_split(const ap_json *j, step *st, const char *where, apus_diag *diag)
{
    static const char *const rules[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const ap_json *b = ap_json_get(j, "behavior");
    size_t k = 0;
    if (!b || b->type != AP_JSON_STRING)
        return ap_fail(diag, APUS_EFORMAT, "%s: \"behavior\" is missing or not a string", where);
    while (k < 5 && strcmp(b->str, rules[k]) != 0) k++;
    if (k == 5) return ap_fail(diag, APUS_EFORMAT, "%s: behavior \"%.40s\"", where, b->str);
    st->kind = AP_PRETOK_SPLIT;
    st->rule = (ap_split_rule)k;
    apus_err err = ap_component_bool(j, "invert", false, where, &st->invert, diag);
    return err ? err : ap_component_pattern(j, where, &st->what, &st->what_len, &st->regex, diag);
}

static apus_err read_bytes(const ap_json *j, step *st, const char *where, apus_diag *diag)
{
    bool prefix, regex;
    apus_err err = ap_component_bool(j, "add_prefix_space", true, where, &prefix, diag);
    if (!err) err = ap_component_bool(j, "use_regex", true, where, &regex, diag);
    if (err) return err;
    st->kind = AP_PRETOK_BYTES;
    st->prefix = prefix ? AP_PREFIX_ALWAYS : AP_PREFIX_NEVER;
    st->rule = AP_SPLIT_ISOLATED;
    if (!regex) return APUS_OK;
    return ap_regex_compile(gpt2_pattern, strlen(gpt2_pattern), where, &st->regex, diag);
}

static apus_err read_metaspace(const ap_json *j, step *st, const char *where, apus_diag *diag)
{
    const ap_json *scheme = ap_json_get(j, "prepend_scheme");
    const char *s = scheme && scheme->type == AP_JSON_STRING ? scheme->str : "always";
    bool add;
    uint32_t cp;
    st->kind = AP_PRETOK_METASPACE;
    st->rule = AP_SPLIT_NEXT;
    st->prefix = strcmp(s, "never") == 0   ? AP_PREFIX_NEVER
                 : strcmp(s, "first") == 0 ? AP_PREFIX_FIRST
                                           : AP_PREFIX_ALWAYS;
    apus_err err = ap_component_bool(j, "split", true, where, &st->split, diag);
    if (!err) err = ap_component_bool(j, "add_prefix_space", true, where, &add, diag);
    if (!err) err = ap_component_string(j, "replacement", where, &st->what, &st->what_len, diag);
    if (err) return err;
    if (!add) st->prefix = AP_PREFIX_NEVER;
    if (!st->what_len || ap_utf8_decode(st->what, st->what_len, &cp) != st->what_len)
        return ap_fail(diag, APUS_EFORMAT, "%s: \"replacement\" is not one character", where);
    return APUS_OK;
}

static apus_err add(ap_pretok *p, const ap_json *j, const char *name, int depth, apus_diag *diag)
{
    const char *type = ap_component_type(j);
    apus_err err = APUS_OK;
    if (strcmp(type, "Sequence") == 0 && depth < 8) {
        const ap_json *list = ap_json_get(j, "pretokenizers");
        if (!list || list->type != AP_JSON_ARRAY)
            return ap_fail(diag, APUS_EFORMAT, "%s: pre_tokenizer Sequence without its list", name);
        for (const ap_json *e = list->first; e && !err; e = e->next)
            err = add(p, e, name, depth + 1, diag);
        return err;
    }
    char where[256];
    ap_component_where(where, sizeof where, name, "pre_tokenizer", type);
    if (p->bytes)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s after ByteLevel is not supported", where);
    if (p->n >= MAX_STEPS)
        return ap_fail(diag, APUS_EFORMAT, "%s: more than %d pre_tokenizers", name, MAX_STEPS);
    if (!ap_vec_reserve(&p->steps, &p->cap, p->n + 1, sizeof *p->steps))
        return ap_fail_nomem(diag, MAX_STEPS, "pre_tokenizers");
    step *st = &p->steps[p->n++];
    memset(st, 0, sizeof *st);
    if (strcmp(type, "Split") == 0) return read_split(j, st, where, diag);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(j, st, where, diag);
    if (strcmp(type, "ByteLevel") == 0) {
        p->bytes = true;
        return read_bytes(j, st, where, diag);
    }
    if (strcmp(type, "Digits") == 0) {
        bool each;
        st->kind = AP_PRETOK_DIGITS;
        err = ap_component_bool(j, "individual_digits", false, where, &each, diag);
        st->rule = each ? AP_SPLIT_ISOLATED : AP_SPLIT_CONTIGUOUS;
        return err;
    }
    if (strcmp(type, "Whitespace") == 0 || strcmp(type, "WhitespaceSplit") == 0) {
        st->kind = type[10] ? AP_PRETOK_SPACES : AP_PRETOK_WORDS;
        st->rule = AP_SPLIT_REMOVED;
        return APUS_OK;
    }
    return ap_fail(diag, APUS_EUNSUPPORTED, "%s is not supported", where);
}

apus_err ap_pretok_parse(const ap_json *j, const char *name, ap_pretok *out, apus_diag *diag)
{
    memset(out, 0, sizeof *out);
    if (!j || j->type == AP_JSON_NULL) return APUS_OK;
    apus_err err = add(out, j, name, 0, diag);
    if (err) ap_pretok_free(out);
    return err;
}

/* ---------------------------------------------------------------- parts */

void ap_pretok_work_free(ap_pretok_work *w)
{
    for (int i = 0; i < 2; i++) {
        ap_buf_free(&w->buf[i]);
        ap_free(w->words[i].v);
    }
    ap_free(w->found.v);
    ap_free(w->parts);
    ap_regex_work_free(&w->regex);
    memset(w, 0, sizeof *w);
}

static bool part(ap_pretok_work *w, size_t off, size_t end, bool match)
{
    if (!ap_vec_reserve(&w->parts, &w->parts_cap, w->n_parts + 1, sizeof *w->parts)) return false;
    w->parts[w->n_parts++] = (struct ap_pretok_part){off, end, match};
    return true;
}

/* Matches and what is between them, covering s. */
static bool parts_of_found(ap_pretok_work *w, size_t n, bool invert)
{
    size_t done = 0;
    for (size_t i = 0; i < w->found.n; i++) {
        const ap_span *f = &w->found.v[i];
        if (done != f->off && !part(w, done, f->off, invert)) return false;
        if (!part(w, f->off, f->off + f->len, !invert)) return false;
        done = f->off + f->len;
    }
    return done == n || part(w, done, n, invert);
}

/* Sort of a character for the steps that go by characters: -1 = never part of a match. */
static int char_sort(const step *st, uint32_t cp)
{
    if (st->kind == AP_PRETOK_DIGITS)
        return ap_unicode_in(ap_unicode_numeric, ap_unicode_n_numeric, cp) ? 0 : -1;
    if (st->kind == AP_PRETOK_SPACES) return ap_unicode_space(cp) ? 0 : -1;
    if (ap_unicode_in(ap_unicode_word, ap_unicode_n_word, cp)) return 1;
    return ap_unicode_space(cp) ? -1 : 2;
}

/* Digits and spaces match one by one, words (1) and other signs (2) in runs. */
static bool find_chars(const step *st, ap_pretok_work *w, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t from = i;
        i += ap_utf8_decode(s + i, n - i, &cp);
        int sort = char_sort(st, cp);
        while (sort > 0 && i < n) {
            size_t len = ap_utf8_decode(s + i, n - i, &cp);
            if (char_sort(st, cp) != sort) break;
            i += len;
        }
        if (sort >= 0 && !ap_spans_add(&w->found, from, i - from)) return false;
    }
    return true;
}

static apus_err no_memory(size_t n, apus_diag *diag)
{
    return ap_fail_nomem(diag, n, "splitting text");
}

static apus_err find_parts(const step *st, ap_pretok_work *w, const char *s, size_t n,
                           apus_diag *diag)
{
    bool ok = true, invert = st->invert;
    apus_err err = APUS_OK;
    w->found.n = w->n_parts = 0;
    if (st->regex) {
        err = ap_regex_find_all(st->regex, &w->regex, s, n, &w->found, diag);
    } else if (st->what) {
        ok = ap_find_text(s, n, st->what, st->what_len, &w->found);
    } else {
        ok = find_chars(st, w, s, n);
        invert = st->kind == AP_PRETOK_WORDS;
    }
    if (err) return err;
    return ok && parts_of_found(w, n, invert) ? APUS_OK : no_memory(n, diag);
}

/* Apply the rule to the parts, as NormalizedString::split of the reference folds them; empty words
 * are dropped. base: offset of the parts in the text. */
static bool emit(const step *st, ap_pretok_work *w, size_t base, ap_spans *out)
{
    struct ap_pretok_part *p = w->parts;
    size_t n = w->n_parts, kept = 0;
    bool was = false;
    switch (st->rule) {
    case AP_SPLIT_ISOLATED:
        kept = n;
        break;
    case AP_SPLIT_REMOVED:
        for (size_t i = 0; i < n; i++)
            if (!p[i].match) p[kept++] = p[i];
        break;
    case AP_SPLIT_CONTIGUOUS:
    case AP_SPLIT_PREVIOUS:
        for (size_t i = 0; i < n; i++) {
            bool match = p[i].match;
            bool join = st->rule == AP_SPLIT_CONTIGUOUS ? match == was : match && !was;
            if (join && kept)
                p[kept - 1].end = p[i].end;
            else
                p[kept++] = p[i];
            was = match;
        }
        break;
    case AP_SPLIT_NEXT:
        kept = n; /* the fold runs from the end: kept parts lie in p[kept, n) */
        for (size_t i = n; i-- > 0;) {
            bool match = p[i].match;
            if (match && !was && kept < n)
                p[kept].off = p[i].off;
            else
                p[--kept] = p[i];
            was = match;
        }
        p += kept;
        kept = n - kept;
        break;
    }
    for (size_t i = 0; i < kept; i++)
        if (p[i].end > p[i].off && !ap_spans_add(out, base + p[i].off, p[i].end - p[i].off))
            return false;
    return true;
}

/* ---------------------------------------------------------------- running */

static bool starts_with(const char *s, size_t n, const char *what, size_t m)
{
    return n >= m && memcmp(s, what, m) == 0;
}

/* Steps that change the text rebuild it, word by word, in out; `words` is moved along. */
static apus_err rewrite(const step *st, ap_pretok_work *w, const char *s, ap_spans *words,
                        bool at_start, ap_buf *out, apus_diag *diag)
{
    const char *prefix = st->kind == AP_PRETOK_BYTES ? " " : st->what;
    size_t prefix_len = st->kind == AP_PRETOK_BYTES ? 1 : st->what_len;
    out->len = 0;
    out->failed = false;
    for (size_t i = 0; i < words->n; i++) {
        const char *word = s + words->v[i].off;
        size_t n = words->v[i].len, at = out->len, done = 0;
        /* The text as it would be after spaces were replaced decides about the prefix. */
        bool has = starts_with(word, n, prefix, prefix_len) || word[0] == ' ';
        bool want = st->prefix == AP_PREFIX_ALWAYS ||
                    (st->prefix == AP_PREFIX_FIRST && at_start && words->v[i].off == 0);
        if (want && !has) ap_buf_add(out, prefix, prefix_len);
        w->found.n = 0;
        if (st->kind == AP_PRETOK_METASPACE && !ap_find_text(word, n, " ", 1, &w->found))
            return no_memory(n, diag);
        for (size_t k = 0; k < w->found.n; k++) {
            ap_buf_add(out, word + done, w->found.v[k].off - done);
            ap_buf_add(out, prefix, prefix_len);
            done = w->found.v[k].off + 1;
        }
        ap_buf_add(out, word + done, n - done);
        words->v[i] = (ap_span){at, out->len - at};
    }
    return out->failed ? no_memory(out->len, diag) : APUS_OK;
}

static bool rewrites(const step *st)
{
    return st->kind == AP_PRETOK_METASPACE ||
           (st->kind == AP_PRETOK_BYTES && st->prefix != AP_PREFIX_NEVER);
}

static bool splits(const step *st)
{
    if (st->kind == AP_PRETOK_METASPACE) return st->split;
    return st->kind != AP_PRETOK_BYTES || st->regex;
}

apus_err ap_pretok_run(const ap_pretok *p, ap_pretok_work *w, const char *s, size_t n,
                       bool at_start, const char **text, const ap_spans **words, apus_diag *diag)
{
    ap_spans *now = &w->words[0], *next = &w->words[1];
    int buf = 0;
    now->n = 0;
    if (n && !ap_spans_add(now, 0, n)) return no_memory(n, diag);
    for (size_t i = 0; i < p->n; i++) {
        const step *st = &p->steps[i];
        apus_err err;
        if (rewrites(st)) {
            err = rewrite(st, w, s, now, at_start, &w->buf[buf], diag);
            if (err) return err;
            s = w->buf[buf].data ? w->buf[buf].data : "";
            buf = !buf;
        }
        if (!splits(st)) continue;
        next->n = 0;
        for (size_t k = 0; k < now->n; k++) {
            err = find_parts(st, w, s + now->v[k].off, now->v[k].len, diag);
            if (err) return err;
            if (!emit(st, w, now->v[k].off, next)) return no_memory(n, diag);
        }
        ap_spans *t = now;
        now = next;
        next = t;
    }
    *text = s;
    *words = now;
    return APUS_OK;
}
