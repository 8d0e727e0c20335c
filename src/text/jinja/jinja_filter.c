/* jinja_filter.c - the filters. */
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja/jinja.h"

typedef ap_jval (*filter_fn)(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args);

static bool given(ap_jval v)
{
    return !ap_j_absent(v);
}

/* ---------------------------------------------------------------- attributes of items */

enum { MAX_PARTS = 16 };
typedef struct getter {
    ap_jval part[MAX_PARTS];
    int n;
    ap_jval fallback; /* ABSENT: none */
    bool fold;        /* lower-case strings */
} getter;

static bool getter_init(ap_jrun *run, getter *g, ap_jval attribute)
{
    g->n = 0;
    g->fallback = ap_j_undef(AP_J_ABSENT, NULL);
    g->fold = false;
    if (ap_j_absent(attribute) || attribute.type == AP_J_NONE) return true;
    if (attribute.type != AP_J_STR) {
        g->part[g->n++] = attribute;
        return true;
    }
    ap_jlist *l = ap_j_split(run, attribute.s, ap_j_borrow(run, ".", 1), -1);
    if (l->n > MAX_PARTS) {
        ap_j_fail(run, "an attribute has more than %d parts", MAX_PARTS);
        return false;
    }
    for (size_t i = 0; i < l->n && !run->failed; i++) {
        const ap_jstr *s = l->v[i].s;
        if (s->len < 10 && ap_j_str_class(s, "decimal") && s->len == s->n_cp) {
            int64_t k = 0;
            for (size_t j = 0; j < s->len; j++) k = k * 10 + (s->s[j] - '0');
            g->part[g->n++] = ap_j_int(k);
        } else {
            g->part[g->n++] = l->v[i];
        }
    }
    return !run->failed;
}

static ap_jval getter_get(ap_jrun *run, const getter *g, ap_jval v)
{
    for (int i = 0; i < g->n && !run->failed; i++) {
        v = ap_j_item(run, v, g->part[i]);
        if (v.type == AP_J_UNDEF && given(g->fallback) && g->fallback.type != AP_J_NONE)
            v = g->fallback;
    }
    if (g->fold && v.type == AP_J_STR) v = ap_j_strval(ap_j_case(run, v.s, AP_J_LOWER));
    return v;
}

/* ---------------------------------------------------------------- sorting */

typedef struct keyed {
    ap_jval key, v;
} keyed;

static ap_jlist *sorted(ap_jrun *run, keyed *k, size_t n, bool reverse)
{
    keyed *other = ap_j_alloc(run, n + 1, sizeof *other);
    ap_jlist *l = ap_j_list_new(run, n);
    for (size_t width = 1; other && width < n && !run->failed; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n,
                   hi = lo + 2 * width < n ? lo + 2 * width : n;
            for (size_t a = lo, b = mid, to = lo; to < hi; to++) {
                bool left = b >= hi;
                if (a < mid && !left) {
                    /* Python asks only "is the later one less"; equal ones keep their order, also
                     * when reversed. */
                    int c = reverse ? ap_j_compare(run, k[a].key, k[b].key, "<")
                                    : ap_j_compare(run, k[b].key, k[a].key, "<");
                    left = c != -1;
                }
                other[to] = left && a < mid ? k[a++] : k[b++];
            }
        }
        keyed *t = k;
        k = other;
        other = t;
    }
    for (size_t i = 0; i < n && !run->failed; i++) ap_j_push(run, l, k[i].v);
    return l;
}

/* Items with their keys; attribute may name several, separated by commas. */
static ap_jval sort_by(ap_jrun *run, ap_jval v, ap_jval attribute, bool fold, bool reverse)
{
    getter g[8];
    int n_g = 0;
    ap_jlist *l = ap_j_to_list(run, v), *names = NULL;
    keyed *k = ap_j_alloc(run, l->n + 1, sizeof *k);
    if (!k) return ap_j_none();
    if (attribute.type == AP_J_STR)
        names = ap_j_split(run, attribute.s, ap_j_borrow(run, ",", 1), -1);
    do {
        if (n_g == 8) return ap_j_fail(run, "sort by more than 8 attributes is not supported");
        if (!getter_init(run, &g[n_g], names ? names->v[n_g] : attribute)) return ap_j_none();
        g[n_g].fold = fold;
        n_g++;
    } while (names && (size_t)n_g < names->n);
    for (size_t i = 0; i < l->n && !run->failed; i++) {
        ap_jlist *keys = ap_j_list_new(run, (size_t)n_g);
        for (int j = 0; j < n_g; j++) ap_j_push(run, keys, getter_get(run, &g[j], l->v[i]));
        k[i] = (keyed){ap_j_listval(keys, AP_J_LIST), l->v[i]};
    }
    return ap_j_listval(sorted(run, k, l->n, reverse), AP_J_LIST);
}

static ap_jval f_sort(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    return sort_by(run, v, a[2], !ap_j_truth(a[1]), ap_j_truth(a[0]));
}

static ap_jval f_dictsort(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    bool by_value = a[1].type == AP_J_STR && ap_j_str_is(a[1].s, "value");
    if (given(a[1]) && !by_value && !(a[1].type == AP_J_STR && ap_j_str_is(a[1].s, "key")))
        return ap_j_fail(run, "dictsort can sort by \"key\" or \"value\" only");
    if (v.type != AP_J_DICT) {
        if (v.type == AP_J_UNDEF) return ap_j_binary(run, AP_JT_ADD, v, v);
        return ap_j_fail(run, "'%s' object has no attribute 'items'", ap_j_type_name(v));
    }
    keyed *k = ap_j_alloc(run, v.d->n + 1, sizeof *k);
    if (!k) return ap_j_none();
    for (size_t i = 0; i < v.d->n && !run->failed; i++) {
        ap_jlist *pair = ap_j_list_new(run, 2);
        ap_j_push(run, pair, v.d->k[i]);
        ap_j_push(run, pair, v.d->v[i]);
        ap_jval key = by_value ? v.d->v[i] : v.d->k[i];
        if (!ap_j_truth(a[0]) && key.type == AP_J_STR)
            key = ap_j_strval(ap_j_case(run, key.s, AP_J_LOWER));
        k[i] = (keyed){key, ap_j_listval(pair, AP_J_TUPLE)};
    }
    if (run->failed) return ap_j_none();
    return ap_j_listval(sorted(run, k, v.d->n, ap_j_truth(a[2])), AP_J_LIST);
}

static ap_jval min_max(ap_jrun *run, ap_jval v, const ap_jval *a, bool max)
{
    getter g;
    ap_jcursor c;
    ap_jval x, best = ap_j_undef(AP_J_NO_VALUE, NULL), best_key = best;
    bool any = false;
    if (!getter_init(run, &g, a[1]) || !ap_j_iter_open(run, v, &c)) return best;
    g.fold = !ap_j_truth(a[0]);
    while (ap_j_iter_next(run, &c, &x)) {
        ap_jval key = getter_get(run, &g, x);
        if (!any || ap_j_compare(run, key, best_key, max ? ">" : "<") == (max ? 1 : -1)) {
            best = x;
            best_key = key;
        }
        any = true;
    }
    return best;
}

static ap_jval f_min(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    return min_max(run, v, a, false);
}

static ap_jval f_max(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    return min_max(run, v, a, true);
}

static ap_jval f_unique(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    getter g;
    ap_jcursor c;
    ap_jval x;
    bool bad;
    ap_jlist *l = ap_j_list_new(run, 0);
    ap_jdict *seen = ap_j_dict_new(run);
    if (!getter_init(run, &g, a[1]) || !ap_j_iter_open(run, v, &c)) return v;
    g.fold = !ap_j_truth(a[0]);
    while (ap_j_iter_next(run, &c, &x)) {
        ap_jval key = getter_get(run, &g, x);
        if (ap_j_dict_get(run, seen, key, &bad)) continue;
        ap_j_dict_set(run, seen, key, ap_j_none()); /* fails for what has no hash */
        ap_j_push(run, l, x);
    }
    return ap_j_iterval(run, l);
}

static ap_jval f_groupby(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    getter g;
    bool fold = !ap_j_truth(a[2]);
    ap_jlist *out = ap_j_list_new(run, 0), *group = NULL;
    if (!getter_init(run, &g, a[0])) return v;
    g.fallback = a[1];
    g.fold = fold;
    ap_jlist *l = ap_j_to_list(run, v);
    keyed *k = ap_j_alloc(run, l->n + 1, sizeof *k);
    for (size_t i = 0; k && i < l->n && !run->failed; i++)
        k[i] = (keyed){getter_get(run, &g, l->v[i]), l->v[i]};
    if (!k || run->failed) return v;
    l = sorted(run, k, l->n, false);
    ap_jval last = ap_j_none();
    for (size_t i = 0; i < l->n && !run->failed; i++) {
        g.fold = fold;
        ap_jval key = getter_get(run, &g, l->v[i]);
        if (!group || !ap_j_equal(run, key, last)) {
            g.fold = false;
            group = ap_j_list_new(run, 0);
            ap_jlist *pair = ap_j_list_new(run, 2);
            ap_j_push(run, pair, getter_get(run, &g, l->v[i]));
            ap_j_push(run, pair, ap_j_listval(group, AP_J_LIST));
            ap_j_push(run, out, ap_j_listval(pair, AP_J_TUPLE));
            last = key;
        }
        ap_j_push(run, group, l->v[i]);
    }
    return ap_j_listval(out, AP_J_LIST);
}

/* ---------------------------------------------------------------- text */

static ap_jval cased(ap_jrun *run, ap_jval v, int how)
{
    return ap_j_strval(ap_j_case(run, ap_j_str(run, v), how));
}

#define CASE_FILTER(name, how)                                                                     \
    static ap_jval name(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)           \
    {                                                                                              \
        (void)a;                                                                                   \
        (void)args;                                                                                \
        return cased(run, v, how);                                                                 \
    }
CASE_FILTER(f_upper, AP_J_UPPER)
CASE_FILTER(f_lower, AP_J_LOWER)
CASE_FILTER(f_capitalize, AP_J_CAPITALIZE)

/* Jinja's own notion of a title: words begin behind white space and -({[<. */
static ap_jval f_title(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    const ap_jstr *s = ap_j_str(run, v);
    ap_jout o = {0};
    size_t n;
    ap_j_spend(run, s->len);
    for (size_t i = 0; i < s->len && !run->failed;) {
        size_t from = i;
        bool sep = false;
        for (; i < s->len; i += n) {
            uint32_t cp = ap_j_cp_at(s, i, &n);
            bool is_sep = ap_j_is_space(cp) || (cp && cp < 0x80 && strchr("-({[<", (int)cp));
            if (i == from)
                sep = is_sep;
            else if (sep != is_sep)
                break;
        }
        ap_j_cp_at(s, from, &n);
        const ap_jstr *head = ap_j_case(run, ap_j_sub(run, s, from, from + n), AP_J_UPPER);
        const ap_jstr *tail = ap_j_case(run, ap_j_sub(run, s, from + n, i), AP_J_LOWER);
        ap_j_put(run, &o, head->s, head->len);
        ap_j_put(run, &o, tail->s, tail->len);
    }
    return ap_j_strval(ap_j_take(run, &o));
}

static ap_jval f_trim(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    const ap_jstr *s = ap_j_str(run, v);
    if (!given(a[0]) || a[0].type == AP_J_NONE)
        return ap_j_strval(ap_j_strip(run, s, NULL, AP_J_LEFT | AP_J_RIGHT));
    if (a[0].type != AP_J_STR) return ap_j_fail(run, "trim wants a string of characters");
    return ap_j_strval(ap_j_strip(run, s, a[0].s, AP_J_LEFT | AP_J_RIGHT));
}

static ap_jval f_replace(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    int64_t count = -1;
    if (given(a[2]) && a[2].type != AP_J_NONE && !ap_j_as_int(a[2], &count))
        return ap_j_fail(run, "replace wants an integer count");
    return ap_j_strval(
        ap_j_replace(run, ap_j_str(run, v), ap_j_str(run, a[0]), ap_j_str(run, a[1]), count));
}

static ap_jval f_join(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    getter g;
    ap_jcursor c;
    ap_jval x;
    ap_jout o = {0};
    const ap_jstr *d = given(a[0]) ? ap_j_str(run, a[0]) : ap_j_borrow(run, "", 0);
    if (!getter_init(run, &g, a[1]) || !ap_j_iter_open(run, v, &c)) return v;
    for (bool more = false; ap_j_iter_next(run, &c, &x); more = true) {
        if (more) ap_j_put(run, &o, d->s, d->len);
        ap_j_put_str(run, &o, getter_get(run, &g, x));
    }
    return ap_j_strval(ap_j_take(run, &o));
}

static const ap_jstr *spaces(ap_jrun *run, ap_jval width)
{
    int64_t n;
    if (width.type == AP_J_STR) return width.s;
    if (!ap_j_as_int(width, &n)) {
        ap_j_fail(run, "a width is an integer or a string");
        n = 0;
    }
    return ap_j_pad(run, ap_j_borrow(run, "", 0), n, ' ', '>');
}

static ap_jval f_indent(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    const ap_jstr *by = spaces(run, given(a[0]) ? a[0] : ap_j_int(4));
    ap_jout o = {0};
    if (v.type != AP_J_STR) return ap_j_binary(run, AP_JT_ADD, v, ap_j_text(run, "\n"));
    ap_j_put(run, &o, v.s->s, v.s->len);
    ap_j_put(run, &o, "\n", 1);
    ap_jlist *l = ap_j_splitlines(run, ap_j_take(run, &o), false);
    for (size_t i = 0; i < l->n && !run->failed; i++) {
        if (i) ap_j_put(run, &o, "\n", 1);
        bool dent = i ? ap_j_truth(a[2]) || l->v[i].s->len : ap_j_truth(a[1]);
        if (dent) ap_j_put(run, &o, by->s, by->len);
        ap_j_put(run, &o, l->v[i].s->s, l->v[i].s->len);
    }
    return ap_j_strval(ap_j_take(run, &o));
}

static ap_jval f_center(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    int64_t width = 80;
    if (given(a[0]) && !ap_j_as_int(a[0], &width)) return ap_j_fail(run, "a width is an integer");
    return ap_j_strval(ap_j_pad(run, ap_j_str(run, v), width, ' ', '^'));
}

static ap_jval f_truncate(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    int64_t length = 255, leeway = 5;
    const ap_jstr *end = ap_j_borrow(run, "...", 3);
    if (given(a[2])) {
        if (a[2].type != AP_J_STR) return ap_j_fail(run, "truncate wants a string as its end");
        end = a[2].s;
    }
    if ((given(a[0]) && !ap_j_as_int(a[0], &length)) ||
        (given(a[3]) && a[3].type != AP_J_NONE && !ap_j_as_int(a[3], &leeway)) ||
        length < (int64_t)end->n_cp || leeway < 0)
        return ap_j_fail(run, "truncate wants a length that its end fits into");
    if (v.type != AP_J_STR) return ap_j_fail(run, "truncate wants a string");
    if ((int64_t)v.s->n_cp <= length || (int64_t)v.s->n_cp - length <= leeway) return v;
    const ap_jstr *s = ap_j_sub(run, v.s, 0, ap_j_byte_of(v.s, (size_t)length - end->n_cp));
    if (!ap_j_truth(a[1])) {
        size_t cut = ap_j_rfind(run, s, ap_j_borrow(run, " ", 1), 0, s->len);
        if (cut != SIZE_MAX) s = ap_j_sub(run, s, 0, cut);
    }
    return ap_j_binary(run, AP_JT_ADD, ap_j_strval(s), ap_j_strval(end));
}

static ap_jval f_wordcount(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    const ap_jstr *s = ap_j_str(run, v);
    int64_t count = 0;
    bool inside = false;
    size_t n;
    ap_j_spend(run, s->len / 2);
    for (size_t i = 0; i < s->len; i += n) {
        bool word = ap_j_is_word(ap_j_cp_at(s, i, &n));
        count += word && !inside;
        inside = word;
    }
    return ap_j_int(count);
}

static ap_jval marked(ap_jrun *run, const ap_jstr *s)
{
    ap_jstr *m = ap_j_alloc(run, 1, sizeof *m);
    if (!m) return ap_j_none();
    *m = *s;
    m->markup = true;
    return ap_j_strval(m);
}

static ap_jval f_safe(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    return marked(run, ap_j_str(run, v));
}

static ap_jval f_forceescape(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    ap_jout o = {0};
    const ap_jstr *s = ap_j_str(run, v);
    ap_j_put_escaped(run, &o, s->s, s->len);
    return marked(run, ap_j_take(run, &o));
}

static ap_jval f_escape(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    return v.type == AP_J_STR && v.s->markup ? v : f_forceescape(run, v, a, args);
}

static ap_jval f_string(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    return ap_j_strval(ap_j_str(run, v));
}

static ap_jval f_format(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    ap_jval with = ap_j_listval(ap_j_list_new(run, args->n), AP_J_TUPLE);
    if (args->n && args->n_kw)
        return ap_j_fail(run, "format takes positional or keyword arguments, not both");
    for (size_t i = 0; i < args->n; i++) ap_j_push(run, with.l, args->v[i]);
    if (args->n_kw) {
        with = (ap_jval){.type = AP_J_DICT, .d = ap_j_dict_new(run)};
        for (size_t i = 0; i < args->n_kw; i++)
            ap_j_dict_set(run, with.d, ap_j_strval(args->kw[i].name), args->kw[i].v);
    }
    return ap_j_percent(run, ap_j_str(run, v), with);
}

static ap_jval f_tojson(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    ap_jdump opt = {.ascii = given(a[0]) && ap_j_truth(a[0]), .sort_keys = ap_j_truth(a[3])};
    if (given(a[1]) && a[1].type != AP_J_NONE) {
        opt.has_indent = true;
        opt.indent = spaces(run, a[1]);
    }
    if (given(a[2]) && a[2].type != AP_J_NONE) {
        ap_jlist *l = ap_j_to_list(run, a[2]);
        if (run->failed) return v;
        if (l->n != 2 || l->v[0].type != AP_J_STR || l->v[1].type != AP_J_STR)
            return ap_j_fail(run, "separators are two strings");
        opt.item_sep = l->v[0].s;
        opt.key_sep = l->v[1].s;
    }
    ap_jout o = {0};
    ap_j_put_json(run, &o, v, &opt, 0);
    return ap_j_strval(ap_j_take(run, &o));
}

/* ---------------------------------------------------------------- numbers */

static ap_jval f_abs(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    int64_t i;
    if (v.type == AP_J_FLOAT) return ap_j_float(fabs(v.f));
    if (!ap_j_as_int(v, &i))
        return ap_j_fail(run, "bad operand type for abs(): '%s'", ap_j_type_name(v));
    if (i == INT64_MIN) return ap_j_fail(run, "an integer is beyond 64 bits");
    return ap_j_int(i < 0 ? -i : i);
}

/* A number as Python's int() and float() read it from text: underscores between digits, space
 * around. false: it is none. base 10 and others for integers, 0 for a float. */
static bool read_number(ap_jrun *run, const ap_jstr *s, int base, ap_jval *out)
{
    char buf[400];
    size_t n = 0;
    s = ap_j_strip(run, s, NULL, AP_J_LEFT | AP_J_RIGHT);
    if (!s->len || s->len >= sizeof buf || s->n_cp != s->len) return false;
    for (size_t i = 0; i < s->len; i++) {
        char c = s->s[i];
        bool digit = i + 1 < s->len && i > 0 && strchr("0123456789abcdefABCDEF", s->s[i - 1]) &&
                     strchr("0123456789abcdefABCDEF", s->s[i + 1]) && s->s[i - 1] && s->s[i + 1];
        if (c == '_' && digit) continue;
        if (c == 0 || c == '_' || ap_j_is_space((uint8_t)c)) return false;
        buf[n++] = c;
    }
    buf[n] = 0;
    char *p = buf + (buf[0] == '-' || buf[0] == '+'), *end;
    bool minus = buf[0] == '-';
    if (base) {
        int64_t r = 0;
        if (p[0] == '0' && p[1] &&
            ((base == 16 && (p[1] | 32) == 'x') || (base == 8 && (p[1] | 32) == 'o') ||
             (base == 2 && (p[1] | 32) == 'b')))
            p += 2;
        if (!*p) return false;
        for (; *p; p++) {
            int d = *p >= '0' && *p <= '9'                 ? *p - '0'
                    : (*p | 32) >= 'a' && (*p | 32) <= 'z' ? (*p | 32) - 'a' + 10
                                                           : 99;
            if (d >= base) return false;
            if (__builtin_mul_overflow(r, base, &r) ||
                __builtin_add_overflow(r, minus ? -d : d, &r)) {
                ap_j_fail(run, "an integer is beyond 64 bits");
                return true;
            }
        }
        *out = ap_j_int(r);
        return true;
    }
    static const char *const special[] = {"inf", "infinity", "nan"};
    for (int i = 0; i < 3; i++) {
        size_t k = 0;
        while (special[i][k] && (p[k] | 32) == special[i][k]) k++;
        if (special[i][k] || p[k]) continue;
        *out = ap_j_float(i == 2 ? (double)NAN : minus ? -(double)INFINITY : (double)INFINITY);
        return true;
    }
    if (strspn(p, "0123456789.eE+-") != strlen(p) || !strpbrk(p, "0123456789")) return false;
    for (char *q = p; *q; q++)
        if (*q == '.') *q = localeconv()->decimal_point[0];
    double f = strtod(p, &end);
    if (*end || p == end) return false;
    *out = ap_j_float(minus ? -f : f);
    return true;
}

static ap_jval float_to_int(ap_jrun *run, double f, bool *ok)
{
    *ok = !isnan(f) && !isinf(f);
    if (!*ok) return ap_j_none();
    f = trunc(f);
    if (f >= 9223372036854775808.0 || f < -9223372036854775808.0)
        return ap_j_fail(run, "an integer is beyond 64 bits");
    return ap_j_int((int64_t)f);
}

static ap_jval f_int(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    ap_jval fallback = given(a[0]) ? a[0] : ap_j_int(0), r = v;
    int64_t base = 10, i;
    bool ok;
    if (given(a[1]) && (!ap_j_as_int(a[1], &base) || base < 2 || base > 36))
        return ap_j_fail(run, "a base is between 2 and 36");
    if (ap_j_as_int(v, &i)) return ap_j_int(i);
    if (v.type == AP_J_BIG) return v;
    if (v.type == AP_J_UNDEF) return ap_j_binary(run, AP_JT_ADD, v, v);
    if (v.type == AP_J_STR) {
        if (read_number(run, v.s, (int)base, &r)) return r;
        if (!read_number(run, v.s, 0, &v)) return fallback;
    }
    if (v.type != AP_J_FLOAT) return fallback;
    r = float_to_int(run, v.f, &ok);
    return ok ? r : fallback;
}

static ap_jval f_float(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    ap_jval fallback = given(a[0]) ? a[0] : ap_j_float(0), r;
    if (ap_j_is_num(v)) return ap_j_float(ap_j_as_double(v));
    if (v.type == AP_J_UNDEF) return ap_j_binary(run, AP_JT_ADD, v, v);
    return v.type == AP_J_STR && read_number(run, v.s, 0, &r) ? r : fallback;
}

ap_jval ap_j_round(ap_jrun *run, ap_jval v, int64_t digits, bool has_digits)
{
    bool ok;
    if (ap_j_is_num(v) && v.type != AP_J_FLOAT) {
        int64_t i, p = 1;
        if (digits >= 0 || !ap_j_as_int(v, &i)) return v.type == AP_J_BOOL ? ap_j_int(v.b) : v;
        for (; digits < 0; digits++)
            if (__builtin_mul_overflow(p, 10, &p)) return ap_j_int(0);
        int64_t r = i % p;
        i -= r;
        int64_t twice = r < 0 ? -r : r;
        bool up = twice > p - twice || (twice == p - twice && (i / p) % 2 != 0);
        if (up && __builtin_add_overflow(i, r < 0 ? -p : p, &i))
            return ap_j_fail(run, "an integer is beyond 64 bits");
        return ap_j_int(i);
    }
    if (v.type != AP_J_FLOAT)
        return ap_j_fail(run, "type %s doesn't define __round__ method", ap_j_type_name(v));
    if (!has_digits) {
        ap_jval r = float_to_int(run, nearbyint(v.f), &ok);
        return ok ? r : ap_j_fail(run, "cannot convert this float to an integer");
    }
    if (isnan(v.f) || isinf(v.f) || digits > 323) return v;
    if (digits < -308) return ap_j_float(copysign(0, v.f));
    char buf[700];
    if (digits >= 0) {
        /* Correct rounding of the exact binary value, halves to even, is what printf does. */
        snprintf(buf, sizeof buf, "%.*f", (int)digits, v.f);
        return ap_j_float(strtod(buf, NULL));
    }
    double p = pow(10, (double)-digits);
    return ap_j_float(nearbyint(v.f / p) * p);
}

static ap_jval f_round(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    int64_t digits = 0;
    bool ceil_ = a[1].type == AP_J_STR && ap_j_str_is(a[1].s, "ceil");
    bool floor_ = a[1].type == AP_J_STR && ap_j_str_is(a[1].s, "floor");
    bool none = a[0].type == AP_J_NONE;
    if (given(a[0]) && !none && !ap_j_as_int(a[0], &digits))
        return ap_j_fail(run, "round wants an integer precision");
    if (given(a[1]) && !ceil_ && !floor_ &&
        !(a[1].type == AP_J_STR && ap_j_str_is(a[1].s, "common")))
        return ap_j_fail(run, "method must be common, ceil or floor");
    if (!ceil_ && !floor_) return ap_j_round(run, v, digits, !none);
    if (!ap_j_is_num(v)) return ap_j_fail(run, "'%s' cannot be rounded", ap_j_type_name(v));
    double p = pow(10, (double)digits), f = ap_j_as_double(v) * p;
    return ap_j_float((ceil_ ? ceil(f) : floor(f)) / p);
}

static ap_jval f_sum(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    getter g;
    ap_jcursor c;
    ap_jval x, r = given(a[1]) ? a[1] : ap_j_int(0);
    if (r.type == AP_J_STR) return ap_j_fail(run, "sum() can't sum strings");
    if (!getter_init(run, &g, a[0]) || !ap_j_iter_open(run, v, &c)) return v;
    while (ap_j_iter_next(run, &c, &x)) r = ap_j_binary(run, AP_JT_ADD, r, getter_get(run, &g, x));
    return r;
}

/* ---------------------------------------------------------------- sequences */

static ap_jval f_default(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    if (v.type == AP_J_UNDEF || (given(a[1]) && ap_j_truth(a[1]) && !ap_j_truth(v)))
        return given(a[0]) ? a[0] : ap_j_text(run, "");
    return v;
}

static ap_jval f_length(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    size_t n;
    if (v.type == AP_J_LOOP) return ap_j_loop_attr(run, v.loop, ap_j_borrow(run, "length", 6));
    if (!ap_j_len(v, &n))
        return ap_j_fail(run, "object of type '%s' has no len()", ap_j_type_name(v));
    return ap_j_int((int64_t)n);
}

static ap_jval f_list(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    return ap_j_listval(ap_j_to_list(run, v), AP_J_LIST);
}

static ap_jval f_items(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    if (v.type == AP_J_UNDEF) return ap_j_iterval(run, ap_j_list_new(run, 0));
    if (v.type != AP_J_DICT) return ap_j_fail(run, "Can only get item pairs from a mapping.");
    ap_jval view = {.type = AP_J_VIEW, .sub = AP_J_ITEMS, .d = v.d};
    return ap_j_iterval(run, ap_j_to_list(run, view));
}

static ap_jval f_first(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    ap_jcursor c;
    ap_jval x;
    if (!ap_j_iter_open(run, v, &c) || !ap_j_iter_next(run, &c, &x))
        return ap_j_undef(AP_J_NO_VALUE, NULL);
    return x;
}

static bool reversible(ap_jval v)
{
    return v.type != AP_J_ITER && ap_j_is_iterable(v);
}

static ap_jval f_last(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    if (!reversible(v)) return ap_j_fail(run, "'%s' object is not reversible", ap_j_type_name(v));
    ap_jlist *l = ap_j_to_list(run, v);
    return l->n ? l->v[l->n - 1] : ap_j_undef(AP_J_NO_VALUE, NULL);
}

static ap_jval f_reverse(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    (void)args;
    if (v.type == AP_J_STR) return ap_j_slice(run, v, ap_j_none(), ap_j_none(), ap_j_int(-1));
    ap_jlist *l = ap_j_to_list(run, v), *r = ap_j_list_new(run, l->n);
    for (size_t i = l->n; i-- > 0 && !run->failed;) ap_j_push(run, r, l->v[i]);
    /* reversed() of an iterator does not exist, so Jinja makes that a list. */
    return v.type == AP_J_ITER ? ap_j_listval(r, AP_J_LIST) : ap_j_iterval(run, r);
}

static ap_jval f_batch(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    ap_jcursor c;
    ap_jval x;
    int64_t n;
    ap_jlist *out = ap_j_list_new(run, 0), *row = NULL;
    if (!ap_j_as_int(a[0], &n)) return ap_j_fail(run, "batch wants an integer");
    if (!ap_j_iter_open(run, v, &c)) return v;
    while (ap_j_iter_next(run, &c, &x)) {
        if (!row || (int64_t)row->n == n) {
            row = ap_j_list_new(run, 0);
            ap_j_push(run, out, ap_j_listval(row, AP_J_LIST));
        }
        ap_j_push(run, row, x);
    }
    if (row && given(a[1]) && a[1].type != AP_J_NONE)
        while ((int64_t)row->n < n && !run->failed) ap_j_push(run, row, a[1]);
    return ap_j_iterval(run, out);
}

static ap_jval f_slice(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    int64_t n;
    ap_jlist *l = ap_j_to_list(run, v), *out = ap_j_list_new(run, 0);
    if (!ap_j_as_int(a[0], &n) || n < 1) return ap_j_fail(run, "slice wants a positive integer");
    int64_t each = (int64_t)l->n / n, extra = (int64_t)l->n % n, at = 0;
    for (int64_t i = 0; i < n && !run->failed; i++) {
        int64_t take = each + (i < extra);
        ap_jlist *row = ap_j_list_new(run, 0);
        for (int64_t k = 0; k < take && !run->failed; k++) ap_j_push(run, row, l->v[at++]);
        if (given(a[1]) && a[1].type != AP_J_NONE && i >= extra) ap_j_push(run, row, a[1]);
        ap_j_push(run, out, ap_j_listval(row, AP_J_LIST));
    }
    return ap_j_iterval(run, out);
}

static ap_jval f_attr(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)args;
    if (a[0].type != AP_J_STR) return ap_j_fail(run, "attr wants a name");
    ap_jval r = ap_j_attr(run, v, a[0].s);
    if (v.type != AP_J_DICT || run->failed) return r;
    return r.type == AP_J_METHOD ? r : ap_j_undef(AP_J_NO_ATTR, a[0].s); /* never an item */
}

static ap_jval f_map(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    ap_jcursor c;
    ap_jval x, b[8];
    ap_jlist *l = ap_j_list_new(run, 0);
    getter g;
    ap_jargs rest = *args;
    if (!ap_j_truth(v)) return ap_j_iterval(run, l);
    bool attribute = args->n == 0 && args->n_kw;
    if (attribute) {
        if (!ap_j_bind(run, "map", "attribute,default", 1, args, b) || !getter_init(run, &g, b[0]))
            return v;
        g.fallback = b[1];
    } else {
        if (!args->n || args->v[0].type != AP_J_STR)
            return ap_j_fail(run, "map requires a filter argument");
        rest.v++;
        rest.n--;
    }
    if (!ap_j_iter_open(run, v, &c)) return v;
    while (ap_j_iter_next(run, &c, &x))
        ap_j_push(run, l,
                  attribute ? getter_get(run, &g, x) : ap_j_filter(run, args->v[0].s, x, &rest));
    return ap_j_iterval(run, l);
}

static ap_jval choose(ap_jrun *run, ap_jval v, const ap_jargs *args, bool reject, bool by_attr)
{
    ap_jcursor c;
    ap_jval x;
    ap_jlist *l = ap_j_list_new(run, 0);
    getter g = {.n = 0};
    ap_jargs rest = *args;
    const ap_jstr *test = NULL;
    if (!ap_j_truth(v)) return ap_j_iterval(run, l);
    if (by_attr) {
        if (!args->n) return ap_j_fail(run, "Missing parameter for attribute name");
        if (!getter_init(run, &g, args->v[0])) return v;
        rest.v++;
        rest.n--;
    }
    if (rest.n) {
        if (rest.v[0].type != AP_J_STR) return ap_j_fail(run, "the name of a test is a string");
        test = rest.v[0].s;
        rest.v++;
        rest.n--;
    }
    if (!ap_j_iter_open(run, v, &c)) return v;
    while (ap_j_iter_next(run, &c, &x)) {
        ap_jval probe = by_attr ? getter_get(run, &g, x) : x;
        bool yes = test ? ap_j_test(run, test, probe, &rest) : ap_j_truth(probe);
        if (yes != reject) ap_j_push(run, l, x);
    }
    return ap_j_iterval(run, l);
}

static ap_jval f_select(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    return choose(run, v, args, false, false);
}

static ap_jval f_reject(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    return choose(run, v, args, true, false);
}

static ap_jval f_selectattr(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    return choose(run, v, args, false, true);
}

static ap_jval f_rejectattr(ap_jrun *run, ap_jval v, const ap_jval *a, const ap_jargs *args)
{
    (void)a;
    return choose(run, v, args, true, true);
}

/* ---------------------------------------------------------------- the table */

static const struct filter {
    const char *name;
    filter_fn fn;
    const char *params; /* NULL: the function takes them as they come */
    int required;
} filters[] = {
    {"abs", f_abs, "", 0},
    {"attr", f_attr, "name", 1},
    {"batch", f_batch, "linecount,fill_with", 1},
    {"capitalize", f_capitalize, "", 0},
    {"center", f_center, "width", 0},
    {"count", f_length, "", 0},
    {"d", f_default, "default_value,boolean", 0},
    {"default", f_default, "default_value,boolean", 0},
    {"dictsort", f_dictsort, "case_sensitive,by,reverse", 0},
    {"e", f_escape, "", 0},
    {"escape", f_escape, "", 0},
    {"first", f_first, "", 0},
    {"float", f_float, "default", 0},
    {"forceescape", f_forceescape, "", 0},
    {"format", f_format, NULL, 0},
    {"groupby", f_groupby, "attribute,default,case_sensitive", 1},
    {"indent", f_indent, "width,first,blank", 0},
    {"int", f_int, "default,base", 0},
    {"items", f_items, "", 0},
    {"join", f_join, "d,attribute", 0},
    {"last", f_last, "", 0},
    {"length", f_length, "", 0},
    {"list", f_list, "", 0},
    {"lower", f_lower, "", 0},
    {"map", f_map, NULL, 0},
    {"max", f_max, "case_sensitive,attribute", 0},
    {"min", f_min, "case_sensitive,attribute", 0},
    {"reject", f_reject, NULL, 0},
    {"rejectattr", f_rejectattr, NULL, 0},
    {"replace", f_replace, "old,new,count", 2},
    {"reverse", f_reverse, "", 0},
    {"round", f_round, "precision,method", 0},
    {"safe", f_safe, "", 0},
    {"select", f_select, NULL, 0},
    {"selectattr", f_selectattr, NULL, 0},
    {"slice", f_slice, "slices,fill_with", 1},
    {"sort", f_sort, "reverse,case_sensitive,attribute", 0},
    {"string", f_string, "", 0},
    {"sum", f_sum, "attribute,start", 0},
    {"title", f_title, "", 0},
    {"tojson", f_tojson, "ensure_ascii,indent,separators,sort_keys", 0},
    {"trim", f_trim, "chars", 0},
    {"truncate", f_truncate, "length,killwords,end,leeway", 0},
    {"unique", f_unique, "case_sensitive,attribute", 0},
    {"upper", f_upper, "", 0},
    {"wordcount", f_wordcount, "", 0},
};

static const struct filter *find(const ap_jstr *name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (ap_j_str_is(name, filters[i].name)) return &filters[i];
    return NULL;
}

bool ap_j_filter_exists(const ap_jstr *name)
{
    return find(name) != NULL;
}

ap_jval ap_j_filter(ap_jrun *run, const ap_jstr *name, ap_jval v, const ap_jargs *args)
{
    ap_jval a[8] = {{0}};
    const struct filter *f = find(name);
    if (!ap_j_enter(run)) return v;
    if (!f)
        v = ap_j_fail(run, "there is no filter '%.*s'", (int)name->len, name->s);
    else if (!f->params)
        v = f->fn(run, v, NULL, args);
    else if (ap_j_bind(run, f->name, f->params, f->required, args, a))
        v = f->fn(run, v, a, args);
    ap_j_leave(run);
    return v;
}
