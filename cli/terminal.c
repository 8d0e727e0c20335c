#include "terminal.h"

#include <langinfo.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void use_utf8(void)
{
    if (setlocale(LC_CTYPE, "") && !strcmp(nl_langinfo(CODESET), "UTF-8")) return;
    if (!setlocale(LC_CTYPE, "C.UTF-8")) setlocale(LC_CTYPE, "C.utf8");
}

/* The character at p, of at most n bytes, to *cp; returns its bytes. 0: not UTF-8. */
static size_t decode(const unsigned char *p, size_t n, uint32_t *cp)
{
    size_t len = p[0] < 0x80   ? 1
                 : p[0] < 0xC2 ? 0
                 : p[0] < 0xE0 ? 2
                 : p[0] < 0xF0 ? 3
                 : p[0] < 0xF5 ? 4
                               : 0;
    if (len == 0 || len > n) return 0;
    *cp = len == 1 ? p[0] : p[0] & (0x7FU >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        *cp = *cp << 6 | (p[i] & 0x3F);
    }
    bool overlong = (len == 3 && *cp < 0x800) || (len == 4 && *cp < 0x10000);
    return overlong || *cp > 0x10FFFF || (*cp >= 0xD800 && *cp < 0xE000) ? 0 : len;
}

size_t utf8_prefix(const char *text, size_t n)
{
    size_t i = 0, len = 1;
    uint32_t cp;
    for (; i < n && len; i += len) len = decode((const unsigned char *)text + i, n - i, &cp);
    return i;
}

static void put_safely(FILE *f, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        size_t len = decode(p + i, n - i, &cp);
        if (len == 0) {
            putc('?', f);
            len = 1;
        } else if (cp == '\r' && i + 1 < n && p[i + 1] == '\n') {
            /* a line end of other systems */
        } else if (cp == '\n' || cp == '\t') {
            putc((int)cp, f);
        } else if (cp < 0x20 || cp == 0x7F) {
            fprintf(f, "^%c", (int)(cp ^ 0x40));
        } else if (cp >= 0x80 && cp < 0xA0) {
            fprintf(f, "<U+%04X>", (unsigned)cp);
        } else {
            fwrite(p + i, 1, len, f);
        }
        i += len;
    }
}

void put_text(FILE *f, const char *text, size_t n)
{
    if (isatty(fileno(f)))
        put_safely(f, (const unsigned char *)text, n);
    else
        fwrite(text, 1, n, f);
}

void put_textv(FILE *f, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *text = n < 0 ? NULL : malloc((size_t)n + 1);
    if (text) {
        vsnprintf(text, (size_t)n + 1, fmt, again);
        put_text(f, text, (size_t)n);
    }
    va_end(again);
    free(text);
}

void put_textf(FILE *f, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_textv(f, fmt, ap);
    va_end(ap);
}
