/* jinja_text.c - strings and sequences: searching, splitting, slicing, by characters as Python
 * counts them. */
#include <string.h>

#include "base/utf8.h"
#include "text/jinja/jinja.h"

bool ap_j_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 ||
           cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

uint32_t ap_j_cp_at(const ap_jstr *s, size_t i, size_t *n)
{
    uint32_t cp;
    *n = ap_utf8_decode(s->s + i, s->len - i, &cp);
    return cp;
}

/* Start of the character that ends at byte i > 0. */
static size_t cp_before(const ap_jstr *s, size_t i)
{
    do i--;
    while (i > 0 && ((uint8_t)s->s[i] & 0xC0) == 0x80);
    return i;
}

size_t ap_j_byte_of(const ap_jstr *s, size_t index)
{
    if (index >= s->n_cp) return s->len;
    if (s->n_cp == s->len) return index;
    size_t i = 0;
    for (size_t n = 0; i < s->len; i++) {
        if (((uint8_t)s->s[i] & 0xC0) == 0x80) continue;
        if (n++ == index) break;
    }
    return i;
}

/* Does b stand at a + i? Spends by what it had to look at, so that no pair of texts is slow. */
static bool match(ap_jrun *run, const ap_jstr *a, const ap_jstr *b, size_t i, uint64_t *work)
{
    size_t k = 0;
    while (k < b->len && a->s[i + k] == b->s[k]) k++;
    *work += 1 + k / 8;
    if (*work > 4096) {
        ap_j_spend(run, *work);
        *work = 0;
    }
    return k == b->len;
}

size_t ap_j_find(ap_jrun *run, const ap_jstr *a, const ap_jstr *b, size_t from)
{
    uint64_t work = 0;
    if (b->len == 0) return from <= a->len ? from : SIZE_MAX;
    while (from < a->len && a->len - from >= b->len && !run->failed) {
        const char *p = memchr(a->s + from, b->s[0], a->len - from - b->len + 1);
        if (!p) break;
        work += ((size_t)(p - a->s) - from) / 8;
        from = (size_t)(p - a->s);
        if (match(run, a, b, from, &work)) {
            ap_j_spend(run, work);
            return from;
        }
        from++;
    }
    ap_j_spend(run, work + (from < a->len ? (a->len - from) / 64 : 0));
    return SIZE_MAX;
}

/* The last b in a that starts in [from, to - len]. */
size_t ap_j_rfind(ap_jrun *run, const ap_jstr *a, const ap_jstr *b, size_t from, size_t to)
{
    uint64_t work = 0;
    if (to < from || to - from < b->len) return SIZE_MAX;
    for (size_t i = to - b->len + 1; i-- > from && !run->failed;)
        if (match(run, a, b, i, &work)) return i;
    return SIZE_MAX;
}

static bool strip_char(const ap_jstr *s, size_t i, size_t n, const ap_jstr *chars)
{
    size_t k;
    if (!chars) return ap_j_is_space(ap_j_cp_at(s, i, &k));
    for (size_t at = 0; at < chars->len; at += k) {
        ap_j_cp_at(chars, at, &k);
        if (k == n && memcmp(chars->s + at, s->s + i, n) == 0) return true;
    }
    return false;
}

const ap_jstr *ap_j_strip(ap_jrun *run, const ap_jstr *s, const ap_jstr *chars, int sides)
{
    size_t from = 0, to = s->len, n;
    if (!ap_j_spend(run, chars ? chars->len / 8 : 0)) return s;
    while (sides & AP_J_LEFT && from < to) {
        ap_j_cp_at(s, from, &n);
        if (!strip_char(s, from, n, chars) || !ap_j_spend(run, chars ? 1 + chars->len / 8 : 0))
            break;
        from += n;
    }
    while (sides & AP_J_RIGHT && to > from) {
        size_t p = cp_before(s, to);
        if (!strip_char(s, p, to - p, chars) || !ap_j_spend(run, chars ? 1 + chars->len / 8 : 0))
            break;
        to = p;
    }
    ap_j_spend(run, (from + s->len - to) / 2);
    return ap_j_sub(run, s, from, to);
}

const ap_jstr *ap_j_replace(ap_jrun *run, const ap_jstr *s, const ap_jstr *old, const ap_jstr *by,
                            int64_t count)
{
    ap_jout o = {0};
    size_t at = 0, n;
    bool changed = false;
    while (count != 0 && !run->failed) {
        size_t hit = ap_j_find(run, s, old, at);
        if (hit == SIZE_MAX || !ap_j_spend(run, 1)) break;
        ap_j_put(run, &o, s->s + at, hit - at);
        ap_j_put(run, &o, by->s, by->len);
        at = hit + old->len;
        changed = true;
        if (count > 0) count--;
        if (old->len == 0) { /* between all characters */
            if (at >= s->len) break;
            ap_j_cp_at(s, at, &n);
            ap_j_put(run, &o, s->s + at, n);
            at += n;
        }
    }
    if (changed && at <= s->len) ap_j_put(run, &o, s->s + at, s->len - at);
    const ap_jstr *r = ap_j_take(run, &o);
    return changed ? r : s;
}

static void push_sub(ap_jrun *run, ap_jlist *l, const ap_jstr *s, size_t from, size_t to)
{
    ap_j_push(run, l, ap_j_strval(ap_j_sub(run, s, from, to)));
}

static void split_space(ap_jrun *run, ap_jlist *l, const ap_jstr *s, int64_t max)
{
    size_t i = 0, n;
    while (!run->failed) {
        while (i < s->len && ap_j_is_space(ap_j_cp_at(s, i, &n))) i += n;
        if (i >= s->len) return;
        if (max == 0) {
            push_sub(run, l, s, i, s->len); /* as Python: the rest is not stripped */
            return;
        }
        size_t from = i;
        while (i < s->len && !ap_j_is_space(ap_j_cp_at(s, i, &n))) i += n;
        push_sub(run, l, s, from, i);
        if (max > 0) max--;
    }
}

ap_jlist *ap_j_split(ap_jrun *run, const ap_jstr *s, const ap_jstr *sep, int64_t max)
{
    ap_jlist *l = ap_j_list_new(run, 0);
    size_t at = 0;
    if (!sep) {
        split_space(run, l, s, max);
        return l;
    }
    if (sep->len == 0) {
        ap_j_fail(run, "empty separator");
        return l;
    }
    while (max != 0 && !run->failed) {
        size_t hit = ap_j_find(run, s, sep, at);
        if (hit == SIZE_MAX) break;
        push_sub(run, l, s, at, hit);
        at = hit + sep->len;
        if (max > 0) max--;
    }
    push_sub(run, l, s, at, s->len);
    return l;
}

static void reverse_list(ap_jlist *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        ap_jval t = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
}

ap_jlist *ap_j_rsplit(ap_jrun *run, const ap_jstr *s, const ap_jstr *sep, int64_t max)
{
    ap_jlist *l = ap_j_list_new(run, 0);
    size_t to = s->len;
    if (sep && sep->len == 0) {
        ap_j_fail(run, "empty separator");
        return l;
    }
    while (!run->failed) {
        if (!sep) {
            size_t n, p;
            while (to > 0 && (p = cp_before(s, to), ap_j_is_space(ap_j_cp_at(s, p, &n)))) to = p;
            if (to == 0) break;
            if (max == 0) {
                push_sub(run, l, s, 0, to);
                break;
            }
            size_t from = to;
            while (from > 0 && (p = cp_before(s, from), !ap_j_is_space(ap_j_cp_at(s, p, &n))))
                from = p;
            push_sub(run, l, s, from, to);
            to = from;
        } else {
            size_t hit = max == 0 ? SIZE_MAX : ap_j_rfind(run, s, sep, 0, to);
            if (hit == SIZE_MAX) {
                push_sub(run, l, s, 0, to);
                break;
            }
            push_sub(run, l, s, hit + sep->len, to);
            to = hit;
        }
        if (max > 0) max--;
    }
    if (!run->failed) reverse_list(l);
    return l;
}

static bool is_line_end(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

ap_jlist *ap_j_splitlines(ap_jrun *run, const ap_jstr *s, bool keep_ends)
{
    ap_jlist *l = ap_j_list_new(run, 0);
    size_t from = 0, n;
    ap_j_spend(run, s->len / 8);
    for (size_t i = 0; i < s->len && !run->failed; i += n) {
        uint32_t cp = ap_j_cp_at(s, i, &n);
        if (!is_line_end(cp)) continue;
        size_t end = i;
        if (cp == '\r' && i + 1 < s->len && s->s[i + 1] == '\n') n = 2;
        push_sub(run, l, s, from, keep_ends ? i + n : end);
        from = i + n;
    }
    if (from < s->len) push_sub(run, l, s, from, s->len);
    return l;
}

ap_jval ap_j_index(ap_jrun *run, ap_jval of, int64_t i, bool *found)
{
    size_t len = 0;
    *found = false;
    if (of.type != AP_J_STR && of.type != AP_J_LIST && of.type != AP_J_TUPLE &&
        of.type != AP_J_RANGE)
        return ap_j_none();
    ap_j_len(of, &len);
    if (i < 0) i += (int64_t)len;
    if (i < 0 || (size_t)i >= len) return ap_j_none();
    *found = true;
    if (of.type == AP_J_RANGE) return ap_j_int(of.r->start + i * of.r->step);
    if (of.type != AP_J_STR) return of.l->v[i];
    size_t at = ap_j_byte_of(of.s, (size_t)i), n;
    ap_j_spend(run, of.s->n_cp == of.s->len ? 0 : at / 32);
    ap_j_cp_at(of.s, at, &n);
    return ap_j_strval(ap_j_sub(run, of.s, at, at + n));
}

/* One bound of a slice. */
static bool bound(ap_jrun *run, ap_jval v, int64_t *out)
{
    if (ap_j_as_int(v, out)) return true;
    ap_j_fail(run, "slice indices must be integers or None");
    return false;
}

static int64_t clamp(int64_t i, int64_t len, int64_t lo, int64_t hi)
{
    if (i < 0) i = i < -len ? -1 : i + len;
    return i < lo ? lo : i > hi ? hi : i;
}

static ap_jval slice_str(ap_jrun *run, const ap_jstr *s, int64_t from, int64_t n, int64_t step)
{
    if (step == 1) {
        size_t a = ap_j_byte_of(s, (size_t)from);
        size_t b = ap_j_byte_of(s, (size_t)(from + n));
        ap_j_spend(run, s->n_cp == s->len ? 0 : b / 16);
        return ap_j_strval(ap_j_sub(run, s, a, b));
    }
    ap_jout o = {0};
    size_t at = n ? ap_j_byte_of(s, (size_t)from) : 0, k;
    ap_j_spend(run, at / 16);
    for (int64_t i = 0; i < n && ap_j_spend(run, 1); i++) {
        ap_j_cp_at(s, at, &k);
        ap_j_put(run, &o, s->s + at, k);
        if (i + 1 == n) break;
        int64_t move = step > 0 ? step : -step; /* fits: n > 1 */
        ap_j_spend(run, (uint64_t)move / 16);
        for (; move > 0; move--) {
            if (step < 0)
                at = cp_before(s, at);
            else {
                ap_j_cp_at(s, at, &k);
                at += k;
            }
        }
    }
    return ap_j_strval(ap_j_take(run, &o));
}

static ap_jval slice_range(ap_jrun *run, const ap_jrange *of, int64_t from, int64_t n, int64_t step)
{
    ap_jrange *r = ap_j_alloc(run, 1, sizeof *r);
    if (!r) return ap_j_none();
    r->start = of->start + from * of->step;
    if (n < 2 || __builtin_mul_overflow(of->step, step, &r->step)) r->step = 1;
    r->n = (size_t)n;
    return (ap_jval){.type = AP_J_RANGE, .r = r};
}

ap_jval ap_j_slice(ap_jrun *run, ap_jval of, ap_jval from, ap_jval to, ap_jval step)
{
    size_t size = 0;
    int64_t by = 1, a, b;
    if (run->failed) return ap_j_none();
    if (of.type == AP_J_UNDEF) return ap_j_binary(run, AP_JT_ADD, of, of);
    if (of.type != AP_J_STR && of.type != AP_J_LIST && of.type != AP_J_TUPLE &&
        of.type != AP_J_RANGE)
        return ap_j_fail(run, "'%s' object cannot be sliced", ap_j_type_name(of));
    ap_j_len(of, &size);
    int64_t len = (int64_t)size;
    if (step.type != AP_J_NONE && !bound(run, step, &by)) return of;
    if (by == 0) return ap_j_fail(run, "slice step cannot be zero");
    if (by < -INT64_MAX) by = -INT64_MAX;
    a = by > 0 ? 0 : len - 1;
    b = by > 0 ? len : -1;
    if (from.type != AP_J_NONE) {
        if (!bound(run, from, &a)) return of;
        a = by > 0 ? clamp(a, len, 0, len) : clamp(a, len, -1, len - 1);
    }
    if (to.type != AP_J_NONE) {
        if (!bound(run, to, &b)) return of;
        b = by > 0 ? clamp(b, len, 0, len) : clamp(b, len, -1, len - 1);
    }
    int64_t n = by > 0 ? (b > a ? (b - a - 1) / by + 1 : 0) : (a > b ? (a - b - 1) / -by + 1 : 0);
    if (of.type == AP_J_STR) return slice_str(run, of.s, a, n, by);
    if (of.type == AP_J_RANGE) return slice_range(run, of.r, a, n, by);
    ap_jlist *l = ap_j_list_new(run, (size_t)n);
    for (int64_t i = 0; i < n && !run->failed; i++) ap_j_push(run, l, of.l->v[a + i * by]);
    return ap_j_listval(l, of.type);
}

const ap_jstr *ap_j_pad(ap_jrun *run, const ap_jstr *s, int64_t width, uint32_t fill, char align)
{
    int64_t pad = width - (int64_t)s->n_cp;
    if (pad <= 0) return s;
    /* str.center puts the odd one left or right as CPython does */
    int64_t left = align == '>' ? pad : align == '<' ? 0 : pad / 2 + (pad & width & 1);
    ap_jout o = {0};
    for (int64_t i = 0; i < left && !run->failed; i++) ap_j_put_cp(run, &o, fill);
    ap_j_put(run, &o, s->s, s->len);
    for (int64_t i = left; i < pad && !run->failed; i++) ap_j_put_cp(run, &o, fill);
    return ap_j_take(run, &o);
}
