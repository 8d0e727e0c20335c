/* many.cu - groups of operations for many tokens with precision FAST: inputs become bf16 once, for all
 * products that read them. */
#include "matmul.cuh"

/* Inputs in bf16, in the room that the exec has. */
struct inputs {
    const ap_exec *x;
    ap_bf16_rows rows;
    int n_tok, cols;
};

/* Room for n_tok rows; false: there is none, or this is none of ours. */
static bool make_room(inputs *in, const ap_exec *x, int n_tok, int cols, bool rest)
{
    if (!x->inputs || cols % 32 || ap_bf16_bytes(n_tok, cols) * (rest ? 2 : 1) > x->input_bytes)
        return false;
    *in = {x, ap_bf16_rows_at(x->inputs, n_tok, cols, rest), n_tok, cols};
    return true;
}

/* h = norm(from). */
static void norm(const inputs *in, const float *from, const float *weight, float eps, float *h)
{
    ap_norm_args n = {};
    n.x = from;
    n.weight = weight;
    n.out = h;
    n.ldx = n.ldout = in->cols;
    n.rows = in->n_tok;
    n.n = in->cols;
    n.eps = eps;
    ap_cuda_norm(in->x, &n);
}

static void to_bf16(const inputs *in, const float *h)
{
    ap_cuda_to_bf16(in->x, h, in->cols, in->n_tok, in->cols, in->rows);
}

static ap_product_args product_of(const inputs *in, const ap_mat *w, float *y)
{
    ap_product_args p = {};
    p.w[0] = ap_qmat_of(w);
    p.b16 = in->rows;
    if (!ap_cuda_wide_rest(w)) p.b16.rest = NULL;
    p.y = y;
    p.ldy = w->rows;
    p.n_row = in->n_tok;
    p.mode = AP_PUT_STORE;
    return p;
}

static void product(const inputs *in, const ap_mat *w, float *y)
{
    ap_product_args p = product_of(in, w, y);
    ap_cuda_wide(in->x, &p, 0);
}

bool ap_cuda_project_many(const ap_exec *x, const ap_project_args *a)
{
    inputs in;
    bool rest = false;
    if (a->n_tok <= AP_WIDE_FROM) return false;
    for (int i = 0; i < a->n_mat; i++) {
        if (!ap_cuda_is_wide(x, a->w[i])) return false;
        rest |= ap_cuda_wide_rest(a->w[i]);
    }
    if (!make_room(&in, x, a->n_tok, a->w[0]->cols, rest)) return false;
    norm(&in, a->x, a->norm, a->eps, a->h);
    to_bf16(&in, a->h);
    for (int i = 0; i < a->n_mat; i++) product(&in, a->w[i], a->y[i]);
    return true;
}

/* ------------------------------------------------------------------ mix */

static bool takes_shared(const ap_exec *x, const ap_mix_args *a)
{
    const ap_expert *s = a->shared;
    return !s || (ap_cuda_is_wide(x, &s->gate) && ap_cuda_wide_pair(&s->gate, &s->up) &&
                  !ap_cuda_wide_rest(&s->gate) && ap_cuda_is_wide(x, &s->down) &&
                  !ap_cuda_wide_rest(&s->down) &&
                  ap_bf16_bytes(a->n_tok, s->gate.rows) <=
                      (size_t)a->n_tok * (size_t)s->gate.rows * sizeof(float));
}

/* The shared expert's gate: any form. */
static void gate(const inputs *in, const ap_mix_args *a)
{
    ap_matmul_args m = {};
    m.x = a->h;
    m.w = a->shared_gate;
    m.y = a->gate;
    m.ldx = in->cols;
    m.ldy = m.w->rows;
    m.n_tok = in->n_tok;
    ap_cuda_matmul(in->x, &m);
}

/* What the shared expert makes of the inputs, to t. */
static void shared_expert(const inputs *in, const ap_mix_args *a)
{
    const ap_expert *s = a->shared;
    inputs mid = {in->x, ap_bf16_rows_at(a->mid, in->n_tok, s->gate.rows, false), in->n_tok,
                  s->gate.rows};
    ap_product_args p = product_of(in, &s->gate, NULL);
    p.w[1] = ap_qmat_of(&s->up);
    p.y16 = mid.rows.high;
    p.y_rows = mid.rows.rows;
    p.mode = AP_PUT_GLU;
    p.act = a->act;
    ap_cuda_wide(in->x, &p, 0);
    product(&mid, &s->down, a->t);
}

bool ap_cuda_mix_many(const ap_exec *x, const ap_mix_args *a)
{
    inputs in;
    ap_moe_args m = {};
    m.x = a->h;
    m.ids = a->ids;
    m.weights = a->weights;
    m.experts = a->experts;
    m.y = a->y;
    m.ldx = m.ldy = a->router->cols;
    m.n_tok = a->n_tok;
    m.n_expert = a->n_expert;
    m.n_used = a->n_used;
    m.act = a->act;
    m.accumulate = true;
    m.scratch = a->scratch;
    bool rest = ap_cuda_wide_rest(a->router);
    if (a->n_tok <= AP_WIDE_FROM || !ap_cuda_is_wide(x, a->router) || !takes_shared(x, a) ||
        !ap_cuda_moe_is_wide(x, &m) || !make_room(&in, x, a->n_tok, a->router->cols, rest))
        return false;
    norm(&in, a->x, a->norm, a->eps, a->h);
    if (a->shared) gate(&in, a); /* in whose way the room for inputs may be */
    to_bf16(&in, a->h);
    product(&in, a->router, a->logits);
    ap_route_args r = {};
    r.logits = a->logits;
    r.ids = a->ids;
    r.weights = a->weights;
    r.n_tok = a->n_tok;
    r.n_expert = a->n_expert;
    r.n_used = a->n_used;
    r.norm = a->norm_topk;
    ap_cuda_route(x, &r);
    if (a->shared) shared_expert(&in, a);
    ap_moe_more more = {in.rows, a->shared ? a->t : NULL, a->gate};
    more.b16.rest = NULL;
    ap_cuda_moe_with(x, &m, &more);
    return true;
}
