#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "base/utf8.h"
#include "text/unicode_fix.h"

struct ap_regex {
    pcre2_code *code;
    uint64_t disputed[0x110000 / 256 / 64]; /* blocks of 256 characters with fixes in them */
};

/* Steps allowed for one search: enough for any sane pattern, which is linear, not for one that
 * explodes. */
#define STEPS_BASE     1000000u
#define STEPS_PER_BYTE 64u
#define JIT_STACK_MAX  ((size_t)64 << 20)
#define HEAP_KIB_MAX   (256u << 10)

/* ---------------------------------------------------------------- what may stand in a pattern */

typedef struct reader {
    const char *s;
    size_t n, i;
    const char *where;
    apus_diag *diag;
    bool caseless[64]; /* per open group */
    int depth;
} reader;

static apus_err refuse(const reader *r, size_t from, size_t len, const char *why)
{
    if (len > r->n - from) len = r->n - from;
    return ap_fail(r->diag, APUS_EUNSUPPORTED,
                   "%s: %s in a regular expression (\"%.*s\" at byte %zu)", r->where, why, (int)len,
                   r->s + from, from);
}

static bool at(const reader *r, const char *what)
{
    size_t n = strlen(what);
    return r->n - r->i >= n && memcmp(r->s + r->i, what, n) == 0;
}

/* \p{Lu}, \P{L}, \p{^N}: general categories only, since scripts are not in the fixes. */
static apus_err property(reader *r)
{
    static const char names[] = " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po"
                                " S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Co ";
    size_t from = r->i;
    const char *open = r->s + r->i + 2;
    const char *close = r->n - from > 2 && *open == '{' ? memchr(open, '}', r->n - from - 2) : NULL;
    if (!close) return refuse(r, from, 2, "a property without braces");
    open += 1 + (open[1] == '^');
    size_t n = (size_t)(close - open);
    if (r->caseless[r->depth]) return refuse(r, from, n + 4, "a caseless property");
    char name[5] = " ";
    if (n < 1 || n > 2) return refuse(r, from, n + 4, "a property that is not a general category");
    memcpy(name + 1, open, n);
    name[n + 1] = ' ';
    if (!strstr(names, name))
        return refuse(r, from, n + 4, "a property that is not a general category");
    r->i = (size_t)(close + 1 - r->s);
    return APUS_OK;
}

static apus_err escape(reader *r)
{
    if (r->n - r->i < 2) return refuse(r, r->i, 1, "a trailing backslash");
    char c = r->s[r->i + 1];
    if (c == 'p' || c == 'P') return property(r);
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if ((uint8_t)c >= 0x80 || (letter && !strchr("rntfsSdD", c)))
        return refuse(r, r->i, 2, "an escape of uncertain meaning");
    r->i += 2;
    return APUS_OK;
}

static apus_err class(reader *r)
{
    size_t from = r->i++;
    if (r->i < r->n && r->s[r->i] == '^') r->i++;
    for (bool first = true;; first = false) {
        if (r->i >= r->n) return refuse(r, from, 1, "a class without an end");
        char c = r->s[r->i];
        if (c == ']' && !first) break;
        if (c == ']' || c == '[' || at(r, "&&"))
            return refuse(r, r->i, 2, "a class with brackets or && in it");
        if ((uint8_t)c >= 0x80 && r->caseless[r->depth])
            return refuse(r, r->i, 1, "a caseless class beyond ASCII");
        if (c == '\\') {
            apus_err err = escape(r);
            if (err) return err;
        } else {
            r->i++;
        }
    }
    r->i++;
    return APUS_OK;
}

static apus_err group(reader *r)
{
    static const char *const kinds[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>", NULL};
    if (r->depth + 1 >= (int)(sizeof r->caseless)) return refuse(r, r->i, 1, "groups too deep");
    bool caseless = r->caseless[r->depth] || at(r, "(?i:");
    size_t len = 1;
    if (at(r, "(?") || at(r, "(*")) {
        int k = 0;
        while (kinds[k] && !at(r, kinds[k])) k++;
        if (!kinds[k]) return refuse(r, r->i, 4, "a group of an unknown kind");
        len = strlen(kinds[k]);
    }
    r->caseless[++r->depth] = caseless;
    r->i += len;
    return APUS_OK;
}

/* {n} {n,} {n,m}, optionally lazy. Oniguruma reads {n}? and {..}+ in ways of its own. */
static apus_err braces(reader *r)
{
    size_t from = r->i, i = from + 1, digits = 0;
    bool comma = false;
    for (; i < r->n && r->s[i] != '}'; i++) {
        if (r->s[i] == ',' && !comma && digits)
            comma = true;
        else if (r->s[i] >= '0' && r->s[i] <= '9')
            digits++;
        else
            return refuse(r, from, i - from + 1, "a brace that is not a repeat count");
    }
    if (i >= r->n || !digits || digits > 6)
        return refuse(r, from, 2, "a brace that is not a repeat count");
    r->i = i + 1;
    if (at(r, "+") || (!comma && at(r, "?")))
        return refuse(r, from, i - from + 2, "a doubled repeat");
    return APUS_OK;
}

/* Oniguruma lets one character match two under case folding (sharp s, ligatures); PCRE2 does not. */
static bool folds_wide(const reader *r)
{
    char a = r->s[r->i], b = r->i + 1 < r->n ? r->s[r->i + 1] : 0;
    a = (char)(a >= 'A' && a <= 'Z' ? a + 32 : a);
    b = (char)(b >= 'A' && b <= 'Z' ? b + 32 : b);
    return (uint8_t)a >= 0x80 || (a == 's' && (b == 's' || b == 't')) ||
           (a == 'f' && (b == 'f' || b == 'i' || b == 'l'));
}

static apus_err check(reader *r)
{
    apus_err err = APUS_OK;
    while (!err && r->i < r->n) {
        char c = r->s[r->i];
        switch (c) {
        case '\\':
            err = escape(r);
            break;
        case '[':
            err = class(r);
            break;
        case '(':
            err = group(r);
            break;
        case ')':
            if (r->depth > 0) r->depth--;
            r->i++;
            break;
        case '{':
            err = braces(r);
            break;
        case '^':
        case '$':
            err = refuse(r, r->i, 1, "an anchor");
            break;
        default:
            if (r->caseless[r->depth] && folds_wide(r))
                err = refuse(r, r->i, 2, "caseless text that may fold to several characters");
            r->i++;
        }
    }
    return err;
}

/* ---------------------------------------------------------------- compiling */

apus_err ap_regex_compile(const char *pattern, size_t len, const char *where, ap_regex **out,
                          apus_diag *diag)
{
    reader rd = {.s = pattern, .n = len, .where = where, .diag = diag};
    apus_err err = check(&rd);
    if (err) return err;
    ap_regex *r = ap_calloc(1, sizeof *r);
    if (!r) return ap_fail_nomem(diag, sizeof *r, "a regular expression");
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (!cc) {
        ap_free(r);
        return ap_fail_nomem(diag, sizeof *r, "a regular expression");
    }
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE offset;
    r->code = pcre2_compile((PCRE2_SPTR)pattern, len, PCRE2_UTF | PCRE2_UCP | PCRE2_NO_AUTO_CAPTURE,
                            &code, &offset, cc);
    pcre2_compile_context_free(cc);
    if (!r->code) {
        char text[160];
        if (pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text) < 0) text[0] = 0;
        ap_free(r);
        return ap_fail(diag, APUS_EFORMAT, "%s: broken regular expression: %s (at byte %zu)", where,
                       text, (size_t)offset);
    }
    /* Without a compiler for this processor the interpreter does the same, slower. */
    (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
    for (size_t i = 0; i < ap_unicode_n_fixes; i++)
        for (uint32_t b = ap_unicode_fixes[i].first >> 8; b <= ap_unicode_fixes[i].last >> 8; b++)
            r->disputed[b >> 6] |= (uint64_t)1 << (b & 63);
    *out = r;
    return APUS_OK;
}

void ap_regex_free(ap_regex *r)
{
    if (!r) return;
    pcre2_code_free(r->code);
    ap_free(r);
}

void ap_regex_work_free(ap_regex_work *w)
{
    pcre2_match_data_free(w->match_data);
    pcre2_match_context_free(w->match_context);
    pcre2_jit_stack_free(w->jit_stack);
    ap_free(w->text);
    memset(w, 0, sizeof *w);
}

/* ---------------------------------------------------------------- matching */

static uint32_t representative(uint32_t cp)
{
    size_t lo = 0, hi = ap_unicode_n_fixes;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ap_unicode_fixes[mid].last < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    bool in = lo < ap_unicode_n_fixes && ap_unicode_fixes[lo].first <= cp;
    return in ? ap_unicode_fixes[lo].as : cp;
}

/* The text to match: s itself, or a copy of the same length where characters are disputed. */
static const char *undisputed(const ap_regex *r, ap_regex_work *w, const char *s, size_t n)
{
    const char *text = s;
    for (size_t i = 0; i < n;) {
        if ((uint8_t)s[i] < 0xD5) { /* below U+0540, or the rest of a character */
            i++;
            continue;
        }
        uint32_t cp;
        size_t len = ap_utf8_decode(s + i, n - i, &cp);
        if (r->disputed[cp >> 14] >> (cp >> 8 & 63) & 1) {
            uint32_t as = representative(cp);
            if (as != cp) {
                if (text == s) {
                    if (!ap_vec_reserve(&w->text, &w->text_cap, n, 1)) return NULL;
                    memcpy(w->text, s, n);
                    text = w->text;
                }
                ap_utf8_encode(as, w->text + i);
            }
        }
        i += len;
    }
    return text;
}

static apus_err prepare(ap_regex_work *w, size_t n, apus_diag *diag)
{
    if (!w->match_data) w->match_data = pcre2_match_data_create(1, NULL);
    if (!w->match_context) w->match_context = pcre2_match_context_create(NULL);
    if (!w->jit_stack) w->jit_stack = pcre2_jit_stack_create(32 << 10, JIT_STACK_MAX, NULL);
    if (!w->match_data || !w->match_context || !w->jit_stack)
        return ap_fail_nomem(diag, JIT_STACK_MAX, "matching");
    uint64_t steps = STEPS_BASE + (uint64_t)n * STEPS_PER_BYTE;
    pcre2_set_match_limit(w->match_context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
    pcre2_set_heap_limit(w->match_context, HEAP_KIB_MAX);
    pcre2_jit_stack_assign(w->match_context, NULL, w->jit_stack);
    return APUS_OK;
}

apus_err ap_regex_find_all(const ap_regex *r, ap_regex_work *w, const char *s, size_t n,
                           ap_spans *out, apus_diag *diag)
{
    apus_err err = prepare(w, n, diag);
    if (err) return err;
    const char *text = undisputed(r, w, s, n);
    if (!text) return ap_fail_nomem(diag, n, "matching");
    const PCRE2_SIZE *ov = pcre2_get_ovector_pointer(w->match_data);
    size_t from = 0, last = SIZE_MAX;
    while (n && from <= n) {
        int rc = pcre2_match(r->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, w->match_data,
                             w->match_context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) {
            char why[120];
            if (pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why) < 0) why[0] = 0;
            return ap_fail(diag, rc == PCRE2_ERROR_NOMEMORY ? APUS_ENOMEM : APUS_EFORMAT,
                           "a regular expression of the tokenizer cannot be matched against this "
                           "text of %zu bytes: %s",
                           n, why);
        }
        size_t a = ov[0], b = ov[1];
        if (b < a) a = b; /* \K is refused, but a look-ahead may not move the start either way */
        if (a == b && b == last) {
            uint32_t cp;
            from = b < n ? b + ap_utf8_decode(text + b, n - b, &cp) : n + 1;
            continue;
        }
        if (!ap_spans_add(out, a, b - a)) return ap_fail_nomem(diag, n, "matching");
        from = last = b;
    }
    return APUS_OK;
}
