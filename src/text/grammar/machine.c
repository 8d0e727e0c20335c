#include "text/grammar/machine.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/vec.h"

#define MOST_FRAMES ((size_t)1 << 22) /* of all nodes; and members of all sets */
#define MOST_WAYS   4096              /* that one state is reached in by one byte */

apus_err ap_machine_open(ap_machine *m, const ap_grammar *g, apus_diag *diag)
{
    *m = (ap_machine){.g = g,
                      .place = ap_malloc(g->n_state, sizeof *m->place),
                      .stamp = ap_calloc(g->n_state, sizeof *m->stamp),
                      .entered = ap_malloc(g->n_rule, sizeof *m->entered),
                      .by_rank = ap_calloc(g->n_rule / 64 + 1, sizeof *m->by_rank)};
    if (!m->place || !m->stamp || !m->entered || !m->by_rank)
        return ap_fail_nomem(diag, g->n_state * sizeof *m->place, "a grammar's stacks");
    memset(m->entered, 0xff, g->n_rule * sizeof *m->entered);
    return APUS_OK;
}

void ap_machine_close(ap_machine *m)
{
    void *all[] = {m->incoming, m->node.v,  m->node.bucket, m->set.v, m->set.bucket,
                   m->frame,    m->member,  m->now,         m->place, m->stamp,
                   m->entry,    m->entered, m->by_rank,     m->gather};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ap_free(all[i]);
    *m = (ap_machine){0};
}

size_t ap_machine_size(const ap_machine *m)
{
    return m->n_frame * sizeof *m->frame + m->n_member * sizeof *m->member +
           (m->node.n + m->set.n) * (sizeof(ap_interned) + 2 * sizeof(int32_t));
}

/* ---------------------------------------------------------------- kept once */

static uint32_t hash_of(const void *data, size_t bytes)
{
    uint64_t h = bytes, x;
    const char *p = data;
    for (; bytes >= 8; bytes -= 8, p += 8) {
        memcpy(&x, p, 8);
        h = (h ^ x) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 32;
    }
    return (uint32_t)h;
}

/* Chains go from the newest to the oldest, so that what was put last can be taken out again. */
static bool grow(ap_interned_list *l)
{
    size_t n = l->mask ? (l->mask + 1) * 2 : 256;
    int32_t *bucket = ap_malloc(n, sizeof *bucket);
    if (!bucket) return false;
    memset(bucket, 0xff, n * sizeof *bucket);
    ap_free(l->bucket);
    l->bucket = bucket;
    l->mask = n - 1;
    for (size_t i = 0; i < l->n; i++) {
        int32_t *at = &bucket[l->v[i].hash & l->mask];
        l->v[i].next = *at;
        *at = (int32_t)i;
    }
    return true;
}

static int32_t put_kept(ap_machine *m, ap_interned_list *l, ap_interned k)
{
    if ((l->n >= l->mask && !grow(l)) || !ap_vec_reserve(&l->v, &l->cap, l->n + 1, sizeof *l->v)) {
        m->failed = true;
        return -1;
    }
    int32_t *at = &l->bucket[k.hash & l->mask];
    k.next = *at;
    l->v[l->n] = k;
    *at = (int32_t)l->n;
    return (int32_t)l->n++;
}

static int32_t keep_node(ap_machine *m, const ap_frame *frame, size_t n)
{
    size_t bytes = n * sizeof *frame;
    uint32_t hash = hash_of(frame, bytes);
    for (int32_t i = m->node.mask ? m->node.bucket[hash & m->node.mask] : -1; i >= 0;
         i = m->node.v[i].next) {
        const ap_interned *k = &m->node.v[i];
        if (k->hash == hash && k->n == n && !memcmp(m->frame + k->begin, frame, bytes)) return i;
    }
    if (m->n_frame + n > MOST_FRAMES ||
        !ap_vec_reserve(&m->frame, &m->frame_cap, m->n_frame + n, sizeof *m->frame)) {
        m->failed = true;
        return -1;
    }
    memcpy(m->frame + m->n_frame, frame, bytes);
    ap_interned k = {.begin = (uint32_t)m->n_frame, .n = (uint32_t)n, .hash = hash};
    m->n_frame += n;
    return put_kept(m, &m->node, k);
}

static int32_t keep_set(ap_machine *m, const ap_member *member, size_t n, bool ends)
{
    size_t bytes = n * sizeof *member;
    uint32_t hash = hash_of(member, bytes) + ends;
    for (int32_t i = m->set.mask ? m->set.bucket[hash & m->set.mask] : -1; i >= 0;
         i = m->set.v[i].next) {
        const ap_interned *k = &m->set.v[i];
        if (k->hash == hash && k->n == n && k->ends == ends &&
            !memcmp(m->member + k->begin, member, bytes))
            return i;
    }
    if (m->n_member + n > MOST_FRAMES ||
        !ap_vec_reserve(&m->member, &m->member_cap, m->n_member + n, sizeof *m->member)) {
        m->failed = true;
        return -1;
    }
    if (n) memcpy(m->member + m->n_member, member, bytes);
    ap_interned k = {.begin = (uint32_t)m->n_member, .n = (uint32_t)n, .hash = hash, .ends = ends};
    m->n_member += n;
    return put_kept(m, &m->set, k);
}

/* ---------------------------------------------------------------- nodes */

static int compare_frames(const void *a, const void *b)
{
    const ap_frame *x = a, *y = b;
    if (x->edge != y->edge) return x->edge < y->edge ? -1 : 1;
    if (x->below != y->below) return x->below < y->below ? -1 : 1;
    if (x->need != y->need) return x->need < y->need ? -1 : 1;
    return (x->room > y->room) - (x->room < y->room);
}

int32_t ap_machine_node(ap_machine *m, ap_frame *frame, size_t n)
{
    if (n > 1) {
        qsort(frame, n, sizeof *frame, compare_frames);
        size_t k = 1;
        for (size_t i = 1; i < n; i++)
            if (compare_frames(&frame[i], &frame[k - 1])) frame[k++] = frame[i];
        n = k;
    }
    return keep_node(m, frame, n);
}

/* Room for n frames in `gather`. */
static bool may_gather(ap_machine *m, size_t n)
{
    if (!ap_vec_reserve(&m->gather, &m->gather_cap, n, sizeof *m->gather)) m->failed = true;
    return !m->failed;
}

static int32_t join_nodes(ap_machine *m, int32_t a, int32_t b)
{
    if (a == b) return a;
    const ap_interned *x = &m->node.v[a], *y = &m->node.v[b];
    size_t n = x->n, all = n + y->n;
    if (!may_gather(m, all)) return a;
    memcpy(m->gather, m->frame + x->begin, n * sizeof *m->frame);
    memcpy(m->gather + n, m->frame + y->begin, y->n * sizeof *m->frame);
    int32_t node = ap_machine_node(m, m->gather, all);
    return node < 0 ? a : node;
}

/* ---------------------------------------------------------------- a step */

static void begin_step(ap_machine *m)
{
    m->n_now = m->n_entry = m->n_incoming = 0;
    m->ends = false;
    if (m->turn == INT32_MAX) {
        memset(m->stamp, 0, m->g->n_state * sizeof *m->stamp);
        m->turn = 0;
    }
    m->turn++;
}

/* The place of a state in the set that is made; new: *fresh. -1: memory is out. */
static int32_t place_of(ap_machine *m, int32_t state, bool *fresh)
{
    *fresh = m->stamp[state] != m->turn;
    if (!*fresh) return m->place[state];
    if (!ap_vec_reserve(&m->now, &m->now_cap, m->n_now + 1, sizeof *m->now)) {
        m->failed = true;
        return -1;
    }
    m->stamp[state] = m->turn;
    m->place[state] = (int32_t)m->n_now;
    m->now[m->n_now] = (ap_member){state, -1};
    return (int32_t)m->n_now++;
}

/* A state is reached with that node. */
static void reached(ap_machine *m, int32_t state, int32_t node)
{
    bool fresh;
    int32_t at = m->failed ? -1 : place_of(m, state, &fresh), n = 0;
    if (at < 0) return;
    for (int32_t i = m->now[at].node; i >= 0; i = m->incoming[i].next, n++)
        if (m->incoming[i].node == node) return;
    if (n > MOST_WAYS ||
        !ap_vec_reserve(&m->incoming, &m->incoming_cap, m->n_incoming + 1, sizeof *m->incoming)) {
        m->failed = true;
        return;
    }
    m->incoming[m->n_incoming] = (struct ap_incoming){state, node, m->now[at].node};
    m->now[at].node = (int32_t)m->n_incoming++;
}

/* A rule is to be entered, with that frame. */
static void enter(ap_machine *m, int32_t rule, ap_frame f)
{
    if (!ap_vec_reserve(&m->entry, &m->entry_cap, m->n_entry + 1, sizeof *m->entry)) {
        m->failed = true;
        return;
    }
    int32_t rank = m->g->rule[rule].rank;
    m->by_rank[rank / 64] |= UINT64_C(1) << rank % 64;
    m->entry[m->n_entry] = (struct ap_entry){f, m->entered[rule]};
    m->entered[rule] = (int32_t)m->n_entry++;
}

/* A rule has been read once more for this frame. */
static void finish_frame(ap_machine *m, ap_frame f)
{
    if (f.edge < 0) {
        m->ends = true;
        return;
    }
    const ap_edge *e = &m->g->edge[f.edge];
    if (f.need <= 1) reached(m, e->to, f.below);
    if (f.room == 1) return;
    if (f.need > 1) f.need--;
    if (f.room > 0) f.room--;
    enter(m, e->rule, f);
}

/* Where the rule of a reached state may end, what called it goes on: until nothing new is reached. Then each state
 * has one node. */
static void settle(ap_machine *m)
{
    for (size_t i = 0; i < m->n_incoming && !m->failed; i++) {
        struct ap_incoming x = m->incoming[i];
        for (size_t k = 0; m->g->state[x.state].accepts && k < m->node.v[x.node].n; k++)
            finish_frame(m, m->frame[m->node.v[x.node].begin + k]);
    }
    for (size_t i = 0; i < m->n_now && !m->failed; i++) {
        int32_t first = m->now[i].node;
        if (m->incoming[first].next < 0) {
            m->now[i].node = m->incoming[first].node;
            continue;
        }
        size_t n = 0;
        for (int32_t k = first; k >= 0; k = m->incoming[k].next) {
            const ap_interned *node = &m->node.v[m->incoming[k].node];
            if (!may_gather(m, n + node->n)) return;
            memcpy(m->gather + n, m->frame + node->begin, node->n * sizeof *m->frame);
            n += node->n;
        }
        m->now[i].node = ap_machine_node(m, m->gather, n);
    }
}

static bool is_end(const ap_grammar *g, int32_t state)
{
    return g->state[state].accepts && g->state[state].first < 0;
}

/* The rules that a member goes into. Where nothing comes behind the called rule, it goes on where the calling one
 * would: stacks don't grow with lists that are written as recursion. */
static void call(ap_machine *m, ap_member from)
{
    const ap_grammar *g = m->g;
    for (int32_t i = g->state[from.state].first; i >= 0 && !m->failed; i = g->edge[i].next) {
        const ap_edge *e = &g->edge[i];
        if (e->kind != AP_EDGE_RULE) continue;
        if (e->max != 1 || !is_end(g, e->to)) {
            enter(m, e->rule, (ap_frame){i, e->min, e->max, from.node});
            continue;
        }
        for (size_t k = 0; k < m->node.v[from.node].n; k++)
            enter(m, e->rule, m->frame[m->node.v[from.node].begin + k]);
    }
}

/* The node of all frames that a rule is entered with. */
static int32_t entry_node(ap_machine *m, int32_t rule)
{
    size_t n = 0;
    for (int32_t i = m->entered[rule]; i >= 0; i = m->entry[i].next) n++;
    if (!may_gather(m, n)) return -1;
    n = 0;
    for (int32_t i = m->entered[rule]; i >= 0; i = m->entry[i].next)
        m->gather[n++] = m->entry[i].frame;
    m->entered[rule] = -1;
    return ap_machine_node(m, m->gather, n);
}

/* Enter what is to be entered, callers before what they call, and make the set. */
static int32_t end_step(ap_machine *m)
{
    const ap_grammar *g = m->g;
    settle(m);
    for (size_t i = 0, n = m->n_now; i < n && !m->failed; i++) call(m, m->now[i]);
    for (size_t w = 0; w < g->n_rule / 64 + 1; w++)
        while (m->by_rank[w]) {
            int bit = __builtin_ctzll(m->by_rank[w]);
            int32_t rule = g->ranked[w * 64 + (size_t)bit];
            m->by_rank[w] &= m->by_rank[w] - 1;
            int32_t node = m->failed ? -1 : entry_node(m, rule), start = g->rule[rule].start;
            if (node < 0) {
                m->entered[rule] = -1;
                continue;
            }
            bool fresh;
            int32_t at = place_of(m, start, &fresh);
            call(m, (ap_member){start, node});
            if (at >= 0) m->now[at].node = fresh ? node : join_nodes(m, m->now[at].node, node);
        }
    size_t n = 0;
    for (size_t i = 0; i < m->n_now; i++)
        if (g->state[m->now[i].state].reads) m->now[n++] = m->now[i];
    if (m->failed || (!n && !m->ends)) return AP_MACHINE_DEAD;
    /* in the order of states: sets that are equal have one number */
    for (size_t i = 1; i < n; i++) {
        ap_member x = m->now[i];
        size_t k = i;
        for (; k > 0 && m->now[k - 1].state > x.state; k--) m->now[k] = m->now[k - 1];
        m->now[k] = x;
    }
    return keep_set(m, m->now, n, m->ends);
}

int32_t ap_machine_start(ap_machine *m)
{
    ap_frame all = {-1, 1, 1, -1};
    int32_t node = ap_machine_node(m, &all, 1);
    const ap_grammar *g = m->g;
    if (node < 0) return AP_MACHINE_DEAD;
    begin_step(m);
    m->ends = g->state[g->rule[g->root].start].accepts;
    enter(m, g->root, m->frame[m->node.v[node].begin]);
    return end_step(m);
}

int32_t ap_machine_step(ap_machine *m, int32_t set, uint8_t byte)
{
    const ap_grammar *g = m->g;
    if (set < 0 || m->failed) return AP_MACHINE_DEAD;
    begin_step(m);
    for (size_t i = 0; i < m->set.v[set].n && !m->failed; i++) {
        ap_member from = m->member[m->set.v[set].begin + i];
        for (int32_t k = g->state[from.state].first; k >= 0; k = g->edge[k].next) {
            const ap_edge *e = &g->edge[k];
            if (e->kind == AP_EDGE_BYTES && e->lo <= byte && byte <= e->hi)
                reached(m, e->to, from.node);
        }
    }
    return end_step(m);
}

int32_t ap_machine_pop(ap_machine *m, const ap_frame *frame, size_t n)
{
    begin_step(m);
    for (size_t i = 0; i < n && !m->failed; i++) finish_frame(m, frame[i]);
    return end_step(m);
}

int32_t ap_machine_single(ap_machine *m, int32_t state, int32_t node)
{
    return keep_set(m, &(ap_member){state, node}, 1, false);
}

/* ---------------------------------------------------------------- forgetting */

ap_machine_mark ap_machine_place(const ap_machine *m)
{
    return (ap_machine_mark){m->node.n, m->set.n, m->n_frame, m->n_member};
}

static void take_back(ap_interned_list *l, size_t n)
{
    while (l->n > n) {
        const ap_interned *k = &l->v[--l->n];
        l->bucket[k->hash & l->mask] = k->next;
    }
}

void ap_machine_forget(ap_machine *m, ap_machine_mark mark)
{
    take_back(&m->node, mark.n_node);
    take_back(&m->set, mark.n_set);
    m->n_frame = mark.n_frame;
    m->n_member = mark.n_member;
}

/* Copies of what is kept, made in ascending order of the old numbers: a node's frames name older nodes only. */
static void copy_nodes(ap_machine *to, const ap_machine *from, int32_t *node)
{
    for (size_t i = 0; i < from->node.n && !to->failed; i++) {
        if (node[i] < 0) continue;
        const ap_interned *k = &from->node.v[i];
        if (!may_gather(to, k->n)) return;
        for (size_t j = 0; j < k->n; j++) {
            to->gather[j] = from->frame[k->begin + j];
            if (to->gather[j].below >= 0) to->gather[j].below = node[to->gather[j].below];
        }
        node[i] = ap_machine_node(to, to->gather, k->n);
    }
}

static int32_t copy_set(ap_machine *to, const ap_machine *from, const int32_t *node, int32_t set)
{
    const ap_interned *k = &from->set.v[set];
    to->n_now = 0;
    if (!ap_vec_reserve(&to->now, &to->now_cap, k->n, sizeof *to->now)) {
        to->failed = true;
        return AP_MACHINE_DEAD;
    }
    for (size_t j = 0; j < k->n; j++) {
        ap_member x = from->member[k->begin + j];
        to->now[j] = (ap_member){x.state, node[x.node]};
    }
    return keep_set(to, to->now, k->n, k->ends);
}

/* node[i] = 0 for the nodes that the sets need, else -1. */
static void mark_nodes(const ap_machine *m, const int32_t *set, size_t n, int32_t *node)
{
    memset(node, 0xff, m->node.n * sizeof *node);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; set[i] >= 0 && j < m->set.v[set[i]].n; j++)
            node[m->member[m->set.v[set[i]].begin + j].node] = 0;
    for (size_t i = m->node.n; i-- > 0;)
        for (size_t j = 0; node[i] == 0 && j < m->node.v[i].n; j++) {
            int32_t below = m->frame[m->node.v[i].begin + j].below;
            if (below >= 0) node[below] = 0;
        }
}

void ap_machine_keep(ap_machine *m, int32_t *set, size_t n)
{
    ap_machine made;
    int32_t *node = ap_malloc(m->node.n, sizeof *node);
    if (ap_machine_open(&made, m->g, NULL) || !node) {
        made.failed = true;
    } else {
        mark_nodes(m, set, n, node);
        copy_nodes(&made, m, node);
        for (size_t i = 0; i < n && !made.failed; i++)
            if (set[i] >= 0) set[i] = copy_set(&made, m, node, set[i]);
    }
    ap_free(node);
    ap_machine_close(m);
    *m = made;
}
