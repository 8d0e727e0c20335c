#include "input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "report.h"

char *read_input(const command *c, const char *path, size_t *len)
{
    bool std = !strcmp(path, "-");
    FILE *f = std ? stdin : fopen(path, "rb");
    if (!f) {
        fail(c, "cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    size_t cap = 1 << 16, n = 0;
    char *data = malloc(cap + 1);
    while (data) {
        n += fread(data + n, 1, cap - n, f);
        if (n < cap) break;
        char *more = cap > SIZE_MAX / 4 ? NULL : realloc(data, cap * 2 + 1);
        if (!more) {
            free(data);
            data = NULL;
        } else {
            data = more;
            cap *= 2;
        }
    }
    if (!data || ferror(f)) {
        fail(c, "reading %s failed: %s", std ? "standard input" : path,
             strerror(data ? errno : ENOMEM));
        free(data);
        data = NULL;
    }
    if (!std) fclose(f);
    if (!data) return NULL;
    data[n] = 0;
    *len = n;
    return data;
}

static bool is_space(char c)
{
    return c && strchr(" \t\r\n\f\v", c);
}

int32_t *parse_ints(const command *c, const char *name, const char *text, size_t len, size_t *n)
{
    size_t cap = 0, count = 0;
    int32_t *ids = NULL;
    for (const char *p = text;;) {
        while (p < text + len && is_space(*p)) p++;
        if (p == text + len) break;
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || errno || v < INT32_MIN || v > INT32_MAX || (*end && !is_space(*end))) {
            fail(c, "%s: expected whitespace-separated integers, found '%.20s' after %zu of them",
                 name, p, count);
            free(ids);
            return NULL;
        }
        if (count == cap) {
            cap = cap ? cap * 2 : 1024;
            int32_t *more = realloc(ids, cap * sizeof *ids);
            if (!more) {
                fail(c, "%s: out of memory", name);
                free(ids);
                return NULL;
            }
            ids = more;
        }
        ids[count++] = (int32_t)v;
        p = end;
    }
    if (count == 0) fail(c, "%s: expected whitespace-separated integers, found none", name);
    *n = count;
    return ids;
}

int32_t *read_ints(const command *c, const char *path, size_t *n)
{
    size_t len;
    char *text = read_input(c, path, &len);
    if (!text) return NULL;
    int32_t *ids = parse_ints(c, path, text, len, n);
    free(text);
    return ids;
}

int keep_apart(const command *c, const char *out, const char *const *in, size_t n)
{
    apus_diag d;
    for (size_t i = 0; i < n; i++)
        if (in[i] && apus_output_apart(out, in[i], &d)) return report(c, &d);
    return -1;
}
