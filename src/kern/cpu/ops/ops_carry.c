/* ops_carry.c - the row that a sequence carries from step to step. */
#include <string.h>

#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

typedef struct job {
    const ap_carry_args *a;
    int tasks; /* that the rows are cut into */
} job;

static float *carried(const ap_carry_args *a, const ap_seq *s)
{
    return a->state.base + (size_t)s->state * a->state.block_floats + a->state.offset;
}

static float *kept_row(const ap_carry_args *a, const ap_seq *s, int i)
{
    return a->kept.base + (size_t)(s->keep + i) * a->kept.row_floats;
}

static void put(const ap_carry_args *a, float *to, const float *from)
{
    memcpy(to, from, (size_t)a->n * sizeof(float));
}

/* Some rows of the step, but for those that sequences begin with. */
static void rows_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_carry_args *a = j->a;
    const ap_batch *b = a->state.batch;
    size_t n = (size_t)a->n;
    (void)worker;
    for (int t = ap_op_first(b->n_tok, task, j->tasks);
         t < ap_op_first(b->n_tok, task + 1, j->tasks); t++) {
        const ap_seq *s = &b->seq[b->seq_of[t]];
        if (a->out && t > s->begin) put(a, a->out + (size_t)t * n, a->x + (size_t)(t - 1) * n);
        if (s->keep >= 0) put(a, kept_row(a, s, t - s->begin), a->x + (size_t)t * n);
    }
}

/* What a sequence carries goes to its first row, and then it carries its last one. */
static void move_on(const ap_carry_args *a, const ap_seq *s)
{
    size_t n = (size_t)a->n;
    if (a->out) put(a, a->out + (size_t)s->begin * n, carried(a, s));
    if (s->keep < 0) put(a, carried(a, s), a->x + (size_t)(s->begin + s->n_tok - 1) * n);
}

void ap_cpu_carry(const ap_exec *ex, const ap_carry_args *a)
{
    const ap_batch *b = a->state.batch;
    for (int i = 0; i < b->n_seq; i++) {
        const ap_seq *s = &b->seq[i];
        if (a->what == AP_CARRY_ROWS)
            move_on(a, s);
        else if (a->what == AP_CARRY_LOOK)
            put(a, a->out + (size_t)i * (size_t)a->n, carried(a, s));
        else
            put(a, carried(a, s), kept_row(a, s, s->n_tok - 1));
    }
    if (a->what != AP_CARRY_ROWS) return;
    job j = {a, ap_op_tasks(ex, b->n_tok, a->n / 8 + 1)};
    ap_op_run(ex, rows_task, &j, j.tasks);
}
