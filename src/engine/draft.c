#include "engine/draft.h"

#include "base/num.h"

#define WINDOW 65536 /* the end of a longer text is looked through: some 30 us */

/* How many ids before tok[at] and tok[n] agree, at most AP_DRAFT_MATCH. */
static int agreement(const int32_t *tok, int at, int n)
{
    int most = ap_min_int(at, AP_DRAFT_MATCH), k = 0;
    while (k < most && tok[at - 1 - k] == tok[n - 1 - k]) k++;
    return k;
}

/* The place to go on from; 0 = there is none. */
static int find(const int32_t *tok, int n)
{
    int best = 0, longest = AP_DRAFT_LEAST - 1, first = ap_max_int(AP_DRAFT_LEAST, n - WINDOW);
    for (int at = n - 1; at >= first && longest < AP_DRAFT_MATCH; at--) {
        if (tok[at - 1] != tok[n - 1]) continue;
        int k = agreement(tok, at, n);
        if (k > longest) longest = k, best = at;
    }
    return best;
}

int ap_draft_look_up(const int32_t *tok, int n, int most, int32_t *out)
{
    int from = n > AP_DRAFT_LEAST && most > 0 ? find(tok, n) : 0, k = 0;
    for (; from && k < most; k++) {
        int32_t id = from + k < n ? tok[from + k] : out[from + k - n];
        if (id < 0) break;
        out[k] = id;
    }
    return k;
}
