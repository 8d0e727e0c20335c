#include "text/grammar/matcher.h"

#include <string.h>

#include "base/mem.h"
#include "text/vec.h"

#define MOST_BYTES ((size_t)8 << 20) /* of the machine, before old tokens are forgotten */

apus_err ap_matcher_open(ap_matcher *p, ap_token_masks *masks, apus_diag *diag)
{
    *p = (ap_matcher){.masks = masks, .last_set = AP_MACHINE_DEAD};
    apus_err err = ap_machine_open(&p->machine, masks->g, diag);
    if (err) return err;
    if (!ap_vec_reserve(&p->set, &p->cap, 1, sizeof *p->set))
        return ap_fail_nomem(diag, sizeof *p->set, "an answer's grammar");
    p->set[0] = ap_machine_start(&p->machine);
    return p->machine.failed ? ap_fail_nomem(diag, sizeof *p->set, "an answer's grammar") : APUS_OK;
}

void ap_matcher_close(ap_matcher *p)
{
    ap_machine_close(&p->machine);
    ap_free(p->set);
    ap_free(p->last);
    *p = (ap_matcher){0};
}

/* Forget what only tokens need that are too far back to be taken back. */
static void forget(ap_matcher *p)
{
    size_t keep = p->n + 1 < AP_MATCHER_BACK * 2 ? p->n + 1 : AP_MATCHER_BACK * 2;
    p->first = p->n + 1 - keep;
    ap_machine_keep(&p->machine, p->set + p->first, keep);
    p->last_set = AP_MACHINE_DEAD;
}

bool ap_matcher_push(ap_matcher *p, int32_t id)
{
    const ap_token_trie *t = p->masks->trie;
    if (!ap_vec_reserve(&p->set, &p->cap, p->n + 2, sizeof *p->set)) return false;
    int32_t set = p->set[p->n];
    uint32_t begin = id >= 0 && id < t->vocab ? t->off[id] : 0;
    uint32_t end = id >= 0 && id < t->vocab ? t->off[id + 1] : 0;
    if (begin == end) set = AP_MACHINE_DEAD;
    for (uint32_t i = begin; i < end && set >= 0; i++)
        set = ap_machine_step(&p->machine, set, (uint8_t)t->text[i]);
    p->set[++p->n] = set;
    if (ap_machine_size(&p->machine) > MOST_BYTES) forget(p);
    return p->set[p->n] >= 0;
}

void ap_matcher_back(ap_matcher *p, size_t n)
{
    p->n = p->n - p->first > n ? p->n - n : p->first;
}

bool ap_matcher_ends(const ap_matcher *p)
{
    return ap_machine_ends(&p->machine, p->set[p->n]);
}

bool ap_matcher_mask(ap_matcher *p, uint32_t *allowed)
{
    size_t words = ((size_t)p->masks->trie->vocab + 31) / 32, bytes = words * sizeof *allowed;
    int32_t set = p->set[p->n];
    if (set >= 0 && set == p->last_set) {
        memcpy(allowed, p->last, bytes);
        return true;
    }
    memset(allowed, 0, bytes);
    if (!ap_token_masks_add(p->masks, &p->machine, set, allowed)) return false;
    if (!p->last) p->last = ap_malloc(words, sizeof *p->last);
    p->last_set = p->last ? set : AP_MACHINE_DEAD;
    if (p->last) memcpy(p->last, allowed, bytes);
    return true;
}
