#include "state/expert_ahead.h"

#include <string.h>

#include "base/mem.h"

#define SURE(n) ((n) - (n) / 8) /* so many of n experts are nearly all */
#define FEW     32              /* guesses that tell nothing yet */
#define LATELY  256             /* of so many the older half is forgotten */
#define PAUSE   4096            /* layers without a guess when they do not pay */

bool ap_expert_ahead_init(ap_expert_ahead *a, int n_expert)
{
    size_t n = n_expert > 0 ? (size_t)n_expert : 1;
    *a = (ap_expert_ahead){.n_expert = n_expert, .layer = -1};
    a->id = ap_calloc(n, sizeof *a->id);
    a->begun = ap_calloc(n, sizeof *a->begun);
    return a->id && a->begun;
}

void ap_expert_ahead_free(ap_expert_ahead *a)
{
    ap_free(a->id);
    ap_free(a->begun);
}

static void expect(ap_expert_ahead *a, int layer, bool sure)
{
    a->layer = layer;
    a->sure = sure;
    a->n = a->next = a->n_begun = 0;
    memset(a->begun, 0, (size_t)a->n_expert * sizeof *a->begun);
}

void ap_expert_ahead_sure(ap_expert_ahead *a, int next, int n)
{
    expect(a, -1, false);
    if (next < 0 || n < SURE(a->n_expert)) return;
    expect(a, next, true);
    for (int e = 0; e < a->n_expert; e++) a->id[a->n++] = e;
}

bool ap_expert_ahead_may_guess(ap_expert_ahead *a)
{
    if (a->sure) return false;
    if (a->pause) {
        a->pause--;
        return false;
    }
    return true;
}

void ap_expert_ahead_guess(ap_expert_ahead *a, int layer, const int32_t *ids, int n)
{
    expect(a, layer, false);
    for (int i = 0; i < n && a->n < a->n_expert; i++) a->id[a->n++] = ids[i];
}

int ap_expert_ahead_next(ap_expert_ahead *a)
{
    return a->layer >= 0 && a->next < a->n ? a->id[a->next++] : -1;
}

void ap_expert_ahead_begun(ap_expert_ahead *a, int expert)
{
    a->begun[expert] = true;
    a->n_begun++;
}

bool ap_expert_ahead_has(const ap_expert_ahead *a, int layer, int expert)
{
    return layer == a->layer && a->begun[expert];
}

void ap_expert_ahead_settle(ap_expert_ahead *a, int layer, int right)
{
    bool counts = layer == a->layer && !a->sure;
    a->layer = -1;
    a->sure = false;
    if (!counts) return;
    a->right += right;
    a->told += a->n_begun;
    if (a->told >= FEW && 2 * a->right < a->told) {
        a->pause = PAUSE;
        a->right = a->told = 0;
    }
    if (a->told < LATELY) return;
    a->right /= 2;
    a->told /= 2;
}
