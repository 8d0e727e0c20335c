/* jinja_out.c - values to text: str(), repr(), json.dumps(), as Python writes them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja/jinja.h"

void ap_j_put(ap_jrun *run, ap_jout *o, const char *s, size_t n)
{
    if (n == 0 || !ap_j_spend(run, n / 64)) return;
    size_t limit = run->limits.output_bytes;
    if (limit && (n > limit || o->len > limit - n)) {
        ap_j_fail(run, "the template ran over its output limit of %zu bytes", limit);
        return;
    }
    if (o->cap - o->len <= n) {
        size_t cap = o->cap ? o->cap * 2 : 256;
        if (cap < o->len + n + 1) cap = o->len + n + 1;
        char *p = ap_realloc(o->s, cap, 1);
        if (!p) {
            ap_j_fail_nomem(run);
            return;
        }
        o->s = p;
        o->cap = cap;
    }
    memcpy(o->s + o->len, s, n);
    o->len += n;
    o->s[o->len] = 0;
}

void ap_j_puts(ap_jrun *run, ap_jout *o, const char *s)
{
    ap_j_put(run, o, s, strlen(s));
}

void ap_j_put_cp(ap_jrun *run, ap_jout *o, uint32_t cp)
{
    char buf[4];
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) cp = 0xFFFD; /* UTF-8 cannot hold it */
    ap_j_put(run, o, buf, ap_utf8_encode(cp, buf));
}

const ap_jstr *ap_j_take(ap_jrun *run, ap_jout *o)
{
    const ap_jstr *s = ap_j_copy(run, o->s, o->len);
    ap_free(o->s);
    *o = (ap_jout){0};
    return s;
}

const ap_jstr *ap_j_str(ap_jrun *run, ap_jval v)
{
    const ap_jstr *s = ap_j_string_of(v);
    if (s) return s;
    ap_jout o = {0};
    ap_j_put_str(run, &o, v);
    return ap_j_take(run, &o);
}

/* ---------------------------------------------------------------- numbers */

void ap_j_put_float(ap_jrun *run, ap_jout *o, double f)
{
    if (isnan(f) || isinf(f)) {
        ap_j_puts(run, o, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    /* The shortest digits that read back as f, as repr() has them. */
    char buf[40], digits[24];
    int exp = 0, n = 0;
    ap_j_spend(run, 64); /* for up to 17 conversions */
    for (int prec = 1; prec <= 17; prec++) {
        snprintf(buf, sizeof buf, "%.*e", prec - 1, f);
        if (strtod(buf, NULL) == f) break; /* same locale on both sides */
    }
    bool minus = buf[0] == '-';
    char *p = buf + minus;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') digits[n++] = *p;
    if (*p == 'e') exp = atoi(p + 1);
    while (n > 1 && digits[n - 1] == '0') n--;
    digits[n] = 0;
    if (minus) ap_j_puts(run, o, "-");
    if (exp < -4 || exp >= 16) {
        ap_j_put(run, o, digits, 1);
        if (n > 1) ap_j_puts(run, o, ".");
        ap_j_puts(run, o, digits + 1);
        snprintf(buf, sizeof buf, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
        ap_j_puts(run, o, buf);
    } else if (exp < 0) {
        ap_j_puts(run, o, "0.");
        for (int i = -1; i > exp; i--) ap_j_puts(run, o, "0");
        ap_j_puts(run, o, digits);
    } else {
        for (int i = 0; i <= exp || i < n; i++) {
            if (i == exp + 1) ap_j_puts(run, o, ".");
            ap_j_put(run, o, i < n ? digits + i : "0", 1);
        }
        if (n <= exp + 1) ap_j_puts(run, o, ".0");
    }
}

static void put_int(ap_jrun *run, ap_jout *o, int64_t i)
{
    char buf[24];
    ap_j_spend(run, 8);
    snprintf(buf, sizeof buf, "%lld", (long long)i);
    ap_j_puts(run, o, buf);
}

/* ---------------------------------------------------------------- str and repr */

static bool printable(uint32_t cp)
{
    if (cp == ' ') return true;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c != UTF8PROC_CATEGORY_CC && c != UTF8PROC_CATEGORY_CF && c != UTF8PROC_CATEGORY_CS &&
           c != UTF8PROC_CATEGORY_CO && c != UTF8PROC_CATEGORY_CN && c != UTF8PROC_CATEGORY_ZL &&
           c != UTF8PROC_CATEGORY_ZP && c != UTF8PROC_CATEGORY_ZS;
}

static void repr_str(ap_jrun *run, ap_jout *o, const ap_jstr *s)
{
    bool single = s->len && memchr(s->s, '\'', s->len), dbl = s->len && memchr(s->s, '"', s->len);
    char quote = single && !dbl ? '"' : '\'', buf[12];
    size_t n;
    ap_j_spend(run, s->len);
    if (s->markup) ap_j_puts(run, o, "Markup(");
    ap_j_put(run, o, &quote, 1);
    for (size_t i = 0; i < s->len && !run->failed; i += n) {
        uint32_t cp = ap_j_cp_at(s, i, &n);
        if (cp == (uint32_t)quote || cp == '\\') {
            snprintf(buf, sizeof buf, "\\%c", (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            snprintf(buf, sizeof buf, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        } else if (printable(cp)) {
            ap_j_put(run, o, s->s + i, n);
            continue;
        } else {
            snprintf(buf, sizeof buf,
                     cp < 0x100     ? "\\x%02x"
                     : cp < 0x10000 ? "\\u%04x"
                                    : "\\U%08x",
                     (unsigned)cp);
        }
        ap_j_puts(run, o, buf);
    }
    ap_j_put(run, o, &quote, 1);
    if (s->markup) ap_j_puts(run, o, ")");
}

static void repr_items(ap_jrun *run, ap_jout *o, ap_jval v, char open, char close)
{
    ap_jcursor c;
    ap_jval x;
    bool first = true;
    ap_j_put(run, o, &open, 1);
    ap_j_iter_open(run, v, &c);
    while (ap_j_iter_next(run, &c, &x)) {
        if (!first) ap_j_puts(run, o, ", ");
        first = false;
        ap_j_put_repr(run, o, x);
    }
    if (v.type == AP_J_TUPLE && v.l->n == 1) ap_j_puts(run, o, ",");
    ap_j_put(run, o, &close, 1);
}

static void repr_dict(ap_jrun *run, ap_jout *o, const ap_jdict *d)
{
    ap_j_puts(run, o, "{");
    for (size_t i = 0; i < d->n && !run->failed; i++) {
        if (i) ap_j_puts(run, o, ", ");
        ap_j_put_repr(run, o, d->k[i]);
        ap_j_puts(run, o, ": ");
        ap_j_put_repr(run, o, d->v[i]);
    }
    ap_j_puts(run, o, "}");
}

static void repr_range(ap_jrun *run, ap_jout *o, const ap_jrange *r)
{
    ap_j_puts(run, o, "range(");
    put_int(run, o, r->start);
    ap_j_puts(run, o, ", ");
    put_int(run, o, r->start + (int64_t)r->n * r->step);
    if (r->step != 1) {
        ap_j_puts(run, o, ", ");
        put_int(run, o, r->step);
    }
    ap_j_puts(run, o, ")");
}

void ap_j_put_repr(ap_jrun *run, ap_jout *o, ap_jval v)
{
    if (!ap_j_enter(run)) return;
    switch ((ap_jtype)v.type) {
    case AP_J_UNDEF:
        ap_j_puts(run, o, "Undefined");
        break;
    case AP_J_NONE:
        ap_j_puts(run, o, "None");
        break;
    case AP_J_BOOL:
        ap_j_puts(run, o, v.b ? "True" : "False");
        break;
    case AP_J_INT:
        put_int(run, o, v.i);
        break;
    case AP_J_BIG:
        ap_j_put(run, o, v.s->s, v.s->len);
        break;
    case AP_J_FLOAT:
        ap_j_put_float(run, o, v.f);
        break;
    case AP_J_STR:
        repr_str(run, o, v.s);
        break;
    case AP_J_LIST:
        repr_items(run, o, v, '[', ']');
        break;
    case AP_J_TUPLE:
        repr_items(run, o, v, '(', ')');
        break;
    case AP_J_DICT:
        repr_dict(run, o, v.d);
        break;
    case AP_J_VIEW:
        ap_j_puts(run, o, ap_j_type_name(v));
        ap_j_puts(run, o, "([");
        {
            ap_jcursor c = {.of = v};
            ap_jval x;
            for (bool more = false; ap_j_iter_next(run, &c, &x); more = true) {
                if (more) ap_j_puts(run, o, ", ");
                ap_j_put_repr(run, o, x);
            }
        }
        ap_j_puts(run, o, "])");
        break;
    case AP_J_RANGE:
        repr_range(run, o, v.r);
        break;
    case AP_J_NS:
        ap_j_puts(run, o, "<Namespace ");
        repr_dict(run, o, v.d);
        ap_j_puts(run, o, ">");
        break;
    case AP_J_ITER:
    case AP_J_MACRO:
    case AP_J_LOOP:
    case AP_J_METHOD:
    case AP_J_GLOBAL:
        /* Python prints an address here, which nobody can mean. */
        ap_j_fail(run, "a '%s' object cannot be printed", ap_j_type_name(v));
        break;
    }
    ap_j_leave(run);
}

void ap_j_put_str(ap_jrun *run, ap_jout *o, ap_jval v)
{
    const ap_jstr *s = ap_j_string_of(v);
    if (s)
        ap_j_put(run, o, s->s, s->len);
    else if (v.type != AP_J_UNDEF)
        ap_j_put_repr(run, o, v);
}

void ap_j_put_escaped(ap_jrun *run, ap_jout *o, const char *s, size_t n)
{
    for (size_t i = 0; i < n && !run->failed; i++) {
        switch (s[i]) {
        case '&':
            ap_j_puts(run, o, "&amp;");
            break;
        case '<':
            ap_j_puts(run, o, "&lt;");
            break;
        case '>':
            ap_j_puts(run, o, "&gt;");
            break;
        case '\'':
            ap_j_puts(run, o, "&#39;");
            break;
        case '"':
            ap_j_puts(run, o, "&#34;");
            break;
        default:
            ap_j_put(run, o, s + i, 1);
        }
    }
}

/* ---------------------------------------------------------------- JSON */

/* As json.dumps: only ", \ and control characters are escaped, and what is not ASCII on demand. */
static void json_str(ap_jrun *run, ap_jout *o, const ap_jstr *s, bool ascii)
{
    size_t n;
    char buf[16];
    ap_j_spend(run, s->len);
    ap_j_puts(run, o, "\"");
    for (size_t i = 0; i < s->len && !run->failed; i += n) {
        uint32_t cp = ap_j_cp_at(s, i, &n);
        static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
        const char *hit = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
        if (hit) {
            snprintf(buf, sizeof buf, "\\%c", to[hit - from]);
        } else if (cp < 0x20 || (ascii && cp >= 0x7F && cp < 0x10000)) {
            snprintf(buf, sizeof buf, "\\u%04x", (unsigned)cp);
        } else if (ascii && cp >= 0x10000) {
            snprintf(buf, sizeof buf, "\\u%04x\\u%04x", (unsigned)(0xD800 + ((cp - 0x10000) >> 10)),
                     (unsigned)(0xDC00 + ((cp - 0x10000) & 0x3FF)));
        } else {
            ap_j_put(run, o, s->s + i, n);
            continue;
        }
        ap_j_puts(run, o, buf);
    }
    ap_j_puts(run, o, "\"");
}

static void json_key(ap_jrun *run, ap_jout *o, ap_jval k, bool ascii)
{
    ap_jout t = {0};
    switch (k.type) {
    case AP_J_STR:
        json_str(run, o, k.s, ascii);
        return;
    case AP_J_NONE:
        ap_j_puts(run, &t, "null");
        break;
    case AP_J_BOOL:
        ap_j_puts(run, &t, k.b ? "true" : "false");
        break;
    case AP_J_INT:
    case AP_J_BIG:
    case AP_J_FLOAT:
        ap_j_put_repr(run, &t, k);
        break;
    default:
        ap_j_fail(run, "keys must be str, int, float, bool or None, not %s", ap_j_type_name(k));
    }
    ap_j_puts(run, o, "\"");
    ap_j_put(run, o, t.s, t.len);
    ap_j_puts(run, o, "\"");
    ap_free(t.s);
}

static void json_break(ap_jrun *run, ap_jout *o, const ap_jdump *opt, int level)
{
    if (!opt->has_indent) return;
    ap_j_puts(run, o, "\n");
    for (int i = 0; i < level && !run->failed; i++)
        ap_j_put(run, o, opt->indent->s, opt->indent->len);
}

static void json_sep(ap_jrun *run, ap_jout *o, const ap_jdump *opt)
{
    if (opt->item_sep)
        ap_j_put(run, o, opt->item_sep->s, opt->item_sep->len);
    else
        ap_j_puts(run, o, opt->has_indent ? "," : ", ");
}

static void json_list(ap_jrun *run, ap_jout *o, const ap_jlist *l, const ap_jdump *opt, int level)
{
    ap_j_puts(run, o, "[");
    for (size_t i = 0; i < l->n && !run->failed; i++) {
        if (i) json_sep(run, o, opt);
        json_break(run, o, opt, level + 1);
        ap_j_put_json(run, o, l->v[i], opt, level + 1);
    }
    if (l->n) json_break(run, o, opt, level);
    ap_j_puts(run, o, "]");
}

static void sort_keys(ap_jrun *run, const ap_jdict *d, size_t *order)
{
    for (size_t i = 0; i < d->n; i++) order[i] = i;
    for (size_t width = 1; width < d->n && !run->failed; width *= 2) {
        size_t *from = order, *to = ap_j_alloc(run, d->n, sizeof *to);
        if (!to) return;
        for (size_t lo = 0; lo < d->n; lo += 2 * width) {
            size_t mid = lo + width < d->n ? lo + width : d->n;
            size_t hi = lo + 2 * width < d->n ? lo + 2 * width : d->n;
            for (size_t a = lo, b = mid, k = lo; k < hi; k++) {
                bool left = a < mid &&
                            (b >= hi || ap_j_compare(run, d->k[from[b]], d->k[from[a]], "<") >= 0);
                to[k] = left ? from[a++] : from[b++];
            }
        }
        memcpy(order, to, d->n * sizeof *to);
    }
}

static void json_dict(ap_jrun *run, ap_jout *o, const ap_jdict *d, const ap_jdump *opt, int level)
{
    size_t *order = NULL;
    if (opt->sort_keys && d->n) {
        order = ap_j_alloc(run, d->n, sizeof *order);
        if (order) sort_keys(run, d, order);
    }
    ap_j_puts(run, o, "{");
    for (size_t n = 0; n < d->n && !run->failed; n++) {
        size_t i = order ? order[n] : n;
        if (n) json_sep(run, o, opt);
        json_break(run, o, opt, level + 1);
        json_key(run, o, d->k[i], opt->ascii);
        if (opt->key_sep)
            ap_j_put(run, o, opt->key_sep->s, opt->key_sep->len);
        else
            ap_j_puts(run, o, ": ");
        ap_j_put_json(run, o, d->v[i], opt, level + 1);
    }
    if (d->n) json_break(run, o, opt, level);
    ap_j_puts(run, o, "}");
}

void ap_j_put_json(ap_jrun *run, ap_jout *o, ap_jval v, const ap_jdump *opt, int level)
{
    if (!ap_j_enter(run)) return;
    switch (v.type) {
    case AP_J_NONE:
        ap_j_puts(run, o, "null");
        break;
    case AP_J_BOOL:
        ap_j_puts(run, o, v.b ? "true" : "false");
        break;
    case AP_J_FLOAT:
        if (isnan(v.f))
            ap_j_puts(run, o, "NaN");
        else if (isinf(v.f))
            ap_j_puts(run, o, v.f < 0 ? "-Infinity" : "Infinity");
        else
            ap_j_put_float(run, o, v.f);
        break;
    case AP_J_INT:
    case AP_J_BIG:
        ap_j_put_repr(run, o, v);
        break;
    case AP_J_STR:
        json_str(run, o, v.s, opt->ascii);
        break;
    case AP_J_LIST:
    case AP_J_TUPLE:
        json_list(run, o, v.l, opt, level);
        break;
    case AP_J_DICT:
        json_dict(run, o, v.d, opt, level);
        break;
    default:
        ap_j_fail(run, "Object of type %s is not JSON serializable", ap_j_type_name(v));
    }
    ap_j_leave(run);
}
