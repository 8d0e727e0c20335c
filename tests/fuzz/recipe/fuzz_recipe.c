/* A recipe, and behind a zero byte names of tensors, a line each: what the recipe says of a name is what its first
 * fitting line says, by a matcher that tries everything. The first byte: a recipe of GGUF's types or of MLX's. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "make/recipe.h"

enum { MAX_NAME = 120, MAX_NAMES = 16 };

static void require(bool ok)
{
    if (!ok) abort();
}

/* Does pattern p fit the first n bytes of s? Row by row of the pattern: which beginnings of s it fits. */
static bool fits(const char *p, const char *s, size_t n)
{
    bool at[MAX_NAME + 1] = {true};
    for (; *p; p++)
        for (size_t i = n + 1; i-- > 0;) {
            if (*p == '*')
                for (size_t k = 0; k < i && !at[i]; k++) at[i] = at[k];
            else
                at[i] = i && at[i - 1] && (*p == '?' || *p == s[i - 1]);
        }
    return at[n];
}

/* Lines by the words of recipe.h: the pattern of the next one from *at on; false: there is none. */
static bool next_pattern(const char **at, const char *end, char *out, size_t cap)
{
    while (*at < end) {
        const char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
        *at = stop ? stop + 1 : end;
        if (!stop) stop = end;
        const char *hash = memchr(line, '#', (size_t)(stop - line));
        if (hash) stop = hash;
        while (line < stop && strchr(" \t\r", *line)) line++;
        size_t n = 0;
        while (line + n < stop && !strchr(" \t\r", line[n])) n++;
        if (n == 0) continue;
        require(n < cap);
        memcpy(out, line, n);
        out[n] = 0;
        return true;
    }
    return false;
}

static void check_name(ap_recipe *r, const char *text, const char *end, const char *name)
{
    char pattern[256];
    ap_choice choice = {AP_DTYPE_COUNT, -1};
    bool found = ap_recipe_find(r, name, &choice), fitted = false;
    while (!fitted && next_pattern(&text, end, pattern, sizeof pattern))
        fitted = fits(pattern, name, strlen(name));
    require(found == fitted);
    if (!found) return;
    require(choice.bits >= 0 && choice.bits <= 8 && choice.dtype < AP_DTYPE_COUNT);
}

static void check_names(ap_recipe *r, const char *text, const char *end, const char *names,
                        const char *names_end)
{
    char name[MAX_NAME + 1];
    for (int i = 0; i < MAX_NAMES && names < names_end; i++) {
        const char *stop = memchr(names, '\n', (size_t)(names_end - names));
        if (!stop) stop = names_end;
        size_t n = (size_t)(stop - names) < MAX_NAME ? (size_t)(stop - names) : MAX_NAME;
        memcpy(name, names, n);
        name[n] = 0;
        names = stop + 1;
        if (strlen(name) == n) check_name(r, text, end, name);
        int bits = ap_recipe_mlx_default(4, name);
        require(bits == 0 || bits == 4 || bits == 8);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size) return 0;
    const char *text = (const char *)data + 1, *all = (const char *)data + size,
               *end = memchr(text, 0, size - 1);
    ap_recipe *r = NULL;
    apus_diag d = {0};
    int line = 0, lines = 1;
    if (!end) end = all;
    for (const char *at = text; at < end; at++) lines += *at == '\n';
    apus_err err = ap_recipe_parse(text, (size_t)(end - text), "recipe", data[0] & 1, &r, &d);
    require(!err == (r != NULL) && (!err || (d.code == err && d.text[0])));
    if (err) return 0;
    check_names(r, text, end, end < all ? end + 1 : all, all);
    if (ap_recipe_unused(r, &line)) require(line >= 1 && line <= lines);
    ap_recipe_free(r);
    return 0;
}
