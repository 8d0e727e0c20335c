/* check_groups.c - groups of operations: project, mix, recur and attend give, to the bit, what the operations that define them
 * give one after the other on the same device, and rows the same alone and together. Against ref as in the checks
 * of those operations. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kcheck.h"

static const apus_precision precisions[] = {APUS_PRECISION_HIGH, APUS_PRECISION_EXACT,
                                            APUS_PRECISION_FAST};
static const int toks[] = {1, 2, 5, 40};
enum { N_PRECISIONS = 3, N_TOKS = 4 };

/* With a precision; 3 bytes for each input of `rows` rows, or none. */
static ap_exec exec_of(kc *c, const ap_exec *ex, apus_precision p, int rows, int cols)
{
    ap_exec x = *ex;
    x.precision = p;
    x.input_bytes = 3 * (size_t)rows * (size_t)cols;
    x.inputs = rows ? kc_bytes(c, x.input_bytes) : NULL;
    return x;
}

/* Are its bits ref's? Matrix tiles of CPUs round otherwise than the Order. */
static bool follows_ref(const kc_kern *kern, apus_precision p)
{
    return kern->exact && (p != APUS_PRECISION_FAST || kern->x.k->level != APUS_CPU_AMX);
}

/* Are its bits the same for any number of rows? With precision FAST tiles are for many rows alone. */
static bool ignores_rows(const kc_kern *kern, apus_precision p)
{
    return p != APUS_PRECISION_FAST || follows_ref(kern, p);
}

static bool is_slow(const kc_kern *kern)
{
    return kern->x.k->level == APUS_CPU_REF;
}

/* Rows at an address that vectors of 16 bytes take, or not. */
static float *rows_in(kc *c, size_t n, bool aligned)
{
    float *x = kc_in(c, n, 1.0);
    return aligned ? kc_copy(c, x, n) : x;
}

static float *norm_weight(kc *c, int n, bool aligned)
{
    float *w = rows_in(c, (size_t)n, aligned);
    for (int i = 0; i < n; i++) w[i] = 1 + 0.2f * (float)ap_rng_normal(&c->rng);
    return w;
}

/* ------------------------------------------------------------------ project */

typedef struct project_shape {
    int K, n, rows[AP_GROUP];
    ap_dtype type[AP_GROUP];
    int most; /* tokens: what ref does in time */
} project_shape;

static const project_shape project_shapes[] = {
    {32, 1, {1}, {AP_BF16}, 40},
    {50, 2, {17, 40}, {AP_F32, AP_BF16}, 40},
    {256, 4, {64, 16, 3, 3}, {AP_Q4_K, AP_Q4_K, AP_BF16, AP_F32}, 40},
    {256, 2, {33, 100}, {AP_Q4_K, AP_Q6_K}, 40}, /* one form does not serve the other */
    {256, 3, {48, 20, 20}, {AP_Q6_K, AP_Q6_K, AP_F16}, 40},
    {96, 3, {130, 1, 16}, {AP_Q8_0, AP_BF16, AP_Q8_0}, 40},
    {64, 2, {40, 40}, {AP_MXFP4, AP_MXFP4}, 40}, /* q by a table */
    {512, 2, {31, 16}, {AP_Q3_K, AP_Q3_K}, 40},  /* groups of 16 */
    {512, 3, {31, 16, 5}, {AP_Q5_K, AP_Q5_K, AP_BF16}, 40},
    {256, 2, {16, 40}, {AP_Q2_K, AP_Q2_K}, 5},
    {160, 2, {16, 40}, {AP_Q4_0, AP_Q4_1}, 40}, /* the same bits, with a bias and without */
    {2048, 4, {160, 64, 32, 32}, {AP_Q4_K, AP_Q4_K, AP_BF16, AP_BF16}, 40},
    {2048, 3, {96, 16, 16}, {AP_Q8_0, AP_Q8_0, AP_Q8_0}, 5},
    {2816, 3, {80, 48, 16}, {AP_Q4_K, AP_Q4_K, AP_F32}, 5},
    {2816, 2, {64, 64}, {AP_Q6_K, AP_BF16}, 40},
    {8448, 2, {20, 16}, {AP_Q4_K, AP_Q4_K}, 2},
};

typedef struct projected {
    float *h, *y[AP_GROUP];
} projected;

static projected projected_new(kc *c, const project_shape *s, int T)
{
    projected out = {.h = kc_out(c, (size_t)T * (size_t)s->K)};
    for (int i = 0; i < s->n; i++) out.y[i] = kc_out(c, (size_t)T * (size_t)s->rows[i]);
    return out;
}

/* Tokens [t, t + n) of a, to their place in out. */
static void project_rows(const ap_exec *ex, const project_shape *s, const ap_project_args *a,
                         const projected *out, int t, int n)
{
    ap_project_args p = *a;
    p.x += (size_t)t * (size_t)s->K;
    p.h = out->h + (size_t)t * (size_t)s->K;
    p.n_tok = n;
    for (int i = 0; i < s->n; i++) p.y[i] = out->y[i] + (size_t)t * (size_t)s->rows[i];
    kc_call(ex, project, &p);
}

static void project_by_parts(const ap_exec *ex, const project_shape *s, const ap_project_args *a,
                             const projected *out)
{
    kc_call(ex, norm,
            &(ap_norm_args){.x = a->x,
                            .weight = a->norm,
                            .out = out->h,
                            .ldx = s->K,
                            .ldout = s->K,
                            .rows = a->n_tok,
                            .n = s->K,
                            .eps = a->eps});
    for (int i = 0; i < s->n; i++)
        kc_call(ex, matmul,
                &(ap_matmul_args){.x = out->h,
                                  .w = a->w[i],
                                  .y = out->y[i],
                                  .ldx = s->K,
                                  .ldy = s->rows[i],
                                  .n_tok = a->n_tok});
}

typedef void (*compare)(kc *c, const kc_kern *who, const char *what, const float *got,
                        int64_t ldgot, const float *want, int64_t ldwant, int64_t rows, int64_t n);

static void project_equal(kc *c, compare same, const kc_kern *who, const char *what,
                          const project_shape *s, int T, const projected *got,
                          const projected *want)
{
    char name[64];
    snprintf(name, sizeof name, "%s: h", what);
    same(c, who, name, got->h, s->K, want->h, s->K, T, s->K);
    for (int i = 0; i < s->n; i++) {
        snprintf(name, sizeof name, "%s: y %d", what, i);
        if (same == kc_same && !kc_tells(who, c->loose, s->rows[i])) continue;
        same(c, who, name, got->y[i], s->rows[i], want->y[i], s->rows[i], T, s->rows[i]);
    }
}

static void check_project_of(kc *c, const kc_kern *kern, apus_precision p, const project_shape *s,
                             const ap_project_args *a, const projected *want)
{
    int T = a->n_tok;
    projected parts = *want, got = projected_new(c, s, T);
    ap_exec wide = exec_of(c, &kern->x, p, T, s->K), narrow = exec_of(c, &kern->x, p, 0, 0);
    if (!follows_ref(kern, p)) {
        parts = projected_new(c, s, T);
        project_by_parts(&wide, s, a, &parts);
    }
    if (!kern->exact) project_equal(c, kc_same, kern, "parts", s, T, &parts, want);
    project_rows(&wide, s, a, &got, 0, T);
    project_equal(c, kc_again, kern, "group", s, T, &got, &parts);
    if (!ignores_rows(kern, p)) return;
    got = projected_new(c, s, T);
    project_rows(&narrow, s, a, &got, 0, T);
    project_equal(c, kc_again, kern, "without room", s, T, &got, &parts);
    if (is_slow(kern) && T > 5) return;
    got = projected_new(c, s, T);
    for (int t = 0; t < T; t++) project_rows(&wide, s, a, &got, t, 1);
    project_equal(c, kc_again, kern, "rows alone", s, T, &got, &parts);
}

static void check_project_case(kc *c, const project_shape *s, int T, apus_precision p, bool aligned)
{
    ap_tensor src[AP_GROUP];
    ap_mat mat[AP_GROUP], its[AP_GROUP];
    ap_project_args a = {.x = rows_in(c, (size_t)T * (size_t)s->K, aligned),
                         .norm = norm_weight(c, s->K, aligned),
                         .eps = 1e-6f,
                         .n_mat = s->n,
                         .n_tok = T};
    kc_case(c, "T=%d K=%d %s + %d precision=%d%s", T, s->K, ap_dtype_name(s->type[0]), s->n - 1,
            (int)p, aligned ? "" : " odd addresses");
    c->loose = kc_loose_of(p);
    for (int i = 0; i < s->n; i++) {
        src[i] = kc_weights(c, s->type[i], s->rows[i], s->K);
        mat[i] = kc_mat(c, c->ref, &src[i]);
        a.w[i] = &mat[i];
    }
    ap_exec ref = exec_of(c, c->ref, p, 0, 0),
            high = exec_of(c, c->ref, kc_fine_precision(p), 0, 0);
    projected want = projected_new(c, s, T), got = projected_new(c, s, T),
              fine = kc_needs_fine(c, p) ? projected_new(c, s, T) : want;
    if (kc_needs_fine(c, p)) project_by_parts(&high, s, &a, &fine);
    project_by_parts(&ref, s, &a, &want);
    project_rows(&ref, s, &a, &got, 0, T);
    project_equal(c, kc_same, NULL, "group", s, T, &got, &want);
    for (int k = 0; k < c->n_kern; k++) {
        for (int i = 0; i < s->n; i++) {
            its[i] = kc_mat_of(c, &c->kern[k], &src[i], &mat[i]);
            a.w[i] = &its[i];
        }
        check_project_of(c, &c->kern[k], p, s, &a, c->kern[k].exact ? &want : &fine);
    }
}

void check_project(kc *c)
{
    for (size_t i = 0; i < sizeof project_shapes / sizeof *project_shapes; i++)
        for (int t = 0; t < N_TOKS; t++) {
            const project_shape *s = &project_shapes[i];
            if (toks[t] > s->most) continue;
            for (int p = 0; p < N_PRECISIONS; p++)
                if (s->K <= 512 || p == 0 || toks[t] == 1)
                    check_project_case(c, s, toks[t], precisions[p], (i + (size_t)t) % 4 != 3);
        }
}

/* ------------------------------------------------------------------ mix */

enum { MOST_EXPERTS = 200 };

/* How the experts' matrices lie: cut out of one; packed one behind the other; anywhere; anywhere, in several forms. */
typedef enum layout { CUT, BEHIND, APART, MIXED } layout;

typedef struct mix_shape {
    int E, K, H, F; /* F is a multiple of 16 where experts are cut */
    int shared;     /* F of the shared expert, 0 = none */
    ap_dtype router, up, down, shared_up, shared_gate;
    layout how;
    int most; /* tokens */
} mix_shape;

static const mix_shape mix_shapes[] = {
    {1, 1, 32, 16, 0, AP_F32, AP_BF16, AP_BF16, 0, 0, APART, 40},
    {8, 2, 50, 17, 0, AP_BF16, AP_BF16, AP_F32, 0, 0, BEHIND, 40},
    {6, 3, 64, 32, 33, AP_F32, AP_BF16, AP_BF16, AP_F16, AP_BF16, CUT, 40},
    {8, 2, 256, 256, 0, AP_BF16, AP_Q4_K, AP_Q4_K, 0, 0, CUT, 40},
    {8, 2, 256, 256, 256, AP_F32, AP_Q4_K, AP_Q6_K, AP_Q4_K, AP_BF16, CUT, 40},
    {8, 4, 256, 256, 256, AP_BF16, AP_Q4_K, AP_Q4_K, AP_Q4_K, AP_F32, BEHIND, 40},
    {5, 2, 256, 256, 512, AP_BF16, AP_Q4_K, AP_Q4_K, AP_Q4_K, AP_BF16, BEHIND,
     40}, /* a wider shared one */
    {5, 2, 256, 256, 256, AP_BF16, AP_Q4_K, AP_Q4_K, AP_Q8_0, AP_Q8_0, BEHIND,
     40}, /* in another form */
    {5, 3, 256, 256, 256, AP_F32, AP_Q4_K, AP_Q4_K, AP_Q4_K, AP_BF16, APART, 40},
    {6, 3, 256, 256, 256, AP_F32, AP_Q4_K, AP_Q6_K, AP_BF16, AP_BF16, MIXED, 40},
    {12, 5, 64, 96, 96, AP_Q8_0, AP_Q8_0, AP_Q8_0, AP_Q8_0, AP_Q8_0, CUT, 40},
    {12, 4, 64, 64, 0, AP_F32, AP_MXFP4, AP_MXFP4, 0, 0, CUT, 40},
    {200, 8, 64, 32, 32, AP_F32, AP_Q8_0, AP_Q8_0, AP_Q8_0, AP_F32, CUT,
     5}, /* more than a warp has lanes */
    {20, 17, 64, 32, 32, AP_F32, AP_Q4_0, AP_Q8_0, AP_Q4_0, AP_F32, CUT,
     40}, /* more than a launch takes */
    {16, 8, 2048, 512, 512, AP_BF16, AP_Q4_K, AP_Q6_K, AP_Q4_K, AP_BF16, CUT, 2},
    {16, 8, 2048, 512, 512, AP_F32, AP_Q8_0, AP_Q8_0, AP_Q8_0, AP_F32, BEHIND, 1},
    {4, 1, 2048, 256, 256, AP_BF16, AP_Q4_K, AP_Q4_K, AP_Q4_K, AP_BF16, CUT, 40},
    {16, 8, 2816, 704, 0, AP_BF16, AP_Q4_0, AP_Q8_0, 0, 0, CUT, 1},
    {4, 2, 2816, 256, 256, AP_F32, AP_Q6_K, AP_Q6_K, AP_Q6_K, AP_BF16, BEHIND, 5},
};

/* A matrix of each expert, rows [rows, cols]. */
typedef struct member {
    int rows, cols;
    ap_tensor all, one[MOST_EXPERTS]; /* all: not where forms are mixed */
} member;

typedef struct mix_model {
    member gate, up, down;
    ap_tensor router, shared_gate, shared[3];
} mix_model;

/* What a device has of it. */
typedef struct mix_mats {
    ap_expert expert[MOST_EXPERTS], shared;
    ap_mat router, shared_gate;
} mix_mats;

typedef struct mixed {
    float *h, *logits, *weights, *y;
    int32_t *ids;
} mixed;

static void make_member(kc *c, const mix_shape *s, ap_dtype type, int rows, int cols, member *m)
{
    ap_dtype others[] = {type, AP_BF16, AP_Q8_0};
    *m = (member){.rows = rows, .cols = cols};
    if (s->how != MIXED) m->all = kc_weights(c, type, s->E * rows, cols);
    for (int e = 0; e < s->E; e++)
        m->one[e] = s->how == MIXED ? kc_weights(c, others[e % 3], rows, cols)
                                    : ap_tensor_rows(&m->all, e * rows, (e + 1) * rows);
}

static void make_mix(kc *c, const mix_shape *s, mix_model *m)
{
    make_member(c, s, s->up, s->F, s->H, &m->gate);
    make_member(c, s, s->up, s->F, s->H, &m->up);
    make_member(c, s, s->down, s->H, s->F, &m->down);
    m->router = kc_weights(c, s->router, s->E, s->H);
    if (!s->shared) return;
    m->shared_gate = kc_weights(c, s->shared_gate, 1, s->H);
    m->shared[0] = kc_weights(c, s->shared_up, s->shared, s->H);
    m->shared[1] = kc_weights(c, s->shared_up, s->shared, s->H);
    m->shared[2] = kc_weights(c, s->shared_up == s->up ? s->down : s->shared_up, s->H, s->shared);
}

/* Matrix e to expert[e] + at. */
static void pack_member(kc *c, const kc_kern *kern, const ap_exec *ex, const mix_shape *s,
                        const member *m, ap_expert *expert, size_t at)
{
    ap_mat whole = s->how == CUT ? kc_mat(c, ex, &m->all) : (ap_mat){0};
    size_t bytes = s->how == BEHIND ? ex->k->pack_bytes(ex->k, &m->one[0]) : 0;
    uint8_t *mem = kc_bytes(c, bytes * (size_t)s->E);
    for (int e = 0; e < s->E; e++) {
        ap_mat *to = (ap_mat *)((uint8_t *)(expert + e) + at);
        if (s->how == CUT && !ex->k->mat_rows(ex->k, &whole, e * m->rows, m->rows, to))
            kc_fail(c, "%s: cannot be cut", kern ? kern->name : "ref");
        if (s->how == BEHIND) {
            ex->k->pack(ex->k, &m->one[e], mem + (size_t)e * bytes);
            ex->k->pack_mat(ex->k, &m->one[e], mem + (size_t)e * bytes, to);
        }
        if (s->how == APART || s->how == MIXED) *to = kc_mat(c, ex, &m->one[e]);
    }
}

static void pack_mix(kc *c, const kc_kern *kern, const ap_exec *ex, const mix_shape *s,
                     const mix_model *m, mix_mats *out)
{
    *out = (mix_mats){.router = kc_mat(c, ex, &m->router)};
    pack_member(c, kern, ex, s, &m->gate, out->expert, offsetof(ap_expert, gate));
    pack_member(c, kern, ex, s, &m->up, out->expert, offsetof(ap_expert, up));
    pack_member(c, kern, ex, s, &m->down, out->expert, offsetof(ap_expert, down));
    if (!s->shared) return;
    out->shared_gate = kc_mat(c, ex, &m->shared_gate);
    out->shared = (ap_expert){kc_mat(c, ex, &m->shared[0]), kc_mat(c, ex, &m->shared[1]),
                              kc_mat(c, ex, &m->shared[2])};
}

/* y is x: so the models have it. */
static mixed mixed_new(kc *c, const mix_shape *s, int T, const float *x)
{
    size_t n = (size_t)T;
    return (mixed){.h = kc_out(c, n * (size_t)s->H),
                   .logits = kc_out(c, n * (size_t)s->E),
                   .weights = kc_out(c, n * (size_t)s->K),
                   .ids = memset(kc_bytes(c, n * (size_t)s->K * sizeof(int32_t)), 0xff,
                                 n * (size_t)s->K * sizeof(int32_t)),
                   .y = kc_copy(c, x, n * (size_t)s->H)};
}

/* Tokens [t, t + n) in memory of their own size. */
static ap_mix_args mix_args(kc *c, const ap_exec *ex, const mix_shape *s, const mix_mats *m,
                            const float *norm, const mixed *out, int t, int n)
{
    size_t at = (size_t)t, T = (size_t)n;
    ap_mix_args a = {.x = out->y + at * (size_t)s->H,
                     .norm = norm,
                     .eps = 1e-6f,
                     .h = out->h + at * (size_t)s->H,
                     .router = &m->router,
                     .logits = out->logits + at * (size_t)s->E,
                     .ids = out->ids + at * (size_t)s->K,
                     .weights = out->weights + at * (size_t)s->K,
                     .norm_topk = s->E % 5 != 0,
                     .experts = m->expert,
                     .shared = s->shared ? &m->shared : NULL,
                     .shared_gate = s->shared ? &m->shared_gate : NULL,
                     .y = out->y + at * (size_t)s->H,
                     .n_tok = n,
                     .n_expert = s->E,
                     .n_used = s->K,
                     .act = s->H == 2816 ? AP_ACT_GELU_TANH : AP_ACT_SILU};
    a.scratch = kc_bytes(c, ex->k->moe_scratch_bytes(ex, n, s->E, s->K, s->H, s->F));
    if (!s->shared) return a;
    a.t = kc_out(c, T * (size_t)s->H);
    a.mid = kc_out(c, T * (size_t)s->shared);
    a.gate = kc_out(c, T);
    return a;
}

static void shared_by_parts(const ap_exec *ex, const mix_shape *s, const ap_mix_args *a)
{
    int H = s->H, T = a->n_tok;
    kc_call(ex, glu,
            &(ap_glu_args){.x = a->h,
                           .gate = &a->shared->gate,
                           .up = &a->shared->up,
                           .y = a->mid,
                           .ldx = H,
                           .ldy = s->shared,
                           .n_tok = T,
                           .act = a->act});
    kc_call(
        ex, matmul,
        &(ap_matmul_args){
            .x = a->mid, .w = &a->shared->down, .y = a->t, .ldx = s->shared, .ldy = H, .n_tok = T});
    kc_call(ex, matmul,
            &(ap_matmul_args){
                .x = a->h, .w = a->shared_gate, .y = a->gate, .ldx = H, .ldy = 1, .n_tok = T});
    kc_call(ex, elem,
            &(ap_elem_args){.op = AP_ELEM_ADD_GATED,
                            .y = a->y,
                            .x = a->t,
                            .gate = a->gate,
                            .ldy = H,
                            .ldx = H,
                            .rows = T,
                            .n = H,
                            .n_block = 1});
}

static void mix_by_parts(const ap_exec *ex, const mix_shape *s, const ap_mix_args *a)
{
    int H = s->H, T = a->n_tok;
    kc_call(ex, norm,
            &(ap_norm_args){.x = a->x,
                            .weight = a->norm,
                            .out = a->h,
                            .ldx = H,
                            .ldout = H,
                            .rows = T,
                            .n = H,
                            .eps = a->eps});
    kc_call(ex, matmul,
            &(ap_matmul_args){
                .x = a->h, .w = a->router, .y = a->logits, .ldx = H, .ldy = s->E, .n_tok = T});
    kc_call(ex, route,
            &(ap_route_args){.logits = a->logits,
                             .ids = a->ids,
                             .weights = a->weights,
                             .n_tok = T,
                             .n_expert = s->E,
                             .n_used = s->K,
                             .norm = a->norm_topk});
    kc_call(ex, moe,
            &(ap_moe_args){.x = a->h,
                           .ids = a->ids,
                           .weights = a->weights,
                           .experts = a->experts,
                           .y = a->y,
                           .ldx = H,
                           .ldy = H,
                           .n_tok = T,
                           .n_expert = s->E,
                           .n_used = s->K,
                           .act = a->act,
                           .accumulate = true,
                           .scratch = a->scratch});
    if (a->shared) shared_by_parts(ex, s, a);
}

/* To the bit. */
static void mix_equal(kc *c, const kc_kern *who, const char *what, const mix_shape *s, int T,
                      const mixed *got, const mixed *want)
{
    char name[64];
    const struct {
        const char *name;
        const float *got, *want;
        int n;
    } all[] = {{"h", got->h, want->h, s->H},
               {"logits", got->logits, want->logits, s->E},
               {"weights", got->weights, want->weights, s->K},
               {"y", got->y, want->y, s->H}};
    if (memcmp(got->ids, want->ids, (size_t)T * (size_t)s->K * sizeof(int32_t)))
        kc_fail(c, "%s, %s: other experts", who ? who->name : "ref", what);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        snprintf(name, sizeof name, "%s: %s", what, all[i].name);
        kc_again(c, who, name, all[i].got, all[i].n, all[i].want, all[i].n, T, all[i].n);
    }
}

/* Do two choices differ only where logits are nearer to one another than rounding can tell? */
static bool is_near_tie(const mix_shape *s, const float *logits, const int32_t *got,
                        const int32_t *want, double loose)
{
    double most = 0;
    for (int e = 0; e < s->E; e++) most = fmax(most, fabs((double)logits[e]));
    for (int j = 0; j < s->K; j++) {
        if (got[j] < 0 || got[j] >= s->E) return false;
        if (fabs((double)logits[got[j]] - (double)logits[want[j]]) > 2 * loose * most) return false;
    }
    return true;
}

/* A device that is not exact against ref: rows that chose the same experts have the same results to rounding. */
static void mix_near(kc *c, const kc_kern *who, apus_precision p, const mix_shape *s, int T,
                     const mixed *got, const mixed *want)
{
    bool fast = p == APUS_PRECISION_FAST;
    double loose = c->loose;
    kc_same(c, who, "h", got->h, s->H, want->h, s->H, T, s->H);
    if (kc_tells(who, c->loose, s->E))
        kc_same(c, who, "logits", got->logits, s->E, want->logits, s->E, T, s->E);
    for (int t = 0; t < T; t++) {
        const int32_t *a = got->ids + t * s->K, *b = want->ids + t * s->K;
        if (memcmp(a, b, (size_t)s->K * sizeof *a)) {
            if (!is_near_tie(s, want->logits + t * s->E, a, b, loose))
                kc_fail(c, "%s: row %d chooses other experts", who->name, t);
            continue;
        }
        if (!fast)
            kc_same(c, who, "weights", got->weights + t * s->K, s->K, want->weights + t * s->K,
                    s->K, 1, s->K);
        c->loose = fast ? 4 * loose : loose; /* weights are e^logits */
        kc_same(c, who, "y", got->y + t * s->H, s->H, want->y + t * s->H, s->H, 1, s->H);
        c->loose = loose;
    }
}

typedef struct mix_case {
    const mix_shape *s;
    const float *x, *norm;
    int T;
    apus_precision p;
} mix_case;

static void check_mix_of(kc *c, const kc_kern *kern, const mix_case *m, const mix_mats *mats,
                         const mixed *want)
{
    const mix_shape *s = m->s;
    int T = m->T, cols = s->H > s->shared ? s->H : s->shared;
    ap_exec wide = exec_of(c, &kern->x, m->p, T, cols), narrow = exec_of(c, &kern->x, m->p, 0, 0);
    mixed parts = *want, got = mixed_new(c, s, T, m->x);
    ap_mix_args a;
    if (!follows_ref(kern, m->p)) {
        parts = mixed_new(c, s, T, m->x);
        a = mix_args(c, &wide, s, mats, m->norm, &parts, 0, T);
        mix_by_parts(&wide, s, &a);
    }
    if (!kern->exact) mix_near(c, kern, m->p, s, T, &parts, want);
    a = mix_args(c, &wide, s, mats, m->norm, &got, 0, T);
    kc_call(&wide, mix, &a);
    mix_equal(c, kern, "group", s, T, &got, &parts);
    if (!ignores_rows(kern, m->p) || (is_slow(kern) && s->H > 256)) return;
    got = mixed_new(c, s, T, m->x);
    a = mix_args(c, &narrow, s, mats, m->norm, &got, 0, T);
    kc_call(&narrow, mix, &a);
    mix_equal(c, kern, "without room", s, T, &got, &parts);
    if (is_slow(kern) && T > 5) return;
    got = mixed_new(c, s, T, m->x);
    for (int t = 0; t < T; t++) {
        a = mix_args(c, &wide, s, mats, m->norm, &got, t, 1);
        kc_call(&wide, mix, &a);
    }
    mix_equal(c, kern, "rows alone", s, T, &got, &parts);
}

static void check_mix_case(kc *c, const mix_shape *s, int T, apus_precision p, bool aligned)
{
    static const char *const names[] = {"cut", "one behind the other", "apart", "mixed"};
    mix_model model;
    mix_mats mats, its;
    mix_case m = {.s = s,
                  .x = kc_in(c, (size_t)T * (size_t)s->H, 1.0),
                  .norm = norm_weight(c, s->H, aligned),
                  .T = T,
                  .p = p};
    kc_case(c, "T=%d E=%d K=%d H=%d F=%d shared=%d %s/%s %s precision=%d", T, s->E, s->K, s->H,
            s->F, s->shared, ap_dtype_name(s->up), ap_dtype_name(s->down), names[s->how], (int)p);
    c->loose = kc_loose_of(p);
    make_mix(c, s, &model);
    pack_mix(c, NULL, c->ref, s, &model, &mats);
    ap_exec ref = exec_of(c, c->ref, p, 0, 0),
            high = exec_of(c, c->ref, kc_fine_precision(p), 0, 0);
    mixed want = mixed_new(c, s, T, m.x), got = mixed_new(c, s, T, m.x), fine = want;
    ap_mix_args a;
    if (kc_needs_fine(c, p)) {
        fine = mixed_new(c, s, T, m.x);
        a = mix_args(c, &high, s, &mats, m.norm, &fine, 0, T);
        mix_by_parts(&high, s, &a);
    }
    a = mix_args(c, &ref, s, &mats, m.norm, &want, 0, T);
    mix_by_parts(&ref, s, &a);
    a = mix_args(c, &ref, s, &mats, m.norm, &got, 0, T);
    kc_call(&ref, mix, &a);
    mix_equal(c, NULL, "group", s, T, &got, &want);
    for (int k = 0; k < c->n_kern; k++) {
        const kc_kern *kern = &c->kern[k];
        if (!kern->exact) pack_mix(c, kern, &kern->x, s, &model, &its);
        check_mix_of(c, kern, &m, kern->exact ? &mats : &its, kern->exact ? &want : &fine);
    }
}

void check_mix(kc *c)
{
    for (size_t i = 0; i < sizeof mix_shapes / sizeof *mix_shapes; i++)
        for (int t = 0; t < N_TOKS; t++) {
            const mix_shape *s = &mix_shapes[i];
            if (toks[t] > (c->is_short && s->H > 64 ? 1 : s->most)) continue;
            for (int p = 0; p < N_PRECISIONS; p++)
                if (p == 0 || s->H <= 64 || (!c->is_short && toks[t] <= 2) ||
                    (!c->is_short && s->H <= 256 && precisions[p] == APUS_PRECISION_FAST))
                    check_mix_case(c, s, toks[t], precisions[p], (i + (size_t)t) % 4 != 3);
        }
}

/* ------------------------------------------------------------------ recur */

typedef struct recur_shape {
    int Hk, Hv, Dk, Dv, taps, n_seq, n_tok[3];
    bool tiled;
    ap_dtype w; /* of the product behind; 0 = none */
} recur_shape;

static const recur_shape recur_shapes[] = {
    {16, 32, 128, 128, 4, 1, {1}, false, AP_Q5_K}, {2, 4, 128, 128, 4, 3, {1, 1, 1}, true, AP_Q4_K},
    {1, 2, 128, 128, 4, 1, {1}, false, AP_BF16},   {1, 3, 64, 96, 4, 2, {1, 1}, false, AP_Q8_0},
    {2, 2, 20, 36, 4, 2, {1, 1}, false, 0},        {2, 4, 32, 64, 4, 3, {1, 20, 3}, true, 0},
    {1, 2, 16, 8, 3, 2, {1, 1}, false, AP_F32},    {1, 2, 130, 17, 4, 1, {1}, false, 0},
};

enum { RECUR_ROWS = 40 };

typedef struct recurred {
    float *conv, *out, *state; /* state of all sequences: of the convolution, of the delta rule */
    float *y;
} recurred;

/* Two steps one after the other on the states of `from`. */
static recurred recur_twice(kc *c, const ap_exec *ex, const recur_shape *s, const ap_recur_args *a,
                            const float *from, size_t floats, bool parts)
{
    ap_recur_args r = *a;
    size_t T = (size_t)r.conv.n_tok, each = floats / (size_t)s->n_seq;
    recurred got = {kc_out(c, T * (size_t)r.conv.n_channel), kc_out(c, T * (size_t)(s->Hv * s->Dv)),
                    kc_copy(c, from, floats), kc_copy(c, a->y, T * RECUR_ROWS)};
    size_t bytes = ex->k->delta_scratch_bytes(ex, (int)T, s->Hk, s->Hv, s->Dk, s->Dv);
    r.conv.out = got.conv;
    r.delta.qkv = got.conv;
    r.delta.out = got.out;
    r.y = got.y;
    r.delta.scratch = kc_bytes(c, bytes);
    r.conv.state.base = r.delta.state.base = got.state;
    r.conv.state.block_floats = r.delta.state.block_floats = each;
    for (int i = 0; i < 2; i++) {
        if (!parts) {
            kc_call(ex, recur, &r);
            continue;
        }
        kc_call(ex, conv, &r.conv);
        kc_call(ex, delta, &r.delta);
        if (!r.w) continue;
        kc_call(ex, matmul,
                &(ap_matmul_args){.x = got.out,
                                  .w = r.w,
                                  .y = got.y,
                                  .ldx = r.w->cols,
                                  .ldy = r.w->rows,
                                  .n_tok = (int)T,
                                  .accumulate = true});
    }
    return got;
}

static void check_recur_case(kc *c, const recur_shape *s)
{
    int T = 0, vd = s->Hv * s->Dv, C = 2 * s->Hk * s->Dk + vd;
    size_t held = (size_t)(s->taps - 1) * (size_t)C, at = (held + 15) / 16 * 16;
    size_t floats = (at + (size_t)vd * (size_t)s->Dk + 15) / 16 * 16 * (size_t)s->n_seq;
    for (int i = 0; i < s->n_seq; i++) T += s->n_tok[i];
    kc_case(c, "T=%d S=%d %d x %d on %d x %d taps=%d%s", T, s->n_seq, s->Hv, s->Dv, s->Hk, s->Dk,
            s->taps, s->tiled ? " tiled" : "");
    size_t n = (size_t)T, H = (size_t)s->Hv;
    ap_recur_args a = {.conv = {.x = rows_in(c, n * (size_t)C, true),
                                .weight = rows_in(c, (size_t)s->taps * (size_t)C, true),
                                .ldx = C,
                                .n_tok = T,
                                .n_channel = C,
                                .n_tap = s->taps},
                       .delta = {.a = kc_in(c, n * H, 1),
                                 .b = kc_in(c, n * H, 1),
                                 .z = kc_in(c, n * (size_t)vd, 1),
                                 .lda = s->Hv,
                                 .ldb = s->Hv,
                                 .ldz = vd,
                                 .dt_bias = kc_in(c, H, 1),
                                 .norm_weight = kc_in(c, (size_t)s->Dv, 1),
                                 .eps = 1e-6f,
                                 .n_tok = T,
                                 .n_k_head = s->Hk,
                                 .n_v_head = s->Hv,
                                 .k_dim = s->Dk,
                                 .v_dim = s->Dv,
                                 .tiled = s->tiled}};
    float *neg = kc_out(c, H);
    for (size_t h = 0; h < H; h++) neg[h] = -expf((float)ap_rng_normal(&c->rng));
    a.delta.neg_exp_a = neg;
    a.delta.state.offset = at;
    a.conv.state.batch = a.delta.state.batch =
        kc_batch(c, s->n_seq, (int[3]){0}, s->n_tok, NULL, 0);
    float *from = kc_in(c, floats, 0.3);
    ap_tensor src;
    ap_mat mat, its;
    a.y = kc_in(c, n * RECUR_ROWS, 1);
    if (s->w) src = kc_weights(c, s->w, RECUR_ROWS, vd);
    if (s->w) mat = kc_mat(c, c->ref, &src);
    a.w = s->w ? &mat : NULL;
    ap_exec ref = exec_of(c, c->ref, APUS_PRECISION_HIGH, T, vd);
    recurred want = recur_twice(c, &ref, s, &a, from, floats, true);
    recurred same = recur_twice(c, &ref, s, &a, from, floats, false);
    kc_same(c, NULL, "group: out", same.out, vd, want.out, vd, T, vd);
    kc_same(c, NULL, "group: y", same.y, RECUR_ROWS, want.y, RECUR_ROWS, T, RECUR_ROWS);
    for (int k = 0; k < c->n_kern; k++) {
        const kc_kern *kern = &c->kern[k];
        ap_exec x = exec_of(c, &kern->x, APUS_PRECISION_HIGH, T, vd);
        if (s->w) its = kc_mat_of(c, kern, &src, &mat);
        a.w = s->w ? &its : NULL;
        recurred parts = recur_twice(c, &x, s, &a, from, floats, true);
        recurred got = recur_twice(c, &x, s, &a, from, floats, false);
        kc_same(c, kern, "parts: out", parts.out, vd, want.out, vd, T, vd);
        kc_again(c, kern, "group: out", got.out, vd, parts.out, vd, T, vd);
        kc_again(c, kern, "group: y", got.y, RECUR_ROWS, parts.y, RECUR_ROWS, T, RECUR_ROWS);
        kc_again(c, kern, "group: states", got.state, (int64_t)floats, parts.state, (int64_t)floats,
                 1, (int64_t)floats);
    }
}

void check_recur(kc *c)
{
    for (size_t i = 0; i < sizeof recur_shapes / sizeof *recur_shapes; i++)
        check_recur_case(c, &recur_shapes[i]);
}

/* ------------------------------------------------------------------ attend */

typedef struct attend_shape {
    int H, G, D, n_seq, pos[3], n_tok[3];
    bool gate;
    apus_kv type;
} attend_shape;

static const attend_shape attend_shapes[] = {
    {16, 2, 256, 1, {0}, {1}, true, APUS_KV_BF16},
    {4, 2, 64, 2, {70, 3}, {1, 1}, true, APUS_KV_F32},
    {4, 2, 64, 2, {5, 130}, {1, 1}, true, APUS_KV_Q8},
    {4, 4, 32, 1, {9}, {1}, false, APUS_KV_BF16},
    {8, 2, 64, 2, {40, 0}, {12, 1}, true, APUS_KV_BF16},
};

/* Keys and values before the step are zeros. */
static float *attended(kc *c, const ap_exec *ex, const attend_shape *s, const ap_attend_args *a,
                       bool parts)
{
    ap_attend_args t = *a;
    int T = t.attn.n_tok;
    size_t n = (size_t)T * (size_t)(s->H * s->D), bytes = 16 * a->attn.kv.page_bytes;
    t.qkv.q_out = kc_out(c, n);
    t.attn.q = t.qkv.q_out;
    t.attn.out = kc_out(c, n);
    t.attn.kv.base = memset(kc_bytes(c, bytes), 0, bytes);
    t.qkv.kv = t.attn.kv;
    t.attn.scratch = kc_bytes(c, ex->k->attn_scratch_bytes(ex, T, s->H, s->G, s->D));
    if (!parts) {
        kc_call(ex, attend, &t);
        return t.attn.out;
    }
    kc_call(ex, qkv, &t.qkv);
    kc_call(ex, attn, &t.attn);
    if (t.gate)
        kc_call(ex, elem,
                &(ap_elem_args){.op = AP_ELEM_MUL_SIGMOID,
                                .y = t.attn.out,
                                .x = t.gate,
                                .ldy = s->H * s->D,
                                .ldx = t.ldgate,
                                .rows = T,
                                .n = s->D,
                                .n_block = s->H,
                                .y_block = s->D,
                                .x_block = t.gate_head_stride});
    return t.attn.out;
}

static void check_attend_case(kc *c, const attend_shape *s)
{
    int T = 0, D = s->D, q_width = s->H * D * 2, wide = s->H * D;
    int32_t *page = kc_bytes(c, 16 * sizeof *page); /* a device reads it */
    for (int i = 0; i < 16; i++) page[i] = i;
    for (int i = 0; i < s->n_seq; i++) T += s->n_tok[i];
    size_t n = (size_t)T;
    kc_case(c, "T=%d S=%d H=%d G=%d D=%d type=%d", T, s->n_seq, s->H, s->G, D, (int)s->type);
    ap_kv kv = {.page_bytes = ap_kv_layer_bytes(s->type, s->G, D),
                .batch = kc_batch(c, s->n_seq, s->pos, s->n_tok, page, 4),
                .type = s->type};
    float *q = kc_in(c, n * (size_t)q_width, 1);
    ap_attend_args a = {.qkv = {.q = q,
                                .k = kc_in(c, n * (size_t)(s->G * D), 1),
                                .v = kc_in(c, n * (size_t)(s->G * D), 1),
                                .ldq = q_width,
                                .q_head_stride = 2 * D,
                                .ldk = s->G * D,
                                .ldv = s->G * D,
                                .eps = 1e-6f,
                                .cos = kc_in(c, n * (size_t)(D / 4), 1),
                                .sin = kc_in(c, n * (size_t)(D / 4), 1),
                                .n_angle = D / 4,
                                .pair_offset = D / 4,
                                .n_tok = T,
                                .n_head = s->H,
                                .n_kv_head = s->G,
                                .head_dim = D},
                        .attn = {.kv = kv,
                                 .n_tok = T,
                                 .n_head = s->H,
                                 .n_kv_head = s->G,
                                 .head_dim = D,
                                 .scale = 0.0625f},
                        .gate = s->gate ? q + D : NULL,
                        .ldgate = q_width,
                        .gate_head_stride = 2 * D};
    float *want = attended(c, c->ref, s, &a, true), *same = attended(c, c->ref, s, &a, false);
    kc_same(c, NULL, "group", same, wide, want, wide, T, wide);
    for (int k = 0; k < c->n_kern; k++) {
        const kc_kern *kern = &c->kern[k];
        float *parts = attended(c, &kern->x, s, &a, true);
        kc_again(c, kern, "group", attended(c, &kern->x, s, &a, false), wide, parts, wide, T, wide);
    }
}

void check_attend(kc *c)
{
    for (size_t i = 0; i < sizeof attend_shapes / sizeof *attend_shapes; i++)
        check_attend_case(c, &attend_shapes[i]);
}
