#include "guard.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "state.h"

/* The name in "name:port", "[::1]:port"; false: longer than any. */
static bool host_name(const char *host, char *out, size_t cap)
{
    const char *end = *host == '[' ? strchr(host, ']') : strrchr(host, ':');
    if (*host == '[') host++;
    size_t n = end ? (size_t)(end - host) : strlen(host);
    if (!n || n >= cap) return false;
    memcpy(out, host, n);
    out[n] = 0;
    return true;
}

static bool is_loopback(const char *name)
{
    return !strcasecmp(name, "localhost") || !strncmp(name, "127.", 4) || !strcmp(name, "::1");
}

/* Names can be pointed at this machine by whoever owns them, addresses cannot. */
static bool is_address(const char *name)
{
    unsigned char a[16];
    return inet_pton(AF_INET, name, a) == 1 || inet_pton(AF_INET6, name, a) == 1;
}

static bool in_list(const sv_names *l, const char *name)
{
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->item[i], "*") || !strcasecmp(l->item[i], name)) return true;
    return false;
}

static bool host_allowed(const sv_exchange *x, const char *host)
{
    char name[256];
    const sv_server *s = x->server;
    if (!host || !host_name(host, name, sizeof name)) return false;
    if (in_list(&s->set->hosts, name) || !strcasecmp(name, s->set->host)) return true;
    if (is_loopback(name) && (!strncmp(name, "127.", 4) ? is_address(name) : true)) return true;
    return !s->loopback && is_address(name);
}

static bool same_origin(const char *origin, const char *host)
{
    const char *at = strstr(origin, "://");
    return at && host && !strcasecmp(at + 3, host);
}

bool sv_origin_allowed(const sv_exchange *x, const char *origin)
{
    const sv_names *l = &x->server->set->origins;
    for (int i = 0; i < l->n; i++)
        if (!strcasecmp(l->item[i], origin)) return true;
    return false;
}

/* Takes as long for every key of a length, whatever is given. */
static bool same_key(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    unsigned char diff = n != m;
    for (size_t i = 0; i < m; i++) diff |= (unsigned char)(b[i] ^ (i < n ? a[i] : 0));
    return !diff;
}

static bool key_given(const sv_exchange *x, const sv_head *h)
{
    const sv_names *keys = &x->server->set->keys;
    const char *given = h->api_key;
    bool hit = false;
    if (h->authorization && !strncasecmp(h->authorization, "Bearer ", 7))
        given = h->authorization + 7;
    for (int i = 0; i < keys->n; i++) hit |= given && same_key(given, keys->item[i]);
    return hit;
}

static bool is_json(const char *type)
{
    size_t n = strcspn(type, "; \t");
    return n == 16 && !strncasecmp(type, "application/json", n);
}

bool sv_guard(sv_exchange *x, const sv_head *h)
{
    if (!host_allowed(x, h->host))
        return sv_fail(x, 403, "host_not_allowed", NULL,
                       "Host '%.200s' is not a name of this server; --allow-host adds one",
                       h->host ? h->host : "");
    if (h->origin && !same_origin(h->origin, h->host) && !sv_origin_allowed(x, h->origin))
        return sv_fail(x, 403, "origin_not_allowed", NULL,
                       "pages of '%.200s' may not ask this server; --allow-origin adds one",
                       h->origin);
    if (!h->origin && h->fetch_site && !strcmp(h->fetch_site, "cross-site"))
        return sv_fail(x, 403, "origin_not_allowed", NULL, "pages of other sites may not ask here");
    if (x->route && !x->route->open && x->server->set->keys.n && !key_given(x, h))
        return sv_fail(x, 401, "invalid_api_key", NULL, "%s",
                       h->authorization || h->api_key
                           ? "this key is not known here"
                           : "a key is needed: Authorization: Bearer KEY");
    if (h->content_type && !strcmp(x->method, "POST") && !is_json(h->content_type))
        return sv_fail(x, 415, "unsupported_media_type", NULL,
                       "expected a body of type application/json, found %.100s", h->content_type);
    return true;
}
