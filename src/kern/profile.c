#include "kern/profile.h"

#include "kern/groups.h"

#include <string.h>

#include "base/file.h"
#include "kern/cpu/product/unit.h"

/* The entry of an operation; a new one as long as there is room. */
static ap_profile_entry *find(ap_profile *p, const char *op, const char *type, int rows, int cols,
                              apus_unit unit)
{
    ap_profile_entry *e = p->entry;
    for (int i = 0; i < p->n; i++, e++)
        if (e->op == op && e->type == type && e->rows == rows && e->cols == cols && e->unit == unit)
            return e;
    if (p->n == AP_PROFILE_ENTRIES) {
        e--;
        e->op = "others";
        e->type = "";
        e->rows = e->cols = 0;
        e->unit = APUS_UNIT_NONE;
        return e;
    }
    p->n++;
    *e = (ap_profile_entry){.op = op, .type = type, .rows = rows, .cols = cols, .unit = unit};
    return e;
}

static void add(ap_profile_entry *e, int64_t ns, int n_tok, double flops, double bytes)
{
    e->ns += ns;
    e->calls++;
    e->tokens += n_tok;
    e->flops += flops;
    e->bytes += bytes;
}

/* Of products of n_tok rows each with w[0] and, in glu and moe, w[1]. */
static ap_profile_entry *find_mat(const ap_exec *ex, const char *op, const ap_mat *const *w,
                                  int n_mat, int n_tok)
{
    apus_unit unit = ex->dev->is_host ? ap_cpu_unit(ex, w, n_mat, n_tok) : APUS_UNIT_NONE;
    return find(ex->profile, op, ap_dtype_name(w[0]->dtype), w[0]->rows, w[0]->cols, unit);
}

static double mat_flops(const ap_mat *w, int64_t n_tok)
{
    return 2.0 * w->rows * w->cols * (double)n_tok;
}

/* A call of a slot of the table that is timed, until it is done. */
static ap_exec inner(const ap_exec *ex)
{
    ap_exec in = *ex;
    in.k = ex->profile->inner;
    return in;
}

static int64_t end(const ap_exec *ex, int64_t begin)
{
    ex->dev->op->finish(ex->dev, NULL); /* an error shows again at the end of the step */
    return ap_time_ns() - begin;
}

/* ------------------------------------------------------------------ products */

static void matmul(const ap_exec *ex, const ap_matmul_args *a)
{
    ap_exec in = inner(ex);
    int64_t begin = ap_time_ns();
    in.k->matmul(&in, a);
    int64_t ns = end(ex, begin);
    add(find_mat(ex, "matmul", &a->w, 1, a->n_tok), ns, a->n_tok, mat_flops(a->w, a->n_tok),
        (double)ap_mat_bytes(a->w));
}

static void glu(const ap_exec *ex, const ap_glu_args *a)
{
    ap_exec in = inner(ex);
    int64_t begin = ap_time_ns();
    in.k->glu(&in, a);
    int64_t ns = end(ex, begin);
    add(find_mat(ex, "glu", (const ap_mat *const[]){a->gate, a->up}, 2, a->n_tok), ns, a->n_tok,
        mat_flops(a->gate, a->n_tok) + mat_flops(a->up, a->n_tok),
        (double)(ap_mat_bytes(a->gate) + ap_mat_bytes(a->up)));
}

/* What a call of moe has read and done. */
typedef struct moe_sum {
    int64_t active; /* experts with a row */
    double bytes, flops;
} moe_sum;

static moe_sum moe_sum_of(ap_profile *p, const ap_moe_args *a)
{
    moe_sum s = {0};
    memset(p->seen, 0, sizeof p->seen);
    for (int64_t i = 0; i < (int64_t)a->n_tok * a->n_used; i++) {
        int id = a->ids[i];
        uint64_t bit = (uint64_t)1 << id % 64, *word = &p->seen[id / 64];
        const ap_expert *e = &a->experts[id];
        s.flops += mat_flops(&e->gate, 1) + mat_flops(&e->up, 1) + mat_flops(&e->down, 1);
        if (*word & bit) continue;
        *word |= bit;
        s.active++;
        s.bytes += (double)(ap_mat_bytes(&e->gate) + ap_mat_bytes(&e->up) + ap_mat_bytes(&e->down));
    }
    return s;
}

/* Where the ids are out of sight: as if all experts were alike, and chosen evenly. */
static moe_sum moe_sum_even(const ap_moe_args *a)
{
    const ap_expert *e = a->experts;
    int64_t pairs = (int64_t)a->n_tok * a->n_used;
    moe_sum s = {.active = pairs < a->n_expert ? pairs : a->n_expert};
    s.flops = mat_flops(&e->gate, pairs) + mat_flops(&e->up, pairs) + mat_flops(&e->down, pairs);
    s.bytes = (double)s.active *
              (double)(ap_mat_bytes(&e->gate) + ap_mat_bytes(&e->up) + ap_mat_bytes(&e->down));
    return s;
}

static void moe(const ap_exec *ex, const ap_moe_args *a)
{
    ap_exec in = inner(ex);
    int64_t begin = ap_time_ns(), pairs = (int64_t)a->n_tok * a->n_used;
    in.k->moe(&in, a);
    int64_t ns = end(ex, begin);
    if (!pairs) return;
    moe_sum sum = ex->dev->is_host ? moe_sum_of(ex->profile, a) : moe_sum_even(a);
    const ap_expert *first = &a->experts[ex->dev->is_host ? a->ids[0] : 0];
    /* experts with few rows may run on another unit than the average one */
    int rows = (int)((pairs + sum.active - 1) / sum.active);
    ap_profile_entry *e =
        find_mat(ex, "moe", (const ap_mat *const[]){&first->gate, &first->up}, 2, rows);
    e->experts += sum.active;
    add(e, ns, a->n_tok, sum.flops, sum.bytes);
}

/* In waves: the entry of moe, a call for each wave. */
static void moe_wave(const ap_exec *ex, const ap_moe_args *a, const int32_t *id,
                     const ap_expert *expert, int n)
{
    ap_exec in = inner(ex);
    int64_t begin = ap_time_ns(), pairs = 0;
    in.k->moe_wave(&in, a, id, expert, n);
    int64_t ns = end(ex, begin);
    double bytes = 0;
    for (int i = 0; i < n; i++) {
        const ap_expert *e = &expert[i];
        bytes += (double)(ap_mat_bytes(&e->gate) + ap_mat_bytes(&e->up) + ap_mat_bytes(&e->down));
        for (int64_t p = 0; p < (int64_t)a->n_tok * a->n_used; p++) pairs += a->ids[p] == id[i];
    }
    if (!pairs) return;
    const ap_mat *const w[2] = {&expert->gate, &expert->up};
    ap_profile_entry *e = find_mat(ex, "moe", w, 2, (int)((pairs + n - 1) / n));
    e->experts += n;
    add(e, ns, a->n_tok,
        mat_flops(&expert->gate, pairs) + mat_flops(&expert->up, pairs) +
            mat_flops(&expert->down, pairs),
        bytes);
}

/* ------------------------------------------------------------------ states */

static void attn(const ap_exec *ex, const ap_attn_args *a)
{
    ap_exec in = inner(ex);
    int64_t begin = ap_time_ns();
    in.k->attn(&in, a);
    int64_t ns = end(ex, begin);
    double pairs = 0, pages = 0; /* of a query and a key it sees; read */
    const ap_batch *b = a->kv.batch;
    for (int i = 0; i < b->n_seq; i++) {
        const ap_seq *s = &b->seq[i];
        int first = a->window && s->pos >= a->window ? s->pos - a->window + 1 : 0;
        if (s->n_tok == 0) continue;
        pages += (s->pos + s->n_tok - 1) / AP_PAGE - first / AP_PAGE + 1;
        for (int t = s->pos + 1; t <= s->pos + s->n_tok; t++)
            pairs += a->window && t > a->window ? a->window : t;
    }
    ap_profile_entry *e = find(ex->profile, "attn", a->window ? "window" : "", a->n_head,
                               a->head_dim, APUS_UNIT_NONE);
    add(e, ns, a->n_tok, 4.0 * pairs * a->n_head * a->head_dim,
        pages * (double)ap_kv_layer_bytes(a->kv.type, a->n_kv_head, a->head_dim));
}

static void delta(const ap_exec *ex, const ap_delta_args *a)
{
    ap_exec in = inner(ex);
    int64_t begin = ap_time_ns();
    in.k->delta(&in, a);
    int64_t ns = end(ex, begin);
    /* two products with the state and its renewal by two multiply-adds */
    double state = (double)a->n_v_head * a->v_dim * a->k_dim;
    add(find(ex->profile, "delta", "", a->n_v_head, a->v_dim, APUS_UNIT_NONE), ns, a->n_tok,
        8.0 * state * a->n_tok, state * sizeof(float) * a->state.batch->n_seq);
}

/* ------------------------------------------------------------------ the rest */

#define TIMED(slot, args, rows)                                                                    \
    static void slot(const ap_exec *ex, const args *a)                                             \
    {                                                                                              \
        ap_exec in = inner(ex);                                                                    \
        int64_t begin = ap_time_ns();                                                              \
        in.k->slot(&in, a);                                                                        \
        int64_t ns = end(ex, begin);                                                               \
        add(find(ex->profile, #slot, "", 0, 0, APUS_UNIT_NONE), ns, a->rows, 0, 0);                \
    }

TIMED(embed, ap_embed_args, n_tok)
TIMED(norm, ap_norm_args, rows)
TIMED(layer_norm, ap_layer_norm_args, rows)
TIMED(blend, ap_blend_args, rows)
TIMED(route, ap_route_args, n_tok)
TIMED(rope, ap_rope_args, n_tok)
TIMED(qkv, ap_qkv_args, n_tok)
TIMED(attn_near, ap_attn_near_args, n_tok)
TIMED(conv, ap_conv_args, n_tok)
TIMED(elem, ap_elem_args, rows)
TIMED(sample, ap_sample_args, n)

void ap_profile_begin(ap_profile *p, ap_exec *ex)
{
    ap_profile_end(ex);
    p->n = 0;
    p->inner = ex->k;
    p->timed = *ex->k;
    p->timed.embed = embed;
    p->timed.norm = norm;
    p->timed.layer_norm = layer_norm;
    p->timed.blend = blend;
    p->timed.matmul = matmul;
    p->timed.glu = glu;
    p->timed.route = route;
    p->timed.moe = moe;
    p->timed.moe_wave = moe_wave;
    p->timed.rope = rope;
    p->timed.qkv = qkv;
    p->timed.attn = attn;
    p->timed.attn_near = attn_near;
    p->timed.conv = conv;
    p->timed.delta = delta;
    p->timed.elem = elem;
    p->timed.project = ap_group_project;
    p->timed.mix = ap_group_mix;
    p->timed.recur = ap_group_recur;
    p->timed.attend = ap_group_attend;
    p->timed.sample = sample;
    ex->k = &p->timed;
    ex->profile = p;
}

void ap_profile_end(ap_exec *ex)
{
    if (!ex->profile) return;
    ex->k = ex->profile->inner;
    ex->profile = NULL;
}
