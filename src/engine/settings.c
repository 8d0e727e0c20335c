/* settings.c - defaults of the settings structs, and reading them from callers of any age. */
#include <string.h>

#include "engine/engine.h"

apus_err ap_settings_take(void *known, size_t known_size, const void *given, const char *what,
                          apus_diag *diag)
{
    if (!given) return APUS_OK;
    size_t size;
    memcpy(&size, given, sizeof size);
    if (size < sizeof size || size > known_size)
        return ap_fail(
            diag, APUS_EINVAL,
            "%s.size: expected %zu to %zu (fill the struct with its _default()), found %zu", what,
            sizeof size, known_size, size);
    memcpy(known, given, size);
    memcpy(known, &known_size, sizeof known_size);
    return APUS_OK;
}

static const char *const precisions[] = {"high", "exact", "fast"};
enum { N_PRECISIONS = sizeof precisions / sizeof *precisions };

apus_err apus_precision_parse(const char *name, apus_precision *out, apus_diag *diag)
{
    if (!name || !out) return ap_fail(diag, APUS_EINVAL, "precision: no name given");
    for (int i = 0; i < N_PRECISIONS; i++) {
        if (strcmp(name, precisions[i])) continue;
        *out = (apus_precision)i;
        return APUS_OK;
    }
    return ap_fail(diag, APUS_EINVAL, "precision: expected high, exact or fast, found '%.40s'",
                   name);
}

const char *apus_precision_name(apus_precision p)
{
    return (unsigned)p < N_PRECISIONS ? precisions[p] : "unknown";
}

static const char *const kv_types[] = {"auto", "f32", "bf16", "q8"};

apus_err apus_kv_parse(const char *name, apus_kv *out, apus_diag *diag)
{
    if (!name || !out) return ap_fail(diag, APUS_EINVAL, "type of KV pages: no name given");
    for (int i = 0; i < AP_KV_TYPES; i++) {
        if (strcmp(name, kv_types[i])) continue;
        *out = (apus_kv)i;
        return APUS_OK;
    }
    return ap_fail(diag, APUS_EINVAL,
                   "type of KV pages: expected auto, f32, bf16 or q8, found '%.40s'", name);
}

const char *apus_kv_name(apus_kv type)
{
    return (unsigned)type < AP_KV_TYPES ? kv_types[type] : "unknown";
}

void apus_engine_settings_default(apus_engine_settings *s)
{
    if (s) *s = (apus_engine_settings){.size = sizeof *s, .cpu = APUS_CPU_AUTO, .max_sessions = 1};
}

void apus_sampling_default(apus_sampling *s)
{
    if (s)
        *s = (apus_sampling){
            .size = sizeof *s, .temperature = 1, .top_p = 1, .repetition_penalty = 1};
}

void apus_sampling_from_model(const apus_model *m, apus_sampling *s)
{
    apus_sampling_default(s);
    if (!m || !s) return;
    const ap_config *c = &m->config;
    if (c->temperature >= 0) s->temperature = c->temperature;
    if (c->top_k >= 0) s->top_k = c->top_k;
    if (c->top_p > 0 && c->top_p <= 1) s->top_p = c->top_p;
    if (c->min_p >= 0 && c->min_p < 1) s->min_p = c->min_p;
    if (c->repetition_penalty > 0) s->repetition_penalty = c->repetition_penalty;
    if (c->penalty_last >= 0) s->penalty_last = c->penalty_last;
    if (!c->do_sample) s->temperature = 0;
}

void apus_generate_settings_default(apus_generate_settings *s)
{
    if (!s) return;
    *s = (apus_generate_settings){.size = sizeof *s, .max_tokens = -1};
}
