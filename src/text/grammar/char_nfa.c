/* char_nfa.c - automata over characters made deterministic, by sets of states. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/grammar/char_dfa.h"
#include "text/vec.h"

enum { MOST_STATES = 1 << 15, MOST_EDGES = 1 << 17, N_BUCKET = 1 << 12 };
#define MOST_WORK ((int64_t)1 << 26)

void ap_char_nfa_free(ap_char_nfa *a)
{
    ap_free(a->edge);
    ap_free(a->first);
    *a = (ap_char_nfa){0};
}

int32_t ap_char_nfa_state(ap_char_nfa *a)
{
    if (a->n_state >= MOST_STATES) a->full = true;
    if (a->full || a->failed) return 0;
    if (!ap_vec_reserve(&a->first, &a->state_cap, a->n_state + 1, sizeof *a->first)) {
        a->failed = true;
        return 0;
    }
    a->first[a->n_state] = -1;
    return (int32_t)a->n_state++;
}

void ap_char_nfa_edge(ap_char_nfa *a, int32_t from, int32_t to, ap_char_step kind, uint32_t lo,
                      uint32_t hi)
{
    if (a->n_edge >= MOST_EDGES) a->full = true;
    if (a->full || a->failed) return;
    if (!ap_vec_reserve(&a->edge, &a->edge_cap, a->n_edge + 1, sizeof *a->edge)) {
        a->failed = true;
        return;
    }
    a->edge[a->n_edge] = (struct ap_nfa_edge){lo, hi, to, a->first[from], kind};
    a->first[from] = (int32_t)a->n_edge++;
}

/* ---------------------------------------------------------------- sets of states */

typedef struct list {
    int32_t *v;
    size_t n, cap;
} list;

typedef struct work {
    const ap_char_nfa *a;
    ap_char_dfa *out;
    list pool, begin, next; /* set i is pool.v[begin.v[i]] up to begin.v[i + 1] */
    int32_t *bucket;
    list now;
    int32_t *mark; /* [n_state] == stamp: in `now` */
    int32_t stamp;
    uint32_t *cut; /* where ranges of the set at hand begin or end */
    size_t n_cut, cut_cap;
    int64_t left; /* work that may still be done */
    bool failed;
} work;

static void add(work *w, list *l, int32_t x)
{
    if (w->failed || !ap_vec_reserve(&l->v, &l->cap, l->n + 1, sizeof *l->v))
        w->failed = true;
    else
        l->v[l->n++] = x;
}

static void put_state(work *w, int32_t s)
{
    if (w->mark[s] == w->stamp) return;
    w->mark[s] = w->stamp;
    add(w, &w->now, s);
}

static void begin_set(work *w)
{
    w->now.n = 0;
    w->stamp++;
}

/* Complete `now` by what takes no character: EMPTY, and one of the others where it is given. */
static void close_set(work *w, ap_char_step also)
{
    for (size_t i = 0; i < w->now.n && !w->failed; i++)
        for (int32_t e = w->a->first[w->now.v[i]]; e >= 0; e = w->a->edge[e].next) {
            ap_char_step kind = w->a->edge[e].kind;
            w->left--;
            if (kind == AP_STEP_EMPTY || kind == also) put_state(w, w->a->edge[e].to);
        }
}

static int compare(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int compare_cuts(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Number of the set `now`, closed. */
static int32_t set_number(work *w)
{
    uint32_t h = 2166136261u;
    qsort(w->now.v, w->now.n, sizeof *w->now.v, compare);
    for (size_t i = 0; i < w->now.n; i++) h = (h ^ (uint32_t)w->now.v[i]) * 16777619u;
    uint32_t at = (h ^ h >> 15) % N_BUCKET;
    for (int32_t i = w->bucket[at]; i >= 0; i = w->next.v[i]) {
        size_t n = (size_t)(w->begin.v[i + 1] - w->begin.v[i]);
        if (n == w->now.n && !memcmp(w->pool.v + w->begin.v[i], w->now.v, n * sizeof(int32_t)))
            return i;
    }
    int32_t number = (int32_t)w->next.n;
    for (size_t i = 0; i < w->now.n; i++) add(w, &w->pool, w->now.v[i]);
    add(w, &w->begin, (int32_t)w->pool.n);
    add(w, &w->next, w->bucket[at]);
    w->bucket[at] = number;
    return number;
}

/* ---------------------------------------------------------------- one set's edges */

static void find_cuts(work *w, int32_t set)
{
    w->n_cut = 0;
    for (int32_t i = w->begin.v[set]; i < w->begin.v[set + 1]; i++)
        for (int32_t e = w->a->first[w->pool.v[i]]; e >= 0; e = w->a->edge[e].next) {
            const struct ap_nfa_edge *x = &w->a->edge[e];
            if (x->kind != AP_STEP_CHARS) continue;
            if (!ap_vec_reserve(&w->cut, &w->cut_cap, w->n_cut + 2, sizeof *w->cut)) {
                w->failed = true;
                return;
            }
            w->cut[w->n_cut++] = x->lo;
            w->cut[w->n_cut++] = x->hi + 1;
        }
    if (w->n_cut) qsort(w->cut, w->n_cut, sizeof *w->cut, compare_cuts);
}

/* Where a character leads to from the set; -1: nowhere. */
static int32_t target_of(work *w, int32_t set, uint32_t c)
{
    begin_set(w);
    for (int32_t i = w->begin.v[set]; i < w->begin.v[set + 1]; i++)
        for (int32_t e = w->a->first[w->pool.v[i]]; e >= 0; e = w->a->edge[e].next) {
            const struct ap_nfa_edge *x = &w->a->edge[e];
            w->left--;
            if (x->kind == AP_STEP_CHARS && x->lo <= c && c <= x->hi) put_state(w, x->to);
        }
    if (!w->now.n) return -1;
    close_set(w, AP_STEP_EMPTY);
    return set_number(w);
}

/* May the string end in the set? */
static bool ends(work *w, int32_t set, int32_t end)
{
    begin_set(w);
    for (int32_t i = w->begin.v[set]; i < w->begin.v[set + 1]; i++) put_state(w, w->pool.v[i]);
    close_set(w, AP_STEP_END);
    return w->mark[end] == w->stamp;
}

static void one_set(work *w, int32_t set, int32_t end)
{
    ap_char_dfa_state(w->out, ends(w, set, end));
    find_cuts(w, set);
    for (size_t i = 0; i + 1 < w->n_cut && !w->failed; i++) {
        if (w->cut[i] == w->cut[i + 1]) continue;
        int32_t to = target_of(w, set, w->cut[i]);
        if (to >= 0) ap_char_dfa_edge(w->out, w->cut[i], w->cut[i + 1] - 1, to);
    }
}

void ap_char_nfa_determine(const ap_char_nfa *a, int32_t start, int32_t end, ap_char_dfa *out)
{
    work w = {.a = a,
              .out = out,
              .bucket = ap_malloc(N_BUCKET, sizeof(int32_t)),
              .mark = ap_calloc(a->n_state, sizeof(int32_t)),
              .left = MOST_WORK};
    out->full = a->full;
    w.failed = a->failed || !w.bucket || !w.mark;
    if (!w.failed && !out->full) {
        memset(w.bucket, 0xff, N_BUCKET * sizeof *w.bucket);
        add(&w, &w.begin, 0);
        begin_set(&w);
        put_state(&w, start);
        close_set(&w, AP_STEP_BEGIN);
        set_number(&w);
        /* a string that ends where it begins passes both: `ends` goes on from what BEGIN has reached */
        for (size_t i = 0; i < w.next.n && !w.failed && !out->full && !out->failed; i++) {
            one_set(&w, (int32_t)i, end);
            if (w.left < 0 || w.next.n > AP_DFA_STATES) out->full = true;
        }
    }
    out->failed = out->failed || w.failed;
    list *lists[] = {&w.pool, &w.begin, &w.next, &w.now};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) ap_free(lists[i]->v);
    ap_free(w.bucket);
    ap_free(w.mark);
    ap_free(w.cut);
}
