/* few_slots.c - slots are taken in turn and overwritten as soon as their experts may be gone. */
#include "few_slots.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "engine/model.h"
#include "model/model_impl.h"
#include "runner.h"

#define JUNK 0xa5

struct few_slots {
    ap_expert_source source;
    const ap_experts *all;
    int n, most; /* slots; experts of a layer */
    uint8_t *mem;
    size_t slot_bytes;
    int layer, n_wanted, n_given;
    int32_t *wanted; /* [most] */
    ap_expert *slot; /* [n] */
    long waves;
};

static void want(ap_expert_source *s, int layer, const int32_t *ids, int n)
{
    few_slots *f = (few_slots *)s;
    f->layer = layer;
    f->n_wanted = n;
    f->n_given = 0;
    /* the last ones first: the order is the source's */
    for (int i = 0; i < n; i++) f->wanted[i] = ids[n - 1 - i];
}

/* The matrix, its packed bytes copied to *at. */
static ap_mat copy_mat(const ap_mat *m, uint8_t **at)
{
    ap_mat out = *m;
    if (!m->data) return out; /* used where the file has it */
    memcpy(*at, m->data, ap_mat_bytes(m));
    out.data = *at;
    *at += ap_round_up(ap_mat_bytes(m), AP_ALIGN);
    return out;
}

static apus_err get(ap_expert_source *s, const ap_exec *ex, ap_wave *wave, apus_diag *diag)
{
    few_slots *f = (few_slots *)s;
    (void)ex, (void)diag;
    int left = f->n_wanted - f->n_given, n = left < f->n ? left : f->n;
    memset(f->mem, JUNK, f->slot_bytes * (size_t)f->n);
    *wave = (ap_wave){f->wanted + f->n_given, f->slot, n};
    for (int i = 0; i < n; i++) {
        const ap_expert *e = &ap_experts_of(f->all, f->layer)[wave->id[i]];
        uint8_t *at = f->mem + (size_t)i * f->slot_bytes;
        f->slot[i].gate = copy_mat(&e->gate, &at);
        f->slot[i].up = copy_mat(&e->up, &at);
        f->slot[i].down = copy_mat(&e->down, &at);
    }
    f->n_given += n;
    f->waves += n > 0;
    return APUS_OK;
}

static void done(ap_expert_source *s)
{
    few_slots *f = (few_slots *)s;
    memset(f->mem, JUNK, f->slot_bytes * (size_t)f->n);
}

static const ap_expert_source_ops ops = {want, get, done};

static size_t bytes_of(const ap_expert *e)
{
    return ap_round_up(ap_mat_bytes(&e->gate), AP_ALIGN) +
           ap_round_up(ap_mat_bytes(&e->up), AP_ALIGN) +
           ap_round_up(ap_mat_bytes(&e->down), AP_ALIGN);
}

few_slots *few_slots_make(apus_model *m, int n)
{
    const ap_config *c = &m->config;
    if (!c->n_expert) return NULL;
    few_slots *f = need(sizeof *f);
    f->source.op = &ops;
    f->all = m->impl->experts;
    f->n = n;
    f->wanted = need((size_t)c->n_expert * sizeof *f->wanted);
    f->slot = need((size_t)n * sizeof *f->slot);
    for (int l = 0; l < c->n_layer; l++)
        for (int e = 0; e < c->n_expert && c->layer[l].moe; e++)
            f->slot_bytes = ap_max_size(f->slot_bytes, bytes_of(&ap_experts_of(f->all, l)[e]));
    f->mem = aligned_alloc(AP_ALIGN, f->slot_bytes * (size_t)n);
    if (!f->mem) exit(2);
    m->experts = &f->source;
    return f;
}

void few_slots_free(few_slots *f)
{
    if (!f) return;
    free(f->wanted);
    free(f->slot);
    free(f->mem);
    free(f);
}

long few_slots_waves(const few_slots *f)
{
    return f->waves;
}
