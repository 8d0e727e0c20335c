#include "engine/budget.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#define GB             1e9
#define LEFT_TO_OTHERS 16 /* this part of what is available, unless a budget was named */
#define LARGE_PAGE     ((size_t)2 << 20)

static double gb(uint64_t bytes)
{
    return (double)bytes / GB;
}

static bool where(const void *ctx, const void *p, size_t n, size_t *file, uint64_t *offset)
{
    return ap_weights_where(ctx, p, n, file, offset);
}

/* All of the store's description but the slots. */
static apus_err describe(apus_model *m, ap_expert_spec *spec, apus_diag *diag)
{
    size_t n = ap_weights_files(m->weights);
    m->paths = ap_calloc(n, sizeof *m->paths);
    if (!m->paths) return ap_fail_nomem(diag, n * sizeof *m->paths, "names of files");
    for (size_t i = 0; i < n; i++) m->paths[i] = ap_weights_path(m->weights, i);
    *spec = (ap_expert_spec){.n_layer = m->config.n_layer,
                             .n_expert = m->config.n_expert,
                             .view = ap_model_views(m->outline),
                             .dev = m->dev,
                             .path = m->paths,
                             .n_file = (int)n,
                             .where = where,
                             .ctx = m->weights};
    return APUS_OK;
}

size_t *ap_budget_record_bytes(const ap_config *c, const ap_expert_view *v, const ap_kern *k)
{
    size_t n = (size_t)c->n_layer * (size_t)c->n_expert;
    size_t *bytes = ap_calloc(n, sizeof *bytes);
    for (size_t i = 0; bytes && i < n; i++) bytes[i] = ap_expert_bytes(k, &v[i]);
    return bytes;
}

/* The file that 'apus repack' made: the one that is named, else the one beside the model; its path is NULL if
 * there is none. */
static apus_err find_packed(const apus_model *m, const char *given, ap_buf *path, apus_diag *diag)
{
    ap_buf_addf(path, "%s%s", given ? given : m->dir,
                given                           ? ""
                : ap_ends_with(m->dir, ".gguf") ? ".experts"
                                                : "/experts.apus");
    if (path->failed) return ap_fail_nomem(diag, strlen(m->dir), "a path");
    if (!given && !ap_path_exists(path->data)) ap_buf_free(path);
    return APUS_OK;
}

/* Experts come from a file of packed ones, if there is one. One that was named must fit; of one that is found beside
 * the model and does not, a note tells. */
static apus_err use_packed(apus_model *m, const char *given, ap_expert_spec *spec,
                           ap_expert_records *r, apus_diag *diag)
{
    const ap_config *c = &m->config;
    apus_diag why;
    ap_buf path = {0};
    apus_err err = find_packed(m, given, &path, diag);
    if (err || !path.data) return err;
    size_t *bytes = ap_budget_record_bytes(c, spec->view, m->dev->kern);
    err = bytes ? ap_packed_open(path.data, &m->packed, &why)
                : ap_fail_nomem(&why, (size_t)c->n_layer * sizeof *bytes, "the table of experts");
    if (!err)
        err = ap_packed_check(&m->packed, m->fingerprint, ap_expert_form(m->dev->kern), c->n_layer,
                              c->n_expert, bytes, &why);
    ap_free(bytes);
    ap_buf_free(&path);
    if (err) ap_packed_close(&m->packed);
    if (err && (given || err == APUS_ENOMEM)) {
        if (diag) *diag = why;
        return err;
    }
    if (err) {
        ap_note(&m->notes, "%s; it is not used", why.text);
        return APUS_OK;
    }
    *r = (ap_expert_records){m->packed.path, m->packed.offset, m->packed.sum};
    spec->records = r;
    return APUS_OK;
}

/* What must be in memory at once, in bytes. */
typedef struct needs {
    size_t dense;    /* weights of every token */
    size_t sessions; /* the engine that is to stand beside them */
    size_t reading;  /* experts on their way */
    size_t other;
    size_t slot, n; /* bytes of an expert, and how many there are */
} needs;

static apus_err find_needs(apus_model *m, const apus_model_settings *s, ap_expert_spec *spec,
                           needs *out, apus_diag *diag)
{
    ap_sizes z;
    apus_err err =
        ap_model_measure(&m->config, m->weights, m->dev, false, &out->dense, &m->outline, diag);
    if (!err) err = describe(m, spec, diag);
    if (!err) err = use_packed(m, s->experts, spec, &m->records, diag);
    if (!err) err = ap_engine_measure(m, s->engine, &z, diag);
    if (err) return err;
    out->dense += m->tower_bytes;
    out->sessions = z.kv_bytes + z.state_bytes + z.scratch_bytes;
    out->reading = ap_expert_room_bytes(spec) + LARGE_PAGE; /* of which slots may waste a part */
    out->slot = ap_expert_slot_bytes(spec, &out->n);
    m->packed_bytes = out->dense;
    out->other = (size_t)ap_other_bytes(m, &z);
    return APUS_OK;
}

static apus_err too_small(const apus_model *m, const needs *n, uint64_t have, apus_diag *diag)
{
    uint64_t least = (uint64_t)n->dense + n->sessions + n->reading + n->other + n->slot;
    return ap_fail(diag, APUS_ENOMEM,
                   "%s: %.3f GB may be used, at least %.3f are needed: %.3f of weights for every "
                   "token, %.3f of sessions and steps, %.3f to read experts, %.3f of program and "
                   "tables, %.3f for one expert; allow more, or a smaller ctx or prefill_chunk",
                   m->dir, gb(have), gb(least), gb(n->dense), gb(n->sessions), gb(n->reading),
                   gb(n->other), gb(n->slot));
}

/* Even routing is the worst case: then a layer finds the part of its experts that is in memory. */
static void tell(const apus_model *m, const needs *n, size_t slots, double rate)
{
    const ap_config *c = &m->config;
    size_t layers = n->n / (size_t)c->n_expert;
    double miss = 1 - (double)slots / (double)n->n;
    double bytes = miss * (double)layers * (double)c->n_expert_used * (double)n->slot;
    char speed[160] = "";
    if (rate > 0)
        snprintf(speed, sizeof speed,
                 ", read at %.2f GB/s (%s, %d at once): at least %.1f s for each 10 tokens",
                 rate / GB, ap_expert_store_io(m->store), ap_expert_store_depth(m->store),
                 10 * bytes / rate);
    ap_log_say(&m->log, APUS_LOG_PLAN,
               "%.2f GB of memory: %.2f for the weights that every token needs, %.2f for sessions "
               "and steps, %.2f for %zu of %zu experts (%.0f %%); the others stay on the disk and, "
               "if they are chosen evenly, a token reads %.2f GB of them%s",
               gb(m->budget), gb(n->dense), gb(n->sessions + n->reading + n->other),
               gb(n->slot * slots), slots, n->n, 100.0 * (double)slots / (double)n->n, bytes / GB,
               speed);
}

/* Not everything fits into `have` bytes. */
static apus_err plan_store(apus_model *m, const apus_model_settings *s, uint64_t have,
                           apus_diag *diag)
{
    if (!s->memory) have -= have / LEFT_TO_OTHERS;
    ap_expert_spec spec;
    needs n;
    m->budget = have;
    apus_err err = find_needs(m, s, &spec, &n, diag);
    if (err) return err;
    uint64_t fixed = (uint64_t)n.dense + n.sessions + n.reading + n.other;
    uint64_t slots = fixed < have ? (have - fixed) / n.slot : 0;
    if (!slots) return too_small(m, &n, have, diag);
    if (slots > n.n) slots = n.n;
    spec.n_slot = (int)slots;
    err = ap_expert_store_create(&spec, &m->store, diag);
    if (err) return err;
    m->experts = ap_expert_store_source(m->store);
    m->packed_bytes = n.dense + n.reading + n.slot * (size_t)slots;
    tell(m, &n, (size_t)slots, ap_expert_store_probe(m->store));
    return APUS_OK;
}

/* Bytes that weights and sessions may take of a budget for everything. */
static apus_err whole_budget(const apus_model *m, const apus_model_settings *s, uint64_t *have,
                             apus_diag *diag)
{
    uint64_t there = m->dev->op->memory(m->dev, NULL);
    *have = there;
    if (!s->memory) return APUS_OK;
    if (!m->dev->is_host)
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "apus_model_settings.memory: a limit is kept on the CPU alone, not on %s; "
                       "choose the device cpu",
                       m->dev->name);
    if (there && s->memory > there)
        return ap_fail(diag, APUS_ENOMEM,
                       "apus_model_settings.memory: %.3f GB were allowed, %.3f GB are available",
                       gb(s->memory), gb(there));
    *have = s->memory;
    return APUS_OK;
}

apus_err ap_budget_plan(apus_model *m, const apus_model_settings *s, apus_diag *diag)
{
    uint64_t have, other = 0;
    ap_sizes z;
    apus_diag why;
    apus_err err = whole_budget(m, s, &have, diag);
    if (!err && s->memory) err = ap_engine_measure(m, s->engine, &z, diag);
    if (err) return err;
    if (s->memory) other = ap_other_bytes(m, &z);
    uint64_t room = have > other ? have - other : 1;
    bool weights_fit = m->packed_bytes <= room;
    err = ap_fit_model(m, s->engine, s->memory != 0, room, &why);
    if (err == APUS_ENOMEM && m->config.n_expert && m->dev->is_host && m->dev->kern->moe_wave) {
        err = plan_store(m, s, have, diag);
        /* sessions that leave no room for anything: their own sentence knows smaller ones */
        if (err != APUS_ENOMEM || !weights_fit) return err;
    }
    if (err && diag) *diag = why;
    if (s->memory) m->budget = have;
    return err;
}

void ap_budget_free(apus_model *m)
{
    ap_expert_store_free(m->store);
    ap_packed_close(&m->packed);
    ap_model_free(m->outline);
    ap_free(m->paths);
    m->store = NULL;
    m->experts = NULL;
    m->outline = NULL;
    m->paths = NULL;
}
