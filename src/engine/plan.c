/* plan.c - what an engine needs, before anything is allocated. */
#include <limits.h>
#include <string.h>

#include "engine/engine.h"

#define LEAST_CHUNK 512
#define WHOLE_CHUNK 1120 /* the most places of a picture that is computed at once */
#define MOST_CHUNK  4096 /* of the default: mixtures of experts want many tokens for each of them */
#define CHUNK_SHARE 24   /* and may take this part of the weights' memory for it */
/* On a device, whose matrix units want 256 rows of an expert: */
#define MOST_CHUNK_DEVICE  8192
#define CHUNK_SHARE_DEVICE 8
/* With experts on disk each chunk reads most of them: */
#define MOST_CHUNK_DISK  16384
#define CHUNK_SHARE_DISK 8 /* of the memory allowed */
#define MAX_CHUNK        65536
#define DEVICE_ROWS      64 /* of logits, before they go to the host */
#define MAX_SESSIONS     4096
#define DRAFTING         2 /* sessions for whose guesses a step has room at once */

static apus_err check(const ap_config *c, const apus_engine_settings *s, ap_sizes *z,
                      apus_diag *diag)
{
    z->vocab = c->vocab;
    z->hidden = c->hidden;
    z->ctx = s->ctx ? s->ctx : c->context < APUS_DEFAULT_CTX ? c->context : APUS_DEFAULT_CTX;
    if (z->ctx < 1 || z->ctx > c->context)
        return ap_fail(
            diag, APUS_EINVAL,
            "apus_engine_settings.ctx: expected 0 to %d, the positions this model was made "
            "for, found %d",
            c->context, s->ctx);
    if (s->max_sessions < 1 || s->max_sessions > MAX_SESSIONS)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_engine_settings.max_sessions: expected 1 to %d, found %d",
                       MAX_SESSIONS, s->max_sessions);
    if (s->prefill_chunk < 0 || s->prefill_chunk > MAX_CHUNK)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_engine_settings.prefill_chunk: expected 0 to %d, found %d", MAX_CHUNK,
                       s->prefill_chunk);
    if ((unsigned)s->speculate > APUS_SPECULATE_MTP)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_engine_settings.speculate: expected 0 to %d, found %d",
                       APUS_SPECULATE_MTP, (int)s->speculate);
    if (s->n_draft < 0 || s->n_draft > AP_MOST_DRAFTS)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_engine_settings.n_draft: expected 0 to %d, found %d", AP_MOST_DRAFTS,
                       s->n_draft);
    z->n_draft = s->n_draft;
    z->n_session = s->max_sessions;
    z->budget = s->kv_bytes;
    return APUS_OK;
}

/* What pages hold, and where. Without a wish: what the precision of products asks for, or what the
 * model's heads allow. */
static apus_err choose_pages(const apus_model *m, const apus_engine_settings *s, ap_sizes *z,
                             apus_diag *diag)
{
    if ((unsigned)s->kv >= AP_KV_TYPES)
        return ap_fail(diag, APUS_EINVAL, "apus_engine_settings.kv: expected 0 to %d, found %d",
                       AP_KV_TYPES - 1, (int)s->kv);
    bool exact = m->precision == APUS_PRECISION_EXACT;
    z->kv = s->kv ? s->kv : exact ? APUS_KV_F32 : APUS_KV_BF16;
    if (ap_state_shape_of(&m->config, z->kv, false, &z->shape)) return APUS_OK;
    if (s->kv)
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "apus_engine_settings.kv: %s pages need head sizes that are multiples of 16 "
                       "and at most 512; this model has others, choose f32",
                       apus_kv_name(s->kv));
    z->kv = APUS_KV_F32;
    ap_state_shape_of(&m->config, z->kv, false, &z->shape);
    return APUS_OK;
}

bool ap_same_bits(const apus_model *m, const ap_exec *ex, apus_kv kv)
{
    if (m->precision == APUS_PRECISION_FAST) return false;
    return ex->dev->is_host || kv == APUS_KV_F32; /* docs/cuda.md */
}

/* Experts from the disk would be more of them for every guess. */
static apus_err choose_drafts(const apus_model *m, const apus_engine_settings *s, const ap_exec *ex,
                              ap_sizes *z, apus_diag *diag)
{
    bool pays = !m->experts && !m->outline && ap_same_bits(m, ex, z->kv);
    bool head = m->config.has_head;
    if (s->speculate == APUS_SPECULATE_MTP && !head)
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "apus_engine_settings.speculate: %s has no head for further tokens among "
                       "its weights, or was opened without it (apus_model_settings.engine); "
                       "choose ngram",
                       m->dir);
    bool everything = s->speculate == APUS_SPECULATE_AUTO && (pays || s->n_draft);
    z->looks_up = everything || s->speculate == APUS_SPECULATE_NGRAM;
    z->runs_head = (everything && head) || s->speculate == APUS_SPECULATE_MTP;
    if (z->runs_head) ap_state_shape_of(&m->config, z->kv, true, &z->shape);
    return APUS_OK;
}

/* *sum += n * each; false on overflow. */
static bool add(size_t *sum, size_t n, size_t each)
{
    size_t bytes;
    return ap_mul_size(n, each, &bytes) && ap_add_size(*sum, bytes, sum);
}

/* Memory of the bookkeeping of sessions and steps, and of the sampler. */
static bool add_small(const ap_exec *ex, ap_sizes *z)
{
    size_t n = (size_t)z->n_session, rows, sampler;
    size_t *sum = &z->scratch_bytes;
    bool ok = add(sum, n, sizeof(apus_session) + sizeof(ap_lane));
    ok = ok && add(sum, n, sizeof(ap_gen) + sizeof(apus_feed) + 2 * sizeof(void *));
    ok = ok && add(sum, 1, z->kept_bytes) && add(sum, 1, z->hidden_bytes);
    ok = ok && add(sum, n, (size_t)z->ctx * sizeof(int32_t));
    ok = ok && add(sum, n * AP_KV_GROUPS, (size_t)ap_kv_entries(z->ctx) * sizeof(int32_t));
    ok = ok && ap_rows_bytes(z->chunk, z->n_session, &rows) && add(sum, 1, rows);
    ok = ok && add(sum, (size_t)z->logit_rows, (size_t)z->vocab * sizeof(float));
    ok = ok && add(sum, 1, z->embed_bytes);
    return ok && ap_chooser_bytes(ex, z->n_session, z->vocab, z->ctx, &sampler) &&
           add(sum, 1, sampler);
}

/* Blocks for all sessions full, and what must be there at least: one session full, and for each of the others its
 * live state with a copy. */
static bool count_blocks(const ap_sizes *z, ap_pages_kind kind[AP_PAGES_KINDS])
{
    size_t n = (size_t)z->n_session;
    for (int g = 0; g < AP_KV_GROUPS; g++)
        kind[g] = (ap_pages_kind){.block_bytes = z->shape.page_bytes[g],
                                  .least = (size_t)z->kv_cap[g],
                                  .most = (size_t)z->kv_cap[g] * n};
    kind[AP_KV_GROUPS] = (ap_pages_kind){.block_bytes = z->recur_block_bytes,
                                         .least = AP_RECUR_BLOCKS + 2 * (n - 1),
                                         .most = AP_RECUR_BLOCKS * n};
    bool ok = true;
    for (int k = 0; k < AP_PAGES_KINDS; k++) ok = ok && kind[k].most <= INT32_MAX;
    return ok;
}

/* Pages and states: blocks and bytes. False: they overflow, or are more than z->budget and *least is what they
 * take at least. */
static bool measure_pages(ap_sizes *z, uint64_t *least)
{
    ap_pages_kind kind[AP_PAGES_KINDS];
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (z->shape.page_bytes[g])
            z->kv_cap[g] = ap_kv_cap(z->ctx, g == AP_KV_SLIDING ? z->shape.window : 0, z->chunk);
    if (!ap_mul_size(z->shape.recur_floats, sizeof(float), &z->recur_block_bytes) ||
        !ap_add_size(z->recur_block_bytes, AP_ALIGN - 1, &z->recur_block_bytes))
        return false;
    z->recur_block_bytes = z->recur_block_bytes / AP_ALIGN * AP_ALIGN;
    if (!count_blocks(z, kind) || !ap_pages_split(kind, z->budget, least)) return false;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        z->n_page[g] = (int)kind[g].n;
        if (!add(&z->kv_bytes, kind[g].n, kind[g].block_bytes)) return false;
    }
    z->n_state = (int)kind[AP_KV_GROUPS].n;
    return add(&z->state_bytes, kind[AP_KV_GROUPS].n, z->recur_block_bytes);
}

/* Rows of a step for guesses, and what they keep of their sequences' states. */
static bool measure_drafts(ap_sizes *z)
{
    int most = AP_MOST_DRAFTS * (z->n_session < DRAFTING ? z->n_session : DRAFTING);
    int left = z->chunk - z->n_session;
    if ((!z->looks_up && !z->runs_head) || left <= 0) return true;
    z->draft_rows = most < left ? most : left;
    z->kept_rows = z->draft_rows + (z->n_session < z->draft_rows ? z->n_session : z->draft_rows);
    if (z->runs_head) z->hidden_bytes = (size_t)z->n_session * (size_t)z->hidden * sizeof(float);
    return add(&z->kept_bytes, (size_t)z->kept_rows, z->shape.kept_floats * sizeof(float));
}

/* All sizes with steps of at most `chunk` tokens; false: they overflow, or with *least set, the budget is less. */
static bool measure(const apus_model *m, const ap_exec *ex, int chunk, ap_sizes *out,
                    uint64_t *least)
{
    ap_sizes z = *out;
    int64_t most = (int64_t)z.ctx * z.n_session; /* no step is larger */
    z.chunk = chunk < most ? chunk : (int)most;
    if (m->towers) z.embed_bytes = (size_t)z.chunk * (size_t)m->config.hidden * sizeof(float);
    bool ok = measure_drafts(&z) && measure_pages(&z, least);
    /* On the CPU, rows that one session wants go straight to the caller. Generations keep one for each. */
    int rows = ex->dev->is_host ? 0 : DEVICE_ROWS < z.chunk ? DEVICE_ROWS : z.chunk;
    int decoding = z.n_session + z.draft_rows;
    z.logit_rows = rows > decoding ? rows : decoding;
    z.model_scratch_bytes =
        ap_model_scratch_bytes(&m->config, ex, z.chunk, m->experts || m->outline);
    ok = ok && add(&z.scratch_bytes, 1, z.model_scratch_bytes) && add_small(ex, &z);
    size_t total = z.kv_bytes;
    ok = ok && add(&total, 1, z.state_bytes) && add(&total, 1, z.scratch_bytes);
    if (ok) *out = z;
    return ok;
}

/* The longest chunk whose memory is small beside the weights; results do not depend on it. */
static bool measure_default(const apus_model *m, const ap_exec *ex, ap_sizes *out,
                            uint64_t *least_bytes)
{
    const ap_sizes start = *out;
    bool host = ex->dev->is_host;
    uint64_t share = m->packed_bytes / (host ? CHUNK_SHARE : CHUNK_SHARE_DEVICE);
    int most = host ? MOST_CHUNK : MOST_CHUNK_DEVICE;
    if (m->outline) share = m->budget / CHUNK_SHARE_DISK, most = MOST_CHUNK_DISK;
    int least_chunk =
        m->towers && m->config.see_whole_pictures ? WHOLE_CHUNK + start.n_session : LEAST_CHUNK;
    if (!measure(m, ex, least_chunk, out, least_bytes)) return false;
    uint64_t least = (uint64_t)out->kv_bytes + out->scratch_bytes;
    for (int chunk = most; chunk > least_chunk; chunk /= 2) {
        ap_sizes z = start;
        uint64_t unused;
        if (!measure(m, ex, chunk, &z, &unused) ||
            (uint64_t)z.kv_bytes + z.scratch_bytes > least + share)
            continue;
        *out = z;
        break;
    }
    return true;
}

apus_err ap_sizes_make(const apus_model *m, const apus_engine_settings *s, const ap_exec *ex,
                       ap_sizes *out, apus_diag *diag)
{
    ap_sizes z = {0};
    apus_err err = check(&m->config, s, &z, diag);
    if (!err) err = choose_pages(m, s, &z, diag);
    if (!err) err = choose_drafts(m, s, ex, &z, diag);
    if (err) return err;
    uint64_t least = 0;
    bool ok = s->prefill_chunk ? measure(m, ex, s->prefill_chunk, &z, &least)
                               : measure_default(m, ex, &z, &least);
    if (!ok && least)
        return ap_fail(
            diag, APUS_EINVAL,
            "apus_engine_settings.kv_bytes: expected at least %llu, which %d session(s) take "
            "with one of %d tokens, found %llu; choose more, or a smaller ctx",
            (unsigned long long)least, z.n_session, z.ctx, (unsigned long long)s->kv_bytes);
    if (!ok)
        return ap_fail(diag, APUS_ENOMEM,
                       "%d sessions of %d tokens need more memory than can be addressed",
                       z.n_session, z.ctx);
    *out = z;
    return APUS_OK;
}

/* What a buffer of that size has too much, as large ones are whole pages of 2 MB. */
static uint64_t rest_of_page(uint64_t bytes)
{
    const uint64_t page = (uint64_t)2 << 20;
    return bytes >= page ? (page - bytes % page) % page : 0;
}

/* Measured: 5 MB of program and libraries, 64 bytes for each token of the tokenizer. */
uint64_t ap_other_bytes(const apus_model *m, const ap_sizes *z)
{
    const ap_config *c = &m->config;
    uint64_t other = ((uint64_t)5 << 20) + (uint64_t)c->vocab * 64 + m->mapped_bytes;
    other += (uint64_t)c->n_expert * (uint64_t)c->n_layer * sizeof(ap_expert);
    other += rest_of_page(m->packed_bytes) + rest_of_page(z->state_bytes) +
             rest_of_page(z->model_scratch_bytes);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        other += rest_of_page((uint64_t)z->n_page[g] * z->shape.page_bytes[g]);
    return other;
}

apus_err ap_engine_measure(const apus_model *m, const apus_engine_settings *given, ap_sizes *out,
                           apus_diag *diag)
{
    apus_engine_settings s;
    ap_device *own = NULL;
    ap_exec ex;
    apus_engine_settings_default(&s);
    apus_err err = ap_settings_take(&s, sizeof s, given, "apus_engine_settings", diag);
    if (!err) err = ap_engine_look(m, &s, &ex, &own, diag);
    if (!err) err = ap_sizes_make(m, &s, &ex, out, diag);
    if (own) own->op->destroy(own);
    return err;
}

apus_err apus_engine_plan(const apus_model *m, const apus_engine_settings *settings, apus_plan *out,
                          apus_diag *diag)
{
    if (!m || !out) return ap_fail(diag, APUS_EINVAL, "apus_engine_plan: model and out are needed");
    if (out->size < sizeof out->size || out->size > sizeof *out)
        return ap_fail(diag, APUS_EINVAL, "apus_plan.size: expected %zu to %zu, found %zu",
                       sizeof out->size, sizeof *out, out->size);
    ap_sizes z;
    apus_err err = ap_engine_measure(m, settings, &z, diag);
    if (err) return err;
    uint64_t weights = m->packed_bytes;
    uint64_t other = ap_other_bytes(m, &z);
    apus_plan p = {.size = out->size,
                   .weight_bytes = weights,
                   .kv_bytes = z.kv_bytes,
                   .state_bytes = z.state_bytes,
                   .scratch_bytes = z.scratch_bytes,
                   .total_bytes = weights + z.kv_bytes + z.state_bytes + z.scratch_bytes + other,
                   .other_bytes = other,
                   .ctx = z.ctx,
                   .kv = z.kv,
                   .prefill_chunk = z.chunk};
    for (int g = 0; g < AP_KV_GROUPS; g++) p.kv_bytes_per_token += z.shape.page_bytes[g] / AP_PAGE;
    memcpy(out, &p, out->size);
    return APUS_OK;
}
