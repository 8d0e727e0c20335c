/* unicode_fix.h - where the reference library's Unicode data differs from that of PCRE2 and utf8proc.
 *
 * Both tables are sorted by code point and measured on the library (tools/goldens). */
#ifndef AP_TEXT_UNICODE_FIX_H
#define AP_TEXT_UNICODE_FIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ap_unicode_fix {
    uint32_t first, last;
    uint32_t as; /* same general category for every version, same length in UTF-8 */
} ap_unicode_fix;

typedef struct ap_unicode_range {
    uint32_t first, last;
} ap_unicode_range;

/* For splitting: read these code points as their representative. */
extern const ap_unicode_fix ap_unicode_fixes[];
extern const size_t ap_unicode_n_fixes;

/* For NFC: these neither move nor compose. */
extern const ap_unicode_range ap_unicode_inert[];
extern const size_t ap_unicode_n_inert;

/* \w and "numeric" as the library's Rust side has them. */
extern const ap_unicode_range ap_unicode_word[];
extern const size_t ap_unicode_n_word;
extern const ap_unicode_range ap_unicode_numeric[];
extern const size_t ap_unicode_n_numeric;

static inline bool ap_unicode_in(const ap_unicode_range *r, size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (r[mid].last < cp)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && r[lo].first <= cp;
}

/* White_Space, the same in every library concerned. */
static inline bool ap_unicode_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

#endif
