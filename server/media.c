#include "media.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "apus/apus_unstable.h"
#include "address.h"
#include "base64.h"
#include "fields.h"
#include "remote.h"
#include "state.h"

enum {
    MOST_DECODING = 2, /* pictures that are unpacked at once: up to 400 MB each */
    MOST_FETCHING = 8, /* of all requests at once: up to a whole body each */
    FETCH_S = 20       /* seconds for all that a request names */
};

static const size_t most_prepared = (size_t)2 << 30; /* bytes, of all requests together */

static const char *const kind_names[] = {"a picture", "a video", "a sound"};

/* ---------------------------------------------------------------- the gate */

void sv_media_gate_init(sv_media_gate *g)
{
    *g = (sv_media_gate){0};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->left, NULL);
}

/* Wait for a place; false: what others hold prepared leaves no memory. */
static bool enter(sv_media_gate *g)
{
    pthread_mutex_lock(&g->lock);
    while (g->decoding >= MOST_DECODING) pthread_cond_wait(&g->left, &g->lock);
    bool ok = g->bytes < most_prepared;
    g->decoding += ok;
    pthread_mutex_unlock(&g->lock);
    return ok;
}

static void leave(sv_media_gate *g, size_t bytes)
{
    pthread_mutex_lock(&g->lock);
    g->decoding--;
    g->bytes += bytes;
    pthread_cond_broadcast(&g->left);
    pthread_mutex_unlock(&g->lock);
}

static size_t bytes_of(const apus_media *m)
{
    size_t sum = 0;
    apus_media_part p = {.size = sizeof p};
    for (size_t i = 0; apus_media_part_at(m, i, &p); i++) sum += p.n * p.width * sizeof(float);
    return sum;
}

void sv_media_free(sv_job *j)
{
    for (int i = 0; i < j->n_media; i++) {
        pthread_mutex_lock(&j->gate->lock);
        j->gate->bytes -= bytes_of(j->media[i]);
        pthread_mutex_unlock(&j->gate->lock);
        apus_media_free(j->media[i]);
    }
    free(j->media);
    j->media = NULL;
    j->n_media = 0;
}

/* ---------------------------------------------------------------- how clear */

bool sv_media_detail(sv_exchange *x, sv_job *j, const char *detail, const char *path, int *tokens)
{
    bool budgets = !strncmp(x->served->info.architecture, "gemma", 5);
    *tokens = j->image_tokens;
    if (!detail || !strcmp(detail, "auto") || *tokens) return true;
    if (!strcmp(detail, "low")) {
        *tokens = budgets ? 70 : 256;
        return true;
    }
    if (!strcmp(detail, "high") || !strcmp(detail, "original")) {
        *tokens = budgets ? 1120 : 0;
        return true;
    }
    return sv_fail(x, 400, NULL, path, "%s: expected low, high, original or auto, found %.60s",
                   path, detail);
}

/* ---------------------------------------------------------------- one of them */

static bool may_add(sv_exchange *x, const sv_job *j, apus_media_type kind, const char *path)
{
    const sv_settings *s = x->server->set;
    unsigned towers = s->text_only ? 0 : x->served->info.towers;
    bool heard = kind == APUS_MEDIA_SOUND;
    if (!towers)
        return sv_fail(x, 400, "unsupported_value", path, "%s: the model %.100s takes text only",
                       path, x->served->entry->name);
    if (!(towers & (heard ? APUS_TOWER_AUDIO : APUS_TOWER_VISION)))
        return sv_fail(x, 400, "unsupported_value", path, "%s: the model %.100s does not %s", path,
                       x->served->entry->name, heard ? "hear" : "see");
    if (j->n_media == s->max_media)
        return sv_fail(x, 400, "too_many_pictures", path,
                       "%s: at most %d pictures are taken in a request", path, s->max_media);
    return true;
}

static bool open_media(sv_exchange *x, apus_media_type kind, const char *path, int tokens,
                       const uint8_t *data, size_t n, apus_media **out)
{
    apus_diag d;
    apus_media_settings s;
    sv_media_gate *g = &x->server->media;
    apus_media_settings_default(&s);
    s.image_tokens = tokens ? tokens : x->server->set->image_tokens;
    s.still = kind == APUS_MEDIA_PICTURE;
    s.max_pixels = (uint64_t)x->server->set->max_pixels;
    if (!enter(g))
        return sv_fail(x, 429, "too_many_pictures", NULL,
                       "the pictures of other requests leave no memory for more: try again");
    apus_err err = apus_media_open_memory(x->served->model, data, n, path, &s, out, &d);
    leave(g, err ? 0 : bytes_of(*out));
    if (!err) return true;
    if (err == APUS_ENOMEM) return sv_fail(x, 503, "unavailable", path, "%s", d.text);
    return sv_fail(x, 400, "invalid_image", path, "%s", d.text);
}

/* What was taken makes the prompt too long already. */
static bool check_length(sv_exchange *x, const sv_job *j, const char *path)
{
    int64_t n = 0;
    for (int i = 0; i < j->n_media; i++) n += apus_media_tokens(j->media[i]);
    if (n < x->served->ctx) return true;
    return sv_fail(x, 400, "context_length_exceeded", path,
                   "%s: with it, pictures take %lld tokens, more than the context of %d tokens has "
                   "room for; nothing was cut off",
                   path, (long long)n, x->served->ctx);
}

static bool keep(sv_exchange *x, sv_job *j, apus_media *m, apus_media_type kind, const char *path)
{
    apus_media **all = realloc(j->media, (size_t)(j->n_media + 1) * sizeof(apus_media *));
    j->gate = &x->server->media;
    if (!all) {
        apus_media_free(m);
        return sv_fail(x, 503, NULL, NULL, "out of memory");
    }
    j->media = all;
    all[j->n_media++] = m;
    if (apus_media_type_of(m) != kind)
        return sv_fail(x, 400, NULL, path, "%s: expected %s, found %s", path, kind_names[kind],
                       kind_names[apus_media_type_of(m)]);
    return check_length(x, j, path);
}

bool sv_media_add(sv_exchange *x, sv_job *j, apus_media_type kind, const char *path, int tokens,
                  const char *base64, size_t len)
{
    apus_media *m = NULL;
    size_t n, at;
    if (!may_add(x, j, kind, path)) return false;
    uint8_t *data = malloc(len / 4 * 3 + 3);
    if (!data) return sv_fail(x, 503, NULL, NULL, "out of memory");
    bool ok = sv_base64_read(base64, len, data, &n, &at);
    if (!ok)
        sv_fail(x, 400, "invalid_base64", path, "%s: character %zu is no base64", path, at);
    else
        ok = open_media(x, kind, path, tokens, data, n, &m);
    free(data);
    return ok && keep(x, j, m, kind, path);
}

/* ---------------------------------------------------------------- URLs */

/* Where the data of "data:TYPE/...;base64," begins; NULL: it is none of that type. */
static const char *data_of(const char *url, const char *type)
{
    size_t n = strlen(type);
    if (strncasecmp(url, "data:", 5) || strncasecmp(url + 5, type, n) || url[5 + n] != '/')
        return NULL;
    const char *comma = strchr(url, ',');
    if (!comma || comma - url < 7 || strncasecmp(comma - 7, ";base64", 7)) return NULL;
    return comma + 1;
}

static bool must_stop(void *ctx)
{
    sv_exchange *x = ctx;
    return atomic_load(&x->server->stopping) || sv_client_gone(x);
}

static bool fetch(sv_exchange *x, sv_job *j, const char *path, const char *url, sv_buf *out)
{
    sv_media_gate *g = &x->server->media;
    char why[200];
    if (!j->fetch_until_us) j->fetch_until_us = sv_now_us() + (int64_t)FETCH_S * 1000000;
    sv_remote r = {.hosts = &x->server->set->media_hosts,
                   .reachable = sv_address_is_public,
                   .max_bytes = x->server->set->max_body,
                   .until_us = j->fetch_until_us,
                   .stop = must_stop,
                   .ctx = x};
    pthread_mutex_lock(&g->lock);
    while (g->fetching >= MOST_FETCHING) pthread_cond_wait(&g->left, &g->lock);
    g->fetching++;
    pthread_mutex_unlock(&g->lock);
    bool ok = sv_remote_get(&r, url, out, why, sizeof why);
    pthread_mutex_lock(&g->lock);
    g->fetching--;
    pthread_cond_broadcast(&g->left);
    pthread_mutex_unlock(&g->lock);
    return ok || sv_fail(x, 400, "invalid_image_url", path, "%s: %.200s: %s", path, url, why);
}

static bool add_remote(sv_exchange *x, sv_job *j, apus_media_type kind, const char *path,
                       int tokens, const char *url)
{
    apus_media *m = NULL;
    sv_buf data = {0};
    bool ok = may_add(x, j, kind, path) && fetch(x, j, path, url, &data) &&
              open_media(x, kind, path, tokens, (const uint8_t *)sv_buf_text(&data), data.len, &m);
    sv_buf_free(&data);
    return ok && keep(x, j, m, kind, path);
}

bool sv_media_add_url(sv_exchange *x, sv_job *j, apus_media_type kind, const char *path, int tokens,
                      const sv_json *url)
{
    static const char *const types[] = {"image", "video", "audio"};
    if (!url || url->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s: expected a string", path);
    const char *data = data_of(url->str, types[kind]);
    if (!data && kind == APUS_MEDIA_VIDEO) data = data_of(url->str, "image"); /* an animation */
    if (data)
        return sv_media_add(x, j, kind, path, tokens, data, url->len - (size_t)(data - url->str));
    bool remote = !strncasecmp(url->str, "http:", 5) || !strncasecmp(url->str, "https:", 6);
    if (remote && x->server->set->media_hosts.n)
        return add_remote(x, j, kind, path, tokens, url->str);
    if (remote)
        return sv_fail(x, 400, "unsupported_value", path,
                       "%s: this server fetches nothing from elsewhere (--allow-media-from); send "
                       "data:%s/...;base64,...",
                       path, types[kind]);
    return sv_fail(x, 400, NULL, path, "%s: expected data:%s/...;base64,...", path, types[kind]);
}
