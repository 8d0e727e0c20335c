/* ops_group.c - groups for a few tokens: what does not depend on one another is one list of tasks, so that workers
 * meet three times in a mixture instead of ten. Bits are those of groups.c: how a product is cut into tasks is
 * not seen in its sums. */
#include <stdalign.h>

#include "kern/cpu/ops/ops_moe.h"
#include "kern/cpu/ops/ops_product.h"
#include "kern/cpu/ops/ops_state.h"
#include "kern/groups.h"

/* Beyond, tasks are large anyway, and some go by tiles (AP_TILED_ROWS). */
#define FEW 8

/* Rows of inputs in integer form, if any of the matrices wants them. */
typedef struct inputs {
    alignas(64) ap_qx stack[AP_INPUT_STACK / sizeof(ap_qx)];
    const ap_qx *q;
} inputs;

static bool fits(int cols, int rows)
{
    return rows <= FEW && (size_t)rows * ap_input_bytes(cols) <= AP_INPUT_STACK;
}

static void quantise(const ap_exec *ex, const float *x, int rows, int cols, bool wanted, inputs *in)
{
    in->q = wanted ? in->stack : NULL;
    if (wanted) ap_quantise(ex, x, cols, rows, cols, in->stack);
}

static const ap_qx *inputs_of(const ap_exec *ex, const ap_mat *w, const inputs *in)
{
    return ap_meets_integers(ex, w) ? in->q : NULL;
}

static ap_tasks product(const ap_exec *ex, const float *x, const inputs *in, const ap_mat *w,
                        float *y, int n_tok, ap_matmul_job *j)
{
    ap_matmul_args a = {.x = x, .w = w, .y = y, .ldx = w->cols, .ldy = w->rows, .n_tok = n_tok};
    return ap_matmul_tasks(ex, &a, inputs_of(ex, w, in), j);
}

/* ------------------------------------------------------------------ project */

void ap_cpu_project(const ap_exec *ex, const ap_project_args *a)
{
    int cols = a->w[0]->cols;
    if (!fits(cols, a->n_tok)) {
        ap_group_project(ex, a);
        return;
    }
    inputs in;
    ap_matmul_job job[AP_GROUP];
    ap_tasks tasks[AP_GROUP];
    bool wanted = false;
    ap_group_norm(ex, a->x, a->norm, a->eps, a->h, a->n_tok, cols);
    for (int i = 0; i < a->n_mat; i++) wanted |= ap_meets_integers(ex, a->w[i]);
    quantise(ex, a->h, a->n_tok, cols, wanted, &in);
    for (int i = 0; i < a->n_mat; i++)
        tasks[i] = product(ex, a->h, &in, a->w[i], a->y[i], a->n_tok, &job[i]);
    ap_op_run_all(ex, tasks, a->n_mat);
}

/* ------------------------------------------------------------------ mix */

/* The router, and of the shared expert what needs no choice either. */
static void choose(const ap_exec *ex, const ap_mix_args *a, inputs *in)
{
    const ap_expert *s = a->shared, *e = a->experts;
    int n = 0;
    ap_tasks tasks[3];
    ap_matmul_job router, gate;
    ap_glu_job shared;
    bool in_integers = s && (ap_meets_integers(ex, &s->gate) || ap_meets_integers(ex, &s->up));
    ap_group_norm(ex, a->x, a->norm, a->eps, a->h, a->n_tok, a->router->cols);
    bool wanted = in_integers || ap_meets_integers(ex, a->router) ||
                  (s && ap_meets_integers(ex, a->shared_gate));
    for (int i = 0; i < a->n_expert && !wanted; i++)
        wanted = ap_meets_integers(ex, &e[i].gate) || ap_meets_integers(ex, &e[i].up);
    quantise(ex, a->h, a->n_tok, a->router->cols, wanted, in);
    tasks[n++] = product(ex, a->h, in, a->router, a->logits, a->n_tok, &router);
    if (s) {
        ap_glu_args glu = {.x = a->h,
                           .gate = &s->gate,
                           .up = &s->up,
                           .y = a->mid,
                           .ldx = s->gate.cols,
                           .ldy = s->gate.rows,
                           .n_tok = a->n_tok,
                           .act = a->act};
        tasks[n++] = ap_glu_tasks(ex, &glu, in_integers ? in->q : NULL, &shared);
        tasks[n++] = product(ex, a->h, in, a->shared_gate, a->gate, a->n_tok, &gate);
    }
    ap_op_run_all(ex, tasks, n);
    ap_group_route(ex, a);
}

/* What experts and shared expert make of h; in is used again. */
static void experts(const ap_exec *ex, const ap_mix_args *a, inputs *in)
{
    ap_moe_args args = ap_group_moe_args(a);
    ap_moe_job j;
    ap_matmul_job down;
    ap_moe_start(ex, &args, in->q, &j);
    ap_tasks glu = ap_moe_glu_tasks(&j);
    ap_op_run_all(ex, &glu, 1);
    ap_moe_inputs(&j);
    bool shared = a->shared != NULL;
    for (ap_tasks tasks[2] = {ap_moe_down_tasks(&j)}; tasks[0].n;
         tasks[0] = ap_moe_down_tasks(&j)) {
        if (shared) {
            const ap_mat *w = &a->shared->down;
            quantise(ex, a->mid, a->n_tok, w->cols, ap_meets_integers(ex, w), in);
            tasks[1] = product(ex, a->mid, in, w, a->t, a->n_tok, &down);
        }
        ap_op_run_all(ex, tasks, shared ? 2 : 1);
        ap_moe_combine(&j);
        shared = false;
    }
    if (a->shared) ap_group_add_shared(ex, a);
}

void ap_cpu_mix(const ap_exec *ex, const ap_mix_args *a)
{
    int shared = a->shared ? a->shared->down.cols : 0;
    if (a->n_tok == 0 || !fits(a->router->cols, a->n_tok) || !fits(shared, a->n_tok)) {
        ap_group_mix(ex, a);
        return;
    }
    inputs in;
    choose(ex, a, &in);
    experts(ex, a, &in);
}

/* ------------------------------------------------------------------ recur */

void ap_cpu_recur(const ap_exec *ex, const ap_recur_args *a)
{
    if (!ap_cpu_conv_delta(ex, &a->conv, &a->delta)) {
        ex->k->conv(ex, &a->conv);
        ex->k->delta(ex, &a->delta);
    }
    ap_group_recur_out(ex, a);
}
