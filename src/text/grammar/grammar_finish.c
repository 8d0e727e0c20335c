/* grammar_finish.c - a built grammar made ready: what leads nowhere goes, then empty edges; each rule's graph becomes
 * deterministic; rules get their ranks and what can follow them. */
#include <string.h>

#include "base/mem.h"
#include "text/grammar/determine.h"
#include "text/grammar/grammar.h"
#include "text/vec.h"

/* ---------------------------------------------------------------- what reaches an end */

/* The edges backwards. */
typedef struct backwards {
    int32_t *from;             /* [n_edge] */
    int32_t *into, *next_into; /* [n_state], [n_edge]: edges into a state, as lists */
    int32_t *call, *next_call; /* [n_rule], [n_edge]: edges of a rule */
    int32_t *todo;             /* [n_state] */
    bool *empty, *lives;       /* [n_state]: the end can be reached with nothing; at all */
} backwards;

static void drop_backwards(backwards *b)
{
    void *all[] = {b->from,      b->into, b->next_into, b->call,
                   b->next_call, b->todo, b->empty,     b->lives};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ap_free(all[i]);
}

static bool take_backwards(const ap_grammar *g, backwards *b)
{
    *b = (backwards){.from = ap_malloc(g->n_edge, sizeof(int32_t)),
                     .into = ap_malloc(g->n_state, sizeof(int32_t)),
                     .next_into = ap_malloc(g->n_edge, sizeof(int32_t)),
                     .call = ap_malloc(g->n_rule, sizeof(int32_t)),
                     .next_call = ap_malloc(g->n_edge, sizeof(int32_t)),
                     .todo = ap_malloc(g->n_state, sizeof(int32_t)),
                     .empty = ap_calloc(g->n_state, sizeof(bool)),
                     .lives = ap_calloc(g->n_state, sizeof(bool))};
    return b->from && b->into && b->next_into && b->call && b->next_call && b->todo && b->empty &&
           b->lives;
}

static void turn_edges(const ap_grammar *g, backwards *b)
{
    memset(b->into, 0xff, g->n_state * sizeof *b->into);
    memset(b->call, 0xff, g->n_rule * sizeof *b->call);
    for (size_t s = 0; s < g->n_state; s++) {
        for (int32_t i = g->state[s].first; i >= 0; i = g->edge[i].next) {
            const ap_edge *e = &g->edge[i];
            b->from[i] = (int32_t)s;
            b->next_into[i] = b->into[e->to];
            b->into[e->to] = i;
            if (e->kind != AP_EDGE_RULE) continue;
            b->next_call[i] = b->call[e->rule];
            b->call[e->rule] = i;
        }
    }
}

/* Can this edge be passed, by what is marked so far? */
static bool passes(const ap_grammar *g, const ap_edge *e, const bool *mark, bool with_bytes)
{
    if (e->kind == AP_EDGE_BYTES) return with_bytes;
    return e->kind == AP_EDGE_EMPTY || e->min == 0 || mark[g->rule[e->rule].start];
}

static void put_mark(bool *mark, int32_t *todo, size_t *n, int32_t s)
{
    if (mark[s]) return;
    mark[s] = true;
    todo[(*n)++] = s;
}

/* Mark the states that reach the end of their rule; with nothing, or with bytes too. */
static void reach(const ap_grammar *g, const backwards *b, bool *mark, bool with_bytes)
{
    size_t n = 0;
    for (size_t r = 0; r < g->n_rule; r++) put_mark(mark, b->todo, &n, g->rule[r].end);
    while (n) {
        int32_t s = b->todo[--n];
        for (int32_t i = b->into[s]; i >= 0; i = b->next_into[i])
            if (passes(g, &g->edge[i], mark, with_bytes)) put_mark(mark, b->todo, &n, b->from[i]);
        int32_t rule = g->state[s].owner;
        if (g->rule[rule].start != s) continue;
        for (int32_t i = b->call[rule]; i >= 0; i = b->next_call[i])
            if (mark[g->edge[i].to]) put_mark(mark, b->todo, &n, b->from[i]);
    }
}

/* Edges to where no end is reached go; calls of what may be empty get an empty edge beside them, and are of texts
 * that are not. */
static void mend_edges(ap_grammar *g, const backwards *b)
{
    size_t n = g->n_edge;
    for (size_t i = 0; i < n && !g->full && !g->failed; i++) {
        ap_edge *e = &g->edge[i];
        if (e->kind != AP_EDGE_RULE) continue;
        int32_t start = g->rule[e->rule].start;
        bool optional = e->min == 0 || b->empty[start];
        if (optional) e->min = 1;
        if (!b->lives[start]) {
            if (optional) e->kind = AP_EDGE_EMPTY; /* else nothing passes it */
        } else if (optional) {
            ap_grammar_empty(g, b->from[i], e->to);
        }
    }
    for (size_t s = 0; s < g->n_state; s++) {
        int32_t *at = &g->state[s].first;
        while (*at >= 0) {
            const ap_edge *e = &g->edge[*at];
            bool dead =
                !b->lives[e->to] || (e->kind == AP_EDGE_RULE && !b->lives[g->rule[e->rule].start]);
            if (dead)
                *at = e->next;
            else
                at = &g->edge[*at].next;
        }
    }
}

static apus_err prune(ap_grammar *g, const char *what, apus_diag *diag)
{
    backwards b;
    bool ok = take_backwards(g, &b), any = false;
    if (ok) {
        turn_edges(g, &b);
        reach(g, &b, b.empty, false);
        reach(g, &b, b.lives, true);
        any = b.lives[g->rule[g->root].start];
        if (any) mend_edges(g, &b);
    }
    drop_backwards(&b);
    if (!ok) return ap_fail_nomem(diag, g->n_edge * sizeof(int32_t), "a grammar");
    return any ? APUS_OK : ap_fail(diag, APUS_EINVAL, "%s: no text can satisfy it", what);
}

/* ---------------------------------------------------------------- ranks */

typedef struct ranking {
    struct frame {
        int32_t rule, edge; /* edge: the next to be looked at */
    } * stack;              /* [n_rule] */
    uint8_t *seen;          /* [n_rule] 0, 1: on the stack, 2: done */
    int32_t next;           /* rank */
} ranking;

static apus_err left_recursion(const ap_grammar *g, int32_t rule, const char *what, apus_diag *diag)
{
    const char *name = g->rule[rule].name;
    return ap_fail(
        diag, APUS_EUNSUPPORTED,
        "%s: rule '%.80s' begins with itself (left recursion); write it with a repetition", what,
        name ? name : "");
}

/* Rank a rule and all that it can begin with. */
static apus_err rank(ap_grammar *g, ranking *k, int32_t rule, const char *what, apus_diag *diag)
{
    size_t n = 0;
    k->seen[rule] = 1;
    k->stack[n++] = (struct frame){rule, g->state[g->rule[rule].start].first};
    while (n) {
        struct frame *f = &k->stack[n - 1];
        if (f->edge < 0) {
            k->seen[f->rule] = 2;
            k->next--;
            g->rule[f->rule].rank = k->next;
            g->ranked[k->next] = f->rule;
            n--;
            continue;
        }
        const ap_edge *e = &g->edge[f->edge];
        f->edge = e->next;
        if (e->kind != AP_EDGE_RULE || k->seen[e->rule] == 2) continue;
        if (k->seen[e->rule] == 1) return left_recursion(g, e->rule, what, diag);
        k->seen[e->rule] = 1;
        k->stack[n++] = (struct frame){e->rule, g->state[g->rule[e->rule].start].first};
    }
    return APUS_OK;
}

static apus_err rank_all(ap_grammar *g, const char *what, apus_diag *diag)
{
    ranking k = {.stack = ap_malloc(g->n_rule, sizeof *k.stack),
                 .seen = ap_calloc(g->n_rule, 1),
                 .next = (int32_t)g->n_rule};
    g->ranked = ap_malloc(g->n_rule, sizeof *g->ranked);
    apus_err err = APUS_OK;
    if (!k.stack || !k.seen || !g->ranked)
        err = ap_fail_nomem(diag, g->n_rule * sizeof *k.stack, "a grammar");
    for (size_t r = 0; r < g->n_rule && !err; r++)
        if (!k.seen[r]) err = rank(g, &k, (int32_t)r, what, diag);
    ap_free(k.stack);
    ap_free(k.seen);
    return err;
}

/* ---------------------------------------------------------------- what can follow */

typedef struct bytes {
    uint32_t w[8];
} bytes;

static bool join(uint32_t *to, const uint32_t *from)
{
    uint32_t grown = 0;
    for (int i = 0; i < 8; i++) {
        grown |= from[i] & ~to[i];
        to[i] |= from[i];
    }
    return grown != 0;
}

/* Bytes that can come at a state, but for those behind its rule; first[r] is known of all rules it calls. */
static bytes bytes_at(const ap_grammar *g, int32_t state, const bytes *first)
{
    bytes b = {{0}};
    for (int32_t i = g->state[state].first; i >= 0; i = g->edge[i].next) {
        const ap_edge *e = &g->edge[i];
        if (e->kind == AP_EDGE_RULE) join(b.w, first[e->rule].w);
        for (int c = e->lo; e->kind == AP_EDGE_BYTES && c <= e->hi; c++)
            b.w[c / 32] |= UINT32_C(1) << c % 32;
    }
    return b;
}

/* What follows a rule follows, too, each rule that it may end with. */
static void hand_on(ap_grammar *g, int32_t *const *last, const int32_t *n_last, int32_t *todo,
                    bool *waits)
{
    size_t n = 0;
    for (size_t r = 0; r < g->n_rule; r++) {
        todo[n++] = (int32_t)r;
        waits[r] = true;
    }
    while (n) {
        int32_t r = todo[--n];
        waits[r] = false;
        for (int32_t i = 0; i < n_last[r]; i++) {
            int32_t to = last[r][i];
            if (!join(g->rule[to].follow, g->rule[r].follow) || waits[to]) continue;
            waits[to] = true;
            todo[n++] = to;
        }
    }
}

/* For each rule the rules that it may end with, in one block: list[n_rule] and the counts. */
static int32_t *last_rules(const ap_grammar *g, int32_t **list, int32_t *count)
{
    int32_t *all = ap_malloc(g->n_edge + 1, sizeof *all);
    size_t n = 0;
    if (!all) return NULL;
    memset(count, 0, g->n_rule * sizeof *count);
    for (size_t s = 0; s < g->n_state; s++)
        for (int32_t i = g->state[s].first; i >= 0; i = g->edge[i].next)
            if (g->edge[i].kind == AP_EDGE_RULE && g->state[g->edge[i].to].accepts)
                count[g->state[s].owner]++;
    for (size_t r = 0; r < g->n_rule; r++) {
        list[r] = all + n;
        n += (size_t)count[r];
        count[r] = 0;
    }
    for (size_t s = 0; s < g->n_state; s++)
        for (int32_t i = g->state[s].first; i >= 0; i = g->edge[i].next) {
            int32_t owner = g->state[s].owner;
            if (g->edge[i].kind == AP_EDGE_RULE && g->state[g->edge[i].to].accepts)
                list[owner][count[owner]++] = g->edge[i].rule;
        }
    return all;
}

static bool find_follow(ap_grammar *g)
{
    bytes *first = ap_calloc(g->n_rule, sizeof *first);
    int32_t **last = ap_malloc(g->n_rule, sizeof *last),
            *count = ap_malloc(g->n_rule, sizeof *count);
    int32_t *todo = ap_malloc(g->n_rule, sizeof *todo);
    bool *waits = ap_malloc(g->n_rule, sizeof *waits);
    int32_t *all = last && count ? last_rules(g, last, count) : NULL;
    bool ok = first && todo && waits && all;
    for (size_t k = g->n_rule; k-- > 0 && ok;) {
        int32_t r = g->ranked[k]; /* what it begins with has a higher rank and is known */
        first[r] = bytes_at(g, g->rule[r].start, first);
    }
    for (size_t s = 0; s < g->n_state && ok; s++)
        for (int32_t i = g->state[s].first; i >= 0; i = g->edge[i].next) {
            const ap_edge *e = &g->edge[i];
            if (e->kind != AP_EDGE_RULE) continue;
            bytes b = bytes_at(g, e->to, first);
            join(g->rule[e->rule].follow, b.w);
            if (e->max != 1) join(g->rule[e->rule].follow, first[e->rule].w);
        }
    if (ok) hand_on(g, last, count, todo, waits);
    ap_free(first);
    ap_free(last);
    ap_free(count);
    ap_free(todo);
    ap_free(waits);
    ap_free(all);
    return ok;
}

/* ---------------------------------------------------------------- all of it */

static apus_err too_large(const char *what, apus_diag *diag)
{
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "%s: too large; it would take more than %d states, %d edges or %d rules", what,
                   AP_GRAMMAR_STATES, AP_GRAMMAR_EDGES, AP_GRAMMAR_RULES);
}

apus_err ap_grammar_finish(ap_grammar *g, const char *what, apus_diag *diag)
{
    if (g->full) return too_large(what, diag);
    if (g->failed) return ap_fail_nomem(diag, ap_grammar_size(g), "a grammar");
    apus_err err = prune(g, what, diag);
    if (!err) err = ap_grammar_determine(g, diag);
    if (!err && g->full) return too_large(what, diag);
    if (!err && g->failed) err = ap_fail_nomem(diag, ap_grammar_size(g), "a grammar");
    if (!err) err = rank_all(g, what, diag);
    if (!err && !find_follow(g)) err = ap_fail_nomem(diag, ap_grammar_size(g), "a grammar");
    return err;
}
