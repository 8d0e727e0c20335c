/* jinja_format.c - "%s" % x and "{}".format(x). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/jinja/jinja.h"

typedef struct spec {
    uint32_t fill;
    char align, sign; /* < > = ^, or 0; + space -, or 0 */
    bool alt, zero, comma;
    int64_t width, precision; /* -1: not given */
    char type;                /* 0: none */
} spec;

enum { MAX_WIDTH = 1 << 20 };

static void fix_point(char *s)
{
    for (; *s; s++)
        if (*s == ',') *s = '.';
}

/* Digits of a number, with its sign apart. */
typedef struct digits {
    char text[800];
    bool minus;
} digits;

static void group_by_three(char *s, size_t cap)
{
    size_t n = strspn(s, "0123456789"), len = strlen(s);
    for (size_t at = n; at > 3;) {
        at -= 3;
        if (len + 2 > cap) return;
        memmove(s + at + 1, s + at, len - at + 1);
        s[at] = ',';
        len++;
    }
}

static bool int_digits(ap_jrun *run, ap_jval v, const spec *f, digits *d)
{
    int64_t i = 0;
    if (v.type == AP_J_BIG && (f->type == 'd' || f->type == 0) && v.s->len < sizeof d->text / 2) {
        d->minus = v.s->s[0] == '-';
        snprintf(d->text, sizeof d->text, "%.*s", (int)v.s->len - d->minus, v.s->s + d->minus);
        return true;
    }
    if (v.type == AP_J_FLOAT && fabs(v.f) < 9e18)
        i = (int64_t)v.f;
    else if (!ap_j_as_int(v, &i)) {
        ap_j_fail(run, "a number is required, not %s", ap_j_type_name(v));
        return false;
    }
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    d->minus = i < 0;
    if (f->type == 'b') {
        char *p = d->text;
        int top = 63;
        if (f->alt) p += snprintf(p, 3, "0b");
        while (top > 0 && !(u >> top & 1)) top--;
        for (; top >= 0; top--) *p++ = (char)('0' + (u >> top & 1));
        *p = 0;
        return true;
    }
    const char *form = f->type == 'x'   ? (f->alt ? "0x%llx" : "%llx")
                       : f->type == 'X' ? (f->alt ? "0X%llX" : "%llX")
                       : f->type == 'o' ? (f->alt ? "0o%llo" : "%llo")
                                        : "%llu";
    snprintf(d->text, sizeof d->text, form, (unsigned long long)u);
    return true;
}

static void float_digits(double f, const spec *s, digits *d)
{
    int prec = s->precision < 0 ? 6 : s->precision > 300 ? 300 : (int)s->precision;
    d->minus = signbit(f) && !isnan(f);
    f = fabs(f);
    if (isnan(f) || isinf(f)) {
        snprintf(d->text, sizeof d->text, "%s", isnan(f) ? "nan" : "inf");
        return;
    }
    if (s->type == '%')
        snprintf(d->text, sizeof d->text, "%.*f%%", prec, f * 100);
    else if (s->type == 'e')
        snprintf(d->text, sizeof d->text, "%.*e", prec, f);
    else if (s->type == 'E')
        snprintf(d->text, sizeof d->text, "%.*E", prec, f);
    else if (s->type == 'g')
        snprintf(d->text, sizeof d->text, "%.*g", prec, f);
    else if (s->type == 'G')
        snprintf(d->text, sizeof d->text, "%.*G", prec, f);
    else
        snprintf(d->text, sizeof d->text, "%.*f", prec, f);
    fix_point(d->text);
}

static void put_aligned(ap_jrun *run, ap_jout *o, const ap_jstr *s, const spec *f, char align)
{
    s = ap_j_pad(run, s, f->width, f->fill, align);
    ap_j_put(run, o, s->s, s->len);
}

/* center of format() is not that of str.center(): the odd one goes right. */
static void put_centered(ap_jrun *run, ap_jout *o, const ap_jstr *s, const spec *f)
{
    int64_t pad = f->width - (int64_t)s->n_cp, left = pad / 2;
    for (int64_t i = 0; i < left; i++) ap_j_put_cp(run, o, f->fill);
    ap_j_put(run, o, s->s, s->len);
    for (int64_t i = left; i < pad; i++) ap_j_put_cp(run, o, f->fill);
}

static void put_number(ap_jrun *run, ap_jout *o, digits *d, const spec *f)
{
    char sign[2] = {d->minus ? '-' : f->sign == '+' || f->sign == ' ' ? f->sign : 0, 0};
    if (f->comma) group_by_three(d->text, sizeof d->text);
    ap_jout t = {0};
    if (f->align == '=') {
        int64_t pad = f->width - (int64_t)strlen(d->text) - (sign[0] != 0);
        size_t prefix =
            f->alt && d->text[0] == '0' && strchr("xXob", d->text[1]) && d->text[1] ? 2 : 0;
        ap_j_puts(run, o, sign);
        ap_j_put(run, o, d->text, prefix);
        for (int64_t i = 0; i < pad; i++) ap_j_put_cp(run, o, f->fill);
        ap_j_puts(run, o, d->text + prefix);
        return;
    }
    ap_j_puts(run, &t, sign);
    ap_j_puts(run, &t, d->text);
    const ap_jstr *s = ap_j_take(run, &t);
    if (f->align == '^')
        put_centered(run, o, s, f);
    else
        put_aligned(run, o, s, f, f->align == '<' ? '<' : '>');
}

static void put_text(ap_jrun *run, ap_jout *o, const ap_jstr *s, const spec *f)
{
    if (f->precision >= 0 && (size_t)f->precision < s->n_cp)
        s = ap_j_sub(run, s, 0, ap_j_byte_of(s, (size_t)f->precision));
    if (f->align == '^')
        put_centered(run, o, s, f);
    else
        put_aligned(run, o, s, f, f->align == '>' ? '>' : '<');
}

/* Digits at s[*i..): a number up to MAX_WIDTH, -1 if there is none. */
static int64_t read_int(ap_jrun *run, const ap_jstr *s, size_t *i)
{
    int64_t n = -1;
    for (; *i < s->len && s->s[*i] >= '0' && s->s[*i] <= '9'; (*i)++) {
        n = (n < 0 ? 0 : n) * 10 + (s->s[*i] - '0');
        if (n > MAX_WIDTH) {
            ap_j_fail(run, "a width is larger than %d", MAX_WIDTH);
            return 0;
        }
    }
    return n;
}

/* ---------------------------------------------------------------- % */

typedef struct percent {
    ap_jrun *run;
    ap_jval args;
    size_t used, n;
    bool keyed; /* a %(name)s was met */
    bool named; /* the next argument is by_name */
    ap_jval by_name;
} percent;

static ap_jval next_arg(percent *p)
{
    if (p->named) {
        p->named = false;
        return p->by_name;
    }
    if (p->used >= p->n) return ap_j_fail(p->run, "not enough arguments for format string");
    ap_jval v = p->args.type == AP_J_TUPLE ? p->args.l->v[p->used] : p->args;
    p->used++;
    return v;
}

static size_t percent_key(percent *p, const ap_jstr *s, size_t i)
{
    size_t from = ++i;
    bool bad;
    while (i < s->len && s->s[i] != ')') i++;
    if (i >= s->len || p->args.type != AP_J_DICT) {
        ap_j_fail(p->run, i >= s->len ? "incomplete format key" : "format requires a mapping");
        return s->len;
    }
    const ap_jval *v =
        ap_j_dict_get(p->run, p->args.d, ap_j_strval(ap_j_sub(p->run, s, from, i)), &bad);
    if (!v) {
        ap_j_fail(p->run, "the format names a key that is not there");
        return s->len;
    }
    p->keyed = p->named = true;
    p->by_name = *v;
    return i + 1;
}

static void percent_one(percent *p, ap_jout *o, spec *f)
{
    ap_jrun *run = p->run;
    digits d = {{0}, false};
    char t = f->type;
    if (t == '%') {
        ap_j_put(run, o, "%", 1);
        return;
    }
    ap_jval v = next_arg(p);
    if (run->failed) return;
    if (t == 's' || t == 'r' || t == 'a' || t == 'c') {
        ap_jout text = {0};
        int64_t cp;
        if (t == 'c' && ap_j_as_int(v, &cp))
            ap_j_put_cp(run, &text, (uint32_t)cp);
        else if (t == 's' || t == 'c')
            ap_j_put_str(run, &text, v);
        else
            ap_j_put_repr(run, &text, v);
        if (f->align != '<') f->align = '>';
        f->fill = ' ';
        put_text(run, o, ap_j_take(run, &text), f);
        return;
    }
    if (v.type == AP_J_UNDEF && !run->failed) {
        ap_j_binary(run, AP_JT_ADD, v, v);
        return;
    }
    if (strchr("diuxXo", t)) {
        if (t == 'i' || t == 'u') f->type = 'd';
        if (!int_digits(run, v, f, &d)) return;
    } else if (strchr("eEfFgG", t)) {
        if (!ap_j_is_num(v)) {
            ap_j_fail(run, "must be real number, not %s", ap_j_type_name(v));
            return;
        }
        float_digits(ap_j_as_double(v), f, &d);
    } else {
        ap_j_fail(run, "unsupported format character '%c'", t);
        return;
    }
    f->fill = ' ';
    if (f->align != '<') f->align = f->zero ? '=' : '>';
    if (f->align == '=') f->fill = '0';
    put_number(run, o, &d, f);
}

ap_jval ap_j_percent(ap_jrun *run, const ap_jstr *s, ap_jval args)
{
    percent p = {.run = run, .args = args, .n = 1};
    ap_jout o = {0};
    if (args.type == AP_J_TUPLE) p.n = args.l->n;
    ap_j_spend(run, s->len);
    for (size_t i = 0; i < s->len && !run->failed;) {
        if (s->s[i] != '%') {
            ap_j_put(run, &o, s->s + i++, 1);
            continue;
        }
        spec f = {.fill = ' ', .width = -1, .precision = -1};
        i++;
        if (i < s->len && s->s[i] == '(') i = percent_key(&p, s, i);
        for (; i < s->len && s->s[i] && strchr("#0- +", s->s[i]); i++) {
            if (s->s[i] == '#')
                f.alt = true;
            else if (s->s[i] == '0')
                f.zero = true;
            else if (s->s[i] == '-')
                f.align = '<';
            else if (f.sign != '+')
                f.sign = s->s[i];
        }
        f.width = read_int(run, s, &i);
        if (i < s->len && s->s[i] == '.') {
            i++;
            f.precision = read_int(run, s, &i);
            if (f.precision < 0) f.precision = 0;
        }
        while (i < s->len && s->s[i] && strchr("hlL", s->s[i])) i++;
        if (i >= s->len) {
            ap_j_fail(run, "incomplete format");
            break;
        }
        f.type = s->s[i++];
        if (!f.type)
            ap_j_fail(run, "unsupported format character");
        else
            percent_one(&p, &o, &f);
    }
    if (!run->failed && !p.keyed && p.used < p.n && args.type != AP_J_DICT &&
        args.type != AP_J_LIST && args.type != AP_J_UNDEF)
        ap_j_fail(run, "not all arguments converted during string formatting");
    return ap_j_strval(ap_j_take(run, &o));
}

/* ---------------------------------------------------------------- format() */

typedef struct formatter {
    ap_jrun *run;
    const ap_jargs *args;
    size_t next;
    bool automatic, manual;
} formatter;

static bool parse_spec(ap_jrun *run, const ap_jstr *s, spec *f)
{
    size_t i = 0, n;
    *f = (spec){.fill = ' ', .width = -1, .precision = -1};
    if (!s->len) return true;
    uint32_t first = ap_j_cp_at(s, 0, &n);
    if (n < s->len && s->s[n] && strchr("<>=^", s->s[n])) {
        f->fill = first;
        f->align = s->s[n];
        i = n + 1;
    } else if (s->s[0] && strchr("<>=^", s->s[0])) {
        f->align = s->s[i++];
    }
    if (i < s->len && s->s[i] && strchr("+- ", s->s[i])) f->sign = s->s[i++];
    if (i < s->len && s->s[i] == '#') f->alt = s->s[i++];
    if (i < s->len && s->s[i] == '0') {
        f->zero = s->s[i++];
        if (!f->align) {
            f->align = '=';
            f->fill = '0';
        }
    }
    f->width = read_int(run, s, &i);
    if (i < s->len && s->s[i] == ',') f->comma = s->s[i++];
    if (i < s->len && s->s[i] == '.') {
        i++;
        f->precision = read_int(run, s, &i);
        if (f->precision < 0) ap_j_fail(run, "Format specifier missing precision");
    }
    if (i < s->len) f->type = s->s[i++];
    if (i != s->len) ap_j_fail(run, "Invalid format specifier");
    return !run->failed;
}

static void format_value(ap_jrun *run, ap_jout *o, ap_jval v, const ap_jstr *spec_text)
{
    spec f;
    digits d = {{0}, false};
    if (!parse_spec(run, spec_text, &f)) return;
    bool is_int =
        v.type == AP_J_INT || v.type == AP_J_BIG || (v.type == AP_J_BOOL && spec_text->len);
    if (!spec_text->len) {
        ap_j_put_str(run, o, v);
    } else if (v.type == AP_J_STR) {
        if ((f.type && f.type != 's') || f.align == '=' || f.comma || f.sign)
            ap_j_fail(run, "this format does not fit a string");
        else
            put_text(run, o, v.s, &f);
    } else if (is_int && (!f.type || strchr("bdoxXn", f.type))) {
        if (f.type == 'n') f.type = 'd';
        if (f.precision >= 0)
            ap_j_fail(run, "Precision not allowed in integer format specifier");
        else if (int_digits(run, v, &f, &d))
            put_number(run, o, &d, &f);
    } else if (is_int && f.type == 'c') {
        ap_jout t = {0};
        ap_j_put_cp(run, &t, (uint32_t)v.i);
        put_text(run, o, ap_j_take(run, &t), &f);
    } else if ((is_int || v.type == AP_J_FLOAT) && f.type && strchr("eEfFgG%", f.type)) {
        float_digits(ap_j_as_double(v), &f, &d);
        put_number(run, o, &d, &f);
    } else if (v.type == AP_J_FLOAT && !f.type && f.precision < 0) {
        ap_jout t = {0};
        ap_j_put_float(run, &t, fabs(v.f));
        d.minus = signbit(v.f);
        snprintf(d.text, sizeof d.text, "%s", t.s ? t.s : "");
        ap_free(t.s);
        put_number(run, o, &d, &f);
    } else {
        ap_j_fail(run, "unsupported format for an object of type '%s'", ap_j_type_name(v));
    }
}

/* The value that "0.name[key]" in [from, to) means. */
static ap_jval field(formatter *f, const ap_jstr *s, size_t from, size_t to)
{
    ap_jrun *run = f->run;
    size_t i = from;
    ap_jval v = ap_j_none();
    while (i < to && s->s[i] != '.' && s->s[i] != '[') i++;
    const ap_jstr *name = ap_j_sub(run, s, from, i);
    size_t at = 0;
    int64_t index = read_int(run, name, &at);
    if (run->failed) return v;
    if (name->len == 0 || at == name->len) {
        bool automatic = name->len == 0;
        f->automatic |= automatic;
        f->manual |= !automatic;
        if (f->automatic && f->manual)
            return ap_j_fail(run, "cannot mix automatic and manual field numbering");
        if (automatic) index = (int64_t)f->next++;
        if ((size_t)index >= f->args->n)
            return ap_j_fail(run, "Replacement index %lld out of range", (long long)index);
        v = f->args->v[index];
    } else {
        bool found = false;
        for (size_t k = 0; k < f->args->n_kw && !found; k++) {
            const ap_jstr *kw = f->args->kw[k].name;
            found = kw->len == name->len && !memcmp(kw->s, name->s, kw->len);
            if (found) v = f->args->kw[k].v;
        }
        if (!found)
            return ap_j_fail(run, "format() has no argument '%.*s'", (int)name->len, name->s);
    }
    while (i < to && !run->failed) {
        bool attr = s->s[i] == '.';
        size_t start = ++i;
        while (i < to && (attr ? s->s[i] != '.' && s->s[i] != '[' : s->s[i] != ']')) i++;
        const ap_jstr *key = ap_j_sub(run, s, start, i);
        at = 0;
        index = read_int(run, key, &at);
        if (attr)
            v = ap_j_attr(run, v, key);
        else
            v = ap_j_item(run, v, key->len && at == key->len ? ap_j_int(index) : ap_j_strval(key));
        if (!attr) {
            if (i >= to) return ap_j_fail(run, "expected ']' in a format field");
            i++;
        }
    }
    return v;
}

/* One {...} whose text is [from, to). */
static void replacement(formatter *f, ap_jout *o, const ap_jstr *s, size_t from, size_t to)
{
    ap_jrun *run = f->run;
    size_t end = from, depth = 0;
    char conversion = 0;
    while (end < to && ((s->s[end] != ':' && s->s[end] != '!') || depth)) {
        depth += s->s[end] == '[';
        if (s->s[end] == ']' && depth) depth--;
        end++;
    }
    ap_jval v = field(f, s, from, end);
    if (end < to && s->s[end] == '!') {
        conversion = end + 1 < to ? s->s[end + 1] : '?';
        end += 2;
        if (end < to && s->s[end] != ':') ap_j_fail(run, "expected ':' after conversion specifier");
    }
    const ap_jstr *spec_text = end < to ? ap_j_sub(run, s, end + 1, to) : ap_j_borrow(run, "", 0);
    if (spec_text->len && memchr(spec_text->s, '{', spec_text->len))
        ap_j_fail(run, "fields inside a format specifier are not supported");
    if (conversion == 's')
        v = ap_j_strval(ap_j_str(run, v));
    else if (conversion == 'r' || conversion == 'a') {
        ap_jout t = {0};
        ap_j_put_repr(run, &t, v);
        v = ap_j_strval(ap_j_take(run, &t));
    } else if (conversion) {
        ap_j_fail(run, "Unknown conversion specifier");
    }
    if (!run->failed) format_value(run, o, v, spec_text);
}

ap_jval ap_j_format(ap_jrun *run, const ap_jstr *s, const ap_jargs *args)
{
    formatter f = {.run = run, .args = args};
    ap_jout o = {0};
    ap_j_spend(run, s->len);
    for (size_t i = 0; i < s->len && !run->failed;) {
        char c = s->s[i];
        if (c != '{' && c != '}') {
            ap_j_put(run, &o, &s->s[i++], 1);
            continue;
        }
        if (i + 1 < s->len && s->s[i + 1] == c) {
            ap_j_put(run, &o, &c, 1);
            i += 2;
            continue;
        }
        if (c == '}') {
            ap_j_fail(run, "Single '}' encountered in format string");
            break;
        }
        size_t from = ++i, depth = 1;
        for (; i < s->len; i++) {
            if (s->s[i] == '{') depth++;
            if (s->s[i] == '}' && --depth == 0) break;
        }
        if (i >= s->len) {
            ap_j_fail(run, "expected '}' before end of string");
            break;
        }
        replacement(&f, &o, s, from, i);
        i++;
    }
    return ap_j_strval(ap_j_take(run, &o));
}
