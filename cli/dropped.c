#include "dropped.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The first word of a text without what quotes it, into out, which has room for all of it. Returns where the word
 * ends; NULL: a quote is not closed. */
static const char *unquote(const char *p, char *out)
{
    char quote = *p == '\'' || *p == '"' ? *p++ : 0;
    for (; *p && (quote ? *p != quote : !strchr(" \t\n", *p)); p++) {
        if (*p == '\\' && quote != '\'' && p[1]) p++;
        *out++ = *p;
    }
    *out = 0;
    if (!quote) return p;
    return *p ? p + 1 : NULL;
}

/* file://HOST/PATH, with %XX, to the path, in place. */
static void from_address(char *s)
{
    static const char head[] = "file://";
    if (strlen(s) < sizeof head || memcmp(s, head, sizeof head - 1)) return;
    const char *from = strchr(s + sizeof head - 1, '/');
    if (!from) return;
    char *to = s;
    for (; *from; from++) {
        bool coded = *from == '%' && hex(from[1]) >= 0 && hex(from[2]) >= 0;
        *to++ = coded ? (char)(hex(from[1]) * 16 + hex(from[2])) : *from;
        if (coded) from += 2;
    }
    *to = 0;
}

static bool is_shown(const char *path)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".png", ".apng", ".webp", ".gif", ".wav"};
    struct stat st;
    size_t n = strlen(path);
    if (*path != '/' || stat(path, &st) || !S_ISREG(st.st_mode)) return false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t len = strlen(ends[i]);
        if (n > len && !strcasecmp(path + n - len, ends[i])) return true;
    }
    return false;
}

size_t dropped_path(const char *text, char **path)
{
    char *word = malloc(strlen(text) + 1);
    const char *end = word ? unquote(text, word) : NULL;
    if (end) from_address(word);
    if (!end || (*end && !strchr(" \t\n", *end)) || !is_shown(word)) {
        free(word);
        return 0;
    }
    *path = word;
    return (size_t)(end - text) + strspn(end, " \t\n");
}
