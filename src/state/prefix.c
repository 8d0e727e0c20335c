#include "state/prefix.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "state/spill.h"

enum { FULL, SLIDING }; /* groups, as in ap_kv_group */

void ap_prefix_open(ap_prefix *p, ap_slab *pages[AP_KV_GROUPS], ap_slab *states, int window)
{
    *p = (ap_prefix){.states = states, .window = window, .clock = 1};
    for (int g = 0; g < AP_KV_GROUPS; g++) p->pages[g] = pages[g];
}

/* ---------------------------------------------------------------- nodes */

static ap_node *first_leaf(ap_node *n)
{
    while (n->child) n = n->child;
    return n;
}

/* Children before their parents; NULL after the root's last child. */
static ap_node *next_node(const ap_prefix *p, ap_node *n)
{
    if (n->next) return first_leaf(n->next);
    return n->parent == &p->root ? NULL : n->parent;
}

static ap_node *first_node(const ap_prefix *p)
{
    return p->root.child ? first_leaf(p->root.child) : NULL;
}

static void forget_state(ap_prefix *p, ap_node *n, int i)
{
    if (n->state[i].block >= 0) ap_slab_drop(p->states, n->state[i].block);
    n->n_state--;
    memmove(&n->state[i], &n->state[i + 1], (size_t)(n->n_state - i) * sizeof n->state[0]);
}

static void forget_page(ap_prefix *p, ap_node *n, int group)
{
    if (n->page[group] >= 0) ap_slab_drop(p->pages[group], n->page[group]);
    n->page[group] = -1;
}

uint64_t ap_prefix_hash(uint64_t before, const int32_t *tok, int n)
{
    uint64_t h = (before ^ 0x9E3779B97F4A7C15u) + (uint64_t)n;
    for (int i = 0; i < n; i++) {
        h = (h ^ (uint32_t)tok[i]) * 0xBF58476D1CE4E5B9u;
        h ^= h >> 29;
    }
    return h ? h : 1; /* 0 is the root's */
}

static bool is_gone(const ap_prefix *p, uint64_t hash)
{
    uint64_t n = p->n_gone < AP_PREFIX_GONE ? p->n_gone : AP_PREFIX_GONE;
    for (uint64_t i = 0; i < n; i++)
        if (p->gone[i] == hash) return true;
    return false;
}

/* Take a leaf out of the tree. */
static void remove_leaf(ap_prefix *p, ap_node *n)
{
    if (n->n_tok == AP_PAGE) p->gone[p->n_gone++ % AP_PREFIX_GONE] = n->hash;
    ap_node **at = &n->parent->child;
    while (*at != n) at = &(*at)->next;
    *at = n->next;
    while (n->n_state) forget_state(p, n, 0);
    for (int g = 0; g < AP_KV_GROUPS; g++) forget_page(p, n, g);
    ap_free(n);
    p->n_node--;
}

/* Is n the node, or follows it? */
static bool is_under(const ap_node *n, const ap_node *above)
{
    while (n && n != above) n = n->parent;
    return n != NULL;
}

void ap_prefix_remove(ap_prefix *p, ap_node *n)
{
    for (ap_node *leaf = NULL; leaf != n;) {
        leaf = first_leaf(n);
        if (leaf->stored) ap_spill_forget(p->disk, leaf);
        remove_leaf(p, leaf);
    }
}

void ap_prefix_clear(ap_prefix *p)
{
    for (ap_node *n; (n = first_node(p));) remove_leaf(p, n);
    p->n_gone = 0;
}

static int common(const int32_t *a, const int32_t *b, int n)
{
    int i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

/* ---------------------------------------------------------------- finding */

/* Are the sliding pages there that a query at pos sees? n holds the token before it. */
static bool is_ready(const ap_prefix *p, const ap_node *n, int pos)
{
    if (!p->pages[SLIDING]) return true;
    int first = p->window ? ap_max_int(0, pos - p->window + 1) : 0;
    if (first >= pos) return true;
    for (int i = (pos - 1) / AP_PAGE; i >= first / AP_PAGE; i--, n = n->parent)
        if (n->page[SLIDING] < 0 && !n->stored_page[SLIDING]) return false;
    return true;
}

/* The best place to begin in the first k tokens of a child that begins at position `at`. */
static void consider(const ap_prefix *p, ap_node *n, int at, int k, ap_match *m)
{
    if (!p->states) {
        if (k > 0 && at + k > m->pos && is_ready(p, n, at + k)) m->pos = at + k, m->node = n;
        return;
    }
    for (int i = 0; i < n->n_state; i++) {
        int pos = at + n->state[i].at;
        if (n->state[i].at > k || pos <= m->pos || !is_ready(p, n, pos)) continue;
        m->pos = pos, m->node = n, m->state = i;
    }
}

/* What is used is used now, and so is everything before it. */
static void touch(ap_prefix *p, const ap_match *m)
{
    p->clock++;
    for (ap_node *n = m->node; n && n != &p->root; n = n->parent) n->used = p->clock;
    if (m->state >= 0) m->node->state[m->state].used = p->clock;
}

/* Why a prompt was not found any further. */
typedef struct trail {
    const int32_t *tok;
    int n;
    const ap_node *end; /* the last node that it has as a whole, */
    int at;             /* which ends here */
    bool differs;       /* what follows there goes on with other tokens */
} trail;

static apus_miss miss_of(const ap_prefix *p, const trail *t, int known)
{
    bool whole = t->n - t->at >= AP_PAGE;
    if (whole && is_gone(p, ap_prefix_hash(t->end->hash, t->tok + t->at, AP_PAGE)))
        return APUS_MISS_EVICTED;
    if (known == 0) return APUS_MISS_EMPTY;
    return t->differs ? APUS_MISS_DIVERGED : APUS_MISS_NONE;
}

static void explain(const ap_prefix *p, const trail *t, ap_match *m)
{
    int most = t->n - 1;
    m->miss = APUS_MISS_NONE;
    if (m->pos < ap_min_int(m->known, most)) {
        bool near = m->pos && m->pos >= most / AP_PAGE * AP_PAGE;
        if (!near) m->miss = APUS_MISS_NO_STATE;
    } else if (m->known < most) {
        m->miss = miss_of(p, t, m->known);
    }
    m->miss_pos = m->miss == APUS_MISS_NONE       ? -1
                  : m->miss == APUS_MISS_NO_STATE ? m->pos
                                                  : m->known;
}

ap_match ap_prefix_find(ap_prefix *p, const int32_t *tok, int n)
{
    ap_match m = {.state = -1};
    trail t = {.tok = tok, .n = n, .end = &p->root};
    for (ap_node *full = &p->root; full;) {
        ap_node *c = full->child;
        t.end = full;
        t.at += full == &p->root ? 0 : AP_PAGE;
        t.differs = false;
        for (full = NULL; c; c = c->next) {
            int left = n - t.at, k = common(c->tok, tok + t.at, ap_min_int(c->n_tok, left));
            consider(p, c, t.at, ap_min_int(k, left - 1), &m);
            m.known = ap_max_int(m.known, t.at + k);
            t.differs = t.differs || k < ap_min_int(c->n_tok, left);
            if (k == AP_PAGE) full = c;
        }
    }
    explain(p, &t, &m);
    touch(p, &m);
    return m;
}

static bool share_page(ap_prefix *p, ap_node *n, int i, ap_kv_table *t, int group, int *n_disk)
{
    if (n->page[group] < 0) {
        if (!p->disk || !ap_spill_read_pages(p->disk, p, n)) return false;
        *n_disk += n->n_tok;
    }
    if (n->page[group] < 0) return false;
    ap_kv_share(t, i, n->page[group]);
    return true;
}

/* From the end to the beginning: what is shared keeps what is before it. */
static ap_node *share_pages(ap_prefix *p, const ap_match *m, ap_kv_table kv[AP_KV_GROUPS],
                            int *n_disk)
{
    ap_node *n = m->node;
    for (int i = (m->pos - 1) / AP_PAGE; m->pos && i >= 0; i--, n = n->parent)
        for (int g = 0; g < AP_KV_GROUPS; g++) {
            ap_kv_range seen = ap_kv_seen(&kv[g], m->pos);
            if (!p->pages[g] || i < seen.begin || i >= seen.end) continue;
            if (!share_page(p, n, i, &kv[g], g, n_disk)) return n;
        }
    return NULL;
}

bool ap_prefix_share(ap_prefix *p, const ap_match *m, ap_kv_table kv[AP_KV_GROUPS], ap_recur *r,
                     int *n_disk)
{
    ap_node *n = m->node;
    *n_disk = 0;
    if (m->state >= 0 && n->state[m->state].block >= 0) {
        ap_recur_load(r, n->state[m->state].block);
    } else if (m->state >= 0 && !ap_spill_read_state(p->disk, p, n, m->state, r)) {
        forget_state(p, n, m->state);
        return false;
    }
    p->pin = n;
    ap_node *bad = share_pages(p, m, kv, n_disk);
    p->pin = NULL;
    if (bad) ap_prefix_remove(p, bad);
    return !bad;
}

/* ---------------------------------------------------------------- keeping */

static ap_node *new_node(ap_prefix *p, ap_node *parent)
{
    ap_node *n = ap_calloc(1, sizeof *n);
    if (!n) return NULL;
    n->parent = parent;
    n->next = parent->child;
    parent->child = n;
    for (int g = 0; g < AP_KV_GROUPS; g++) n->page[g] = -1;
    p->n_node++;
    return n;
}

/* The child that has these tokens, or else the most of them and ends there; NULL = none. */
static ap_node *find_child(const ap_node *parent, const int32_t *tok, int n)
{
    ap_node *best = NULL;
    for (ap_node *c = parent->child; c; c = c->next) {
        int k = ap_min_int(c->n_tok, n);
        if (common(c->tok, tok, k) == k && (!best || c->n_tok > best->n_tok)) best = c;
    }
    return best;
}

/* Page i of the tables, where the node has none, or fewer tokens of it. */
static void keep_pages(ap_prefix *p, ap_node *c, const ap_kv_table kv[AP_KV_GROUPS], int i,
                       bool longer)
{
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        if (!p->pages[g]) continue;
        int32_t block = kv[g].page[i];
        if (longer) forget_page(p, c, g);
        if (block < 0 || c->page[g] >= 0) continue;
        ap_slab_share(p->pages[g], block);
        c->page[g] = block;
    }
}

static void keep_state(ap_prefix *p, ap_node *n, int at, int32_t block)
{
    int worst = 0;
    for (int i = 0; i < n->n_state; i++) {
        if (n->state[i].at == at && n->state[i].block >= 0) return;
        if (n->state[i].at == at) {
            ap_slab_share(p->states, block);
            n->state[i].block = block;
            return;
        }
        if (n->state[i].used < n->state[worst].used) worst = i;
    }
    if (n->n_state == AP_NODE_STATES) forget_state(p, n, worst);
    ap_slab_share(p->states, block);
    n->state[n->n_state++] = (ap_node_state){.at = at, .block = block, .used = p->clock};
}

ap_node *ap_prefix_add(ap_prefix *p, ap_node *parent, const int32_t *tok, int k)
{
    ap_node *n = new_node(p, parent);
    if (!n) return NULL;
    memcpy(n->tok, tok, (size_t)k * sizeof *tok);
    n->n_tok = k;
    n->hash = ap_prefix_hash(parent->hash, tok, k);
    n->used = p->clock;
    return n;
}

void ap_prefix_add_state(ap_prefix *p, ap_node *n, int at, int32_t block)
{
    keep_state(p, n, at, block);
}

/* The states that lie in page i, which ends at position `end`. */
static void keep_states(ap_prefix *p, ap_node *n, int i, int end, const ap_recur *r, bool live)
{
    if (!p->states) return;
    for (int k = 0; k < r->n_snap; k++) {
        int pos = r->snap[k].pos;
        if (pos > i * AP_PAGE && pos <= end) keep_state(p, n, pos - i * AP_PAGE, r->snap[k].block);
    }
    if (live) keep_state(p, n, end - i * AP_PAGE, r->live);
}

void ap_prefix_keep(ap_prefix *p, const int32_t *tok, int n, const ap_kv_table kv[AP_KV_GROUPS],
                    const ap_recur *r, bool last)
{
    ap_node *node = &p->root;
    p->clock++;
    for (int i = 0; i * AP_PAGE < n; i++) {
        const int32_t *page = tok + (size_t)i * AP_PAGE;
        int k = ap_min_int(AP_PAGE, n - i * AP_PAGE);
        if (k < AP_PAGE && !last) return;
        ap_node *c = find_child(node, page, k);
        if (!c) c = new_node(p, node);
        if (!c) return;
        bool longer = c->n_tok < k;
        if (longer && c->stored) ap_spill_forget(p->disk, c);
        if (c->n_tok <= k) keep_pages(p, c, kv, i, longer);
        if (longer) {
            memcpy(c->tok, page, (size_t)k * sizeof *page);
            c->n_tok = k;
            c->hash = ap_prefix_hash(node->hash, page, k);
        }
        c->used = p->clock;
        keep_states(p, c, i, i * AP_PAGE + k, r, last && i * AP_PAGE + k == n);
        node = c;
    }
}

/* ---------------------------------------------------------------- giving back */

/* What a block of an eviction is worth. */
typedef struct victim {
    ap_node *node;
    int state; /* of node->state, or -1 */
    double worth;
} victim;

static double worth(const ap_prefix *p, int saves, uint64_t used)
{
    return (double)saves / (double)(p->clock - used + 1);
}

/* Tokens between a state and the one before it on its path; beyond some pages it does not matter. */
static int saved_by(const ap_node *n, int i)
{
    int before = 0;
    for (int j = 0; j < n->n_state; j++)
        if (n->state[j].at < n->state[i].at) before = ap_max_int(before, n->state[j].at);
    if (before) return n->state[i].at - before;
    int sum = n->state[i].at;
    for (n = n->parent; n && n->n_tok && !n->n_state && sum < 64 * AP_PAGE; n = n->parent)
        sum += AP_PAGE;
    return sum;
}

static void offer(victim *best, ap_node *n, int state, double w)
{
    if (!best->node || w < best->worth) *best = (victim){n, state, w};
}

static bool has_warm_child(const ap_node *n)
{
    for (const ap_node *c = n->child; c; c = c->next)
        if (c->page[FULL] >= 0) return true;
    return false;
}

static void look_for(const ap_prefix *p, const ap_slab *s, ap_node *n, victim *best)
{
    for (int i = 0; s == p->states && i < n->n_state; i++)
        if (n->state[i].block >= 0 && s->refs[n->state[i].block] == 1)
            offer(best, n, i, worth(p, saved_by(n, i), n->state[i].used));
    if (is_under(p->pin, n)) return;
    /* A page in the middle of a window may go alone; one of the full group ends its path. */
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        if (s != p->pages[g] || n->page[g] < 0 || s->refs[n->page[g]] != 1) continue;
        bool serves = !p->states || n->n_state || n->child;
        if (g == SLIDING || !has_warm_child(n))
            offer(best, n, -1, worth(p, serves ? n->n_tok : 0, n->used));
    }
}

static void give_up(ap_prefix *p, const ap_slab *s, const victim *v)
{
    ap_node *n = v->node;
    if (v->state >= 0 && n->state[v->state].stored) {
        ap_slab_drop(p->states, n->state[v->state].block);
        n->state[v->state].block = -1;
    } else if (v->state >= 0) {
        forget_state(p, n, v->state);
    } else if (s == p->pages[SLIDING] || n->stored) {
        forget_page(p, n, s == p->pages[SLIDING] ? SLIDING : FULL);
    } else {
        ap_prefix_remove(p, n);
        return;
    }
    bool empty = !n->stored && !n->n_state && n->page[FULL] < 0 && n->page[SLIDING] < 0;
    if (!n->child && empty && n != p->pin) remove_leaf(p, n);
}

/* The node used longest ago of those whose page in a group sequences share; NULL: there is none. */
static ap_node *oldest_shared(const ap_prefix *p, int group)
{
    ap_node *oldest = NULL;
    for (ap_node *n = first_node(p); n; n = next_node(p, n)) {
        if (n->page[group] < 0 || is_under(p->pin, n)) continue;
        if (group == FULL && has_warm_child(n)) continue;
        if (!oldest || n->used < oldest->used) oldest = n;
    }
    return oldest;
}

/* Nothing is the cache's alone that may go. What it shares is in the way: sequences cannot write to it, and in the full
 * group it stands before pages above it. false: there is nothing of that either. */
static bool give_way(ap_prefix *p, const ap_slab *s)
{
    victim v = {.state = -1};
    for (int g = 0; g < AP_KV_GROUPS && !v.node; g++)
        if (s == p->pages[g]) v.node = oldest_shared(p, g);
    if (v.node) give_up(p, s, &v);
    return v.node != NULL;
}

bool ap_prefix_evict(ap_prefix *p, ap_slab *s)
{
    for (;;) {
        victim best = {0};
        for (ap_node *n = first_node(p); n; n = next_node(p, n)) look_for(p, s, n, &best);
        if (best.node) {
            give_up(p, s, &best);
            return true;
        }
        if (!give_way(p, s)) return false;
        if (s->n_free) return true;
    }
}

uint64_t ap_prefix_bytes(const ap_prefix *p)
{
    uint64_t sum = 0;
    for (ap_node *n = first_node(p); n; n = next_node(p, n)) {
        for (int g = 0; g < AP_KV_GROUPS; g++)
            if (n->page[g] >= 0 && p->pages[g]->refs[n->page[g]] == 1)
                sum += p->pages[g]->block_bytes;
        for (int i = 0; i < n->n_state; i++)
            if (n->state[i].block >= 0 && p->states->refs[n->state[i].block] == 1)
                sum += p->states->block_bytes;
    }
    return sum;
}
