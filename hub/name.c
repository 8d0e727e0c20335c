#include "name.h"

#include <stdio.h>
#include <string.h>

enum { MAX_PART = 96 };

/* The same as in file/hub.c, which finds what is written here. */
static bool plain_part(const char *s, size_t n)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (n == 0 || n > MAX_PART || s[0] == '.' || s[0] == '-') return false;
    for (size_t i = 0; i < n; i++)
        if (!strchr(allowed, s[i]) || (s[i] == '.' && i && s[i - 1] == '.')) return false;
    return true;
}

static bool plain_path(const char *s)
{
    for (;;) {
        size_t n = strcspn(s, "/");
        if (!plain_part(s, n)) return false;
        if (!s[n]) return true;
        s += n + 1;
    }
}

static bool is_gguf(const char *s)
{
    size_t n = strlen(s);
    return n > 5 && !strcmp(s + n - 5, ".gguf");
}

/* What follows the first `at` leaves text and is copied to out; "" if there is none. */
static bool cut(char *text, char at, char *out, size_t cap)
{
    char *p = strchr(text, at);
    *out = 0;
    if (!p) return true;
    *p = 0;
    int n = snprintf(out, cap, "%s", p + 1);
    return n > 0 && (size_t)n < cap;
}

bool hub_name_parse(const char *text, hub_name *out)
{
    char s[sizeof out->repo + sizeof out->rev + sizeof out->which];
    char tail[sizeof out->which];
    *out = (hub_name){0};
    int n = snprintf(s, sizeof s, "%s", text);
    if (n < 0 || (size_t)n >= sizeof s) return false;
    /* :WHICH@rev and @rev:WHICH */
    if (!cut(s, ':', out->which, sizeof out->which)) return false;
    bool colon = out->which[0] != 0;
    if (!cut(out->which, '@', out->rev, sizeof out->rev)) return false;
    if (!*out->rev && !cut(s, '@', out->rev, sizeof out->rev)) return false;
    if (colon && !*out->which) return false;
    out->rev_given = *out->rev != 0;
    if (!out->rev_given) strcpy(out->rev, "main");
    char *org_end = strchr(s, '/'), *file = org_end ? strchr(org_end + 1, '/') : NULL;
    if (!org_end || strchr(s, '@')) return false;
    if (file) { /* org/repo/FILE.gguf */
        *file = 0;
        snprintf(tail, sizeof tail, "%s", file + 1);
        if (colon || !is_gguf(tail) || strlen(file + 1) >= sizeof tail) return false;
        strcpy(out->which, tail);
        out->exact = true;
    }
    if (!plain_path(s) || strlen(s) >= sizeof out->repo) return false;
    strcpy(out->repo, s);
    return plain_path(out->rev) && (!*out->which || plain_path(out->which));
}

bool hub_path_is_safe(const char *path)
{
    if (!*path || strlen(path) > 1000) return false;
    for (const char *p = path; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f || *p == '\\') return false;
    for (const char *p = path;;) {
        size_t n = strcspn(p, "/");
        if (n == 0 || n > 255 || !strncmp(p, ".", n) || (n == 2 && !strncmp(p, "..", 2)))
            return false;
        if (!p[n]) return true;
        p += n + 1;
    }
}

bool hub_is_commit(const char *s)
{
    return strlen(s) == 40 && strspn(s, "0123456789abcdef") == 40;
}
