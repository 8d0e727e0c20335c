/* ops_attn.c - attention over KV pages.
 *
 * A tile is the query rows of some tokens of one sequence for one KV head (token-major: all query
 * heads of the KV head of a token, then the next token); they share every page that is read. Keys
 * are cut into segments (kern.h, "Order"), so there are two ways to run:
 *   whole  a task is a tile: it walks the segments and merges each one as it ends
 *   split  few tiles, much context: a task is a run of segments of a tile; their sums are kept apart
 *          (a "part" each) and merged by whoever ends last. In waves, as the room for parts is
 *          bounded. */
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "kern/cpu/micro/micro.h"
#include "kern/cpu/micro/micro_attn.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

#define MAX_ROWS      AP_TILE_ROWS
#define TILE_ROWS     48 /* without a wish of the kernels */
#define TASKS_WANTED  2  /* per thread, before tiles are made smaller or split */
#define RUNS_WANTED   4  /* per thread, in a wave */
#define MIN_PART_ROWS 1024
#define PART_ROWS     64 /* per thread */

/* A run of segments of a tile. */
typedef struct item {
    int tile, first, end; /* segments */
    int part;             /* of the first one */
} item;

typedef struct job {
    const ap_attn_args *a;
    const ap_micro_attn *m;
    const ap_micro_kv *kv;
    const ap_micro_fast *fast; /* or NULL, then kv counts */
    int block, alone, tile,
        step;      /* rows taken at once, if they are all, of a tile, in a step (micro_attn.h) */
    int heads;     /* query heads of a tile, <= the group of a KV head */
    int tokens;    /* tokens of a tile */
    int splits;    /* tiles that a group's heads make */
    uint8_t *room; /* [threads] room_bytes: prepared queries, and the sums of a segment */
    size_t room_bytes;
    /* split: */
    float *part; /* [part_rows] D+2 floats: of part p, rows [p*rows, (p+1)*rows) o, m, l */
    int part_rows, rows;
    item *items; /* [part_rows] */
    float *ml;   /* [tiles][MAX_ROWS][2] m and l of what is merged */
    int *left;   /* [tiles] items of the wave to come */
} job;

/* The rows of a tile. */
typedef struct tile {
    const ap_seq *s;
    const int32_t *page; /* of s */
    const float *q;      /* prepared */
    float *out[MAX_ROWS];
    int pos[MAX_ROWS], see_end[MAX_ROWS]; /* both ascend */
    int n, g;
    int first, end; /* segments */
    float p[MAX_ROWS * AP_PAGE];
} tile;

/* Sums of the tile's rows over one segment. */
typedef struct sums {
    float *o[MAX_ROWS];
    float *m, *l;
} sums;

/* First position that a query at `pos` sees. */
static int first_key(const ap_attn_args *a, int pos)
{
    int first = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
    return ap_max_int(first, a->first);
}

/* ------------------------------------------------------------------ tiles */

static int n_tiles(const job *j, const ap_seq *s)
{
    return (s->n_tok + j->tokens - 1) / j->tokens;
}

static int count_tiles(const job *j)
{
    int n = 0;
    const ap_batch *b = j->a->kv.batch;
    for (int i = 0; i < b->n_seq; i++) n += n_tiles(j, &b->seq[i]);
    return n * j->a->n_kv_head * j->splits;
}

/* The sequence of tile *index, which becomes the index within it. */
static const ap_seq *tile_seq(const job *j, int *index)
{
    const ap_seq *s = j->a->kv.batch->seq;
    int per_token = j->a->n_kv_head * j->splits;
    while (*index >= n_tiles(j, s) * per_token) *index -= n_tiles(j, s++) * per_token;
    return s;
}

/* Late tiles see the most keys: they come first, so that no long task is left for the end. */
static int tile_token(const job *j, const ap_seq *s, int index)
{
    return (n_tiles(j, s) - 1 - index / (j->a->n_kv_head * j->splits)) * j->tokens;
}

static void tile_segments(const job *j, const ap_seq *s, int tok, int *first, int *end)
{
    int last = ap_min_int(tok + j->tokens, s->n_tok) - 1;
    *first = first_key(j->a, s->pos + tok) / AP_SEGMENT;
    *end = (j->a->kv.batch->see_end[s->begin + last] - 1) / AP_SEGMENT + 1;
}

static void tile_open(tile *t, const job *j, int index, uint8_t *room)
{
    const ap_attn_args *a = j->a;
    int group = a->n_head / a->n_kv_head, D = a->head_dim;
    t->s = tile_seq(j, &index);
    int tok = tile_token(j, t->s, index), part = index % (a->n_kv_head * j->splits);
    t->g = part / j->splits;
    int head = t->g * group + part % j->splits * j->heads;
    int head_end = ap_min_int(head + j->heads, (t->g + 1) * group);
    int tok_end = ap_min_int(tok + j->tokens, t->s->n_tok);
    float *q = (float *)(void *)room;
    tile_segments(j, t->s, tok, &t->first, &t->end);
    t->page = ap_kv_pages(&a->kv, t->s);
    t->q = q;
    t->n = 0;
    for (; tok < tok_end; tok++)
        for (int h = head; h < head_end; h++, t->n++, q += ap_q_stride(D)) {
            size_t row = (size_t)(t->s->begin + tok) * (size_t)a->n_head + (size_t)h;
            t->out[t->n] = a->out + row * (size_t)D;
            t->pos[t->n] = t->s->pos + tok;
            t->see_end[t->n] = a->kv.batch->see_end[t->s->begin + tok];
            (j->fast ? j->fast->query : j->kv->query)(a->q + row * (size_t)D, D, q);
        }
}

static bool sees(const job *j, const tile *t, int r, int segment)
{
    return t->see_end[r] > segment * AP_SEGMENT &&
           first_key(j->a, t->pos[r]) < (segment + 1) * AP_SEGMENT;
}

/* ------------------------------------------------------------------ one segment */

/* Rows [r, r + n) against the page whose first key is at position `start`. */
static void rows_page(tile *t, const job *j, const sums *u, int r, int n, int start,
                      const ap_kv_head *at, int64_t ahead)
{
    const ap_attn_args *a = j->a;
    int lo[AP_TILE_ROWS], hi[AP_TILE_ROWS], D = a->head_dim;
    const float *q = t->q + r * ap_q_stride(D);
    float *p = t->p + r * AP_PAGE;
    for (int i = 0; i < n; i++) {
        hi[i] = ap_max_int(ap_min_int(t->see_end[r + i] - start, AP_PAGE), 0);
        lo[i] = ap_min_int(ap_max_int(first_key(a, t->pos[r + i]) - start, 0), hi[i]);
    }
    if (j->fast) {
        j->fast->page(q, n, at, D, lo, hi, a->scale, p, u->m + r, u->l + r, u->o + r, ahead);
        return;
    }
    j->kv->scores(q, n, at, D, p, ahead);
    for (int i = 0; i < n; i++) {
        float c =
            j->m->softmax(p + i * AP_PAGE, lo[i], hi[i], a->scale, &u->m[r + i], &u->l[r + i]);
        if (c != 1) j->m->scale(u->o[r + i], NULL, c, D, u->o[r + i]);
    }
    j->kv->values(p, n, lo, hi, at, D, u->o + r, ahead);
}

static void tile_page(tile *t, const job *j, const sums *u, int page, bool last)
{
    const ap_attn_args *a = j->a;
    int D = a->head_dim, start = page * AP_PAGE, r = 0, end = t->n;
    ap_kv_head at = ap_kv_head_at(&a->kv, t->page[page], a->n_kv_head, D, t->g);
    int64_t ahead =
        last ? 0 : ((int64_t)t->page[page + 1] - t->page[page]) * (int64_t)a->kv.page_bytes;
    /* What rows see begins and ends later from row to row, so those that see anything here are neighbours. */
    while (r < end && t->see_end[r] <= start) r++;
    while (end > r && first_key(a, t->pos[end - 1]) >= start + AP_PAGE) end--;
    r = r / j->step * j->step; /* memory behind them holds whole steps */
    int most = end - r <= j->alone ? j->alone : j->block;
    while (r < end) { /* 8 rows as 4 + 4 rather than 6 + 2 */
        int blocks = (end - r + most - 1) / most;
        int n = (end - r + blocks - 1) / blocks;
        rows_page(t, j, u, r, n, start, &at, ahead);
        ahead = 0; /* the first rows have asked for it */
        r += n;
    }
}

/* more: the same task goes on with the next segment. */
static void tile_segment(tile *t, const job *j, const sums *u, int segment, bool more)
{
    const int pages = AP_SEGMENT / AP_PAGE;
    int from = ap_max_int(segment * pages, first_key(j->a, t->pos[0]) / AP_PAGE);
    int to = ap_min_int((segment + 1) * pages - 1, (t->see_end[t->n - 1] - 1) / AP_PAGE);
    for (int r = 0; r < t->n; r++) {
        u->m[r] = -__builtin_inff();
        u->l[r] = 0;
        memset(u->o[r], 0, (size_t)j->a->head_dim * sizeof(float));
    }
    for (int page = from; page <= to; page++) tile_page(t, j, u, page, page == to && !more);
}

/* The segment's sums u behind those of the ones before, in out, m and l. */
static void merge(const tile *t, const job *j, const sums *u, int segment, float *m, float *l)
{
    int D = j->a->head_dim;
    for (int r = 0; r < t->n; r++) {
        if (!sees(j, t, r, segment)) continue;
        if (first_key(j->a, t->pos[r]) >= segment * AP_SEGMENT || segment == 0) {
            if (u->o[r] != t->out[r]) memcpy(t->out[r], u->o[r], (size_t)D * sizeof(float));
            m[r] = u->m[r];
            l[r] = u->l[r];
            continue;
        }
        float top = u->m[r] > m[r] ? u->m[r] : m[r];
        float c = ap_expf(m[r] - top), c2 = ap_expf(u->m[r] - top);
        l[r] = l[r] * c + u->l[r] * c2;
        m[r] = top;
        j->m->merge(t->out[r], c, u->o[r], c2, D);
    }
}

static void finish(const tile *t, const job *j, const float *l)
{
    for (int r = 0; r < t->n; r++)
        for (int d = 0; d < j->a->head_dim; d++) t->out[r][d] = t->out[r][d] / l[r];
}

/* ------------------------------------------------------------------ whole tiles */

static void whole_task(void *arg, int task, int worker)
{
    const job *j = arg;
    uint8_t *room = j->room + (size_t)worker * j->room_bytes;
    size_t D = (size_t)j->a->head_dim;
    float m[MAX_ROWS], l[MAX_ROWS], um[MAX_ROWS], ul[MAX_ROWS];
    sums u = {.m = um, .l = ul};
    tile t;
    tile_open(&t, j, task, room);
    for (int segment = t.first; segment < t.end; segment++) {
        bool direct = segment == t.first && !j->fast; /* nothing to merge with yet */
        for (int r = 0; r < t.n; r++)
            u.o[r] = direct
                         ? t.out[r]
                         : (float *)(void *)room + MAX_ROWS * ap_q_stride((int)D) + (size_t)r * D;
        tile_segment(&t, j, &u, segment, segment + 1 < t.end);
        merge(&t, j, &u, segment, m, l);
    }
    finish(&t, j, l);
}

/* ------------------------------------------------------------------ split tiles */

static sums part_sums(const job *j, int part)
{
    size_t D = (size_t)j->a->head_dim, rows = (size_t)j->rows;
    float *at = j->part + (size_t)part * rows * (D + 2);
    sums u = {.m = at + rows * D, .l = at + rows * (D + 1)};
    for (size_t r = 0; r < rows; r++) u.o[r] = at + r * D;
    return u;
}

/* Merge the parts of the wave: those of the tile's items, which are neighbours in the list. */
static void merge_wave(const tile *t, const job *j, const item *it)
{
    float *m = j->ml + (size_t)it->tile * MAX_ROWS * 2, *l = m + MAX_ROWS;
    const item *x = it;
    while (x > j->items && x[-1].tile == it->tile) x--;
    int segment = x->first, part = x->part, end = segment;
    for (; x->tile == it->tile; x++) end = x->end; /* a tile of -1 ends the list */
    for (; segment < end; segment++, part++) {
        sums u = part_sums(j, part);
        merge(t, j, &u, segment, m, l);
    }
    if (end == t->end) finish(t, j, l);
}

static void split_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const item *it = &j->items[task];
    tile t;
    tile_open(&t, j, it->tile, j->room + (size_t)worker * j->room_bytes);
    for (int s = it->first; s < it->end; s++) {
        sums u = part_sums(j, it->part + s - it->first);
        tile_segment(&t, j, &u, s, s + 1 < it->end);
    }
    if (__atomic_sub_fetch(&j->left[it->tile], 1, __ATOMIC_ACQ_REL) == 0) merge_wave(&t, j, it);
}

/* Where the next wave begins. */
typedef struct cursor {
    int tile, segment; /* -1 = the tile's first */
} cursor;

/* Fill the list with runs of at most `run` segments, as many as there is room for. */
static int make_wave(const job *j, cursor *at, int n_tile, int run)
{
    int n = 0, part = 0, room = j->part_rows / j->rows;
    while (at->tile < n_tile && part < room) {
        int index = at->tile, first, end;
        const ap_seq *s = tile_seq(j, &index);
        tile_segments(j, s, tile_token(j, s, index), &first, &end);
        if (at->segment > first) first = at->segment;
        j->left[at->tile] = 0;
        for (; first < end && part < room; n++, j->left[at->tile]++) {
            int stop = ap_min_int(ap_min_int(first + run, end), first + room - part);
            j->items[n] = (item){at->tile, first, stop, part};
            part += stop - first;
            first = stop;
        }
        at->segment = first;
        if (first == end) *at = (cursor){at->tile + 1, -1};
    }
    j->items[n].tile = -1;
    return n;
}

static int count_segments(const job *j, int n_tile)
{
    int n = 0;
    for (int i = 0; i < n_tile; i++) {
        int index = i, first, end;
        const ap_seq *s = tile_seq(j, &index);
        tile_segments(j, s, tile_token(j, s, index), &first, &end);
        n += end - first;
    }
    return n;
}

static void run_split(const ap_exec *ex, job *j, int n_tile)
{
    int runs = RUNS_WANTED * ap_pool_threads(ex->dev->pool);
    j->rows = (j->heads * j->tokens + j->step - 1) / j->step * j->step;
    int most = ap_min_int(count_segments(j, n_tile), j->part_rows / j->rows);
    int run = ap_max_int(most / runs, 1);
    for (cursor at = {0, -1}; at.tile < n_tile;)
        ap_op_run(ex, split_task, j, make_wave(j, &at, n_tile, run));
}

/* ------------------------------------------------------------------ the slot */

static int n_part_rows(int threads)
{
    return ap_max_int(MIN_PART_ROWS, PART_ROWS * threads);
}

static size_t room_bytes(int head_dim)
{
    return ap_round_up(
        MAX_ROWS * ((size_t)ap_q_stride(head_dim) + (size_t)head_dim) * sizeof(float), AP_ALIGN);
}

/* Carve the scratch of a job, or only add up its size. */
static size_t carve(job *j, uint8_t *mem, int threads, int head_dim)
{
    size_t rows = (size_t)n_part_rows(threads), tiles = (size_t)(TASKS_WANTED * threads);
    size_t size[] = {(size_t)threads * room_bytes(head_dim),
                     rows * ((size_t)head_dim + 2) * sizeof(float), (rows + 1) * sizeof(item),
                     tiles * MAX_ROWS * 2 * sizeof(float), tiles * sizeof(int)};
    uint8_t *at[5];
    size_t sum = 0;
    for (int i = 0; i < 5; i++) {
        at[i] = mem ? mem + sum : NULL;
        sum += ap_round_up(size[i], AP_ALIGN);
    }
    j->room = at[0];
    j->room_bytes = room_bytes(head_dim);
    j->part = (float *)(void *)at[1];
    j->part_rows = (int)rows;
    j->items = (item *)(void *)at[2];
    j->ml = (float *)(void *)at[3];
    j->left = (int *)(void *)at[4];
    return sum;
}

size_t ap_cpu_attn_scratch_bytes(const ap_exec *ex, int n_tok, int n_head, int n_kv_head,
                                 int head_dim)
{
    job j;
    (void)n_tok, (void)n_head, (void)n_kv_head;
    return carve(&j, NULL, ap_pool_threads(ex->dev->pool), head_dim);
}

static bool fast_takes(const ap_exec *ex, int head_dim)
{
    const ap_micro_fast *f = ((const ap_micro *)ex->k->impl)->fast;
    return ex->precision == APUS_PRECISION_FAST && f && f->usable(head_dim);
}

int ap_cpu_attn_fast_dim(const ap_exec *ex, int head_dim)
{
    for (int n = (int)ap_round_up((size_t)head_dim, 16); n <= AP_HEAD_MAX; n += 16)
        if (fast_takes(ex, n)) return n;
    return 0;
}

static void choose_kernels(const ap_exec *ex, job *j)
{
    const ap_micro *micro = ex->k->impl;
    apus_kv type = j->a->kv.type;
    j->m = micro->attn;
    if (type == APUS_KV_BF16 && fast_takes(ex, j->a->head_dim)) {
        const ap_micro_fast *f = micro->fast;
        j->fast = f;
        j->block = j->alone = f->rows, j->tile = f->tile, j->step = f->step;
        return;
    }
    j->kv = type == APUS_KV_Q8 ? &j->m->q8 : type == APUS_KV_BF16 ? &j->m->bf16 : &j->m->f32;
    j->block = j->kv->rows, j->tile = TILE_ROWS, j->step = 1;
    j->alone = ap_max_int(j->block, j->kv->alone);
}

void ap_cpu_attn(const ap_exec *ex, const ap_attn_args *a)
{
    int group = a->n_head / a->n_kv_head, threads = ap_pool_threads(ex->dev->pool);
    int wanted = threads == 1 ? 1 : TASKS_WANTED * threads;
    job j = {.a = a};
    choose_kernels(ex, &j);
    j.heads = ap_min_int(group, j.tile);
    j.splits = (group + j.heads - 1) / j.heads;
    j.tokens = ap_max_int(j.tile / j.heads, 1);
    carve(&j, a->scratch, threads, a->head_dim);
    /* Smaller tiles where even the segments are few; what a row computes does not depend on its
     * tile. */
    while (count_tiles(&j) < wanted && count_segments(&j, count_tiles(&j)) < threads) {
        if (j.tokens > 1) {
            j.tokens = (j.tokens + 1) / 2;
        } else if (j.heads > 4) {
            j.heads = (j.heads + 1) / 2;
            j.splits = (group + j.heads - 1) / j.heads;
        } else {
            break;
        }
    }
    int n = count_tiles(&j);
    if (n < wanted && count_segments(&j, n) > n)
        run_split(ex, &j, n);
    else
        ap_op_run(ex, whole_task, &j, n);
}
