#include "text/nfc.h"

#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/unicode_fix.h"
#include "text/vec.h"

typedef struct composer {
    ap_buf *out;
    size_t copied; /* bytes of the input that out accounts for */
    bool changed;
    utf8proc_int32_t *cp; /* scratch */
    size_t cap, n;
    utf8proc_int32_t *tmp;
    size_t tmp_cap;
} composer;

static bool inert(uint32_t cp)
{
    return cp >= ap_unicode_inert[0].first &&
           ap_unicode_in(ap_unicode_inert, ap_unicode_n_inert, cp);
}

/* Can nothing before cp change because of it? False for marks and for vowels and finals of Hangul,
 * which are all that ever moves or composes with what precedes. */
static bool boundary(uint32_t cp)
{
    if (cp < 0x300 || inert(cp)) return true;
    if (cp >= 0x1160 && cp <= 0x11FF) return false;
    utf8proc_category_t g = utf8proc_category((utf8proc_int32_t)cp);
    return g != UTF8PROC_CATEGORY_MN && g != UTF8PROC_CATEGORY_MC && g != UTF8PROC_CATEGORY_ME;
}

/* Canonical decomposition into dst[4]; returns the count. */
static size_t decompose(uint32_t cp, utf8proc_int32_t *dst)
{
    int last = UTF8PROC_BOUNDCLASS_START;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, dst, 4,
                                                 UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &last);
    if (n < 1 || n > 4) {
        dst[0] = (utf8proc_int32_t)cp;
        return 1;
    }
    return (size_t)n;
}

static unsigned class_of(utf8proc_int32_t cp)
{
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xFF;
}

/* Order a run of marks by class, equal classes as they stand: a counting sort, so that a megabyte
 * of marks costs no more than its length. */
static bool order_run(composer *c, utf8proc_int32_t *cp, size_t n)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) start[class_of(cp[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    if (!ap_vec_reserve(&c->tmp, &c->tmp_cap, n, sizeof *c->tmp)) return false;
    for (size_t i = 0; i < n; i++) c->tmp[start[class_of(cp[i])]++] = cp[i];
    memcpy(cp, c->tmp, n * sizeof *cp);
    return true;
}

static bool order(composer *c)
{
    for (size_t i = 0; i < c->n;) {
        if (class_of(c->cp[i]) == 0) {
            i++;
            continue;
        }
        size_t end = i + 1;
        bool sorted = true;
        for (; end < c->n && class_of(c->cp[end]) != 0; end++)
            sorted &= class_of(c->cp[end - 1]) <= class_of(c->cp[end]);
        if (!sorted && !order_run(c, c->cp + i, end - i)) return false;
        i = end;
    }
    return true;
}

/* Normalise s[from, to), which begins at a boundary and holds no other. */
static bool segment(composer *c, const char *s, size_t from, size_t to)
{
    c->n = 0;
    for (size_t i = from; i < to;) {
        uint32_t cp;
        i += ap_utf8_decode(s + i, to - i, &cp);
        if (!ap_vec_reserve(&c->cp, &c->cap, c->n + 4, sizeof *c->cp)) return false;
        c->n += decompose(cp, c->cp + c->n);
    }
    if (!order(c)) return false;
    utf8proc_ssize_t n =
        utf8proc_normalize_utf32(c->cp, (utf8proc_ssize_t)c->n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (n < 0) return false;

    /* Write it only if it differs. */
    size_t at = from;
    for (utf8proc_ssize_t i = 0; i <= n; i++) {
        char enc[4];
        size_t len = i < n ? ap_utf8_encode((uint32_t)c->cp[i], enc) : 0;
        if (i == n ? at == to : len <= to - at && memcmp(s + at, enc, len) == 0) {
            at += len;
            continue;
        }
        ap_buf_add(c->out, s + c->copied, from - c->copied);
        for (utf8proc_ssize_t k = 0; k < n; k++) {
            len = ap_utf8_encode((uint32_t)c->cp[k], enc);
            ap_buf_add(c->out, enc, len);
        }
        c->copied = to;
        c->changed = true;
        break;
    }
    return !c->out->failed;
}

apus_err ap_nfc(const char *s, size_t n, ap_buf *out, bool *changed, apus_diag *diag)
{
    composer c = {.out = out};
    bool ok = true;
    size_t i = 0;
    while (ok && i < n) {
        if ((uint8_t)s[i] < 0x80 && (i + 1 == n || (uint8_t)s[i + 1] < 0x80)) {
            i++;
            continue;
        }
        /* A boundary and what hangs on it. */
        uint32_t cp, next = 0;
        size_t end = i + ap_utf8_decode(s + i, n - i, &cp), first_end = end;
        if (inert(cp)) {
            i = end;
            continue;
        }
        while (end < n) {
            size_t len = ap_utf8_decode(s + end, n - end, &next);
            if (boundary(next)) break;
            end += len;
        }
        /* Nothing below U+0300 decomposes and stays apart. */
        if (end > first_end || cp >= 0x300) ok = segment(&c, s, i, end);
        i = end;
    }
    if (ok && c.changed) {
        ap_buf_add(out, s + c.copied, n - c.copied);
        ok = !out->failed;
    }
    ap_free(c.cp);
    ap_free(c.tmp);
    *changed = c.changed;
    return ok ? APUS_OK : ap_fail_nomem(diag, n, "normalised text");
}
