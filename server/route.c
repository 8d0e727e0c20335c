#include "route.h"

#include <string.h>

#include "apis.h"
#include "await.h"
#include "metrics.h"
#include "state.h"

/* A path that ends in '*' takes what follows. */
static const sv_route routes[] = {
    {"GET", "/", SV_OPENAI, true, SV_NOTHING, sv_page},
    {"GET", "/health", SV_OPENAI, true, SV_NOTHING, sv_health},
    {"GET", "/metrics", SV_OPENAI, false, SV_NOTHING, sv_metrics_handle},
    {"GET", "/v1/models", SV_OPENAI, false, SV_NOTHING, sv_models},
    {"GET", "/v1/models/*", SV_OPENAI, false, SV_NOTHING, sv_model},
    {"POST", "/v1/chat/completions", SV_OPENAI, false, SV_THE_MODEL, sv_chat},
    {"POST", "/v1/completions", SV_OPENAI, false, SV_THE_MODEL, sv_completions},
    {"POST", "/v1/messages", SV_ANTHROPIC, false, SV_THE_MODEL, sv_messages},
    {"POST", "/v1/messages/count_tokens", SV_ANTHROPIC, false, SV_THE_MODEL, sv_count_tokens},
    {"POST", "/v1/responses", SV_OPENAI, false, SV_THE_MODEL, sv_responses},
    {"POST", "/v1/responses/input_tokens", SV_OPENAI, false, SV_THE_MODEL, sv_input_tokens},
    {"POST", "/api/chat", SV_OLLAMA, false, SV_THE_MODEL, sv_ollama_chat},
    {"POST", "/api/generate", SV_OLLAMA, false, SV_THE_MODEL, sv_ollama_generate},
    {"POST", "/api/show", SV_OLLAMA, false, SV_A_SERVER, sv_ollama_show},
    {"GET", "/api/tags", SV_OLLAMA, false, SV_A_SERVER, sv_ollama_tags},
    {"GET", "/api/ps", SV_OLLAMA, false, SV_A_SERVER, sv_ollama_ps},
    {"GET", "/api/version", SV_OLLAMA, false, SV_NOTHING, sv_ollama_version},
    {"POST", "/tokenize", SV_OPENAI, false, SV_THE_MODEL, sv_tokenize},
    {"POST", "/detokenize", SV_OPENAI, false, SV_THE_MODEL, sv_detokenize},
};

static bool fits(const char *pattern, const char *path)
{
    size_t n = strlen(pattern);
    if (pattern[n - 1] != '*') return !strcmp(pattern, path);
    return !strncmp(pattern, path, n - 1) && path[n - 1];
}

const sv_route *sv_route_find(const char *method, const char *path, bool *other)
{
    *other = false;
    if (!strcmp(method, "HEAD")) method = "GET";
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!fits(routes[i].path, path)) continue;
        if (!strcmp(routes[i].method, method)) return &routes[i];
        *other = true;
    }
    return NULL;
}

sv_api sv_route_api(const char *path)
{
    if (!strncmp(path, "/api/", 5)) return SV_OLLAMA;
    return strncmp(path, "/v1/messages", 12) ? SV_OPENAI : SV_ANTHROPIC;
}

/* ---------------------------------------------------------------- carrying it out */

/* A tree takes more memory than its text: this much for each byte, so that a body of nothing but brackets is
 * refused before it takes the machine's. */
enum { TREE_BYTES = 12, TREE_LEAST = 1 << 20 };

static bool parse_body(sv_exchange *x)
{
    bool full;
    char why[512];
    x->mem.limit = TREE_LEAST + x->body.len * TREE_BYTES;
    if (x->body.failed) return sv_fail(x, 503, NULL, NULL, "out of memory");
    x->json = sv_json_parse(&x->mem, sv_buf_text(&x->body), x->body.len, &full, why, sizeof why);
    x->mem.limit = 0;
    if (x->json) return true;
    return sv_fail(x, full ? 413 : 400, full ? "body_too_large" : "invalid_json", NULL, "%s", why);
}

static bool server_ready(sv_exchange *x)
{
    int phase = atomic_load(&x->server->phase);
    if (x->route->needs == SV_NOTHING || phase == SV_READY) return true;
    return sv_fail(x, 503, phase == SV_LOADING ? "loading" : "draining", NULL,
                   phase == SV_LOADING ? "the model is loading"
                                       : "the server is ending and takes no more requests");
}

void sv_route_handle(sv_exchange *x)
{
    if (x->error.status || !x->route) return;
    if (!server_ready(x)) return;
    if (!strcmp(x->method, "POST") && !parse_body(x)) return;
    if (x->route->needs == SV_THE_MODEL && !sv_await(x)) return;
    x->route->handle(x);
}
