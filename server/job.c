#include "job.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fields.h"
#include "media.h"
#include "state.h"

void sv_job_init(sv_job *j, const apus_model *m)
{
    *j = (sv_job){.max_tokens = -1, .n = 1, .logprobs = -1, .think_budget = -1};
    apus_sampling_default(&j->sampling);
    apus_sampling_from_model(m, &j->sampling);
}

void sv_job_free(sv_job *j)
{
    sv_buf_free(&j->messages);
    sv_buf_free(&j->hoisted);
    sv_buf_free(&j->tools);
    sv_buf_free(&j->extra);
    sv_buf_free(&j->prefill);
    sv_buf_free(&j->schema);
    sv_media_free(j);
}

static bool add_stop(sv_exchange *x, sv_job *j, const sv_json *v, const char *path, int most)
{
    if (v->type != SV_JSON_STRING) return sv_fail_kind(x, path, "a string", v);
    if (!v->len || strlen(v->str) != v->len)
        return sv_fail(x, 400, NULL, path, "%s: a stop string cannot be empty or hold a zero",
                       path);
    if (j->n_stops == most)
        return sv_fail(x, 400, NULL, path, "%s: at most %d stop strings", path, most);
    j->stops[j->n_stops++] = v->str;
    return true;
}

bool sv_job_stops(sv_exchange *x, sv_job *j, const sv_json *v, const char *path, int most)
{
    size_t i = 0;
    if (v->type != SV_JSON_ARRAY) return add_stop(x, j, v, path, most);
    for (const sv_json *s = v->first; s; s = s->next) {
        sv_path p;
        if (!add_stop(x, j, s, sv_path_index(&p, path, i++), most)) return false;
    }
    return true;
}

bool sv_job_bias(sv_exchange *x, sv_job *j, const sv_json *v, const char *path, int vocab)
{
    if (v->type != SV_JSON_OBJECT) return sv_fail_kind(x, path, "an object", v);
    j->bias_id = sv_arena_alloc(&x->mem, (v->len + 1) * sizeof *j->bias_id);
    j->bias = sv_arena_alloc(&x->mem, (v->len + 1) * sizeof *j->bias);
    if (!j->bias_id || !j->bias) return sv_fail(x, 503, NULL, NULL, "out of memory");
    for (const sv_json *m = v->first; m; m = m->next) {
        sv_path p;
        char *end;
        long id = strtol(m->key, &end, 10);
        sv_path_at(&p, path, m->key);
        if (!*m->key || *end || id < 0 || id >= vocab)
            return sv_fail(x, 400, NULL, p.text, "%s: expected a token id below %d", p.text, vocab);
        double b = m->type == SV_JSON_NUMBER ? sv_json_real(m) : NAN;
        if (!(b >= -100 && b <= 100))
            return sv_fail(x, 400, NULL, p.text, "%s: expected a number from -100 to 100", p.text);
        j->bias_id[j->n_bias] = (int32_t)id;
        j->bias[j->n_bias++] = b == -100 ? -INFINITY : (float)b;
    }
    return true;
}

bool sv_job_ids(sv_exchange *x, const sv_json *v, const char *path, int32_t **ids, int *n)
{
    *n = 0;
    *ids = sv_arena_alloc(&x->mem, (v->len + 1) * sizeof **ids);
    if (!*ids || v->len > INT_MAX) return sv_fail(x, 503, NULL, NULL, "out of memory");
    for (const sv_json *m = v->first; m; m = m->next) {
        int64_t id;
        if (m->type != SV_JSON_NUMBER || !sv_json_int(m, &id) || id < 0 ||
            id >= x->served->info.vocab)
            return sv_fail(x, 400, NULL, path, "%s[%d]: expected a token id below %d", path, *n,
                           x->served->info.vocab);
        (*ids)[(*n)++] = (int32_t)id;
    }
    return true;
}

bool sv_job_sampling(sv_exchange *x, sv_job *j)
{
    apus_sampling *s = &j->sampling;
    if (s->top_k < 0) s->top_k = 0;
    if (s->top_p <= 0) s->top_p = FLT_MIN; /* the most likely token alone */
    if (s->min_p >= 1)
        return sv_fail(x, 400, NULL, "min_p", "min_p: expected a number from 0 to below 1");
    return true;
}

bool sv_job_model(sv_exchange *x, const char *name)
{
    sv_pool *p = x->server->pool;
    if (sv_pool_find(p, name)) return true;
    const char *first = sv_pool_at(p, 0)->entry->name;
    if (sv_pool_size(p) == 1)
        return sv_fail(x, 404, "model_not_found", "model",
                       "model '%.200s' is not here; there is '%.200s'", name, first);
    return sv_fail(
        x, 404, "model_not_found", "model",
        "model '%.200s' is not here; there is '%.200s', and GET /v1/models lists the others", name,
        first);
}
