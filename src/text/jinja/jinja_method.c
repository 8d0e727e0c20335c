/* jinja_method.c - the methods of strings, lists and dicts. */
#include <string.h>

#include "text/jinja/jinja.h"

enum { OF_STR = 1, OF_LIST = 2, OF_TUPLE = 4, OF_DICT = 8, UNSAFE = 16 };

static const struct {
    const char *name;
    int of;
} methods[] = {
    {"append", OF_LIST | UNSAFE},
    {"capitalize", OF_STR},
    {"casefold", OF_STR},
    {"center", OF_STR},
    {"clear", OF_LIST | OF_DICT | UNSAFE},
    {"copy", OF_LIST | OF_DICT},
    {"count", OF_STR | OF_LIST | OF_TUPLE},
    {"endswith", OF_STR},
    {"expandtabs", OF_STR},
    {"extend", OF_LIST | UNSAFE},
    {"find", OF_STR},
    {"format", OF_STR},
    {"get", OF_DICT},
    {"index", OF_STR | OF_LIST | OF_TUPLE},
    {"insert", OF_LIST | UNSAFE},
    {"isalnum", OF_STR},
    {"isalpha", OF_STR},
    {"isascii", OF_STR},
    {"isdecimal", OF_STR},
    {"isdigit", OF_STR},
    {"isidentifier", OF_STR},
    {"islower", OF_STR},
    {"isnumeric", OF_STR},
    {"isspace", OF_STR},
    {"istitle", OF_STR},
    {"isupper", OF_STR},
    {"items", OF_DICT},
    {"join", OF_STR},
    {"keys", OF_DICT},
    {"ljust", OF_STR},
    {"lower", OF_STR},
    {"lstrip", OF_STR},
    {"partition", OF_STR},
    {"pop", OF_LIST | OF_DICT | UNSAFE},
    {"popitem", OF_DICT | UNSAFE},
    {"remove", OF_LIST | UNSAFE},
    {"removeprefix", OF_STR},
    {"removesuffix", OF_STR},
    {"replace", OF_STR},
    {"reverse", OF_LIST | UNSAFE},
    {"rfind", OF_STR},
    {"rindex", OF_STR},
    {"rjust", OF_STR},
    {"rpartition", OF_STR},
    {"rsplit", OF_STR},
    {"rstrip", OF_STR},
    {"setdefault", OF_DICT | UNSAFE},
    {"sort", OF_LIST | UNSAFE},
    {"split", OF_STR},
    {"splitlines", OF_STR},
    {"startswith", OF_STR},
    {"strip", OF_STR},
    {"swapcase", OF_STR},
    {"title", OF_STR},
    {"update", OF_DICT | UNSAFE},
    {"upper", OF_STR},
    {"values", OF_DICT},
    {"zfill", OF_STR},
};

const char *ap_j_method_name(ap_jval v, const ap_jstr *name, bool *unsafe)
{
    int of = v.type == AP_J_STR     ? OF_STR
             : v.type == AP_J_LIST  ? OF_LIST
             : v.type == AP_J_TUPLE ? OF_TUPLE
             : v.type == AP_J_DICT  ? OF_DICT
                                    : 0;
    *unsafe = false;
    for (size_t i = 0; of && i < sizeof methods / sizeof *methods; i++) {
        if (!(methods[i].of & of) || !ap_j_str_is(name, methods[i].name)) continue;
        *unsafe = methods[i].of & UNSAFE;
        return *unsafe ? NULL : methods[i].name;
    }
    return NULL;
}

static bool is(const ap_jmethod *m, const char *name)
{
    return strcmp(m->name, name) == 0;
}

static ap_jval wrong(ap_jrun *run, const ap_jmethod *m, ap_jval v, const char *wanted)
{
    return ap_j_fail(run, "%s() wants %s, not %s", m->name, wanted, ap_j_type_name(v));
}

/* Bounds [from, to) in characters, as optional arguments, to bytes. */
static bool window(ap_jrun *run, const ap_jmethod *m, const ap_jval *a, size_t *from, size_t *to)
{
    const ap_jstr *s = m->self.s;
    int64_t len = (int64_t)s->n_cp, b[2] = {0, len};
    for (int i = 0; i < 2; i++) {
        if (ap_j_absent(a[i]) || a[i].type == AP_J_NONE) continue;
        if (!ap_j_as_int(a[i], &b[i])) {
            wrong(run, m, a[i], "integers");
            return false;
        }
        if (b[i] < 0) b[i] = b[i] < -len ? 0 : b[i] + len;
    }
    bool past = b[0] > len; /* even an empty string is not found there */
    if (b[1] > len) b[1] = len;
    *from = ap_j_byte_of(s, (size_t)b[0]) + past;
    *to = ap_j_byte_of(s, (size_t)b[1]);
    return true;
}

static ap_jval find(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    size_t from, to, hit = SIZE_MAX;
    const ap_jstr *s = m->self.s;
    if (!ap_j_bind(run, m->name, "sub,start,end", 1, args, a) || args->n_kw) return ap_j_none();
    if (a[0].type != AP_J_STR) return wrong(run, m, a[0], "a string");
    if (!window(run, m, a + 1, &from, &to)) return ap_j_none();
    if (from <= to && is(m, "count")) {
        int64_t n = 0;
        const ap_jstr *part = ap_j_sub(run, s, from, to);
        if (a[0].s->len == 0) return ap_j_int((int64_t)part->n_cp + 1);
        for (size_t at = 0; (at = ap_j_find(run, part, a[0].s, at)) != SIZE_MAX; at += a[0].s->len)
            n++;
        return ap_j_int(n);
    }
    if (is(m, "count")) return ap_j_int(0);
    if (from <= to && m->name[0] == 'r') {
        hit = ap_j_rfind(run, s, a[0].s, from, to);
    } else if (from <= to) {
        hit = ap_j_find(run, s, a[0].s, from);
        if (hit != SIZE_MAX && hit + a[0].s->len > to) hit = SIZE_MAX;
    }
    if (hit == SIZE_MAX)
        return is(m, "find") || is(m, "rfind") ? ap_j_int(-1)
                                               : ap_j_fail(run, "substring not found");
    return ap_j_int((int64_t)ap_j_sub(run, s, 0, hit)->n_cp);
}

static bool has_end(const ap_jstr *s, const ap_jstr *end, size_t from, size_t to, bool at_start)
{
    if (from > to || to - from < end->len) return false;
    return end->len == 0 || !memcmp(s->s + (at_start ? from : to - end->len), end->s, end->len);
}

static ap_jval with_end(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    size_t from, to;
    bool start = is(m, "startswith");
    if (!ap_j_bind(run, m->name, "prefix,start,end", 1, args, a)) return ap_j_none();
    if (!window(run, m, a + 1, &from, &to)) return ap_j_none();
    if (a[0].type == AP_J_STR) return ap_j_bool(has_end(m->self.s, a[0].s, from, to, start));
    if (a[0].type != AP_J_TUPLE) return wrong(run, m, a[0], "a string or a tuple of strings");
    for (size_t i = 0; i < a[0].l->n && ap_j_spend(run, 1); i++) {
        if (a[0].l->v[i].type != AP_J_STR) return wrong(run, m, a[0].l->v[i], "strings");
        if (has_end(m->self.s, a[0].l->v[i].s, from, to, start)) return ap_j_bool(true);
    }
    return ap_j_bool(false);
}

static ap_jval strip(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    int sides = m->name[0] == 'l'   ? AP_J_LEFT
                : m->name[0] == 'r' ? AP_J_RIGHT
                                    : AP_J_LEFT | AP_J_RIGHT;
    if (!ap_j_bind(run, m->name, "chars", 0, args, a)) return ap_j_none();
    if (ap_j_absent(a[0]) || a[0].type == AP_J_NONE)
        return ap_j_strval(ap_j_strip(run, m->self.s, NULL, sides));
    if (a[0].type != AP_J_STR) return wrong(run, m, a[0], "a string");
    return ap_j_strval(ap_j_strip(run, m->self.s, a[0].s, sides));
}

static ap_jval split(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    int64_t max = -1;
    const ap_jstr *sep = NULL;
    if (!ap_j_bind(run, m->name, "sep,maxsplit", 0, args, a)) return ap_j_none();
    if (a[0].type == AP_J_STR)
        sep = a[0].s;
    else if (!ap_j_absent(a[0]) && a[0].type != AP_J_NONE)
        return wrong(run, m, a[0], "a string");
    if (!ap_j_absent(a[1]) && !ap_j_as_int(a[1], &max)) return wrong(run, m, a[1], "an integer");
    return ap_j_listval(is(m, "split") ? ap_j_split(run, m->self.s, sep, max)
                                       : ap_j_rsplit(run, m->self.s, sep, max),
                        AP_J_LIST);
}

static ap_jval partition(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8], empty = ap_j_text(run, "");
    const ap_jstr *s = m->self.s;
    bool right = is(m, "rpartition");
    if (!ap_j_bind(run, m->name, "sep", 1, args, a)) return ap_j_none();
    if (a[0].type != AP_J_STR) return wrong(run, m, a[0], "a string");
    if (!a[0].s->len) return ap_j_fail(run, "empty separator");
    size_t hit = right ? ap_j_rfind(run, s, a[0].s, 0, s->len) : ap_j_find(run, s, a[0].s, 0);
    ap_jlist *l = ap_j_list_new(run, 3);
    if (hit == SIZE_MAX) {
        ap_j_push(run, l, right ? empty : m->self);
        ap_j_push(run, l, empty);
        ap_j_push(run, l, right ? m->self : empty);
    } else {
        ap_j_push(run, l, ap_j_strval(ap_j_sub(run, s, 0, hit)));
        ap_j_push(run, l, a[0]);
        ap_j_push(run, l, ap_j_strval(ap_j_sub(run, s, hit + a[0].s->len, s->len)));
    }
    return ap_j_listval(l, AP_J_TUPLE);
}

static ap_jval join(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8], x;
    ap_jcursor c;
    ap_jout o = {0};
    if (!ap_j_bind(run, m->name, "iterable", 1, args, a) || !ap_j_iter_open(run, a[0], &c))
        return ap_j_none();
    for (bool more = false; ap_j_iter_next(run, &c, &x); more = true) {
        if (x.type != AP_J_STR) {
            wrong(run, m, x, "strings");
            break;
        }
        if (more) ap_j_put(run, &o, m->self.s->s, m->self.s->len);
        ap_j_put(run, &o, x.s->s, x.s->len);
    }
    return ap_j_strval(ap_j_take(run, &o));
}

static ap_jval replace(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    int64_t count = -1;
    if (!ap_j_bind(run, m->name, "old,new,count", 2, args, a)) return ap_j_none();
    for (int i = 0; i < 2; i++)
        if (a[i].type != AP_J_STR) return wrong(run, m, a[i], "strings");
    if (!ap_j_absent(a[2]) && !ap_j_as_int(a[2], &count)) return wrong(run, m, a[2], "an integer");
    return ap_j_strval(ap_j_replace(run, m->self.s, a[0].s, a[1].s, count));
}

static ap_jval remove_end(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    const ap_jstr *s = m->self.s;
    bool start = is(m, "removeprefix");
    if (!ap_j_bind(run, m->name, "prefix", 1, args, a)) return ap_j_none();
    if (a[0].type != AP_J_STR) return wrong(run, m, a[0], "a string");
    size_t n = a[0].s->len;
    if (!n || !has_end(s, a[0].s, 0, s->len, start)) return m->self;
    return ap_j_strval(start ? ap_j_sub(run, s, n, s->len) : ap_j_sub(run, s, 0, s->len - n));
}

static ap_jval pad(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    int64_t width;
    uint32_t fill = ' ';
    size_t n;
    const ap_jstr *s = m->self.s;
    if (!ap_j_bind(run, m->name, "width,fillchar", 1, args, a)) return ap_j_none();
    if (!ap_j_as_int(a[0], &width)) return wrong(run, m, a[0], "an integer");
    if (!ap_j_absent(a[1])) {
        if (a[1].type != AP_J_STR || a[1].s->n_cp != 1) return wrong(run, m, a[1], "one character");
        fill = ap_j_cp_at(a[1].s, 0, &n);
    }
    if (is(m, "zfill")) {
        bool sign = s->len && (s->s[0] == '-' || s->s[0] == '+');
        const ap_jstr *rest = ap_j_sub(run, s, sign, s->len);
        ap_jout o = {0};
        if (sign) ap_j_put(run, &o, s->s, 1);
        rest = ap_j_pad(run, rest, width - sign, '0', '>');
        ap_j_put(run, &o, rest->s, rest->len);
        return ap_j_strval(ap_j_take(run, &o));
    }
    return ap_j_strval(ap_j_pad(run, s, width, fill,
                                m->name[0] == 'l'   ? '<'
                                : m->name[0] == 'r' ? '>'
                                                    : '^'));
}

static ap_jval expand_tabs(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    int64_t size = 8, column = 0;
    ap_jout o = {0};
    size_t n;
    if (!ap_j_bind(run, m->name, "tabsize", 0, args, a)) return ap_j_none();
    if (!ap_j_absent(a[0]) && !ap_j_as_int(a[0], &size)) return wrong(run, m, a[0], "an integer");
    for (size_t i = 0; i < m->self.s->len && !run->failed; i += n) {
        uint32_t cp = ap_j_cp_at(m->self.s, i, &n);
        if (cp == '\t') {
            for (int64_t k = size > 0 ? size - column % size : 0; k > 0 && !run->failed;
                 k--, column++)
                ap_j_put(run, &o, " ", 1);
            continue;
        }
        ap_j_put(run, &o, m->self.s->s + i, n);
        column = cp == '\n' || cp == '\r' ? 0 : column + 1;
    }
    return ap_j_strval(ap_j_take(run, &o));
}

static ap_jval str_method(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    static const struct {
        const char *name;
        int how;
    } cases[] = {{"lower", AP_J_LOWER},           {"upper", AP_J_UPPER},
                 {"capitalize", AP_J_CAPITALIZE}, {"title", AP_J_TITLE},
                 {"swapcase", AP_J_SWAPCASE},     {"casefold", AP_J_CASEFOLD}};
    ap_jval a[8];
    const char *n = m->name;
    if (is(m, "format")) return ap_j_format(run, m->self.s, args);
    if (args->n_kw && !is(m, "split") && !is(m, "rsplit") && !is(m, "splitlines") &&
        !is(m, "expandtabs"))
        return ap_j_fail(run, "%s() takes no keyword arguments", n);
    if (is(m, "split") || is(m, "rsplit")) return split(run, m, args);
    if (is(m, "strip") || is(m, "lstrip") || is(m, "rstrip")) return strip(run, m, args);
    if (is(m, "startswith") || is(m, "endswith")) return with_end(run, m, args);
    if (is(m, "replace")) return replace(run, m, args);
    if (is(m, "join")) return join(run, m, args);
    if (is(m, "partition") || is(m, "rpartition")) return partition(run, m, args);
    if (is(m, "find") || is(m, "rfind") || is(m, "index") || is(m, "rindex") || is(m, "count"))
        return find(run, m, args);
    if (is(m, "removeprefix") || is(m, "removesuffix")) return remove_end(run, m, args);
    if (is(m, "center") || is(m, "ljust") || is(m, "rjust") || is(m, "zfill"))
        return pad(run, m, args);
    if (is(m, "expandtabs")) return expand_tabs(run, m, args);
    if (is(m, "splitlines")) {
        if (!ap_j_bind(run, n, "keepends", 0, args, a)) return ap_j_none();
        return ap_j_listval(ap_j_splitlines(run, m->self.s, ap_j_truth(a[0])), AP_J_LIST);
    }
    if (args->n) return ap_j_fail(run, "%s() takes no arguments (%zu given)", n, args->n);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (is(m, cases[i].name)) return ap_j_strval(ap_j_case(run, m->self.s, cases[i].how));
    ap_j_spend(run, m->self.s->len / 8);
    return ap_j_bool(ap_j_str_class(m->self.s, n + 2)); /* is... */
}

static ap_jval list_method(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    const ap_jlist *l = m->self.l;
    if (is(m, "copy")) {
        if (!ap_j_bind(run, m->name, "", 0, args, a)) return ap_j_none();
        return ap_j_listval(ap_j_to_list(run, m->self), AP_J_LIST);
    }
    if (!ap_j_bind(run, m->name, "value,start,stop", 1, args, a)) return ap_j_none();
    int64_t n = 0, from = 0, to = (int64_t)l->n;
    if (!ap_j_absent(a[1]) && !ap_j_as_int(a[1], &from)) return wrong(run, m, a[1], "an integer");
    if (!ap_j_absent(a[2]) && !ap_j_as_int(a[2], &to)) return wrong(run, m, a[2], "an integer");
    if (from < 0) from = from < -(int64_t)l->n ? 0 : from + (int64_t)l->n;
    if (to < 0) to += (int64_t)l->n;
    if (is(m, "count") && (!ap_j_absent(a[1]) || args->n_kw))
        return wrong(run, m, a[1], "one value");
    for (int64_t i = from; i < to && i < (int64_t)l->n && ap_j_spend(run, 1); i++) {
        if (!ap_j_equal(run, l->v[i], a[0])) continue;
        if (is(m, "index")) return ap_j_int(i);
        n++;
    }
    return is(m, "count") ? ap_j_int(n) : ap_j_fail(run, "the value is not in the list");
}

static ap_jval dict_method(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jval a[8];
    bool bad;
    ap_jval view = {.type = AP_J_VIEW, .d = m->self.d};
    if (is(m, "get")) {
        if (args->n_kw) return ap_j_fail(run, "get() takes no keyword arguments");
        if (!ap_j_bind(run, m->name, "key,default", 1, args, a)) return ap_j_none();
        const ap_jval *v = ap_j_dict_get(run, m->self.d, a[0], &bad);
        if (bad) return ap_j_fail(run, "unhashable type: '%s'", ap_j_type_name(a[0]));
        return v ? *v : ap_j_absent(a[1]) ? ap_j_none() : a[1];
    }
    if (!ap_j_bind(run, m->name, "", 0, args, a)) return ap_j_none();
    if (is(m, "copy")) {
        ap_jdict *d = ap_j_dict_new(run);
        for (size_t i = 0; i < m->self.d->n && !run->failed; i++)
            ap_j_dict_set(run, d, m->self.d->k[i], m->self.d->v[i]);
        return (ap_jval){.type = AP_J_DICT, .d = d};
    }
    view.sub = is(m, "keys") ? AP_J_KEYS : is(m, "values") ? AP_J_VALUES : AP_J_ITEMS;
    return view;
}

static ap_jval loop_method(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    ap_jloop *loop = m->self.loop;
    if (args->n_kw) return ap_j_fail(run, "%s() takes no keyword arguments", m->name);
    if (is(m, "cycle"))
        return args->n ? args->v[loop->index0 % args->n]
                       : ap_j_fail(run, "no items for cycling given");
    ap_jlist *l = ap_j_list_new(run, args->n);
    for (size_t i = 0; i < args->n; i++) ap_j_push(run, l, args->v[i]);
    ap_jval now = ap_j_listval(l, AP_J_TUPLE);
    bool same = loop->has_changed && ap_j_equal(run, loop->last_changed, now);
    if (!run->failed) {
        loop->has_changed = true;
        loop->last_changed = now;
    }
    return ap_j_bool(!same);
}

ap_jval ap_j_call_method(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args)
{
    if (!ap_j_spend(run, 1)) return ap_j_none();
    switch (m->self.type) {
    case AP_J_STR:
        return str_method(run, m, args);
    case AP_J_DICT:
        return dict_method(run, m, args);
    case AP_J_LOOP:
        return loop_method(run, m, args);
    default:
        return list_method(run, m, args);
    }
}
