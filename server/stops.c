#include "stops.h"

#include <string.h>

void sv_stops_init(sv_stops *s, const char *const *item, int n)
{
    *s = (sv_stops){.item = item, .n = n, .hit = -1};
}

/* Where the first one begins. */
static bool find(sv_stops *s, size_t *at)
{
    for (int i = 0; i < s->n; i++) {
        const char *p = memmem(s->held.data, s->held.len, s->item[i], strlen(s->item[i]));
        if (!p || (s->hit >= 0 && (size_t)(p - s->held.data) >= *at)) continue;
        *at = (size_t)(p - s->held.data);
        s->hit = i;
    }
    return s->hit >= 0;
}

/* Bytes at the end that one may begin with. */
static size_t maybe(const sv_stops *s)
{
    size_t most = 0;
    for (int i = 0; i < s->n; i++) {
        size_t n = strlen(s->item[i]) - 1;
        if (n > s->held.len) n = s->held.len;
        while (n > most && memcmp(s->held.data + s->held.len - n, s->item[i], n) != 0) n--;
        if (n > most) most = n;
    }
    return most;
}

void sv_stops_push(sv_stops *s, const char *text, size_t len, size_t *n)
{
    *n = 0;
    if (s->hit >= 0) return;
    sv_buf_add(&s->held, text, len);
    if (!s->held.len || s->held.failed) return;
    if (!find(s, n)) *n = s->held.len - maybe(s);
    /* characters are never cut: stop strings begin with whole ones */
}

void sv_stops_free(sv_stops *s)
{
    sv_buf_free(&s->held);
}
