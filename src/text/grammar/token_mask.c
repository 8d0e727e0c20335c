#include "text/grammar/token_mask.h"

#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/vec.h"

enum { N_BUCKET = 1 << 10, MOST_SETS = 1 << 13, SPARSE = 2048 };
#define MOST_NEAR_BYTES ((size_t)64 << 20)
#define MOST_REST       ((size_t)1 << 20) /* texts, of what tokens have left behind a rule's end */

/* All that decides about tokens but the stack. */
typedef struct near_key {
    int32_t state;
    int32_t edge;       /* of a rule that comes a number of times, directly above; -1: none */
    int32_t need, room; /* as in its frame, up to more than a token's bytes */
} near_key;

struct ap_near {
    near_key key;
    ap_near *next;
    uint32_t *dense; /* allowed whatever the stack is: bits, or ... */
    int32_t *sparse; /* ... [n_sparse] ids */
    size_t n_sparse;
    ap_token_trie rest; /* what tokens have left behind the end of the rule */
    bool far;           /* that would be too much: tokens are walked with the real stack */
    size_t bytes;
};

apus_err ap_token_masks_open(ap_token_masks *t, const ap_grammar *g, const ap_token_trie *trie,
                             apus_diag *diag)
{
    *t = (ap_token_masks){.g = g, .trie = trie, .bucket = ap_calloc(N_BUCKET, sizeof(ap_near *))};
    ap_mutex_init(&t->lock);
    return t->bucket ? APUS_OK : ap_fail_nomem(diag, N_BUCKET * sizeof(ap_near *), "token masks");
}

static void free_near(ap_near *x)
{
    if (!x) return;
    ap_free(x->dense);
    ap_free(x->sparse);
    ap_token_trie_free(&x->rest);
    ap_free(x);
}

static void forget_all(ap_token_masks *t)
{
    for (int i = 0; i < N_BUCKET && t->bucket; i++)
        while (t->bucket[i]) {
            ap_near *x = t->bucket[i];
            t->bucket[i] = x->next;
            free_near(x);
        }
    t->n_near = t->near_bytes = 0;
}

static void close_walk(ap_token_masks *t)
{
    for (size_t i = 0; i < t->step_cap; i++) ap_free(t->step[i]);
    ap_free(t->step);
    ap_machine_close(&t->walk);
    t->step = NULL;
    t->step_cap = 0;
    t->walk_open = false;
}

void ap_token_masks_close(ap_token_masks *t)
{
    forget_all(t);
    close_walk(t);
    ap_free(t->bucket);
    ap_free(t->frame);
    ap_mutex_destroy(&t->lock);
    *t = (ap_token_masks){0};
}

size_t ap_token_masks_size(ap_token_masks *t)
{
    ap_mutex_lock(&t->lock);
    size_t n = t->near_bytes + ap_machine_size(&t->walk) + t->step_cap * 256 * sizeof(int32_t);
    ap_mutex_unlock(&t->lock);
    return n;
}

/* ---------------------------------------------------------------- steps that are remembered */

static int32_t make_step(ap_token_masks *t, int32_t set, uint8_t byte)
{
    int32_t to = ap_machine_step(&t->walk, set, byte);
    size_t n = t->walk.set.cap, old = t->step_cap;
    if (old < n) {
        int32_t **grown = ap_realloc(t->step, n, sizeof *grown);
        if (!grown) return to;
        memset(grown + old, 0, (n - old) * sizeof *grown);
        t->step = grown;
        t->step_cap = n;
    }
    if (!t->step[set]) {
        t->step[set] = ap_malloc(256, sizeof **t->step);
        for (int i = 0; i < 256 && t->step[set]; i++) t->step[set][i] = -2; /* not asked so far */
    }
    if (t->step[set]) t->step[set][byte] = to;
    return to;
}

static inline int32_t step(ap_token_masks *t, int32_t set, uint8_t byte)
{
    if ((size_t)set < t->step_cap && t->step[set] && t->step[set][byte] != -2)
        return t->step[set][byte];
    return make_step(t, set, byte);
}

/* ---------------------------------------------------------------- a walk with an unknown stack */

typedef struct walk {
    ap_token_masks *t;
    ap_near *to;
    const uint32_t *follow; /* bytes that can stand behind the rule's end */
    int32_t *id;            /* allowed tokens */
    size_t n_id, id_cap;
    ap_buf rest_text;
    struct rest {
        size_t off;
        uint32_t len;
        int32_t id;
    } * rest;
    size_t n_rest, rest_cap;
    bool failed;
} walk;

static void allow_tokens(walk *w, const ap_token_node *x)
{
    if (!x->n_token) return;
    if (!ap_vec_reserve(&w->id, &w->id_cap, w->n_id + x->n_token, sizeof *w->id)) {
        w->failed = true;
        return;
    }
    memcpy(w->id + w->n_id, w->t->trie->id + x->token, x->n_token * sizeof *w->id);
    w->n_id += x->n_token;
}

static void keep_rest(walk *w, const char *text, size_t len, const ap_token_node *x)
{
    size_t off = w->rest_text.len;
    if (w->n_rest + x->n_token > MOST_REST) w->to->far = true;
    if (w->to->far || w->failed) return;
    ap_buf_add(&w->rest_text, text, len);
    w->failed = w->rest_text.failed ||
                !ap_vec_reserve(&w->rest, &w->rest_cap, w->n_rest + x->n_token, sizeof *w->rest);
    for (int i = 0; i < x->n_token && !w->failed; i++)
        w->rest[w->n_rest++] = (struct rest){off, (uint32_t)len, w->t->trie->id[x->token + i]};
}

/* The rule may end at a node: keep what the tokens below it go on with, where that can stand behind the rule. */
static void leave_rule(walk *w, int32_t at)
{
    const ap_token_node *node = w->t->trie->node, *x = &node[at];
    char text[AP_TOKEN_MAX_BYTES];
    for (int32_t i = at + 1; i < x->skip && !w->to->far;) {
        int depth = node[i].depth - x->depth;
        uint8_t b = node[i].byte;
        if (depth == 1 && !(w->follow[b / 32] >> b % 32 & 1)) {
            i = node[i].skip;
            continue;
        }
        text[depth - 1] = (char)b;
        if (node[i].n_token) keep_rest(w, text, (size_t)depth, &node[i]);
        i++;
    }
}

static void walk_tree(walk *w, int32_t start)
{
    ap_token_masks *t = w->t;
    const ap_token_node *node = t->trie->node;
    int32_t at[AP_TOKEN_MAX_BYTES + 1] = {start}, n = (int32_t)t->trie->n_node;
    for (int32_t i = 1; i < n && !w->failed;) {
        int depth = node[i].depth;
        int32_t set = step(t, at[depth - 1], node[i].byte);
        if (set < 0) {
            i = node[i].skip;
            continue;
        }
        allow_tokens(w, &node[i]);
        if (ap_machine_ends(&t->walk, set)) leave_rule(w, i);
        at[depth] = set;
        i = t->walk.set.v[set].n ? i + 1 : node[i].skip;
    }
    w->failed = w->failed || t->walk.failed;
}

/* ---------------------------------------------------------------- what comes of it */

static void put_bits(uint32_t *allowed, const int32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++) allowed[id[i] / 32] |= UINT32_C(1) << id[i] % 32;
}

/* Ids become bits, if there are many; rests of tokens that are allowed anyway are not needed. */
static void keep_ids(walk *w)
{
    size_t words = ((size_t)w->t->trie->vocab + 31) / 32;
    uint32_t *bits = ap_calloc(words, sizeof *bits);
    if (!bits) {
        w->failed = true;
        return;
    }
    put_bits(bits, w->id, w->n_id);
    size_t k = 0;
    for (size_t i = 0; i < w->n_rest; i++)
        if (!(bits[w->rest[i].id / 32] >> w->rest[i].id % 32 & 1)) w->rest[k++] = w->rest[i];
    w->n_rest = k;
    if (w->n_id > SPARSE) {
        w->to->dense = bits;
        w->to->bytes += words * sizeof *bits;
        return;
    }
    ap_free(bits);
    w->to->sparse = w->id;
    w->to->n_sparse = w->n_id;
    w->to->bytes += w->id_cap * sizeof *w->id;
    w->id = NULL;
}

static void keep_rests(walk *w)
{
    ap_token_text *text = ap_malloc(w->n_rest, sizeof *text);
    for (size_t i = 0; i < w->n_rest && text; i++)
        text[i] =
            (ap_token_text){w->rest_text.data + w->rest[i].off, w->rest[i].len, w->rest[i].id};
    if (!text || ap_token_trie_build(text, w->n_rest, w->t->trie->vocab, &w->to->rest, NULL))
        w->failed = true;
    ap_free(text);
    w->to->bytes += w->to->rest.n_node * sizeof(ap_token_node) + w->to->rest.n_id * sizeof(int32_t);
}

/* The set of the key's state over a stack of which nothing but the key's frame is known. -1: memory is out. */
static int32_t start_of(ap_token_masks *t, const near_key *k)
{
    if (t->walk_open && (t->walk.failed || t->walk.set.n > MOST_SETS)) close_walk(t);
    if (!t->walk_open && ap_machine_open(&t->walk, t->g, NULL)) {
        close_walk(t);
        return -1;
    }
    t->walk_open = true;
    ap_frame f = {-1, 1, 1, -1};
    int32_t node = ap_machine_node(&t->walk, &f, 1);
    if (k->edge >= 0 && node >= 0) {
        f = (ap_frame){k->edge, k->need, k->room, node};
        node = ap_machine_node(&t->walk, &f, 1);
    }
    return node < 0 ? -1 : ap_machine_single(&t->walk, k->state, node);
}

static ap_near *make_near(ap_token_masks *t, const near_key *k)
{
    int32_t start = start_of(t, k);
    ap_near *x = start < 0 ? NULL : ap_calloc(1, sizeof *x);
    if (!x) return NULL;
    int32_t owner = t->g->state[k->edge < 0 ? k->state : t->g->edge[k->edge].to].owner;
    walk w = {.t = t, .to = x, .follow = t->g->rule[owner].follow};
    x->key = *k;
    x->bytes = sizeof *x;
    walk_tree(&w, start);
    if (!w.failed && !x->far) keep_ids(&w);
    if (!w.failed && !x->far) keep_rests(&w);
    ap_free(w.id);
    ap_free(w.rest);
    ap_buf_free(&w.rest_text);
    if (!w.failed) return x;
    free_near(x);
    return NULL;
}

static ap_near *near_of(ap_token_masks *t, const near_key *k)
{
    uint32_t h = (uint32_t)k->state * 2654435761u ^ (uint32_t)k->edge * 40503u ^
                 (uint32_t)k->need * 2246822519u ^ (uint32_t)k->room * 3266489917u;
    size_t at = (h ^ h >> 16) % N_BUCKET;
    for (ap_near *x = t->bucket[at]; x; x = x->next)
        if (!memcmp(&x->key, k, sizeof *k)) return x;
    ap_near *x = make_near(t, k);
    if (!x) return NULL;
    if (t->near_bytes + x->bytes > MOST_NEAR_BYTES) forget_all(t);
    x->next = t->bucket[at];
    t->bucket[at] = x;
    t->near_bytes += x->bytes;
    t->n_near++;
    return x;
}

/* ---------------------------------------------------------------- a mask */

/* Allow the tokens of a tree that can be read from a set of m on. */
static void walk_real(ap_machine *m, int32_t set, const ap_token_trie *tree, uint32_t *allowed)
{
    const ap_token_node *node = tree->node;
    int32_t at[AP_TOKEN_MAX_BYTES + 1] = {set}, n = (int32_t)tree->n_node;
    for (int32_t i = 1; i < n;) {
        int depth = node[i].depth;
        at[depth] = ap_machine_step(m, at[depth - 1], node[i].byte);
        if (at[depth] < 0) {
            i = node[i].skip;
            continue;
        }
        put_bits(allowed, tree->id + node[i].token, node[i].n_token);
        i++;
    }
}

/* Of a member of a set: what is near its state, and then behind the rule's end with these frames. */
static bool add_near(ap_token_masks *t, ap_machine *m, const near_key *k, ap_member member,
                     size_t n_frame, uint32_t *allowed)
{
    ap_near *x = near_of(t, k);
    if (!x) return false;
    if (x->far) {
        walk_real(m, ap_machine_single(m, member.state, member.node), t->trie, allowed);
        return !m->failed;
    }
    size_t words = ((size_t)t->trie->vocab + 31) / 32;
    for (size_t i = 0; x->dense && i < words; i++) allowed[i] |= x->dense[i];
    if (x->sparse) put_bits(allowed, x->sparse, x->n_sparse);
    if (x->rest.n_id) walk_real(m, ap_machine_pop(m, t->frame, n_frame), &x->rest, allowed);
    return !m->failed;
}

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Frames of a node to scratch: those of counted rules, or the others. */
static bool take_frames(ap_token_masks *t, const ap_machine *m, int32_t node, bool counted_too,
                        size_t *n)
{
    const ap_interned *k = &m->node.v[node];
    *n = 0;
    if (!ap_vec_reserve(&t->frame, &t->frame_cap, k->n, sizeof *t->frame)) return false;
    for (size_t i = 0; i < k->n; i++) {
        const ap_frame *f = &m->frame[k->begin + i];
        if (counted_too || f->edge < 0 || t->g->edge[f->edge].max == 1) t->frame[(*n)++] = *f;
    }
    return true;
}

static bool add_member(ap_token_masks *t, ap_machine *m, ap_member x, uint32_t *allowed)
{
    size_t n;
    int32_t far = t->trie->longest + 1;
    if (!take_frames(t, m, x.node, false, &n)) return false;
    near_key plain = {x.state, -1, 0, 0};
    if (n && !add_near(t, m, &plain, x, n, allowed)) return false;
    for (size_t i = 0; i < m->node.v[x.node].n; i++) {
        ap_frame f = m->frame[m->node.v[x.node].begin + i];
        if (f.edge < 0 || t->g->edge[f.edge].max == 1) continue;
        near_key k = {x.state, f.edge, least(f.need, far), f.room > far ? -1 : f.room};
        if (!take_frames(t, m, f.below, true, &n) || !add_near(t, m, &k, x, n, allowed))
            return false;
    }
    return true;
}

bool ap_token_masks_add(ap_token_masks *t, ap_machine *m, int32_t set, uint32_t *allowed)
{
    if (set < 0) return true;
    ap_mutex_lock(&t->lock);
    ap_machine_mark mark = ap_machine_place(m);
    bool ok = true;
    for (size_t i = 0; i < m->set.v[set].n && ok; i++)
        ok = add_member(t, m, m->member[m->set.v[set].begin + i], allowed);
    ap_machine_forget(m, mark);
    ap_mutex_unlock(&t->lock);
    return ok;
}
