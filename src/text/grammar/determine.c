/* determine.c - subset construction, rule by rule: a state of the new graph is a set of old ones. A rule whose new
 * graph would have many more states than the old one keeps its old states, each with all edges that it reaches by
 * empty ones. */
#include "text/grammar/determine.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/vec.h"

enum {
    GROWTH = 4,
    SLACK = 256
}; /* new states of a rule at most: GROWTH times the old ones, and SLACK */

typedef struct list {
    int32_t *v;
    size_t n, cap;
} list;

typedef struct work {
    const ap_grammar *old;
    ap_grammar *g;
    int32_t *new_rule; /* [old rules] -1 = not needed so far */
    list todo;         /* old rules that are needed, in the order of their new numbers */
    /* sets of the rule at hand: set i is pool.v[begin.v[i]] up to begin.v[i + 1], ascending */
    list pool, begin;
    int32_t *bucket; /* [N_BUCKET] set, or -1; next.v[set] goes on */
    list next;
    list made;     /* the new state of each set */
    list now;      /* set being made */
    int32_t *mark; /* [old states] == stamp: it is in `now` */
    int32_t stamp;
    list step;    /* old edges of the set that is looked at */
    int64_t left; /* edges that may be looked at still, for this rule; below 0: too much work */
    bool failed;
} work;

enum { N_BUCKET = 1 << 10 };
#define MOST_WORK ((int64_t)1 << 24)

static void add(work *w, list *l, int32_t x)
{
    if (w->failed || !ap_vec_reserve(&l->v, &l->cap, l->n + 1, sizeof *l->v))
        w->failed = true;
    else
        l->v[l->n++] = x;
}

/* ---------------------------------------------------------------- sets */

static void begin_set(work *w)
{
    w->now.n = 0;
    w->stamp++;
}

static void put_state(work *w, int32_t s)
{
    if (w->mark[s] == w->stamp) return;
    w->mark[s] = w->stamp;
    add(w, &w->now, s);
}

/* Complete the set by empty edges. */
static void close_set(work *w)
{
    const ap_grammar *o = w->old;
    for (size_t i = 0; i < w->now.n && !w->failed && w->left >= 0; i++)
        for (int32_t e = o->state[w->now.v[i]].first; e >= 0; e = o->edge[e].next) {
            w->left--;
            if (o->edge[e].kind == AP_EDGE_EMPTY) put_state(w, o->edge[e].to);
        }
}

static int compare(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t hash_of(const int32_t *v, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint32_t)v[i]) * 16777619u;
    return h ^ h >> 15;
}

static void forget_sets(work *w)
{
    w->pool.n = w->begin.n = w->next.n = w->made.n = 0;
    memset(w->bucket, 0xff, N_BUCKET * sizeof *w->bucket);
    add(w, &w->begin, 0);
}

/* The number of the set `now`, closed; -1 if it is empty. */
static int32_t set_number(work *w)
{
    close_set(w);
    if (!w->now.n || w->failed) return -1;
    qsort(w->now.v, w->now.n, sizeof *w->now.v, compare);
    uint32_t at = hash_of(w->now.v, w->now.n) % N_BUCKET;
    for (int32_t i = w->bucket[at]; i >= 0; i = w->next.v[i]) {
        size_t n = (size_t)(w->begin.v[i + 1] - w->begin.v[i]);
        if (n == w->now.n && !memcmp(w->pool.v + w->begin.v[i], w->now.v, n * sizeof(int32_t)))
            return i;
    }
    int32_t number = (int32_t)w->made.n;
    for (size_t i = 0; i < w->now.n; i++) add(w, &w->pool, w->now.v[i]);
    add(w, &w->begin, (int32_t)w->pool.n);
    add(w, &w->next, w->bucket[at]);
    add(w, &w->made, ap_grammar_state(w->g));
    w->bucket[at] = number;
    return number;
}

/* ---------------------------------------------------------------- rules */

static int32_t rule_of(work *w, int32_t old)
{
    if (w->new_rule[old] >= 0) return w->new_rule[old];
    const char *name = w->old->rule[old].name;
    /* a rule without the two states that building gives it: its graph brings its own */
    if (!ap_vec_reserve(&w->g->rule, &w->g->rule_cap, w->g->n_rule + 1, sizeof *w->g->rule)) {
        w->failed = true;
        return 0;
    }
    int32_t r = (int32_t)w->g->n_rule++;
    w->g->rule[r] = (ap_rule){.name = name ? ap_strdup(name) : NULL, .end = -1};
    if (name && !w->g->rule[r].name) w->failed = true;
    w->new_rule[old] = r;
    add(w, &w->todo, old);
    return r;
}

/* ---------------------------------------------------------------- edges of a set */

/* The edges of the set's states to step; tells whether the rule may end in it. */
static bool collect(work *w, int32_t set, int32_t end)
{
    const ap_grammar *o = w->old;
    bool ends = false;
    w->step.n = 0;
    for (int32_t i = w->begin.v[set]; i < w->begin.v[set + 1] && !w->failed; i++) {
        int32_t s = w->pool.v[i];
        ends = ends || s == end;
        for (int32_t e = o->state[s].first; e >= 0; e = o->edge[e].next)
            if (o->edge[e].kind != AP_EDGE_EMPTY) add(w, &w->step, e);
    }
    return ends;
}

/* The set that a byte leads to from the collected edges, or -1. */
static int32_t target_of(work *w, int byte)
{
    begin_set(w);
    w->left -= (int64_t)w->step.n;
    for (size_t i = 0; i < w->step.n; i++) {
        const ap_edge *e = &w->old->edge[w->step.v[i]];
        if (e->kind == AP_EDGE_BYTES && e->lo <= byte && byte <= e->hi) put_state(w, e->to);
    }
    return set_number(w);
}

static void put_bytes(work *w, int32_t set)
{
    bool cut[257] = {false}; /* an edge begins here, or ended before it */
    for (size_t i = 0; i < w->step.n; i++) {
        const ap_edge *e = &w->old->edge[w->step.v[i]];
        if (e->kind != AP_EDGE_BYTES) continue;
        cut[e->lo] = true;
        cut[e->hi + 1] = true;
    }
    int32_t last = -1;
    int begin = 0;
    for (int b = 0; b <= 256 && !w->failed; b++) {
        if (b < 256 && !cut[b]) continue;
        int32_t to = b < 256 ? target_of(w, b) : -1;
        if (to == last) continue;
        if (last >= 0)
            ap_grammar_bytes(w->g, w->made.v[set], w->made.v[last], (uint8_t)begin,
                             (uint8_t)(b - 1));
        last = to;
        begin = b;
    }
}

static bool same_call(const ap_edge *a, const ap_edge *b)
{
    return b->kind == AP_EDGE_RULE && a->rule == b->rule && a->min == b->min && a->max == b->max;
}

/* Calls that are alike become one, to all of their targets. */
static void put_calls(work *w, int32_t set)
{
    for (size_t i = 0; i < w->step.n && !w->failed; i++) {
        const ap_edge *e = &w->old->edge[w->step.v[i]];
        if (e->kind != AP_EDGE_RULE) continue;
        bool first = true;
        w->left -= (int64_t)i;
        for (size_t j = 0; j < i && first; j++) first = !same_call(e, &w->old->edge[w->step.v[j]]);
        if (!first) continue;
        begin_set(w);
        for (size_t j = i; j < w->step.n; j++)
            if (same_call(e, &w->old->edge[w->step.v[j]]))
                put_state(w, w->old->edge[w->step.v[j]].to);
        int32_t to = set_number(w), rule = rule_of(w, e->rule);
        if (to >= 0) ap_grammar_call(w->g, w->made.v[set], w->made.v[to], rule, e->min, e->max);
    }
}

/* The new graph of a rule; false: it has more than `most` states, or takes too long. */
static bool determine(work *w, int32_t old, size_t most)
{
    const ap_rule *r = &w->old->rule[old];
    w->left = MOST_WORK;
    forget_sets(w);
    begin_set(w);
    put_state(w, r->start);
    set_number(w);
    for (size_t i = 0; i < w->made.n && !w->failed && !w->g->full && !w->g->failed; i++) {
        if (w->made.n > most || w->left < 0) return false;
        int32_t set = (int32_t)i;
        w->g->state[w->made.v[set]].accepts = collect(w, set, r->end);
        put_bytes(w, set);
        put_calls(w, set);
    }
    return true;
}

/* ---------------------------------------------------------------- a graph that stays */

/* The states of a rule that can be reached, as the set `now`. */
static void reachable(work *w, int32_t start)
{
    const ap_grammar *o = w->old;
    begin_set(w);
    put_state(w, start);
    for (size_t i = 0; i < w->now.n && !w->failed; i++)
        for (int32_t e = o->state[w->now.v[i]].first; e >= 0; e = o->edge[e].next)
            put_state(w, o->edge[e].to);
}

/* Each old state stays, with the edges of all that it reaches by empty ones. */
static void keep(work *w, int32_t old)
{
    const ap_grammar *o = w->old;
    w->left = MOST_WORK;
    forget_sets(w);
    reachable(w, o->rule[old].start);
    list states = w->now; /* taken over: what follows makes other sets */
    w->now = (list){0};
    int32_t *made = ap_malloc(o->n_state, sizeof *made);
    if (!made) w->failed = true;
    for (size_t i = 0; i < states.n && made; i++) made[states.v[i]] = ap_grammar_state(w->g);
    for (size_t i = 0; i < states.n && !w->failed && !w->g->full; i++) {
        int32_t from = made[states.v[i]];
        if (w->left < 0) w->g->full = true;
        begin_set(w);
        put_state(w, states.v[i]);
        close_set(w);
        for (size_t j = 0; j < w->now.n && !w->failed && !w->g->full; j++) {
            int32_t s = w->now.v[j];
            if (s == o->rule[old].end) w->g->state[from].accepts = true;
            for (int32_t k = o->state[s].first; k >= 0; k = o->edge[k].next) {
                const ap_edge *e = &o->edge[k];
                if (e->kind == AP_EDGE_BYTES)
                    ap_grammar_bytes(w->g, from, made[e->to], e->lo, e->hi);
                if (e->kind == AP_EDGE_RULE)
                    ap_grammar_call(w->g, from, made[e->to], rule_of(w, e->rule), e->min, e->max);
            }
        }
    }
    ap_free(states.v);
    ap_free(made);
}

static void one_rule(work *w, int32_t old)
{
    ap_grammar *g = w->g;
    size_t n_state = g->n_state, n_edge = g->n_edge;
    g->at = w->new_rule[old];
    reachable(w, w->old->rule[old].start);
    size_t most = w->now.n * GROWTH + SLACK;
    int32_t start = (int32_t)n_state;
    if (!determine(w, old, most)) {
        g->n_state = n_state;
        g->n_edge = n_edge;
        keep(w, old);
    }
    g->rule[g->at].start = start;
}

/* ---------------------------------------------------------------- all rules */

static void drop(work *w)
{
    list *lists[] = {&w->todo, &w->pool, &w->begin, &w->next, &w->made, &w->now, &w->step};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) ap_free(lists[i]->v);
    ap_free(w->new_rule);
    ap_free(w->bucket);
    ap_free(w->mark);
}

apus_err ap_grammar_determine(ap_grammar *g, apus_diag *diag)
{
    ap_grammar made = {0};
    work w = {.old = g,
              .g = &made,
              .new_rule = ap_malloc(g->n_rule, sizeof(int32_t)),
              .bucket = ap_malloc(N_BUCKET, sizeof(int32_t)),
              .mark = ap_calloc(g->n_state, sizeof(int32_t))};
    w.failed = !w.new_rule || !w.bucket || !w.mark;
    if (!w.failed) {
        memset(w.new_rule, 0xff, g->n_rule * sizeof *w.new_rule);
        made.root = rule_of(&w, g->root);
    }
    for (size_t i = 0; i < w.todo.n && !w.failed && !made.full && !made.failed; i++)
        one_rule(&w, w.todo.v[i]);
    for (size_t s = 0; s < made.n_state && !made.failed; s++)
        for (int32_t e = made.state[s].first; e >= 0 && !made.state[s].reads; e = made.edge[e].next)
            made.state[s].reads = made.edge[e].kind == AP_EDGE_BYTES;
    bool failed = w.failed;
    drop(&w);
    ap_grammar_free(g);
    *g = made;
    return failed ? ap_fail_nomem(diag, ap_grammar_size(g), "a grammar") : APUS_OK;
}
