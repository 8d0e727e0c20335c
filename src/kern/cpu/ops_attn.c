/* ops_attn.c - causal attention over KV pages.
 *
 * A task owns the query rows of some tokens of one sequence for one KV head and walks the pages
 * once; the rows (token-major: all query heads of the KV head of a token, then the next token)
 * share every page that is read. Weights of a row for one page live in a tile of scores; the
 * output rows are accumulated in place. */
#include <string.h>

#include "kern/cpu/micro.h"
#include "kern/cpu/micro_attn.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/ops_state.h"

#define MAX_ROWS 48 /* query rows of a task */

typedef struct job {
    const ap_attn_args *a;
    const ap_micro_attn *m;
    int heads;  /* query heads of a task, <= the group of a KV head */
    int tokens; /* tokens of a task */
    int splits; /* tasks that a group's heads make */
} job;

/* The rows of a task. */
typedef struct tile {
    const float *q[MAX_ROWS];
    float *o[MAX_ROWS];
    float m[MAX_ROWS], l[MAX_ROWS];
    int pos[MAX_ROWS];
    int n;
    float s[MAX_ROWS * AP_PAGE];
} tile;

static int min_int(int a, int b)
{
    return a < b ? a : b;
}
static int max_int(int a, int b)
{
    return a > b ? a : b;
}

static void tile_open(tile *t, const job *j, const ap_kv_seq *s, int tok, int head)
{
    const ap_attn_args *a = j->a;
    int group = a->n_head / a->n_kv_head;
    int head_end = min_int(head + j->heads, (head / group + 1) * group);
    int tok_end = min_int(tok + j->tokens, s->n_tok);
    t->n = 0;
    for (; tok < tok_end; tok++)
        for (int h = head; h < head_end; h++, t->n++) {
            size_t at =
                ((size_t)(s->begin + tok) * (size_t)a->n_head + (size_t)h) * (size_t)a->head_dim;
            t->q[t->n] = a->q + at;
            t->o[t->n] = a->out + at;
            t->m[t->n] = -__builtin_inff();
            t->l[t->n] = 0;
            t->pos[t->n] = s->pos + tok;
            memset(t->o[t->n], 0, (size_t)a->head_dim * sizeof(float));
        }
}

/* First position that a query at `pos` sees. */
static int first_key(const ap_attn_args *a, int pos)
{
    return a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
}

/* Rows [r, r + n), n <= AP_TILE_ROWS, against the page whose first key is at position `start`. */
static void rows_page(tile *t, const job *j, int r, int n, int start, const float *kt,
                      const float *v, int64_t ahead)
{
    const ap_attn_args *a = j->a;
    int lo[AP_TILE_ROWS], hi[AP_TILE_ROWS], D = a->head_dim;
    float *s = t->s + r * AP_PAGE;
    j->m->scores(t->q + r, n, kt, D, s, ahead);
    for (int i = 0; i < n; i++) {
        int pos = t->pos[r + i];
        lo[i] = max_int(first_key(a, pos) - start, 0);
        hi[i] = min_int(pos + 1 - start, AP_PAGE);
        float c =
            j->m->softmax(s + i * AP_PAGE, lo[i], hi[i], a->scale, &t->m[r + i], &t->l[r + i]);
        if (c != 1) j->m->scale(t->o[r + i], NULL, c, D, t->o[r + i]);
    }
    j->m->values(s, n, lo, hi, v, D, t->o + r, ahead);
}

static void tile_page(tile *t, const job *j, const ap_kv_seq *s, int page, int g)
{
    const ap_attn_args *a = j->a;
    size_t D = (size_t)a->head_dim, G = (size_t)a->n_kv_head;
    const float *k =
        (const float *)(const void *)(a->kv.base + (size_t)s->page[page] * a->kv.page_bytes +
                                      a->kv.layer_offset);
    const float *kt = k + (size_t)g * D * AP_PAGE, *v = k + (G + (size_t)g) * D * AP_PAGE;
    int64_t ahead = page < t->pos[t->n - 1] / AP_PAGE
                        ? ((int64_t)s->page[page + 1] - s->page[page]) * (int64_t)a->kv.page_bytes
                        : 0;
    int start = page * AP_PAGE, r = 0, end = t->n;
    /* Positions ascend with the rows, so the rows that see anything here are neighbours. */
    while (r < end && t->pos[r] < start) r++;
    while (end > r && first_key(a, t->pos[end - 1]) >= start + AP_PAGE) end--;
    while (r < end) { /* 8 rows as 4 + 4 rather than 6 + 2 */
        int blocks = (end - r + AP_TILE_ROWS - 1) / AP_TILE_ROWS;
        int n = (end - r + blocks - 1) / blocks;
        rows_page(t, j, r, n, start, kt, v, ahead);
        ahead = 0; /* the first rows have asked for it */
        r += n;
    }
}

static int n_tiles(const job *j, const ap_kv_seq *s)
{
    return (s->n_tok + j->tokens - 1) / j->tokens;
}

static void attn_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_attn_args *a = j->a;
    const ap_kv_seq *s = a->kv.seq;
    int per_tile = a->n_kv_head * j->splits, group = a->n_head / a->n_kv_head;
    tile t;
    (void)worker;
    while (task >= n_tiles(j, s) * per_tile) task -= n_tiles(j, s++) * per_tile;
    /* Late tiles see the most keys: they go first, so that no long task is left for the end. */
    int tok = (n_tiles(j, s) - 1 - task / per_tile) * j->tokens;
    int g = task % per_tile / j->splits, head = g * group + task % j->splits * j->heads;
    tile_open(&t, j, s, tok, head);
    for (int page = first_key(a, t.pos[0]) / AP_PAGE; page <= t.pos[t.n - 1] / AP_PAGE; page++)
        tile_page(&t, j, s, page, g);
    for (int r = 0; r < t.n; r++)
        for (int d = 0; d < a->head_dim; d++) t.o[r][d] = t.o[r][d] / t.l[r];
}

/* Everything a task needs fits its stack. */
size_t ap_cpu_attn_scratch_bytes(const ap_kern *k, int n_head, int n_kv_head, int head_dim)
{
    (void)k, (void)n_head, (void)n_kv_head, (void)head_dim;
    return 0;
}

static int count_tasks(const job *j)
{
    int n = 0;
    for (int i = 0; i < j->a->kv.n_seq; i++) n += n_tiles(j, &j->a->kv.seq[i]);
    return n * j->a->n_kv_head * j->splits;
}

void ap_cpu_attn(const ap_kern *k, const ap_attn_args *a)
{
    int group = a->n_head / a->n_kv_head, wanted = 2 * ap_pool_threads(k->pool);
    job j = {a, ((const ap_micro *)k->impl)->attn, min_int(group, MAX_ROWS), 1, 1};
    j.splits = (group + j.heads - 1) / j.heads;
    j.tokens = max_int(MAX_ROWS / j.heads, 1);
    /* Smaller tasks where there are few; what a row computes does not depend on its tile. */
    while (count_tasks(&j) < wanted && j.tokens > 1) j.tokens = (j.tokens + 1) / 2;
    while (count_tasks(&j) < wanted && j.heads > AP_TILE_ROWS / 2) {
        j.heads = (j.heads + 1) / 2;
        j.splits = (group + j.heads - 1) / j.heads;
    }
    ap_op_run(k, attn_task, &j, count_tasks(&j));
}
