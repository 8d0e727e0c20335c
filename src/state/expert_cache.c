#include "state/expert_cache.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define NONE (-1)

typedef struct slot {
    int32_t layer, expert; /* NONE: free */
    bool pinned;
} slot;

/* Uses of an expert. value is their sum at step `at`, each halved every `half` steps since. */
typedef struct uses {
    double value;
    uint32_t at;
} uses;

struct ap_expert_cache {
    int n_layer, n_expert, n_slot, quota;
    double half;
    slot *slot;      /* [n_slot] */
    int32_t *free;   /* [n_slot] free slots, n_free of them */
    int32_t *in;     /* [L][E] slot of an expert */
    uses *used;      /* [L][E] */
    uint32_t *step;  /* [L] */
    int32_t *n_used; /* [L] slots that a layer has */
    int n_free;
};

ap_expert_cache *ap_expert_cache_create(int n_layer, int n_moe, int n_expert, int n_slot,
                                        double half)
{
    ap_expert_cache *c = ap_calloc(1, sizeof *c);
    size_t all, layers = (size_t)n_layer, slots = (size_t)n_slot;
    if (!c) return NULL;
    c->n_layer = n_layer;
    c->n_expert = n_expert;
    c->n_slot = c->n_free = n_slot;
    c->quota = n_moe ? n_slot / n_moe : n_slot;
    c->half = half;
    bool ok = ap_mul_size(layers, (size_t)n_expert, &all);
    ok = ok && (c->slot = ap_calloc(slots, sizeof *c->slot));
    ok = ok && (c->free = ap_calloc(slots, sizeof *c->free));
    ok = ok && (c->in = ap_calloc(all, sizeof *c->in));
    ok = ok && (c->used = ap_calloc(all, sizeof *c->used));
    ok = ok && (c->step = ap_calloc(layers, sizeof *c->step));
    ok = ok && (c->n_used = ap_calloc(layers, sizeof *c->n_used));
    if (!ok) {
        ap_expert_cache_free(c);
        return NULL;
    }
    for (int i = 0; i < n_slot; i++) {
        c->slot[i] = (slot){.layer = NONE, .expert = NONE};
        c->free[i] = n_slot - 1 - i;
    }
    for (size_t i = 0; i < all; i++) c->in[i] = NONE;
    return c;
}

void ap_expert_cache_free(ap_expert_cache *c)
{
    if (!c) return;
    ap_free(c->slot);
    ap_free(c->free);
    ap_free(c->in);
    ap_free(c->used);
    ap_free(c->step);
    ap_free(c->n_used);
    ap_free(c);
}

static size_t at(const ap_expert_cache *c, int layer, int expert)
{
    return (size_t)layer * (size_t)c->n_expert + (size_t)expert;
}

void ap_expert_cache_step(ap_expert_cache *c, int layer)
{
    c->step[layer]++;
}

double ap_expert_cache_uses(const ap_expert_cache *c, int layer, int expert)
{
    const uses *u = &c->used[at(c, layer, expert)];
    return u->value * exp2(-(double)(c->step[layer] - u->at) / c->half);
}

void ap_expert_cache_set_uses(ap_expert_cache *c, int layer, int expert, double value)
{
    c->used[at(c, layer, expert)] = (uses){value, c->step[layer]};
}

void ap_expert_cache_use(ap_expert_cache *c, int layer, int expert)
{
    ap_expert_cache_set_uses(c, layer, expert, 1 + ap_expert_cache_uses(c, layer, expert));
}

/* Larger: used more, at any later step too. */
static double worth(const ap_expert_cache *c, int layer, int expert)
{
    const uses *u = &c->used[at(c, layer, expert)];
    return u->value > 0 ? log2(u->value) + (double)u->at / c->half : -INFINITY;
}

int ap_expert_cache_find(const ap_expert_cache *c, int layer, int expert)
{
    return c->in[at(c, layer, expert)];
}

/* The slot of a layer whose expert is worth least; NONE: it has none that is not pinned. Among equals the last one:
 * a prompt that uses all in turn finds the first ones again. */
static int least(const ap_expert_cache *c, int layer)
{
    int best = NONE;
    double worst = INFINITY;
    for (int e = 0; e < c->n_expert && c->n_used[layer]; e++) {
        int s = ap_expert_cache_find(c, layer, e);
        if (s == NONE || c->slot[s].pinned) continue;
        double w = worth(c, layer, e);
        if (w > worst) continue;
        worst = w;
        best = s;
    }
    return best;
}

/* The layer with most slots. */
static int fullest(const ap_expert_cache *c)
{
    int best = 0;
    for (int l = 1; l < c->n_layer; l++)
        if (c->n_used[l] > c->n_used[best]) best = l;
    return best;
}

static int victim(const ap_expert_cache *c, int layer)
{
    int s = least(c, c->n_used[layer] < c->quota ? fullest(c) : layer);
    if (s == NONE) s = least(c, fullest(c));
    for (int l = 0; l < c->n_layer && s == NONE; l++) s = least(c, l);
    return s;
}

void ap_expert_cache_drop(ap_expert_cache *c, int s)
{
    slot *x = &c->slot[s];
    c->in[at(c, x->layer, x->expert)] = NONE;
    c->n_used[x->layer]--;
    *x = (slot){.layer = NONE, .expert = NONE};
    c->free[c->n_free++] = s;
}

/* out: the slot to be left if none is free */
static int take(ap_expert_cache *c, int layer, int expert, int out)
{
    if (!c->n_free && out == NONE) return NONE;
    if (!c->n_free) ap_expert_cache_drop(c, out);
    int s = c->free[--c->n_free];
    c->slot[s] = (slot){layer, expert, true};
    c->in[at(c, layer, expert)] = s;
    c->n_used[layer]++;
    return s;
}

int ap_expert_cache_take(ap_expert_cache *c, int layer, int expert)
{
    return take(c, layer, expert, c->n_free ? NONE : victim(c, layer));
}

int ap_expert_cache_take_from(ap_expert_cache *c, int layer, int expert, int from)
{
    return take(c, layer, expert, c->n_free ? NONE : least(c, from));
}

void ap_expert_cache_pin(ap_expert_cache *c, int s, bool pinned)
{
    c->slot[s].pinned = pinned;
}
