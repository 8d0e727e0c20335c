#include "kern/profile.h"

#include <string.h>

#include "base/file.h"
#include "kern/cpu/unit.h"

/* The entry of an operation; a new one as long as there is room. */
static ap_profile_entry *find(ap_profile *p, const char *op, const char *type, int rows, int cols,
                              apus_unit unit)
{
    ap_profile_entry *e = p->entry;
    for (int i = 0; i < p->n; i++, e++)
        if (e->op == op && e->type == type && e->rows == rows && e->cols == cols && e->unit == unit) return e;
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
static ap_profile_entry *find_mat(const ap_kern *k, const char *op, const ap_mat *const *w, int n_mat, int n_tok)
{
    return find(k->profile, op, ap_dtype_name(w[0]->dtype), w[0]->rows, w[0]->cols,
                ap_cpu_unit(k, w, n_mat, n_tok));
}

static double mat_flops(const ap_mat *w, int64_t n_tok)
{
    return 2.0 * w->rows * w->cols * (double)n_tok;
}

/* ------------------------------------------------------------------ products */

static void matmul(const ap_kern *k, const ap_matmul_args *a)
{
    int64_t begin = ap_time_ns();
    k->profile->inner.matmul(k, a);
    int64_t ns = ap_time_ns() - begin;
    add(find_mat(k, "matmul", &a->w, 1, a->n_tok), ns, a->n_tok, mat_flops(a->w, a->n_tok),
        (double)ap_mat_bytes(a->w));
}

static void glu(const ap_kern *k, const ap_glu_args *a)
{
    int64_t begin = ap_time_ns();
    k->profile->inner.glu(k, a);
    int64_t ns = ap_time_ns() - begin;
    add(find_mat(k, "glu", (const ap_mat *const[]){a->gate, a->up}, 2, a->n_tok), ns, a->n_tok,
        mat_flops(a->gate, a->n_tok) + mat_flops(a->up, a->n_tok),
        (double)(ap_mat_bytes(a->gate) + ap_mat_bytes(a->up)));
}

static void moe(const ap_kern *k, const ap_moe_args *a)
{
    ap_profile *p = k->profile;
    int64_t begin = ap_time_ns(), pairs = (int64_t)a->n_tok * a->n_used;
    p->inner.moe(k, a);
    int64_t ns = ap_time_ns() - begin, active = 0;
    double bytes = 0, flops = 0;
    const ap_expert *first = NULL;
    memset(p->seen, 0, sizeof p->seen);
    for (int64_t i = 0; i < pairs; i++) {
        int id = a->ids[i];
        uint64_t bit = (uint64_t)1 << id % 64, *word = &p->seen[id / 64];
        const ap_expert *e = &a->experts[id];
        if (!first) first = e;
        flops += mat_flops(&e->gate, 1) + mat_flops(&e->up, 1) + mat_flops(&e->down, 1);
        if (*word & bit) continue;
        *word |= bit;
        active++;
        bytes += (double)(ap_mat_bytes(&e->gate) + ap_mat_bytes(&e->up) + ap_mat_bytes(&e->down));
    }
    if (!first) return;
    /* experts with few rows may run on another unit than the average one */
    int rows = (int)((pairs + active - 1) / active);
    ap_profile_entry *e = find_mat(k, "moe", (const ap_mat *const[]){&first->gate, &first->up}, 2, rows);
    e->experts += active;
    add(e, ns, a->n_tok, flops, bytes);
}

/* ------------------------------------------------------------------ states */

static void attn(const ap_kern *k, const ap_attn_args *a)
{
    int64_t begin = ap_time_ns();
    k->profile->inner.attn(k, a);
    int64_t ns = ap_time_ns() - begin;
    double pairs = 0, pages = 0; /* of a query and a key it sees; read */
    for (int i = 0; i < a->kv.n_seq; i++) {
        const ap_kv_seq *s = &a->kv.seq[i];
        int first = a->window && s->pos >= a->window ? s->pos - a->window + 1 : 0;
        if (s->n_tok == 0) continue;
        pages += (s->pos + s->n_tok - 1) / AP_PAGE - first / AP_PAGE + 1;
        for (int t = s->pos + 1; t <= s->pos + s->n_tok; t++)
            pairs += a->window && t > a->window ? a->window : t;
    }
    ap_profile_entry *e = find(k->profile, "attn", a->window ? "window" : "", a->n_head, a->head_dim,
                               APUS_UNIT_NONE);
    add(e, ns, a->n_tok, 4.0 * pairs * a->n_head * a->head_dim,
        pages * (double)ap_kv_layer_bytes(a->kv.type, a->n_kv_head, a->head_dim));
}

static void delta(const ap_kern *k, const ap_delta_args *a)
{
    int64_t begin = ap_time_ns();
    k->profile->inner.delta(k, a);
    int64_t ns = ap_time_ns() - begin;
    /* two products with the state and its renewal by two multiply-adds */
    double state = (double)a->n_v_head * a->v_dim * a->k_dim;
    add(find(k->profile, "delta", "", a->n_v_head, a->v_dim, APUS_UNIT_NONE), ns, a->n_tok, 8.0 * state * a->n_tok,
        state * sizeof(float) * a->n_seq);
}

/* ------------------------------------------------------------------ the rest */

#define TIMED(slot, args, rows)                                                                    \
    static void slot(const ap_kern *k, const args *a)                                              \
    {                                                                                              \
        int64_t begin = ap_time_ns();                                                              \
        k->profile->inner.slot(k, a);                                                              \
        int64_t ns = ap_time_ns() - begin;                                                         \
        add(find(k->profile, #slot, "", 0, 0, APUS_UNIT_NONE), ns, a->rows, 0, 0);                 \
    }

TIMED(embed, ap_embed_args, n_tok)
TIMED(norm, ap_norm_args, rows)
TIMED(route, ap_route_args, n_tok)
TIMED(rope, ap_rope_args, n_tok)
TIMED(qkv, ap_qkv_args, n_tok)
TIMED(conv, ap_conv_args, n_tok)
TIMED(elem, ap_elem_args, rows)

void ap_kern_profile(ap_kern *k, ap_profile *p)
{
    ap_kern_profile_end(k);
    p->inner = *k;
    p->n = 0;
    k->profile = p;
    k->embed = embed;
    k->norm = norm;
    k->matmul = matmul;
    k->glu = glu;
    k->route = route;
    k->moe = moe;
    k->rope = rope;
    k->qkv = qkv;
    k->attn = attn;
    k->conv = conv;
    k->delta = delta;
    k->elem = elem;
}

void ap_kern_profile_end(ap_kern *k)
{
    if (k->profile) *k = k->profile->inner;
}
