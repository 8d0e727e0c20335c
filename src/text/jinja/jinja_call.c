/* jinja_call.c - attributes, items, calls of functions, and matching of their arguments. */
#include <string.h>
#include <time.h>

#include "text/jinja/jinja.h"

/* ---------------------------------------------------------------- attributes and items */

static ap_jval no_attr(ap_jval of, const ap_jstr *name)
{
    ap_jval u = ap_j_undef(AP_J_NO_ATTR, name);
    u.of = of.type;
    return u;
}

static ap_jval method(ap_jrun *run, ap_jval of, const char *name)
{
    ap_jmethod *m = ap_j_alloc(run, 1, sizeof *m);
    if (!m) return ap_j_none();
    m->self = of;
    m->name = name;
    return (ap_jval){.type = AP_J_METHOD, .method = m};
}

ap_jval ap_j_loop_attr(ap_jrun *run, ap_jloop *loop, const ap_jstr *name)
{
    int64_t i = (int64_t)loop->index0;
    if (ap_j_str_is(name, "index0")) return ap_j_int(i);
    if (ap_j_str_is(name, "index")) return ap_j_int(i + 1);
    if (ap_j_str_is(name, "first")) return ap_j_bool(i == 0);
    if (ap_j_str_is(name, "last")) return ap_j_bool(!ap_j_loop_fill(run, loop, loop->index0 + 2));
    if (ap_j_str_is(name, "depth0")) return ap_j_int(loop->depth0);
    if (ap_j_str_is(name, "depth")) return ap_j_int(loop->depth0 + 1);
    if (ap_j_str_is(name, "previtem"))
        return i ? loop->seen->v[loop->index0 - 1 - loop->base] : ap_j_undef(AP_J_NO_VALUE, NULL);
    if (ap_j_str_is(name, "nextitem"))
        return ap_j_loop_fill(run, loop, loop->index0 + 2)
                   ? loop->seen->v[loop->index0 + 1 - loop->base]
                   : ap_j_undef(AP_J_NO_VALUE, NULL);
    bool length = ap_j_str_is(name, "length"), rev = ap_j_str_is(name, "revindex");
    if (length || rev || ap_j_str_is(name, "revindex0")) {
        size_t all = 0;
        if (loop->node->c || !ap_j_len(loop->source, &all)) {
            while (!loop->ended && !run->failed)
                ap_j_loop_fill(run, loop, loop->base + loop->seen->n + 1);
            all = loop->base + loop->seen->n;
        }
        int64_t n = (int64_t)all;
        return ap_j_int(length ? n : rev ? n - i : n - i - 1);
    }
    ap_jval self = {.type = AP_J_LOOP, .loop = loop};
    if (ap_j_str_is(name, "cycle")) return method(run, self, "cycle");
    if (ap_j_str_is(name, "changed")) return method(run, self, "changed");
    return no_attr(self, name);
}

/* Python's attributes of a value; false: it has none of that name. */
static bool attribute(ap_jrun *run, ap_jval of, const ap_jstr *name, ap_jval *out)
{
    bool unsafe = false, bad;
    if (of.type == AP_J_NS) {
        ap_jval *v = ap_j_dict_get(run, of.d, ap_j_strval(name), &bad);
        if (v) *out = *v;
        return v != NULL;
    }
    if (of.type == AP_J_LOOP) {
        *out = ap_j_loop_attr(run, of.loop, name);
        return out->type != AP_J_UNDEF || out->sub != AP_J_NO_ATTR;
    }
    if (of.type == AP_J_MACRO && ap_j_str_is(name, "name")) {
        *out = of.m->node->name ? ap_j_strval(of.m->node->name) : ap_j_none();
        return true;
    }
    const char *m = ap_j_method_name(of, name, &unsafe);
    if (unsafe)
        *out = ap_j_undef(AP_J_UNSAFE, name);
    else if (m)
        *out = method(run, of, m);
    return unsafe || m;
}

static ap_jval use_undefined(ap_jrun *run, ap_jval v)
{
    return ap_j_binary(run, AP_JT_ADD, v, v);
}

/* of[key] without attributes; false: no such item. */
static bool subscript(ap_jrun *run, ap_jval of, ap_jval key, ap_jval *out)
{
    bool found = false, bad;
    int64_t i;
    if (of.type == AP_J_DICT) {
        const ap_jval *v = ap_j_dict_get(run, of.d, key, &bad);
        if (v) *out = *v;
        return v != NULL;
    }
    if (ap_j_as_int(key, &i)) {
        ap_jval v = ap_j_index(run, of, i, &found);
        if (found) *out = v;
    }
    return found;
}

ap_jval ap_j_attr(ap_jrun *run, ap_jval of, const ap_jstr *name)
{
    ap_jval v;
    if (of.type == AP_J_UNDEF) return use_undefined(run, of);
    if (attribute(run, of, name, &v) || subscript(run, of, ap_j_strval(name), &v)) return v;
    if (of.type == AP_J_DICT && of.d->text)
        return ap_j_attr(run, ap_j_strval(of.d->text), name); /* a method of strings */
    return no_attr(of, name);
}

ap_jval ap_j_item(ap_jrun *run, ap_jval of, ap_jval key)
{
    ap_jval v;
    if (of.type == AP_J_UNDEF) return use_undefined(run, of);
    if (subscript(run, of, key, &v)) return v;
    if (key.type == AP_J_STR && attribute(run, of, key.s, &v)) return v;
    return no_attr(of, key.type == AP_J_STR ? key.s : NULL);
}

/* ---------------------------------------------------------------- arguments */

enum { MAX_PARAMS = 8 };

bool ap_j_bind(ap_jrun *run, const char *what, const char *params, int required,
               const ap_jargs *args, ap_jval *out)
{
    int n = 0;
    for (int i = 0; i < MAX_PARAMS; i++) out[i] = ap_j_undef(AP_J_ABSENT, NULL);
    for (const char *p = params; *p; n++) {
        size_t len = strcspn(p, ",");
        if ((size_t)n < args->n) out[n] = args->v[n];
        for (size_t k = 0; k < args->n_kw; k++) {
            const ap_jstr *name = args->kw[k].name;
            if (name->len != len || memcmp(name->s, p, len)) continue;
            if ((size_t)n < args->n) {
                ap_j_fail(run, "%s() got multiple values for argument '%.*s'", what, (int)len, p);
                return false;
            }
            out[n] = args->kw[k].v;
        }
        p += len + (p[len] == ',');
    }
    if (args->n > (size_t)n) {
        ap_j_fail(run, "%s() takes at most %d arguments (%zu given)", what, n, args->n);
        return false;
    }
    size_t given = 0;
    for (int i = (int)args->n; i < n; i++) given += !ap_j_absent(out[i]);
    if (given != args->n_kw) {
        ap_j_fail(run, "%s() got an unexpected keyword argument", what);
        return false;
    }
    for (int i = 0; i < required; i++) {
        if (!ap_j_absent(out[i])) continue;
        ap_j_fail(run, "%s() is missing an argument", what);
        return false;
    }
    return true;
}

/* ---------------------------------------------------------------- functions */

enum { MAX_RANGE = 100000 }; /* as Jinja's sandbox */

static ap_jval make_range(ap_jrun *run, const ap_jargs *args)
{
    int64_t v[3] = {0, 0, 1};
    if (args->n_kw || args->n < 1 || args->n > 3)
        return ap_j_fail(run, "range expected 1 to 3 arguments");
    for (size_t i = 0; i < args->n; i++)
        if (!ap_j_as_int(args->v[i], &v[args->n == 1 ? 1 : i]))
            return ap_j_fail(run, "'%s' object cannot be interpreted as an integer",
                             ap_j_type_name(args->v[i]));
    if (v[2] == 0) return ap_j_fail(run, "range() arg 3 must not be zero");
    double span = v[2] > 0 ? (double)v[1] - (double)v[0] : (double)v[0] - (double)v[1];
    double by = v[2] > 0 ? (double)v[2] : -(double)v[2];
    if (span / by > MAX_RANGE) return ap_j_fail(run, "range is larger than %d", MAX_RANGE);
    ap_jrange *r = ap_j_alloc(run, 1, sizeof *r);
    if (!r) return ap_j_none();
    r->start = v[0];
    r->step = v[2];
    if (span > 0) {
        /* Both differences fit once the span is known to be small; unsigned for wide steps. */
        uint64_t d = v[2] > 0 ? (uint64_t)v[1] - (uint64_t)v[0] : (uint64_t)v[0] - (uint64_t)v[1];
        uint64_t s = v[2] > 0 ? (uint64_t)v[2] : 0 - (uint64_t)v[2];
        r->n = (size_t)((d - 1) / s + 1);
        if (r->n > MAX_RANGE) return ap_j_fail(run, "range is larger than %d", MAX_RANGE);
        if (r->n == 1) r->step = r->step > 0 ? 1 : -1; /* start + n * step stays in range */
    } else {
        r->step = 1;
    }
    return (ap_jval){.type = AP_J_RANGE, .r = r};
}

static void merge(ap_jrun *run, ap_jdict *d, ap_jval from)
{
    ap_jcursor c;
    ap_jval x;
    if (from.type == AP_J_DICT) {
        for (size_t i = 0; i < from.d->n; i++) ap_j_dict_set(run, d, from.d->k[i], from.d->v[i]);
        return;
    }
    if (!ap_j_iter_open(run, from, &c)) return;
    while (ap_j_iter_next(run, &c, &x)) {
        ap_jlist *l = ap_j_to_list(run, x);
        if (run->failed) return;
        if (l->n != 2)
            ap_j_fail(run, "a dictionary is made of pairs");
        else
            ap_j_dict_set(run, d, l->v[0], l->v[1]);
    }
}

static ap_jval make_dict(ap_jrun *run, const ap_jargs *args, bool ns)
{
    ap_jdict *d = ap_j_dict_new(run);
    if (args->n > 1) return ap_j_fail(run, "dict expected at most 1 argument, got %zu", args->n);
    if (args->n) merge(run, d, args->v[0]);
    for (size_t i = 0; i < args->n_kw; i++)
        ap_j_dict_set(run, d, ap_j_strval(args->kw[i].name), args->kw[i].v);
    for (size_t i = 0; ns && i < d->n && !run->failed; i++)
        if (d->k[i].type == AP_J_STR && d->k[i].s->len && d->k[i].s->s[0] == '_')
            ap_j_fail(run, "a namespace cannot have attributes that begin with an underscore");
    return (ap_jval){.type = ns ? AP_J_NS : AP_J_DICT, .d = d};
}

static ap_jval raise(ap_jrun *run, const ap_jargs *args)
{
    ap_jval v[8];
    if (!ap_j_bind(run, "raise_exception", "message", 1, args, v)) return ap_j_none();
    const ap_jstr *s = ap_j_str(run, v[0]);
    return ap_j_fail(run, "the template raised an exception: %.*s",
                     s->len > 800 ? 800 : (int)s->len, s->s);
}

static ap_jval strftime_now(ap_jrun *run, const ap_jargs *args)
{
    ap_jval v[8];
    char fmt[256], out[1024];
    if (!ap_j_bind(run, "strftime_now", "format", 1, args, v)) return ap_j_none();
    if (v[0].type != AP_J_STR || v[0].s->len >= sizeof fmt)
        return ap_j_fail(run, "strftime_now() wants a short string");
    if (!v[0].s->len || memchr(v[0].s->s, 0, v[0].s->len)) return ap_j_text(run, "");
    memcpy(fmt, v[0].s->s, v[0].s->len);
    fmt[v[0].s->len] = 0;
    time_t now = time(NULL);
    struct tm tm;
    if (!localtime_r(&now, &tm)) return ap_j_fail(run, "the time cannot be told");
    size_t n = strftime(out, sizeof out, fmt, &tm);
    return ap_j_strval(ap_j_copy(run, out, n));
}

ap_jval ap_j_call(ap_jrun *run, ap_jval f, const ap_jargs *args)
{
    if (run->failed) return f;
    switch (f.type) {
    case AP_J_UNDEF:
        return use_undefined(run, f);
    case AP_J_MACRO:
        return ap_j_call_macro(run, f.m, args);
    case AP_J_METHOD:
        return ap_j_call_method(run, f.method, args);
    case AP_J_LOOP:
        if (args->n != 1 || args->n_kw) return ap_j_fail(run, "loop() takes one argument");
        return ap_j_call_loop(run, f.loop, args->v[0]);
    case AP_J_GLOBAL:
        switch (f.i) {
        case AP_J_G_RANGE:
            return make_range(run, args);
        case AP_J_G_DICT:
            return make_dict(run, args, false);
        case AP_J_G_NAMESPACE:
            return make_dict(run, args, true);
        case AP_J_G_RAISE:
            return raise(run, args);
        default:
            return strftime_now(run, args);
        }
    default:
        return ap_j_fail(run, "'%s' object is not callable", ap_j_type_name(f));
    }
}
