#include "text/grammar/json_number.h"

#include <string.h>

#include "base/mem.h"
#include "text/grammar/char_dfa.h"
#include "text/vec.h"

enum { DIGITS = 20 };

/* ---------------------------------------------------------------- decimals */

/* Digits d[0, n) with the point behind the first `point` of them, which may lie outside. */
static bool place_point(const char *d, int n, int64_t point, ap_decimal *out)
{
    int zeros = 0;
    while (zeros < n && d[zeros] == '0') zeros++;
    d += zeros, n -= zeros, point -= zeros;
    while (n && d[n - 1] == '0') n--;
    if (!n) point = 0;
    if (point > AP_DECIMAL_DIGITS - 1 || n - point > AP_DECIMAL_DIGITS - 1) return false;
    for (int64_t i = 0; i < point; i++) out->whole[out->n_whole++] = i < n ? d[i] : '0';
    for (int64_t i = point; i < n; i++) out->fraction[out->n_fraction++] = i < 0 ? '0' : d[i];
    if (!out->n_whole) out->whole[out->n_whole++] = '0';
    return true;
}

bool ap_decimal_read(const char *s, size_t n, ap_decimal *out)
{
    char digit[4 * AP_DECIMAL_DIGITS];
    int n_digit = 0;
    int64_t point = -1, exponent = 0;
    size_t i = 0;
    *out = (ap_decimal){.negative = n && s[0] == '-'};
    if (out->negative) i++;
    for (; i < n && s[i] != 'e' && s[i] != 'E'; i++) {
        if (s[i] == '.') {
            point = n_digit;
            continue;
        }
        if (n_digit == (int)sizeof digit) return false;
        digit[n_digit++] = s[i];
    }
    if (point < 0) point = n_digit;
    if (i < n) {
        bool minus = ++i < n && s[i] == '-';
        if (i < n && (s[i] == '-' || s[i] == '+')) i++;
        for (; i < n; i++)
            if (exponent < 100000) exponent = exponent * 10 + (s[i] - '0');
        if (minus) exponent = -exponent;
    }
    if (!place_point(digit, n_digit, point + exponent, out)) return false;
    if (out->n_whole == 1 && out->whole[0] == '0' && !out->n_fraction) out->negative = false;
    return true;
}

bool ap_decimal_whole(const ap_decimal *a)
{
    return a->n_fraction == 0;
}

static int compare_size(const ap_decimal *a, const ap_decimal *b)
{
    if (a->n_whole != b->n_whole) return a->n_whole < b->n_whole ? -1 : 1;
    for (int i = 0; i < a->n_whole; i++)
        if (a->whole[i] != b->whole[i]) return a->whole[i] < b->whole[i] ? -1 : 1;
    for (int i = 0; i < a->n_fraction && i < b->n_fraction; i++)
        if (a->fraction[i] != b->fraction[i]) return a->fraction[i] < b->fraction[i] ? -1 : 1;
    return a->n_fraction - b->n_fraction;
}

int ap_decimal_compare(const ap_decimal *a, const ap_decimal *b)
{
    if (a->negative != b->negative) return a->negative ? -1 : 1;
    int c = compare_size(a, b);
    return a->negative ? -c : c;
}

/* ---------------------------------------------------------------- digits within bounds */

/* A bound on the size of a number, and where a number that is read stands to it so far. */
typedef struct bound {
    const ap_decimal *at; /* NULL: none */
    bool open;
} bound;

typedef enum phase { BEGIN, ZERO, WHOLE, POINT, FRACTION } phase;

typedef struct reading {
    int32_t phase, digits; /* digits of the whole, or of the fraction */
    int32_t lo, hi;        /* less, equal or more than the bound, by the digits so far */
    int32_t rest;          /* of the digits, divided by the multiple */
    int32_t next;          /* of a like hash */
} reading;

typedef struct sizes {
    bound lo, hi;
    int most_whole, most_fraction;
    int64_t multiple;
    int scale;
    reading *v; /* in the order in which they were met */
    size_t n, cap;
    int32_t bucket[1024];
    bool failed;
} sizes;

static int32_t number_of(sizes *s, reading r)
{
    uint32_t h = (uint32_t)(r.phase + r.digits * 8 + (r.lo + 1) * 512 + (r.hi + 1) * 2048) +
                 (uint32_t)r.rest * 2654435761u;
    int32_t *at = &s->bucket[(h ^ h >> 13) % 1024];
    for (int32_t i = *at; i >= 0; i = s->v[i].next)
        if (!memcmp(&s->v[i], &r, offsetof(reading, next))) return i;
    if (!ap_vec_reserve(&s->v, &s->cap, s->n + 1, sizeof *s->v)) {
        s->failed = true;
        return 0;
    }
    r.next = *at;
    s->v[s->n] = r;
    *at = (int32_t)s->n;
    return (int32_t)s->n++;
}

static int32_t order(char a, char b)
{
    return (a > b) - (a < b);
}

/* How the number stands to a bound after its next digit of the whole, the one at place n. */
static int32_t stand_whole(bound b, int32_t so_far, int n, char digit)
{
    if (!b.at || n >= b.at->n_whole) return 1;
    return so_far ? so_far : order(digit, b.at->whole[n]);
}

/* When the whole has n digits and is complete. */
static int32_t whole_done(bound b, int32_t so_far, int n)
{
    if (!b.at) return 0;
    return n < b.at->n_whole ? -1 : so_far;
}

static int32_t stand_fraction(bound b, int32_t so_far, int n, char digit)
{
    if (!b.at || so_far) return so_far;
    return order(digit, n < b.at->n_fraction ? b.at->fraction[n] : '0');
}

/* When all n digits of the fraction are there. */
static int32_t all_done(bound b, int32_t so_far, int n)
{
    return b.at && so_far == 0 && n < b.at->n_fraction ? -1 : so_far;
}

static bool accepts(const sizes *s, const reading *r)
{
    if (r->phase == BEGIN || r->phase == POINT) return false;
    bool whole = r->phase != FRACTION;
    int32_t lo = whole ? whole_done(s->lo, r->lo, r->digits) : r->lo;
    int32_t hi = whole ? whole_done(s->hi, r->hi, r->digits) : r->hi;
    int n = whole ? 0 : r->digits;
    int64_t rest = r->rest;
    lo = all_done(s->lo, lo, n);
    hi = all_done(s->hi, hi, n);
    for (int i = n; i < s->scale && s->multiple; i++) rest = rest * 10 % s->multiple;
    return (!s->lo.at || lo > 0 || (lo == 0 && !s->lo.open)) &&
           (!s->hi.at || hi < 0 || (hi == 0 && !s->hi.open)) && rest == 0;
}

static int32_t rest_with(const sizes *s, int32_t rest, char digit)
{
    return s->multiple ? (int32_t)(((int64_t)rest * 10 + (digit - '0')) % s->multiple) : 0;
}

/* What a digit makes of a reading. false: it may not come. */
static bool with_digit(const sizes *s, const reading *r, char digit, reading *out)
{
    *out = *r;
    out->rest = rest_with(s, r->rest, digit);
    if (r->phase == BEGIN || r->phase == WHOLE) {
        int n = r->phase == BEGIN ? 0 : r->digits;
        if (n == s->most_whole) return false;
        out->phase = r->phase == BEGIN && digit == '0' ? ZERO : WHOLE;
        out->digits = n + 1;
        out->lo = stand_whole(s->lo, n ? r->lo : 0, n, digit);
        out->hi = stand_whole(s->hi, n ? r->hi : 0, n, digit);
        return true;
    }
    if (r->phase == ZERO) return false;
    int n = r->phase == POINT ? 0 : r->digits;
    if (n == s->most_fraction) return false;
    out->phase = FRACTION;
    out->digits = n + 1;
    out->lo = stand_fraction(s->lo, r->lo, n, digit);
    out->hi = stand_fraction(s->hi, r->hi, n, digit);
    return (!s->lo.at || out->lo >= 0) && (!s->hi.at || out->hi <= 0);
}

static void put_edges(sizes *s, ap_char_dfa *out, reading r)
{
    bool whole = r.phase == ZERO || r.phase == WHOLE;
    if (whole && s->most_fraction) {
        reading next = {
            POINT,  0, whole_done(s->lo, r.lo, r.digits), whole_done(s->hi, r.hi, r.digits),
            r.rest, 0};
        if ((!s->lo.at || next.lo >= 0) && (!s->hi.at || next.hi <= 0))
            ap_char_dfa_edge(out, '.', '.', number_of(s, next));
    }
    for (char c = '0'; c <= '9'; c++) {
        reading next;
        if (with_digit(s, &r, c, &next))
            ap_char_dfa_edge(out, (uint8_t)c, (uint8_t)c, number_of(s, next));
    }
}

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static void sizes_between(const ap_number_range *r, bound lo, bound hi, ap_char_dfa *out)
{
    sizes *s = ap_calloc(1, sizeof *s);
    if (!s) {
        out->failed = true;
        return;
    }
    *s = (sizes){.lo = lo, .hi = hi, .multiple = r->multiple, .scale = r->scale};
    s->most_whole =
        larger(DIGITS, larger(lo.at ? lo.at->n_whole + 1 : 0, hi.at ? hi.at->n_whole : 0));
    s->most_fraction =
        larger(DIGITS, larger(lo.at ? lo.at->n_fraction + 1 : 0, hi.at ? hi.at->n_fraction : 0));
    if (r->multiple) s->most_fraction = r->scale;
    if (r->integer) s->most_fraction = 0;
    memset(s->bucket, 0xff, sizeof s->bucket);
    number_of(s, (reading){0});
    for (size_t i = 0; i < s->n && !s->failed && !out->full && !out->failed; i++) {
        ap_char_dfa_state(out, accepts(s, &s->v[i]));
        put_edges(s, out, s->v[i]);
    }
    out->failed = out->failed || s->failed;
    ap_free(s->v);
    ap_free(s);
}

/* ---------------------------------------------------------------- both signs */

static const ap_decimal one = {.n_whole = 1, .whole = "1"};

/* The numbers below zero, without their sign; those not below. false: there are none. */
static bool side_of(const ap_number_range *r, bool negative, ap_char_dfa *out)
{
    bound lo = {NULL, false}, hi = {NULL, false};
    if (negative) {
        if (r->has_lo && !r->lo.negative) return false;
        if (r->has_lo) hi = (bound){&r->lo, r->lo_open};
        if (r->has_hi && r->hi.negative) lo = (bound){&r->hi, r->hi_open};
        if (r->integer && !lo.at) lo = (bound){&one, false};
    } else {
        if (r->has_hi && r->hi.negative) return false;
        if (r->has_hi) hi = (bound){&r->hi, r->hi_open};
        if (r->has_lo && !r->lo.negative) lo = (bound){&r->lo, r->lo_open};
    }
    sizes_between(r, lo, hi, out);
    return true;
}

/* -0.0 is zero: below zero there must be something else if zero is outside. */
static bool zero_is_outside(const ap_number_range *r)
{
    static const ap_decimal zero = {.n_whole = 1, .whole = "0"};
    return r->has_hi && r->hi_open && ap_decimal_compare(&r->hi, &zero) == 0;
}

static void put_exponent(ap_grammar *g, int32_t from, int32_t to)
{
    int32_t e = ap_grammar_state(g), s = ap_grammar_state(g), d = ap_grammar_state(g);
    ap_grammar_bytes(g, from, e, 'e', 'e');
    ap_grammar_bytes(g, from, e, 'E', 'E');
    ap_grammar_empty(g, e, s);
    ap_grammar_bytes(g, e, s, '+', '+');
    ap_grammar_bytes(g, e, s, '-', '-');
    ap_grammar_bytes(g, s, d, '0', '9');
    ap_grammar_empty(g, d, to);
    ap_grammar_bytes(g, d, to, '0', '9');
}

void ap_number_put(const ap_number_range *given, ap_grammar *g, int32_t from, int32_t to)
{
    int32_t end = ap_grammar_state(g);
    for (int negative = 0; negative < 2; negative++) {
        ap_char_dfa d = {0};
        ap_number_range r = *given;
        int32_t begin = from;
        if (negative && zero_is_outside(&r)) { /* so is a size of zero */
            r.hi = (ap_decimal){.n_whole = 1, .whole = "0", .negative = true};
        }
        if (side_of(&r, negative, &d)) {
            if (negative) {
                begin = ap_grammar_state(g);
                ap_grammar_bytes(g, from, begin, '-', '-');
            }
            ap_char_dfa_put(&d, AP_WRITE_PLAIN, g, begin, end);
        }
        ap_char_dfa_free(&d);
    }
    ap_grammar_empty(g, end, to);
    if (!given->integer && !given->has_lo && !given->has_hi && !given->multiple)
        put_exponent(g, end, to);
}

bool ap_number_fits(const ap_number_range *r, const char *s, size_t n)
{
    ap_decimal x;
    if (!ap_decimal_read(s, n, &x)) return false;
    int lo = r->has_lo ? ap_decimal_compare(&x, &r->lo) : 1;
    int hi = r->has_hi ? ap_decimal_compare(&x, &r->hi) : -1;
    if (lo < 0 || (lo == 0 && r->lo_open) || hi > 0 || (hi == 0 && r->hi_open)) return false;
    if (r->integer && !ap_decimal_whole(&x)) return false;
    if (!r->multiple) return true;
    int64_t rest = 0;
    for (int i = 0; i < x.n_whole; i++) rest = (rest * 10 + (x.whole[i] - '0')) % r->multiple;
    for (int i = 0; i < r->scale; i++)
        rest = (rest * 10 + (i < x.n_fraction ? x.fraction[i] - '0' : 0)) % r->multiple;
    return rest == 0 && x.n_fraction <= r->scale;
}
