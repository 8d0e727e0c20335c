/* ops_moe.c - routed experts: sort, gate and up, down, combine.
 *
 * The T*K (token, rank) pairs are sorted by expert; a pair's place in that order is its slot. Slots
 * of one expert lie together and are cut into units of at most AP_TASK_ROWS rows; every unit is a
 * small matrix product, and all tasks of all units form one flat list, so that the workers finish
 * together whatever the routing is. */
#include <stdalign.h>
#include <string.h>

#include "base/mem.h"
#include "kern/cpu/micro_elem.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/product.h"

#define COMBINE_CHUNK 512

typedef struct unit {
    int32_t expert, slot, rows;
} unit;

/* What lies where in the scratch; offsets in bytes, each a multiple of 64. */
typedef struct layout {
    size_t slot_of, tok_of, start, units, mid, out, x_q, mid_q, total;
    int ld_mid, ld_out;
} layout;

typedef struct moe_job {
    const ap_micro *m;
    const ap_moe_args *a;
    int32_t *slot_of; /* [T*K] slot of a pair */
    int32_t *tok_of;  /* [T*K] token of a slot */
    int32_t *start;   /* [E+1] first slot of an expert */
    unit *units;
    float *mid; /* [T*K, F] act(gate) * up */
    float *out; /* [T*K, H] */
    ap_qx *x_q;       /* [T, H/32] x and */
    ap_qx *mid_q;     /* [T*K, F/32] mid, for weights in integer form */
    int ld_mid, ld_out, n_units, hidden, ffn, n_tasks;
    ap_split split; /* of one unit */
} moe_job;

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

static layout lay_out(const ap_kern *k, int n_tok, int n_expert, int n_used, int hidden, int ffn)
{
    layout l = {0};
    size_t pairs = (size_t)n_tok * (size_t)n_used, at = 0;
    l.ld_mid = (ffn + 15) / 16 * 16;
    l.ld_out = (hidden + 15) / 16 * 16;
    l.slot_of = place(&at, pairs, sizeof(int32_t));
    l.tok_of = place(&at, pairs, sizeof(int32_t));
    l.start = place(&at, (size_t)n_expert + 1, sizeof(int32_t));
    /* an expert has one unit that is not full, at most */
    l.units = place(&at, pairs / AP_TASK_ROWS + (size_t)n_expert, sizeof(unit));
    l.mid = place(&at, pairs, (size_t)l.ld_mid * sizeof(float));
    l.out = place(&at, pairs, (size_t)l.ld_out * sizeof(float));
    if (k->precision != APUS_PRECISION_EXACT) {
        l.x_q = place(&at, (size_t)n_tok, ap_input_bytes(hidden));
        l.mid_q = place(&at, pairs, ap_input_bytes(ffn));
    }
    l.total = at;
    return l;
}

size_t ap_cpu_moe_scratch_bytes(const ap_kern *k, int n_tok, int n_expert, int n_used, int hidden,
                                int ffn)
{
    return lay_out(k, n_tok, n_expert, n_used, hidden, ffn).total;
}

/* Counting sort of the pairs by expert; returns the rows of the largest unit. */
static int sort_pairs(moe_job *j)
{
    const ap_moe_args *a = j->a;
    int pairs = a->n_tok * a->n_used, n_expert = a->n_expert, widest = 0;
    memset(j->start, 0, ((size_t)n_expert + 1) * sizeof(int32_t));
    for (int i = 0; i < pairs; i++) j->start[a->ids[i] + 1]++;
    for (int e = 0; e < n_expert; e++) {
        int rows = j->start[e + 1], first = j->start[e];
        int n = rows / AP_TASK_ROWS + (rows % AP_TASK_ROWS != 0);
        for (int u = 0; u < n; u++) {
            int begin = ap_op_first(rows, u, n), end = ap_op_first(rows, u + 1, n);
            j->units[j->n_units++] = (unit){e, first + begin, end - begin};
            if (end - begin > widest) widest = end - begin;
        }
        j->start[e + 1] = first + rows;
    }
    /* start[e] runs on to the first slot of e + 1 while pairs are placed */
    for (int i = 0; i < pairs; i++) {
        int slot = j->start[a->ids[i]]++;
        j->slot_of[i] = slot;
        j->tok_of[slot] = i / a->n_used;
    }
    return widest;
}

static void glu_task(void *arg, int task, int worker)
{
    const moe_job *j = arg;
    const unit *u = &j->units[task / j->split.n_groups];
    const ap_expert *e = &j->a->experts[u->expert];
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
        if (j->x_q) q[r] = j->x_q + (size_t)j->tok_of[u->slot + r] * (size_t)(j->hidden / AP_Q_BLOCK);
    }
    ap_product(j->m, w, 2, p0, panels, (ap_rows){x, j->x_q ? q : NULL}, u->rows, tile, 2 * wide);
    for (int r = 0; r < u->rows; r++) {
        const float *gate = tile + (size_t)r * 2 * wide;
        float *mid = j->mid + (size_t)(u->slot + r) * j->ld_mid + n0;
        j->m->elem->act_mul(j->a->act, gate, gate + wide, mid, n);
    }
}

static void down_task(void *arg, int task, int worker)
{
    const moe_job *j = arg;
    const unit *u = &j->units[task / j->split.n_groups];
    const ap_mat *w = &j->a->experts[u->expert].down;
    const float *x[AP_TASK_ROWS];
    const ap_qx *q[AP_TASK_ROWS] = {0};
    (void)worker;

    int p0 = task % j->split.n_groups * j->split.group, left = ap_n_panels(w) - p0;
    int panels = left < j->split.group ? left : j->split.group;
    for (int r = 0; r < u->rows; r++) {
        x[r] = j->mid + (size_t)(u->slot + r) * j->ld_mid;
        if (j->mid_q) q[r] = j->mid_q + (size_t)(u->slot + r) * (size_t)(j->ffn / AP_Q_BLOCK);
    }
    /* rows of `out` are padded to whole panels, so that sums may land there at once */
    ap_product(j->m, &w, 1, p0, panels, (ap_rows){x, j->mid_q ? q : NULL}, u->rows,
               j->out + (size_t)u->slot * j->ld_out + p0 * AP_PANEL, j->ld_out);
}

static void combine_row(const moe_job *j, int t)
{
    const ap_moe_args *a = j->a;
    const int32_t *slot = j->slot_of + (size_t)t * a->n_used;
    const float *weight = a->weights + (size_t)t * a->n_used;
    float *y = a->y + t * a->ldy;
    alignas(64) float acc[COMBINE_CHUNK];
    for (int i = 0; i < j->hidden; i += COMBINE_CHUNK) {
        int n = j->hidden - i < COMBINE_CHUNK ? j->hidden - i : COMBINE_CHUNK;
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
    const moe_job *j = arg;
    (void)worker;
    int end = ap_op_first(j->a->n_tok, task + 1, j->n_tasks);
    for (int t = ap_op_first(j->a->n_tok, task, j->n_tasks); t < end; t++) combine_row(j, t);
}

void ap_cpu_moe(const ap_kern *k, const ap_moe_args *a)
{
    if (a->n_tok == 0) return;
    const ap_expert *e = &a->experts[a->ids[0]];
    int hidden = e->gate.cols, ffn = e->gate.rows;
    layout l = lay_out(k, a->n_tok, a->n_expert, a->n_used, hidden, ffn);
    uint8_t *s = a->scratch;
    moe_job j = {
        .m = k->impl,
        .a = a,
        .slot_of = (int32_t *)(s + l.slot_of),
        .tok_of = (int32_t *)(s + l.tok_of),
        .start = (int32_t *)(s + l.start),
        .units = (unit *)(s + l.units),
        .mid = (float *)(s + l.mid),
        .out = (float *)(s + l.out),
        .x_q = (ap_qx *)(s + l.x_q),
        .mid_q = (ap_qx *)(s + l.mid_q),
        .ld_mid = l.ld_mid,
        .ld_out = l.ld_out,
        .hidden = hidden,
        .ffn = ffn,
    };
    int rows = sort_pairs(&j);
    bool glu_q = false, down_q = false; /* is any expert in integer form? */
    for (int u = 0; u < j.n_units; u++) {
        const ap_expert *x = &a->experts[j.units[u].expert];
        glu_q |= ap_meets_integers(k, &x->gate) || ap_meets_integers(k, &x->up);
        down_q |= ap_meets_integers(k, &x->down);
    }
    if (!glu_q) j.x_q = NULL;
    else ap_quantise(k, a->x, a->ldx, a->n_tok, hidden, j.x_q);
    j.split = ap_split_product(k, rows, ap_n_panels(&e->gate), hidden, 2, j.n_units);
    ap_op_run(k, glu_task, &j, j.n_units * j.split.n_groups);
    if (!down_q) j.mid_q = NULL;
    else ap_quantise(k, j.mid, j.ld_mid, a->n_tok * a->n_used, ffn, j.mid_q);
    j.split = ap_split_product(k, rows, ap_n_panels(&e->down), ffn, 1, j.n_units);
    ap_op_run(k, down_task, &j, j.n_units * j.split.n_groups);
    j.n_tasks = ap_op_tasks(k, a->n_tok, (int64_t)hidden / 16 * a->n_used);
    ap_op_run(k, combine_task, &j, j.n_tasks);
}
