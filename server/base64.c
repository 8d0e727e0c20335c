#include "base64.h"

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    if (c == '+' || c == '-') return 62;
    if (c == '/' || c == '_') return 63;
    return -1;
}

static bool is_space(char c)
{
    return c == '\n' || c == '\r' || c == ' ' || c == '\t';
}

bool sv_base64_read(const char *s, size_t len, uint8_t *out, size_t *n, size_t *at)
{
    uint32_t bits = 0;
    int held = 0, ends = 0; /* bits; signs of the end */
    size_t signs = 0;
    *n = 0;
    for (*at = 0; *at < len; ++*at) {
        char c = s[*at];
        if (is_space(c)) continue;
        int v = value_of(c);
        signs++;
        if (c == '=' && signs % 4 != 1 && signs % 4 != 2 && ends < 2) {
            ends++;
            continue;
        }
        if (v < 0 || ends) return false;
        bits = bits << 6 | (uint32_t)v;
        held += 6;
        if (held < 8) continue;
        held -= 8;
        out[(*n)++] = (uint8_t)(bits >> held);
    }
    /* one sign alone says nothing; an end is whole */
    return (signs - (size_t)ends) % 4 != 1 && (!ends || signs % 4 == 0);
}
