#include "engine/engine.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

/* ---------------------------------------------------------------- settings and memory */

apus_err ap_sampling_check(const apus_sampling *s, apus_diag *diag)
{
    const char *field = NULL, *range = "";
    double found = 0;
    if (!(s->temperature >= 0 && s->temperature <= FLT_MAX))
        field = "temperature", range = "0 or more", found = (double)s->temperature;
    else if (s->top_k < 0)
        field = "top_k", range = "0 or more", found = s->top_k;
    else if (!(s->top_p > 0 && s->top_p <= 1))
        field = "top_p", range = "above 0, up to 1", found = (double)s->top_p;
    else if (!(s->min_p >= 0 && s->min_p < 1))
        field = "min_p", range = "0 up to below 1", found = (double)s->min_p;
    else if (!(s->repetition_penalty > 0 && s->repetition_penalty <= FLT_MAX))
        field = "repetition_penalty", range = "above 0", found = (double)s->repetition_penalty;
    else if (!isfinite(s->presence_penalty))
        field = "presence_penalty", range = "a number", found = (double)s->presence_penalty;
    else if (!isfinite(s->frequency_penalty))
        field = "frequency_penalty", range = "a number", found = (double)s->frequency_penalty;
    else if (s->penalty_last < 0)
        field = "penalty_last", range = "0 or more", found = s->penalty_last;
    if (!field) return APUS_OK;
    return ap_fail(diag, APUS_EINVAL, "apus_sampling.%s: expected %s, found %g", field, range,
                   found);
}

void ap_sample_start(ap_sample_state *p, const apus_sampling *s)
{
    p->set = *s;
    ap_rng_seed(&p->rng, s->seed);
}

static size_t mask_words(int vocab)
{
    return ((size_t)vocab + 31) / 32;
}

static size_t history_bytes(const ap_exec *ex, int n_row, int most_history)
{
    return ex->dev->is_host ? 0 : (size_t)n_row * (size_t)most_history * sizeof(int32_t);
}

bool ap_chooser_bytes(const ap_exec *ex, int n_row, int vocab, int most_history, size_t *bytes)
{
    size_t rows = (size_t)n_row * (sizeof(ap_sample_row) + sizeof(int) + sizeof(int32_t));
    size_t small = rows + mask_words(vocab) * sizeof(uint32_t);
    *bytes = ex->k->sample_scratch_bytes(ex, n_row, vocab);
    return ap_add_size(*bytes, history_bytes(ex, n_row, most_history), bytes) &&
           ap_add_size(*bytes, small, bytes);
}

apus_err ap_chooser_init(ap_chooser *p, const ap_exec *ex, int n_row, int vocab, int most_history,
                         apus_diag *diag)
{
    ap_device *dev = ex->dev;
    size_t history = history_bytes(ex, n_row, most_history);
    *p = (ap_chooser){.n_row = n_row,
                      .vocab = vocab,
                      .most_history = most_history,
                      .n_allowed = vocab,
                      .ex = ex,
                      .scratch_bytes = ex->k->sample_scratch_bytes(ex, n_row, vocab)};
    p->row = ap_calloc((size_t)n_row, sizeof *p->row);
    p->at = ap_calloc((size_t)n_row, sizeof *p->at);
    p->scratch = dev->op->alloc(dev, p->scratch_bytes);
    p->id = dev->op->alloc_shared(dev, (size_t)n_row * sizeof *p->id);
    if (history) p->history = dev->op->alloc(dev, history);
    bool ok = p->row && p->at && p->scratch && p->id && (!history || p->history);
    return ok ? APUS_OK : ap_fail_nomem(diag, p->scratch_bytes, "a sampler's candidates");
}

void ap_chooser_close(ap_chooser *p)
{
    ap_device *dev = p->ex ? p->ex->dev : NULL;
    ap_free(p->row);
    ap_free(p->at);
    if (p->scratch) dev->op->free(dev, p->scratch, p->scratch_bytes);
    if (p->id) dev->op->free_shared(dev, p->id, (size_t)p->n_row * sizeof *p->id);
    if (p->history) dev->op->free(dev, p->history, history_bytes(p->ex, p->n_row, p->most_history));
    if (p->mask) dev->op->free(dev, p->mask, mask_words(p->vocab) * sizeof *p->mask);
    *p = (ap_chooser){0};
}

/* Clear the bits of these ids; returns how many were set. */
static int clear_bits(uint32_t *mask, int vocab, const int32_t *id, int n)
{
    int cleared = 0;
    for (int i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= vocab) continue;
        uint32_t bit = UINT32_C(1) << id[i] % 32;
        cleared += (mask[id[i] / 32] & bit) != 0;
        mask[id[i] / 32] &= ~bit;
    }
    return cleared;
}

apus_err ap_chooser_forbid(ap_chooser *p, const int32_t *id, int n, apus_diag *diag)
{
    ap_device *dev = p->ex->dev;
    size_t words = mask_words(p->vocab), bytes = words * sizeof(uint32_t);
    if (n == 0 && !p->mask) return APUS_OK;
    uint32_t *mask = ap_malloc(words, sizeof *mask);
    if (!p->mask) p->mask = dev->op->alloc(dev, bytes);
    if (mask && p->mask) {
        memset(mask, 0xff, bytes);
        p->n_allowed = p->vocab - clear_bits(mask, p->vocab, id, n);
        dev->op->put(dev, p->mask, mask, bytes);
    }
    bool ok = mask && p->mask;
    ap_free(mask);
    return ok ? APUS_OK : ap_fail_nomem(diag, bytes, "the ids that are never chosen");
}

/* ---------------------------------------------------------------- choosing */

/* The tokens that penalties look at, where the slot can see them. */
static void take_history(ap_chooser *p, int i, const apus_sampling *s, const int32_t *history,
                         int n)
{
    ap_device *dev = p->ex->dev;
    ap_sample_row *row = &p->row[i];
    if (!history || n <= 0) return;
    if (s->repetition_penalty == 1 && s->presence_penalty == 0 && s->frequency_penalty == 0) return;
    int begin = s->penalty_last && n > s->penalty_last ? n - s->penalty_last : 0;
    row->n_history = n - begin;
    row->history = history + begin;
    if (!p->history) return;
    int32_t *to = p->history + (size_t)i * (size_t)p->most_history;
    dev->op->put(dev, to, row->history, (size_t)row->n_history * sizeof *to);
    row->history = to;
}

void ap_chooser_row(ap_chooser *p, int i, int at, ap_sample_state *state, const int32_t *history,
                    int n)
{
    const apus_sampling *s = &state->set;
    p->at[i] = at;
    p->row[i] = (ap_sample_row){.temperature = s->temperature,
                                .top_k = s->top_k,
                                .top_p = s->top_p,
                                .min_p = s->min_p,
                                .repetition = s->repetition_penalty,
                                .presence = s->presence_penalty,
                                .frequency = s->frequency_penalty,
                                .mask = p->mask,
                                .random = s->temperature == 0 ? 0 : ap_rng_next(&state->rng)};
    take_history(p, i, s, history, n);
}

/* Rows first to first + n - 1, whose logits lie together. */
static void run(ap_chooser *p, float *logits, int first, int n)
{
    p->ex->k->sample(p->ex, &(ap_sample_args){.logits = logits,
                                              .row = p->row + first,
                                              .n = n,
                                              .vocab = p->vocab,
                                              .id = p->id + first,
                                              .scratch = p->scratch});
}

apus_err ap_chooser_run(ap_chooser *p, float *logits, int n, apus_diag *diag)
{
    ap_device *dev = p->ex->dev;
    for (int i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && p->at[end] == p->at[end - 1] + 1;) end++;
        run(p, logits + (size_t)p->at[i] * (size_t)p->vocab, i, end - i);
    }
    return dev->op->finish(dev, diag);
}

/* ---------------------------------------------------------------- a sampler by itself */

static size_t logits_bytes(const apus_sampler *p)
{
    return (size_t)p->chooser.vocab * sizeof *p->logits;
}

/* On a thread of the CPU: the arithmetic is the same at every level. */
static apus_err open_own(apus_sampler *p, int vocab, apus_diag *diag)
{
    ap_device *dev = NULL;
    apus_err err = ap_device_cpu(APUS_CPU_REF, 1, &dev, diag);
    if (err) return err;
    p->ex = (ap_exec){.k = dev->kern, .dev = dev};
    return ap_chooser_init(&p->chooser, &p->ex, 1, vocab, 0, diag);
}

apus_err apus_sampler_create(const apus_sampling *settings, int vocab, apus_sampler **out,
                             apus_diag *diag)
{
    apus_sampling s;
    apus_sampling_default(&s);
    if (!out || vocab < 1)
        return ap_fail(diag, APUS_EINVAL, "apus_sampler_create: out and a vocabulary are needed");
    apus_err err = ap_settings_take(&s, sizeof s, settings, "apus_sampling", diag);
    if (!err) err = ap_sampling_check(&s, diag);
    if (err) return err;
    apus_sampler *p = ap_calloc(1, sizeof *p);
    if (!p) return ap_fail_nomem(diag, sizeof *p, "a sampler");
    err = open_own(p, vocab, diag);
    if (!err) p->logits = p->ex.dev->op->alloc_shared(p->ex.dev, logits_bytes(p));
    if (!err && !p->logits) err = ap_fail_nomem(diag, logits_bytes(p), "a sampler's logits");
    if (err) {
        apus_sampler_free(p);
        return err;
    }
    ap_sample_start(&p->state, &s);
    *out = p;
    return APUS_OK;
}

int32_t apus_sampler_next(apus_sampler *p, const float *logits, const int32_t *history, int n)
{
    if (!p || !logits || n < 0 || (!history && n > 0)) return -1;
    bool good = true, any = false;
    for (int i = 0; i < p->chooser.vocab; i++) {
        p->logits[i] = logits[i];
        good &= logits[i] <= FLT_MAX; /* false for NaN too */
        any |= logits[i] > -INFINITY;
    }
    if (!good || !any) return -1;
    ap_chooser_row(&p->chooser, 0, 0, &p->state, history, n);
    ap_chooser_run(&p->chooser, p->logits, 1, NULL); /* the CPU does not fail */
    return p->chooser.id[0];
}

void apus_sampler_free(apus_sampler *p)
{
    if (!p) return;
    ap_device *dev = p->ex.dev;
    if (p->logits) dev->op->free_shared(dev, p->logits, logits_bytes(p));
    ap_chooser_close(&p->chooser);
    if (dev) dev->op->destroy(dev);
    ap_free(p);
}
