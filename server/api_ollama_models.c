/* api_ollama_models.c - Ollama's /api/tags, /api/ps, /api/show and /api/version. */
#include <stdio.h>
#include <string.h>

#include "apis.h"
#include "fields.h"
#include "job.h"
#include "ollama.h"
#include "state.h"

/* Clients print a digest and compare it: one that is the same as long as name and size are. */
static void put_digest(sv_buf *b, const sv_served *m, const sv_facts *f)
{
    char text[65];
    uint64_t h = 14695981039346656037ull ^ f->weight_bytes;
    for (int k = 0; k < 4; k++) {
        for (const char *p = m->entry->name; *p; p++)
            h = (h ^ (unsigned char)*p) * 1099511628211ull;
        h = (h ^ (uint64_t)k) * 1099511628211ull;
        snprintf(text + 16 * k, 17, "%016llx", (unsigned long long)h);
    }
    sv_put_str(b, "digest", text);
}

static void put_details(sv_buf *b, const sv_facts *f)
{
    char text[32];
    snprintf(text, sizeof text, "%.1fB", (double)f->params / 1e9);
    sv_put_map(b, "details");
    sv_put_str(b, "parent_model", "");
    sv_put_str(b, "format", f->quantised ? "quantized" : "plain");
    sv_put_str(b, "family", f->architecture);
    sv_put_array(b, "families");
    sv_put_str(b, NULL, f->architecture);
    sv_put_end_array(b);
    sv_put_str(b, "parameter_size", text);
    sv_put_str(b, "quantization_level", f->types);
    sv_put_end_map(b);
}

static void put_model(sv_exchange *x, sv_served *m, bool running)
{
    sv_buf *b = &x->out;
    sv_facts f;
    sv_pool_facts(x->server->pool, m, &f);
    sv_put_map(b, NULL);
    sv_put_str(b, "name", m->entry->name);
    sv_put_str(b, "model", m->entry->name);
    sv_put_moment(b, running ? "expires_at" : "modified_at");
    sv_put_int(b, "size", (int64_t)f.weight_bytes);
    if (running) sv_put_int(b, "size_vram", 0);
    if (running) sv_put_int(b, "context_length", sv_pool_context(x->server->pool, m));
    put_digest(b, m, &f);
    put_details(b, &f);
    sv_put_end_map(b);
}

static void list(sv_exchange *x, bool running)
{
    sv_pool *p = x->server->pool;
    sv_json_answer(x, 200);
    sv_put_map(&x->out, NULL);
    sv_put_array(&x->out, "models");
    for (int i = 0; i < sv_pool_size(p); i++) {
        sv_served *m = sv_pool_at(p, i);
        if (!running || sv_pool_is_loaded(p, m)) put_model(x, m, running);
    }
    sv_put_end_array(&x->out);
    sv_put_end_map(&x->out);
}

void sv_ollama_tags(sv_exchange *x)
{
    list(x, false);
}

void sv_ollama_ps(sv_exchange *x)
{
    list(x, true);
}

void sv_ollama_version(sv_exchange *x)
{
    sv_json_answer(x, 200);
    sv_put_map(&x->out, NULL);
    sv_put_str(&x->out, "version", apus_version());
    sv_put_end_map(&x->out);
}

typedef struct show_request {
    const char *model;
} show_request;

static const sv_field show_table[] = {
    {"model", sv_read_string, offsetof(show_request, model), 0, 0, NULL},
    {"name", sv_read_string, offsetof(show_request, model), 0, 0, NULL},
    {"verbose", sv_read_any, 0, 0, 0, NULL},
    {0}};

static void put_info(sv_buf *b, const sv_facts *f)
{
    char key[80];
    sv_put_map(b, "model_info");
    sv_put_str(b, "general.architecture", f->architecture);
    sv_put_int(b, "general.parameter_count", (int64_t)f->params);
    const struct {
        const char *name;
        int value;
    } rows[] = {{"context_length", f->context},
                {"embedding_length", f->hidden},
                {"block_count", f->n_layers},
                {"vocab_size", f->vocab}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(key, sizeof key, "%s.%s", f->architecture, rows[i].name);
        sv_put_int(b, key, rows[i].value);
    }
    sv_put_end_map(b);
}

void sv_ollama_show(sv_exchange *x)
{
    show_request r = {0};
    sv_facts f;
    sv_buf *b = &x->out;
    if (!sv_fields_read(x, show_table, x->json, "", &r)) return;
    if (!r.model) {
        sv_fail(x, 400, NULL, "model", "model: expected a name");
        return;
    }
    if (!sv_job_model(x, r.model)) return;
    sv_pool_facts(x->server->pool, sv_pool_find(x->server->pool, r.model), &f);
    sv_json_answer(x, 200);
    sv_put_map(b, NULL);
    sv_put_str(b, "license", "");
    sv_put_str(b, "modelfile", "");
    sv_put_str(b, "parameters", "");
    sv_put_str(b, "template", "");
    sv_put_moment(b, "modified_at");
    put_details(b, &f);
    put_info(b, &f);
    sv_put_array(b, "capabilities");
    sv_put_str(b, NULL, "completion");
    if (f.chats) {
        sv_put_str(b, NULL, "tools");
        sv_put_str(b, NULL, "thinking");
        if (f.towers & APUS_TOWER_VISION && !x->server->set->text_only)
            sv_put_str(b, NULL, "vision");
    }
    sv_put_end_array(b);
    sv_put_end_map(b);
}
