/* ops_moe.c - routed experts: sort, gate and up, down, combine.
 *
 * The T*K (token, rank) pairs are sorted by expert; a pair's place in that order is its slot. Slots
 * of one expert lie together and are cut into units of at most AP_TASK_ROWS rows; every unit is a
 * small matrix product, and all tasks of all units form one flat list, so that the workers finish
 * together whatever the routing is. Units that go by tiles (tiled.h) come first.
 *
 * With all experts at hand, the second product and the combination go through the outputs in slices,
 * so that what experts give to thousands of tokens stays in the caches and small. In waves, what they
 * give waits in whole rows until the last one has come. */
#include <stdalign.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops_moe.h"
#include "kern/cpu/product/product.h"
#include "kern/cpu/product/tiled.h"

#define COMBINE_CHUNK 512
#define SLICE_BYTES   ((size_t)8 << 20) /* of all pairs' results */
#define SLICE_PANELS  16 /* at least: shorter runs of outputs are read and written badly */

/* What lies where in the scratch; offsets in bytes, each a multiple of 64. */
typedef struct layout {
    size_t memo, slot_of, tok_of, start, units, out, x_q, pairs, total;
    int slice; /* panels of a slice */
} layout;

/* What lies where behind `pairs`, once it is known which pairs go by tiles. */
typedef struct pair_layout {
    size_t x_t, mid_t, mid, mid_q, end;
    int ld_mid; /* floats of a row of mid */
} pair_layout;

/* Places `n` items of `size` bytes at *at; saturates instead of wrapping around. */
static size_t place(size_t *at, size_t n, size_t size)
{
    size_t here = *at, bytes, end;
    if (!ap_mul_size(n, size, &bytes) || !ap_add_size(here, bytes, &end) || end > SIZE_MAX - 63) {
        *at = SIZE_MAX - 63;
        return here;
    }
    *at = ap_round_up(end, 64);
    return here;
}

static int slice_panels(size_t pairs, int hidden)
{
    int panels = ap_div_up(hidden, AP_PANEL);
    size_t fit = SLICE_BYTES / (AP_PANEL * sizeof(float)) / (pairs ? pairs : 1);
    if (fit < SLICE_PANELS) fit = SLICE_PANELS;
    return fit < (size_t)panels ? (int)fit / 2 * 2 : panels;
}

/* `tiled` pairs go by tiles, `plain` ones by what ops_moe.c does itself. */
static pair_layout lay_out_pairs(const ap_exec *ex, size_t at, size_t plain, size_t tiled,
                                 int n_expert, int hidden, int ffn)
{
    pair_layout l = {.ld_mid = (ffn + 15) / 16 * 16};
    l.x_t = place(&at, 1, ap_tiled_moe_bytes(ex, tiled, n_expert, hidden));
    l.mid_t = place(&at, 1, ap_tiled_moe_bytes(ex, tiled, n_expert, ffn));
    l.mid = place(&at, plain, (size_t)l.ld_mid * sizeof(float));
    l.mid_q = place(&at, ex->precision != APUS_PRECISION_EXACT ? plain : 0, ap_input_bytes(ffn));
    l.end = at;
    return l;
}

static layout lay_out(const ap_exec *ex, int n_tok, int n_expert, int n_used, int hidden, int ffn,
                      bool waves)
{
    layout l = {0};
    size_t pairs = (size_t)n_tok * (size_t)n_used, at = 0;
    l.slice = waves ? ap_div_up(hidden, AP_PANEL) : slice_panels(pairs, hidden);
    l.memo = place(&at, 1, sizeof(ap_moe_memo));
    l.slot_of = place(&at, pairs, sizeof(int32_t));
    l.tok_of = place(&at, pairs, sizeof(int32_t));
    l.start = place(&at, (size_t)n_expert + 1, sizeof(int32_t));
    /* an expert has one unit that is not full, at most */
    l.units = place(&at, pairs / AP_TASK_ROWS + (size_t)n_expert, sizeof(ap_moe_unit));
    /* never more for fewer tokens: a step may have any number up to the one that was planned for */
    size_t out = pairs, row = AP_PANEL * sizeof(float);
    if (l.slice * AP_PANEL < hidden)
        out = ap_max_size(pairs * SLICE_PANELS, SLICE_BYTES / row);
    else
        row *= (size_t)l.slice;
    l.out = place(&at, out, row);
    if (ex->precision != APUS_PRECISION_EXACT)
        l.x_q = place(&at, (size_t)n_tok, ap_input_bytes(hidden));
    l.pairs = at;
    /* every pair is on one of both sides: the larger one, and what padding takes in tiles */
    size_t most = ap_round_up(pairs, 16);
    size_t all_tiled = lay_out_pairs(ex, at, 0, most, n_expert, hidden, ffn).end;
    size_t all_plain = lay_out_pairs(ex, at, most, 0, n_expert, hidden, ffn).end;
    size_t padding = ap_tiled_moe_padding(ex, most, n_expert, hidden) +
                     ap_tiled_moe_padding(ex, most, n_expert, ffn);
    l.total = ap_max_size(all_tiled > padding ? all_tiled - padding : 0, all_plain);
    place(&l.total, 1, padding + 4 * 64); /* each part is rounded up */
    return l;
}

size_t ap_cpu_moe_scratch_bytes(const ap_exec *ex, int n_tok, int n_expert, int n_used, int hidden,
                                int ffn)
{
    return lay_out(ex, n_tok, n_expert, n_used, hidden, ffn, false).total;
}

size_t ap_cpu_moe_waves_scratch_bytes(const ap_exec *ex, int n_tok, int n_expert, int n_used,
                                      int hidden, int ffn)
{
    return lay_out(ex, n_tok, n_expert, n_used, hidden, ffn, true).total;
}

/* ------------------------------------------------------------------ sorting */

/* Counting sort of the pairs by expert. */
static void sort_pairs(const ap_moe_job *j)
{
    const ap_moe_args *a = j->a;
    int pairs = a->n_tok * a->n_used, slot = 0;
    memset(j->start, 0, ((size_t)a->n_expert + 1) * sizeof(int32_t));
    for (int i = 0; i < pairs; i++) j->start[a->ids[i]]++;
    for (int e = 0; e < a->n_expert; e++) {
        int rows = j->start[e];
        j->start[e] = slot;
        slot += rows;
    }
    for (int i = 0; i < pairs; i++) {
        int to = j->start[a->ids[i]]++;
        j->slot_of[i] = to;
        j->tok_of[to] = i / a->n_used;
    }
    /* each start has moved to the next one's */
    memmove(j->start + 1, j->start, (size_t)a->n_expert * sizeof(int32_t));
    j->start[0] = 0;
}

/* Units of the i-th expert at hand; returns the rows of the largest. */
static int add_units(ap_moe_job *j, int i, bool tiled)
{
    ap_tiled_moe *t = &j->tiled;
    int id = j->id ? j->id[i] : i, slot = j->start[id], rows = j->start[id + 1] - slot;
    int widest = 0, most = tiled ? AP_TILED_UNIT : AP_TASK_ROWS;
    int n = ap_div_up(rows, most), rough = tiled ? 16 : 1;
    for (int u = 0; u < n; u++) {
        int begin = ap_op_first(rows, u, n) / rough * rough;
        int end = u + 1 < n ? ap_op_first(rows, u + 1, n) / rough * rough : rows;
        j->units[t->n_unit + j->n_units] = (ap_moe_unit){
            .expert = i,
            .slot = slot + begin,
            .rows = end - begin,
            .tile = t->n_tile,
            .row = j->n_plain,
        };
        *(tiled ? &t->n_unit : &j->n_units) += 1;
        *(tiled ? &j->n_tiled : &j->n_plain) += end - begin;
        if (tiled) t->n_tile += (end - begin + 15) / 16;
        if (end - begin > widest) widest = end - begin;
    }
    return widest;
}

/* Units of the experts at hand, those of tiles first. */
static void cut_units(ap_moe_job *j)
{
    for (int tiled = 1; tiled >= 0; tiled--)
        for (int i = 0; i < j->n_expert; i++) {
            int id = j->id ? j->id[i] : i, rows = j->start[id + 1] - j->start[id], n;
            if (!rows || ap_tiled_expert(j->ex, &j->expert[i], rows) != tiled) continue;
            n = add_units(j, i, tiled);
            if (!tiled && n > j->widest) j->widest = n;
        }
    j->units += j->tiled.n_unit;
}

/* ------------------------------------------------------------------ products */

static void glu_task(void *arg, int task, int worker)
{
    const ap_moe_job *j = arg;
    int tiled = ap_tiled_glu_tasks(&j->tiled);
    if (task < tiled) {
        ap_tiled_moe_glu(&j->tiled, task);
        return;
    }
    task -= tiled;
    const ap_moe_unit *u = &j->units[task / j->split.n_groups];
    const ap_expert *e = &j->expert[u->expert];
    alignas(64) float tile[AP_TASK_FLOATS];
    const float *x[AP_TASK_ROWS];
    const ap_qx *q[AP_TASK_ROWS] = {0};
    (void)worker;

    int p0 = task % j->split.n_groups * j->split.group, left = ap_n_panels(&e->gate) - p0;
    int panels = left < j->split.group ? left : j->split.group;
    int wide = panels * AP_PANEL, n0 = p0 * AP_PANEL;
    int n = j->ffn - n0 < wide ? j->ffn - n0 : wide;
    const ap_mat *w[2] = {&e->gate, &e->up};
    for (int r = 0; r < u->rows; r++) {
        x[r] = j->a->x + j->tok_of[u->slot + r] * j->a->ldx;
        if (j->x_q)
            q[r] = j->x_q + (size_t)j->tok_of[u->slot + r] * (size_t)(j->hidden / AP_Q_BLOCK);
    }
    ap_product(j->m, w, 2, p0, panels, (ap_rows){x, j->x_q ? q : NULL, j->qdot}, u->rows, tile,
               2 * wide);
    for (int r = 0; r < u->rows; r++) {
        const float *gate = tile + (size_t)r * 2 * wide;
        float *mid = j->mid + (size_t)(u->row + r) * j->ld_mid + n0;
        j->m->elem->act_mul(j->a->act, gate, gate + wide, mid, n);
    }
}

static void down_task(void *arg, int task, int worker)
{
    const ap_moe_job *j = arg;
    int tiled = ap_tiled_down_tasks(&j->tiled);
    if (task < tiled) {
        ap_tiled_moe_down(&j->tiled, task);
        return;
    }
    task -= tiled;
    const ap_moe_unit *u = &j->units[task / j->split.n_groups];
    const ap_mat *w = &j->expert[u->expert].down;
    const float *x[AP_TASK_ROWS];
    const ap_qx *q[AP_TASK_ROWS] = {0};
    (void)worker;

    int p0 = task % j->split.n_groups * j->split.group, left = j->n_slice - p0;
    int panels = left < j->split.group ? left : j->split.group;
    for (int r = 0; r < u->rows; r++) {
        size_t at = (size_t)(u->row + r);
        x[r] = j->mid + at * (size_t)j->ld_mid;
        if (j->mid_q) q[r] = j->mid_q + at * (size_t)(j->ffn / AP_Q_BLOCK);
    }
    /* rows of `out` are padded to whole panels, so that sums may land there at once */
    ap_product(j->m, &w, 1, j->slice + p0, panels, (ap_rows){x, j->mid_q ? q : NULL, j->qdot},
               u->rows, j->out + (size_t)u->slot * j->ld_out + p0 * AP_PANEL, j->ld_out);
}

static void combine_row(const ap_moe_job *j, int t)
{
    const ap_moe_args *a = j->a;
    const int32_t *slot = j->slot_of + (size_t)t * a->n_used;
    const float *weight = a->weights + (size_t)t * a->n_used;
    int first = j->slice * AP_PANEL, width = j->n_slice * AP_PANEL;
    float *y = a->y + t * a->ldy + first;
    alignas(64) float acc[COMBINE_CHUNK];
    if (width > j->hidden - first) width = j->hidden - first;
    for (int i = 0; i < width; i += COMBINE_CHUNK) {
        int n = width - i < COMBINE_CHUNK ? width - i : COMBINE_CHUNK;
        memset(acc, 0, (size_t)n * sizeof(float));
        for (int r = 0; r < a->n_used; r++)
            j->m->elem->add_scaled(acc, weight[r], j->out + (size_t)slot[r] * j->ld_out + i, n);
        if (a->accumulate)
            j->m->elem->add(y + i, acc, n);
        else
            memcpy(y + i, acc, (size_t)n * sizeof(float));
    }
}

static void combine_task(void *arg, int task, int worker)
{
    const ap_moe_job *j = arg;
    (void)worker;
    int end = ap_op_first(j->a->n_tok, task + 1, j->n_tasks);
    for (int t = ap_op_first(j->a->n_tok, task, j->n_tasks); t < end; t++) combine_row(j, t);
}

static void combine(ap_moe_job *j)
{
    j->n_tasks = ap_op_tasks(j->ex, j->a->n_tok, (int64_t)j->n_slice * j->a->n_used);
    ap_op_run(j->ex, combine_task, j, j->n_tasks);
}

/* ------------------------------------------------------------------ a wave */

/* A job over the scratch of a, without experts. */
static ap_moe_job job_of(const ap_exec *ex, const ap_moe_args *a, int hidden, int ffn,
                         const layout *l)
{
    uint8_t *s = a->scratch;
    return (ap_moe_job){
        .ex = ex,
        .m = ex->k->impl,
        .a = a,
        .qdot = ap_qdot_of(ex),
        .memo = (ap_moe_memo *)(s + l->memo),
        .slot_of = (int32_t *)(s + l->slot_of),
        .tok_of = (int32_t *)(s + l->tok_of),
        .start = (int32_t *)(s + l->start),
        .units = (ap_moe_unit *)(s + l->units),
        .out = (float *)(s + l->out),
        .x_own = (ap_qx *)(s + l->x_q),
        .x_q = (ap_qx *)(s + l->x_q),
        .ld_out = l->slice * AP_PANEL,
        .slice_most = l->slice,
        .hidden = hidden,
        .ffn = ffn,
    };
}

/* Buffers of the units, and the inputs of those by tiles. */
static void begin_units(ap_moe_job *j, const layout *l)
{
    uint8_t *s = j->a->scratch;
    pair_layout p = lay_out_pairs(j->ex, l->pairs, (size_t)j->n_plain, (size_t)j->n_tiled,
                                  j->a->n_expert, j->hidden, j->ffn);
    j->mid = (float *)(s + p.mid);
    j->ld_mid = p.ld_mid;
    j->mid_q = (ap_qx *)(s + p.mid_q);
    j->tiled.ex = j->ex;
    j->tiled.a = j->a;
    j->tiled.expert = j->expert;
    j->tiled.tok_of = j->tok_of;
    j->tiled.units = j->units - j->tiled.n_unit;
    j->tiled.out = j->out;
    j->tiled.ld_out = j->ld_out;
    j->tiled.x = s + p.x_t;
    j->tiled.mid = s + p.mid_t;
    j->tiled.hidden = j->hidden;
    j->tiled.ffn = j->ffn;
    ap_tiled_moe_begin(&j->tiled);
}

ap_tasks ap_moe_glu_tasks(ap_moe_job *j)
{
    const ap_moe_args *a = j->a;
    bool glu_q = false; /* is any expert in integer form? */
    for (int u = 0; u < j->n_units; u++) {
        const ap_expert *x = &j->expert[j->units[u].expert];
        glu_q |= ap_meets_integers(j->ex, &x->gate) || ap_meets_integers(j->ex, &x->up);
        j->down_q |= ap_meets_integers(j->ex, &x->down);
    }
    if (!glu_q)
        j->x_q = NULL;
    else if (!j->memo->has_x_q)
        ap_quantise(j->ex, a->x, a->ldx, a->n_tok, j->hidden, j->x_own);
    j->memo->has_x_q |= glu_q;
    int panels = ap_div_up(j->ffn, AP_PANEL);
    j->split = ap_split_product(j->ex, j->widest, panels, j->hidden, 2, j->n_units, j->x_q);
    return (ap_tasks){glu_task, j, ap_tiled_glu_tasks(&j->tiled) + j->n_units * j->split.n_groups};
}

void ap_moe_inputs(ap_moe_job *j)
{
    if (!j->down_q)
        j->mid_q = NULL;
    else
        ap_quantise(j->ex, j->mid, j->ld_mid, j->n_plain, j->ffn, j->mid_q);
}

ap_tasks ap_moe_down_tasks(ap_moe_job *j)
{
    int left = ap_div_up(j->hidden, AP_PANEL) - j->slice;
    if (left <= 0) return (ap_tasks){0};
    j->n_slice = left < j->slice_most ? left : j->slice_most;
    ap_tiled_moe_slice(&j->tiled, j->slice, j->n_slice);
    j->split = ap_split_product(j->ex, j->widest, j->n_slice, j->ffn, 1, j->n_units, j->mid_q);
    return (ap_tasks){down_task, j,
                      ap_tiled_down_tasks(&j->tiled) + j->n_units * j->split.n_groups};
}

void ap_moe_combine(ap_moe_job *j)
{
    combine(j);
    j->slice += j->n_slice;
}

/* ------------------------------------------------------------------ the slots */

void ap_moe_start(const ap_exec *ex, const ap_moe_args *a, const ap_qx *x_q, ap_moe_job *j)
{
    const ap_expert *e = &a->experts[a->ids[0]];
    int hidden = e->gate.cols, ffn = e->gate.rows;
    layout l = lay_out(ex, a->n_tok, a->n_expert, a->n_used, hidden, ffn, false);
    *j = job_of(ex, a, hidden, ffn, &l);
    j->expert = a->experts;
    j->n_expert = a->n_expert;
    if (x_q) j->x_q = x_q;
    j->memo->has_x_q = x_q;
    sort_pairs(j);
    cut_units(j);
    begin_units(j, &l);
}

static void run(const ap_exec *ex, ap_tasks t)
{
    ap_op_run(ex, t.fn, t.arg, t.n);
}

void ap_cpu_moe(const ap_exec *ex, const ap_moe_args *a)
{
    ap_moe_job j;
    if (a->n_tok == 0) return;
    ap_moe_start(ex, a, NULL, &j);
    run(ex, ap_moe_glu_tasks(&j));
    ap_moe_inputs(&j);
    for (ap_tasks t = ap_moe_down_tasks(&j); t.n; t = ap_moe_down_tasks(&j)) {
        run(ex, t);
        ap_moe_combine(&j);
    }
}

static ap_moe_job job_of_waves(const ap_exec *ex, const ap_moe_args *a, layout *l)
{
    *l = lay_out(ex, a->n_tok, a->n_expert, a->n_used, a->hidden, a->ffn, true);
    return job_of(ex, a, a->hidden, a->ffn, l);
}

int ap_cpu_moe_begin(const ap_exec *ex, const ap_moe_args *a, int32_t *need)
{
    layout l;
    ap_moe_job j = job_of_waves(ex, a, &l);
    int n = 0;
    j.memo->has_x_q = false;
    sort_pairs(&j);
    for (int e = 0; e < a->n_expert; e++)
        if (j.start[e + 1] > j.start[e]) need[n++] = e;
    return n;
}

void ap_cpu_moe_wave(const ap_exec *ex, const ap_moe_args *a, const int32_t *id,
                     const ap_expert *expert, int n)
{
    layout l;
    ap_moe_job j = job_of_waves(ex, a, &l);
    j.id = id;
    j.expert = expert;
    j.n_expert = n;
    cut_units(&j);
    begin_units(&j, &l);
    run(ex, ap_moe_glu_tasks(&j));
    ap_moe_inputs(&j);
    run(ex, ap_moe_down_tasks(&j));
}

void ap_cpu_moe_end(const ap_exec *ex, const ap_moe_args *a)
{
    if (a->n_tok == 0) return;
    layout l;
    ap_moe_job j = job_of_waves(ex, a, &l);
    j.n_slice = l.slice;
    combine(&j);
}
