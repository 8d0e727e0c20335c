#include "base/utf8.h"

#include <string.h>

size_t ap_utf8_decode(const char *str, size_t n, uint32_t *cp)
{
    const uint8_t *s = (const uint8_t *)str;
    uint8_t b = s[0];
    if (b < 0x80) {
        *cp = b;
        return 1;
    }
    /* Length and the range of the second byte (RFC 3629 table). */
    int len = b >= 0xC2 && b <= 0xDF ? 2 : (b & 0xF0) == 0xE0 ? 3 : b >= 0xF0 && b <= 0xF4 ? 4 : 0;
    if (!len) {
        *cp = 0xFFFD;
        return 1;
    }
    uint8_t lo = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
    uint8_t hi = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
    uint32_t c = b & (0x7F >> len);
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n || s[i] < lo || s[i] > hi) {
            *cp = 0xFFFD;
            return (size_t)i;
        }
        c = c << 6 | (s[i] & 0x3F);
        lo = 0x80;
        hi = 0xBF;
    }
    *cp = c;
    return (size_t)len;
}

size_t ap_utf8_encode(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool ap_utf8_valid(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint64_t
            word; /* eight ASCII characters at once: files of tens of megabytes come this way */
        if (n - i >= 8 && (memcpy(&word, s + i, 8), !(word & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        uint32_t cp;
        size_t len = ap_utf8_decode(s + i, n - i, &cp);
        /* A valid U+FFFD is three bytes; a replacement is shorter or does not spell it. */
        if (cp == 0xFFFD && !(len == 3 && (uint8_t)s[i] == 0xEF && (uint8_t)s[i + 1] == 0xBF &&
                              (uint8_t)s[i + 2] == 0xBD))
            return false;
        i += len;
    }
    return true;
}

size_t ap_utf8_incomplete_tail(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        uint8_t b = (uint8_t)s[n - back];
        if ((b & 0xC0) == 0x80) continue;
        size_t need = b >= 0xF0 && b <= 0xF4   ? 4
                      : (b & 0xF0) == 0xE0     ? 3
                      : b >= 0xC2 && b <= 0xDF ? 2
                                               : 1;
        if (need <= back) return 0;
        uint32_t cp;
        return ap_utf8_decode(s + n - back, back, &cp) == back ? back : 0;
    }
    return 0;
}
