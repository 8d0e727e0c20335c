#include "kern/groups.h"

void ap_group_norm(const ap_exec *x, const float *in, const float *weight, float eps, float *out,
                   int rows, int n)
{
    x->k->norm(x, &(ap_norm_args){.x = in,
                                  .weight = weight,
                                  .out = out,
                                  .ldx = n,
                                  .ldout = n,
                                  .rows = rows,
                                  .n = n,
                                  .eps = eps});
}

static void matmul(const ap_exec *x, const float *in, const ap_mat *w, float *y, int n_tok)
{
    x->k->matmul(x, &(ap_matmul_args){
                        .x = in, .w = w, .y = y, .ldx = w->cols, .ldy = w->rows, .n_tok = n_tok});
}

void ap_group_project(const ap_exec *x, const ap_project_args *a)
{
    ap_group_norm(x, a->x, a->norm, a->eps, a->h, a->n_tok, a->w[0]->cols);
    for (int i = 0; i < a->n_mat; i++) matmul(x, a->h, a->w[i], a->y[i], a->n_tok);
}

void ap_group_add_shared(const ap_exec *x, const ap_mix_args *a)
{
    int H = a->router->cols;
    x->k->elem(x, &(ap_elem_args){.op = AP_ELEM_ADD_GATED,
                                  .y = a->y,
                                  .x = a->t,
                                  .gate = a->gate,
                                  .ldy = H,
                                  .ldx = H,
                                  .rows = a->n_tok,
                                  .n = H,
                                  .n_block = 1});
}

static void shared_expert(const ap_exec *x, const ap_mix_args *a)
{
    const ap_expert *s = a->shared;
    int H = s->gate.cols;
    x->k->glu(x, &(ap_glu_args){.x = a->h,
                                .gate = &s->gate,
                                .up = &s->up,
                                .y = a->mid,
                                .ldx = H,
                                .ldy = s->gate.rows,
                                .n_tok = a->n_tok,
                                .act = a->act});
    matmul(x, a->mid, &s->down, a->t, a->n_tok);
    matmul(x, a->h, a->shared_gate, a->gate, a->n_tok);
    ap_group_add_shared(x, a);
}

void ap_group_route(const ap_exec *x, const ap_mix_args *a)
{
    x->k->route(x, &(ap_route_args){.logits = a->logits,
                                    .ids = a->ids,
                                    .weights = a->weights,
                                    .n_tok = a->n_tok,
                                    .n_expert = a->n_expert,
                                    .n_used = a->n_used,
                                    .norm = a->norm_topk});
}

ap_moe_args ap_group_moe_args(const ap_mix_args *a)
{
    return (ap_moe_args){.x = a->h,
                         .ids = a->ids,
                         .weights = a->weights,
                         .experts = a->experts,
                         .y = a->y,
                         .ldx = a->router->cols,
                         .ldy = a->router->cols,
                         .n_tok = a->n_tok,
                         .n_expert = a->n_expert,
                         .n_used = a->n_used,
                         .act = a->act,
                         .accumulate = true,
                         .scratch = a->scratch};
}

void ap_group_mix(const ap_exec *x, const ap_mix_args *a)
{
    int H = a->router->cols;
    ap_group_norm(x, a->x, a->norm, a->eps, a->h, a->n_tok, H);
    matmul(x, a->h, a->router, a->logits, a->n_tok);
    ap_group_route(x, a);
    ap_moe_args moe = ap_group_moe_args(a);
    x->k->moe(x, &moe);
    if (a->shared) shared_expert(x, a);
}

void ap_group_recur_out(const ap_exec *x, const ap_recur_args *a)
{
    if (a->w)
        x->k->matmul(x, &(ap_matmul_args){.x = a->delta.out,
                                          .w = a->w,
                                          .y = a->y,
                                          .ldx = a->w->cols,
                                          .ldy = a->w->rows,
                                          .n_tok = a->delta.n_tok,
                                          .accumulate = true});
}

void ap_group_recur(const ap_exec *x, const ap_recur_args *a)
{
    x->k->conv(x, &a->conv);
    x->k->delta(x, &a->delta);
    ap_group_recur_out(x, a);
}

void ap_group_attend(const ap_exec *x, const ap_attend_args *a)
{
    const ap_attn_args *t = &a->attn;
    x->k->qkv(x, &a->qkv);
    x->k->attn(x, t);
    if (a->gate)
        x->k->elem(x, &(ap_elem_args){.op = AP_ELEM_MUL_SIGMOID,
                                      .y = t->out,
                                      .x = a->gate,
                                      .ldy = (int64_t)t->n_head * t->head_dim,
                                      .ldx = a->ldgate,
                                      .rows = t->n_tok,
                                      .n = t->head_dim,
                                      .n_block = t->n_head,
                                      .y_block = t->head_dim,
                                      .x_block = a->gate_head_stride});
}
