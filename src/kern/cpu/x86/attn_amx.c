/* attn_amx.c - attention over bf16 pages in bf16 tiles (precision FAST). K and V pages are right
 * operands as they are: 16 pairs of what is summed, 16 columns. A row's results do not depend on the
 * rows beside it. */
#include "kern/cpu/x86/amx_tile.h"
#include "kern/cpu/x86/attn_fast.h"

#define ROWS 64 /* of a call; whole tiles, or the last one has rows that nobody looks at */

static bool usable(int head_dim)
{
    return head_dim % 32 == 0 && head_dim <= FAST_MAX_DIM;
}

/* Asks memory for the 2 KB that a step of 2 tiles reads in the next page, one after the other. */
static const uint8_t *ask(const uint8_t *soon)
{
    if (!soon) return NULL;
    for (int i = 0; i < 2 * AMX_TILE; i += 64) _mm_prefetch((const char *)(soon + i), _MM_HINT_T1);
    return soon + 2 * AMX_TILE;
}

/* s f32 [32 or 16 rows][AP_PAGE] = q . K */
static void scores(const uint8_t *q, bool two, const uint8_t *k, int head_dim, float *s,
                   int64_t ahead)
{
    const size_t ldq = AP_Q_STRIDE * sizeof(float), ldk = AP_PAGE * 4, lds = AP_PAGE * sizeof *s;
    const uint8_t *soon = ap_kv_ahead(k, ahead);
    for (int j = 0; j < AP_PAGE; j += 32) {
        const uint8_t *b = k + j * 4;
        AMX_ZERO(0);
        AMX_ZERO(1);
        AMX_ZERO(2);
        AMX_ZERO(3);
        for (int d = 0; d < head_dim; d += 32, b += 16 * ldk) {
            soon = ask(soon);
            AMX_LOAD(4, q + d * 2, ldq);
            AMX_LOAD(6, b, ldk);
            AMX_LOAD(7, b + 64, ldk);
            AMX_BF16(0, 4, 6);
            AMX_BF16(1, 4, 7);
            if (!two) continue;
            AMX_LOAD(5, q + d * 2 + 16 * ldq, ldq);
            AMX_BF16(2, 5, 6);
            AMX_BF16(3, 5, 7);
        }
        AMX_STORE(0, s + j, lds);
        AMX_STORE(1, s + j + 16, lds);
        if (!two) continue;
        AMX_STORE(2, s + j + 16 * AP_PAGE, lds);
        AMX_STORE(3, s + j + 16 * AP_PAGE + 16, lds);
    }
}

/* o f32 [32 or 16 rows][head_dim] += p . V */
static void values(const uint16_t *p, bool two, const uint8_t *v, int head_dim, float *o,
                   int64_t ahead)
{
    const size_t ldp = AP_PAGE * sizeof *p, ldv = (size_t)head_dim * 4,
                 ldo = (size_t)head_dim * sizeof *o;
    const uint8_t *soon = ap_kv_ahead(v, ahead);
    for (int d = 0; d < head_dim; d += 32, v += 128, o += 32) {
        AMX_LOAD(0, o, ldo);
        AMX_LOAD(1, o + 16, ldo);
        if (two) {
            AMX_LOAD(2, o + 16 * head_dim, ldo);
            AMX_LOAD(3, o + 16 * head_dim + 16, ldo);
        }
        for (int j = 0; j < AP_PAGE; j += 32) {
            const uint8_t *b = v + (size_t)j / 2 * ldv;
            soon = ask(soon);
            AMX_LOAD(4, p + j, ldp);
            AMX_LOAD(6, b, ldv);
            AMX_LOAD(7, b + 64, ldv);
            AMX_BF16(0, 4, 6);
            AMX_BF16(1, 4, 7);
            if (!two) continue;
            AMX_LOAD(5, p + j + 16 * AP_PAGE, ldp);
            AMX_BF16(2, 5, 6);
            AMX_BF16(3, 5, 7);
        }
        AMX_STORE(0, o, ldo);
        AMX_STORE(1, o + 16, ldo);
        if (!two) continue;
        AMX_STORE(2, o + 16 * head_dim, ldo);
        AMX_STORE(3, o + 16 * head_dim + 16, ldo);
    }
}

static void page(const float *q, int n_row, const ap_kv_head *h, int head_dim, const int *lo,
                 const int *hi, float scale, float *s, float *m, float *l, float *const *o,
                 int64_t ahead)
{
    _Alignas(64) uint16_t p[ROWS * AP_PAGE];
    _Alignas(64) uint8_t copy[AP_PAGE * FAST_MAX_DIM * 2];
    const uint8_t *v = fast_values(h->v, n_row, lo, hi, head_dim, copy);
    amx_begin();
    for (int r = 0; r < n_row; r += 32) {
        const uint8_t *a = (const uint8_t *)q + (size_t)r * AP_Q_STRIDE * sizeof *q;
        scores(a, n_row - r > 16, h->k, head_dim, s + r * AP_PAGE, r == 0 ? ahead : 0);
    }
    for (int r = 0; r < n_row; r++)
        fast_softmax(s + r * AP_PAGE, lo[r], hi[r], scale, head_dim, m + r, l + r, o[r],
                     p + r * AP_PAGE);
    if (n_row % 16) memset(p + n_row * AP_PAGE, 0, (size_t)(16 - n_row % 16) * AP_PAGE * sizeof *p);
    for (int r = 0; r < n_row; r += 32)
        values(p + r * AP_PAGE, n_row - r > 16, v, head_dim, o[r], r == 0 ? ahead : 0);
    amx_end();
}

const ap_micro_fast ap_attn_fast_amx = {
    .rows = ROWS, .tile = ROWS, .step = 16, .usable = usable, .query = fast_query, .page = page};
