/* check_waves.c - experts in waves: the bits of moe, however the experts come. */
#include <string.h>

#include "kcheck.h"

enum { MAX_EXPERTS = 64 };

/* The experts of a list in another order. */
static void shuffle(kc *c, int32_t *id, int n)
{
    for (int i = n - 1; i > 0; i--) {
        int j = kc_int(c, 0, i);
        int32_t t = id[i];
        id[i] = id[j];
        id[j] = t;
    }
}

/* a in waves of at most `most` experts. */
static void run_waves(kc *c, const ap_exec *ex, const ap_moe_args *a, int most)
{
    int32_t need[MAX_EXPERTS];
    ap_moe_args w = *a;
    w.experts = NULL;
    int n = ex->k->moe_begin(ex, &w, need);
    shuffle(c, need, n);
    for (int i = 0; i < n;) {
        /* at addresses where other experts are next, as in a store's slots */
        ap_expert at_hand[MAX_EXPERTS];
        int wave = kc_int(c, 1, most < n - i ? most : n - i);
        memset(at_hand, 0, sizeof at_hand);
        for (int j = 0; j < wave; j++) at_hand[j] = a->experts[need[i + j]];
        kc_call(ex, moe_wave, &w, need + i, at_hand, wave);
        i += wave;
    }
    kc_call(ex, moe_end, &w);
}

void check_in_waves(kc *c, const kc_kern *who, const ap_exec *ex, const ap_moe_args *args, int H,
                    int F)
{
    size_t ny = (size_t)args->n_tok * (size_t)args->ldy;
    float *start = kc_out(c, ny), *want = kc_out(c, ny), *y = kc_out(c, ny);
    ap_moe_args a = *args;
    if (!ex->k->moe_begin) return;
    for (int t = 0; t < a.n_tok && a.accumulate; t++)
        for (int i = 0; i < H; i++) start[t * a.ldy + i] = (float)kc_int(c, -99, 99) * 0.01f;
    memcpy(want, start, ny * sizeof *want);
    a.hidden = H;
    a.ffn = F;
    a.y = want;
    a.scratch = kc_bytes(c, ex->k->moe_scratch_bytes(ex, a.n_tok, a.n_expert, a.n_used, H, F));
    kc_call(ex, moe, &a);
    a.scratch =
        kc_bytes(c, ex->k->moe_waves_scratch_bytes(ex, a.n_tok, a.n_expert, a.n_used, H, F));
    a.y = y;
    for (int most = 1; most <= 2 * a.n_expert; most *= 3) {
        memcpy(y, start, ny * sizeof *y);
        run_waves(c, ex, &a, most);
        kc_written(c, "y", y, a.n_tok, H, a.ldy);
        kc_again(c, who, "waves", y, a.ldy, want, a.ldy, a.n_tok, H);
    }
}

typedef struct routed {
    int32_t *ids;
    float *weights;
} routed;

/* K of E experts for each token, distinct. */
static routed route(kc *c, int T, int E, int K)
{
    routed r = {kc_bytes(c, (size_t)T * (size_t)K * sizeof(int32_t)),
                kc_in(c, (size_t)T * (size_t)K, 0.3)};
    for (int t = 0; t < T; t++) {
        int32_t order[MAX_EXPERTS];
        for (int e = 0; e < E; e++) order[e] = e;
        shuffle(c, order, E);
        memcpy(r.ids + (size_t)t * (size_t)K, order, (size_t)K * sizeof *order);
    }
    return r;
}

void check_moe_waves_scratch_bytes(kc *c)
{
    for (int i = 0; i < 100; i++) {
        int T = kc_int(c, 1, 600), E = kc_int(c, 1, 256), K = kc_int(c, 1, 16),
            H = kc_int(c, 1, 4096), F = kc_int(c, 1, 4096);
        kc_case(c, "T=%d E=%d K=%d H=%d F=%d", T, E, K, H, F);
        for (int k = 0; k < c->n_kern; k++) {
            const ap_exec *ex = &c->kern[k].x;
            if (!ex->k->moe_begin) continue;
            size_t need = (size_t)T * (size_t)K * (size_t)(H + F) * sizeof(float);
            size_t bytes = ex->k->moe_waves_scratch_bytes(ex, T, E, K, H, F);
            c->values++;
            if (bytes < need || bytes > 6 * need + (16 << 20)) kc_fail(c, "%zu bytes", bytes);
            if (ex->k->moe_waves_scratch_bytes(ex, T + 1, E, K, H, F) < bytes)
                kc_fail(c, "shrinks with T");
        }
    }
    kc_case(c, "huge");
    if (c->ref->k->moe_waves_scratch_bytes(c->ref, INT32_MAX, 512, 64, 1 << 24, 1 << 24) <
        SIZE_MAX / 2)
        kc_fail(c, "wrapped around");
}

/* Every expert with a token, once, ascending. */
void check_moe_begin(kc *c)
{
    static const int shapes[][3] = {{0, 4, 2}, {1, 1, 1}, {1, 64, 8}, {7, 5, 2}, {90, 64, 3}};
    for (int i = 0; i < 5 * c->n_kern; i++) {
        const ap_exec *ex = &c->kern[i / 5].x;
        if (!ex->k->moe_begin) continue;
        int T = shapes[i % 5][0], E = shapes[i % 5][1], K = shapes[i % 5][2], at = 0;
        kc_case(c, "T=%d E=%d K=%d", T, E, K);
        routed r = route(c, T, E, K);
        int32_t *need = kc_bytes(c, (size_t)E * sizeof *need);
        bool has[MAX_EXPERTS] = {false};
        for (int p = 0; p < T * K; p++) has[r.ids[p]] = true;
        ap_moe_args a = {.ids = r.ids,
                         .weights = r.weights,
                         .n_tok = T,
                         .n_expert = E,
                         .n_used = K,
                         .hidden = 32,
                         .ffn = 16};
        a.scratch = kc_bytes(c, ex->k->moe_waves_scratch_bytes(ex, T, E, K, 32, 16));
        int n = ex->k->moe_begin(ex, &a, need);
        for (int e = 0; e < E; e++) {
            if (!has[e]) continue;
            c->values++;
            if (at >= n || need[at++] != e) kc_fail(c, "expert %d is not in its place", e);
        }
        if (at != n) kc_fail(c, "%d experts, expected %d", n, at);
    }
}

static void check_case(kc *c, const int *s, bool accumulate)
{
    static const ap_dtype types[] = {AP_BF16, AP_F16, AP_F32};
    int T = s[0], E = s[1], K = s[2], H = s[3], F = s[4];
    ap_expert expert[MAX_EXPERTS];
    kc_case(c, "T=%d E=%d K=%d H=%d F=%d%s", T, E, K, H, F, accumulate ? " accumulate" : "");
    for (int e = 0; e < E; e++) {
        ap_tensor up = kc_tensor(c, types[e % 3], F, H, 0.2, NULL),
                  down = kc_tensor(c, types[(e + 1) % 3], H, F, 0.2, NULL);
        expert[e] =
            (ap_expert){kc_mat(c, c->ref, &up), kc_mat(c, c->ref, &up), kc_mat(c, c->ref, &down)};
    }
    routed r = route(c, T, E, K);
    ap_moe_args a = {.ids = r.ids,
                     .weights = r.weights,
                     .experts = expert,
                     .ldx = H + kc_int(c, 0, 3),
                     .ldy = H + kc_int(c, 0, 3),
                     .n_tok = T,
                     .n_expert = E,
                     .n_used = K,
                     .act = accumulate ? AP_ACT_SILU : AP_ACT_GELU_TANH,
                     .accumulate = accumulate};
    a.x = kc_in(c, (size_t)T * (size_t)a.ldx, 1.0);
    for (int k = 0; k < c->n_kern; k++) check_in_waves(c, &c->kern[k], &c->kern[k].x, &a, H, F);
}

/* Other weights and precisions are in the checks of moe. */
void check_moe_wave(kc *c)
{
    static const int shapes[][5] = {{1, 1, 1, 1, 1},     {1, 8, 8, 33, 20},    {2, 8, 2, 40, 17},
                                    {5, 16, 4, 64, 32},  {7, 3, 2, 100, 50},   {33, 8, 2, 48, 70},
                                    {130, 6, 2, 30, 20}, {300, 64, 8, 16, 16}, {0, 4, 2, 16, 16}};
    for (int i = 0; i < 9; i++) check_case(c, shapes[i], false);
}

/* What is added to, and results of several slices of moe. */
void check_moe_end(kc *c)
{
    check_case(c, (const int[]){3, 8, 4, 600, 30}, true);
    check_case(c, (const int[]){1100, 32, 8, 283, 16}, true);
}
