#include "kern/cpu/product/product.h"

#include <stdalign.h>
#include <string.h>

#include "base/num.h"
#include "kern/cpu/micro/micro_qwiden.h"
#include "kern/cpu/ops/ops.h"
#include "tensor/quant.h"

/* Panels that are unpacked together. */
#define Q_PANELS 2
/* Panels that are widened together: 128 KB. */
#define WIDE_PANELS 4

#define STEPS_PER_TASK   4096 /* of 16 multiply-adds: a microsecond or less */
#define TASKS_PER_THREAD 6
#define L2_PANELS        16 /* 256 KB of bf16 in a K block */

ap_split ap_split_product(const ap_exec *ex, int rows, int panels, int cols, int n_mat, int units,
                          bool integers)
{
    const ap_micro *m = ex->k->impl;
    ap_split s = {0};
    if (rows <= 0 || panels <= 0) return s;
    int tile = m->matmul->tile_rows, threads = ap_pool_threads(ex->dev->pool);
    s.n_row_blocks = ap_div_up(rows, AP_TASK_ROWS);
    s.row_block = ap_div_up(rows, s.n_row_blocks);
    if (s.row_block > tile) s.row_block = ap_div_up(s.row_block, tile) * tile;
    s.n_row_blocks = ap_div_up(rows, s.row_block);

    int most = AP_TASK_FLOATS / (s.row_block * AP_PANEL * n_mat);
    if (!integers && s.row_block > tile && most > L2_PANELS / n_mat) most = L2_PANELS / n_mat;
    int group = panels;
    if (threads > 1) {
        int64_t blocks = (int64_t)s.n_row_blocks * units;
        int64_t share = panels * blocks / ((int64_t)threads * TASKS_PER_THREAD);
        int64_t least = STEPS_PER_TASK / ((int64_t)s.row_block * cols * n_mat) + 1;
        if (share < least) share = least;
        if (share < group) group = (int)share;
    }
    int unit = m->matmul->few_panels; /* whole sets of panels that stream well together */
    group = group > unit ? ap_div_up(group, unit) * unit : group;
    if (group > most) group = most > unit ? most / unit * unit : most;
    s.group = group;
    s.n_groups = ap_div_up(panels, group);
    s.n_tasks = s.n_row_blocks * s.n_groups;
    return s;
}

typedef struct block {
    const uint8_t *w;
    size_t panel_bytes;
    ap_dtype type;
} block;

static block block_at(const ap_mat *w, int p0, int k0)
{
    block b = {.panel_bytes = ap_panel_bytes(w->dtype, w->cols), .type = w->dtype};
    b.w = (const uint8_t *)w->data + (size_t)p0 * b.panel_bytes +
          (size_t)k0 * AP_PANEL * ap_dtype_bytes(w->dtype);
    return b;
}

/* Rows of one K block, copied where tiles want them close together. */
typedef struct block_rows {
    const float *few[AP_FEW_ROWS];
    int r0, n; /* of the task's rows */
    bool is_few;
} block_rows;

static block_rows gather(const float *const *x, int rows, int tile, int n_tiles, int k0, int n,
                         float *xpack)
{
    /* tiles of nearly equal height */
    block_rows b = {.r0 = ap_op_first(rows, tile, n_tiles), .is_few = rows <= AP_FEW_ROWS};
    b.n = ap_op_first(rows, tile + 1, n_tiles) - b.r0;
    for (int r = 0; r < b.n; r++) {
        if (b.is_few)
            b.few[r] = x[b.r0 + r] + k0;
        else
            memcpy(xpack + r * AP_XPACK_LD, x[b.r0 + r] + k0, (size_t)n * sizeof(float));
    }
    return b;
}

static void multiply(const ap_micro_matmul *mm, const block_rows *b, const float *xpack,
                     const block *w, int n_panel, int n, float *out, int ld, bool add)
{
    if (b->is_few)
        mm->few[w->type](b->few, b->n, w->w, w->panel_bytes, n_panel, n, out, ld, add);
    else
        mm->tile[w->type](xpack, b->n, w->w, w->panel_bytes, n_panel, n, out, ld, add);
}

/* A K block of a panel of quantised rows as an F32 panel [n][AP_PANEL]: of a packed panel, or of the rows
 * as the file has them. */
static void widen_panel(const ap_micro *m, const ap_mat *w, int p, int k0, int n, float *panel)
{
    if (w->data) {
        const uint8_t *packed =
            (const uint8_t *)w->data + (size_t)p * ap_q_panel_bytes(w->q, w->cols);
        m->qwiden->widen(w->q, packed, w->cols, k0 / AP_Q_BLOCK, n / AP_Q_BLOCK, panel);
        return;
    }
    float row[AP_K_BLOCK];
    for (int r = 0; r < AP_PANEL; r++) {
        int64_t i = (int64_t)p * AP_PANEL + r;
        if (i < w->rows) ap_tensor_row_f32(&w->raw, i, k0, n, row);
        for (int c = 0; c < n; c++) panel[c * AP_PANEL + r] = i < w->rows ? row[c] : 0;
    }
}

/* Quantised weights in the Order of f32: K blocks of a few panels are widened once and meet all rows. Few
 * rows take pairs of packed panels without that detour where the level can do so. */
static void product_widened(const ap_micro *m, const ap_mat *w, int p0, int n_panel,
                            const float *const *x, int rows, float *tile, int ld)
{
    const ap_micro_matmul *mm = m->matmul;
    alignas(64) float wide[WIDE_PANELS * AP_K_BLOCK * AP_PANEL];
    alignas(64) float xpack[AP_MAX_TILE_ROWS * AP_XPACK_LD];
    int n_tiles = rows <= AP_FEW_ROWS ? 1 : ap_div_up(rows, mm->tile_rows), first = 0;
    if (w->data && m->qwiden->few && rows <= AP_FEW_ROWS) {
        size_t bytes = ap_q_panel_bytes(w->q, w->cols);
        for (; first + 2 <= n_panel; first += 2)
            m->qwiden->few(w->q, (const uint8_t *)w->data + (size_t)(p0 + first) * bytes, bytes,
                           w->cols, x, rows, tile + first * AP_PANEL, ld);
    }
    for (int k0 = 0; k0 < w->cols && first < n_panel; k0 += AP_K_BLOCK) {
        int n = w->cols - k0 < AP_K_BLOCK ? w->cols - k0 : AP_K_BLOCK;
        for (int p = first, np; p < n_panel; p += np) {
            np = n_panel - p < WIDE_PANELS ? n_panel - p : WIDE_PANELS;
            for (int i = 0; i < np; i++)
                widen_panel(m, w, p0 + p + i, k0, n, wide + i * AP_K_BLOCK * AP_PANEL);
            block b = {(const uint8_t *)wide, AP_K_BLOCK * AP_PANEL * sizeof(float), AP_F32};
            for (int i = 0; i < n_tiles; i++) {
                block_rows br = gather(x, rows, i, n_tiles, k0, n, xpack);
                multiply(mm, &br, xpack, &b, np, n, tile + (size_t)br.r0 * ld + p * AP_PANEL, ld,
                         k0 > 0);
            }
        }
    }
}

/* Numbers of what is met after a K block of a few panels. Memory is asked for them while tiles compute: their
 * lines lie in short runs that no processor foresees. */
typedef struct coming {
    const uint8_t *at;
    size_t panel_bytes;
    int n_panel, n_line, line; /* lines of 64 bytes in each panel; the next one */
} coming;

static void ask_for(coming *c, int lines)
{
    for (; lines > 0 && c->n_panel > 0; lines--) {
        __builtin_prefetch(c->at + (size_t)c->line * 64, 0, 2);
        if (++c->line < c->n_line) continue;
        c->line = 0;
        c->at += c->panel_bytes;
        c->n_panel--;
    }
}

/* Weights in integer form. Few rows: every panel streams past them; more: K blocks of two panels are
 * unpacked and meet all rows. soon: the panel that is read behind the last one. */
static void product_integer(const ap_micro_qdot *m, const ap_mat *w, int p0, int n_panel,
                            const ap_qx *const *x, int rows, float *out, int ld,
                            const uint8_t *soon)
{
    size_t bytes = ap_q_panel_bytes(w->q, w->cols), step = ap_q_block_bytes(w->q);
    const uint8_t *panel = (const uint8_t *)w->data + (size_t)p0 * bytes;
    if (rows <= AP_Q_FEW) {
        if (m->few_panels) m->few_panels(w->q, panel, n_panel, w->cols, x, rows, out, ld);
        for (int p = 0; p < n_panel && !m->few_panels; p++)
            m->few(w->q, panel + (size_t)p * bytes, w->cols, x, rows, out + p * AP_PANEL, ld);
        return;
    }
    alignas(64) ap_qpanel unpacked[Q_PANELS];
    int blocks = w->cols / AP_Q_BLOCK, n_tiles = ap_div_up(rows, m->tile_rows),
        first[AP_TASK_ROWS + 1];
    for (int t = 0; t <= n_tiles; t++) first[t] = ap_op_first(rows, t, n_tiles);
    for (int p = 0; p < n_panel; p += Q_PANELS) {
        int np = n_panel - p < Q_PANELS ? n_panel - p : Q_PANELS;
        const uint8_t *at = panel + (size_t)p * bytes,
                      *behind = p + np < n_panel ? at + (size_t)np * bytes : soon;
        for (int b0 = 0; b0 < blocks; b0 += m->k_blocks) {
            int n = blocks - b0 < m->k_blocks ? blocks - b0 : m->k_blocks;
            for (int i = 0; i < np; i++)
                m->unpack(w->q, at + (size_t)i * bytes, w->cols, b0, n, &unpacked[i]);
            bool last = b0 + n == blocks;
            int b1 = last ? 0 : b0 + n, n1 = blocks - b1 < m->k_blocks ? blocks - b1 : m->k_blocks;
            if (last) at = behind;
            for (int i = 0; i < np; i++)
                ap_q_ask_for_scales(w->q, at + (size_t)i * bytes, w->cols, b1, n1);
            coming next = {at + (size_t)b1 * step, bytes, np, (int)((size_t)n1 * step / 64), 0};
            int lines = ap_div_up(next.n_line * np, n_tiles);
            for (int t = 0; t < n_tiles; t++) {
                const ap_qx *in[AP_Q_TILE];
                int nr = first[t + 1] - first[t];
                ask_for(&next, lines);
                for (int r = 0; r < nr; r++) in[r] = x[first[t] + r] + b0;
                m->tile(w->q, unpacked, np, in, nr, n, out + (size_t)first[t] * ld + p * AP_PANEL,
                        ld, b0 > 0);
            }
        }
    }
}

/* Few rows: a few panels at a time over all inputs, so that memory is read in long runs. */
static void product_few(const ap_micro_matmul *mm, const ap_mat *w, int p0, int n_panel,
                        const float *const *x, int rows, float *out, int ld)
{
    for (int p = 0, np; p < n_panel; p += np) {
        np = n_panel - p < mm->few_panels ? n_panel - p : mm->few_panels;
        for (int k0 = 0; k0 < w->cols; k0 += AP_K_BLOCK) {
            int n = w->cols - k0 < AP_K_BLOCK ? w->cols - k0 : AP_K_BLOCK;
            block b = block_at(w, p0 + p, k0);
            const float *at[AP_FEW_ROWS] = {0};
            for (int r = 0; r < rows; r++) at[r] = x[r] + k0;
            mm->few[b.type](at, rows, b.w, b.panel_bytes, np, n, out + p * AP_PANEL, ld, k0 > 0);
        }
    }
}

/* What is read behind n_panel panels of matrix j: the same of the next one, in the end the first one's next. */
static const uint8_t *behind(const ap_mat *const *w, int j, int n_mat, int p0, int n_panel)
{
    const ap_mat *next = j + 1 < n_mat ? w[j + 1] : w[0];
    int p = j + 1 < n_mat ? p0 : p0 + n_panel;
    if (!next->data || !next->q.bits) {
        next = w[j];
        p = p0 + n_panel;
    }
    return (const uint8_t *)next->data + (size_t)p * ap_q_panel_bytes(next->q, next->cols);
}

void ap_product(const ap_micro *m, const ap_mat *const *w, int n_mat, int p0, int n_panel,
                ap_rows x, int rows, float *tile, int ld)
{
    const ap_micro_matmul *mm = m->matmul;
    alignas(64) float xpack[AP_MAX_TILE_ROWS * AP_XPACK_LD];
    int cols = w[0]->cols, n_tiles = rows <= AP_FEW_ROWS ? 1 : ap_div_up(rows, mm->tile_rows);
    bool packed = false;
    for (int j = 0; j < n_mat; j++) {
        float *out = tile + j * n_panel * AP_PANEL;
        if (w[j]->q.bits && !w[j]->q.is_float && x.q)
            product_integer(x.qdot, w[j], p0, n_panel, x.q, rows, out, ld,
                            behind(w, j, n_mat, p0, n_panel));
        else if (w[j]->q.bits || !w[j]->data)
            product_widened(m, w[j], p0, n_panel, x.f, rows, out, ld);
        else if (rows <= AP_FEW_ROWS)
            product_few(mm, w[j], p0, n_panel, x.f, rows, out, ld);
        else
            packed = true;
    }
    for (int k0 = 0; k0 < cols && packed; k0 += AP_K_BLOCK) {
        int n = cols - k0 < AP_K_BLOCK ? cols - k0 : AP_K_BLOCK;
        for (int i = 0; i < n_tiles; i++) {
            block_rows br = gather(x.f, rows, i, n_tiles, k0, n, xpack);
            for (int j = 0; j < n_mat; j++) {
                if (!w[j]->data || w[j]->q.bits) continue;
                block b = block_at(w[j], p0, k0);
                multiply(mm, &br, xpack, &b, n_panel, n,
                         tile + (size_t)br.r0 * ld + j * n_panel * AP_PANEL, ld, k0 > 0);
            }
        }
    }
}

/* ------------------------------------------------------------------ inputs in integer form */

typedef struct quantise_job {
    const ap_micro_qdot *m;
    const float *x;
    int64_t ldx;
    ap_qx *out;
    int rows, cols, n_tasks;
} quantise_job;

static void quantise_task(void *arg, int task, int worker)
{
    const quantise_job *j = arg;
    int blocks = j->cols / AP_Q_BLOCK, end = ap_op_first(j->rows, task + 1, j->n_tasks);
    (void)worker;
    for (int r = ap_op_first(j->rows, task, j->n_tasks); r < end; r++)
        j->m->quantise(j->x + r * j->ldx, blocks, j->out + (size_t)r * (size_t)blocks);
}

void ap_quantise(const ap_exec *ex, const float *x, int64_t ldx, int rows, int cols, ap_qx *out)
{
    quantise_job j = {
        .m = ap_qdot_of(ex), .x = x, .ldx = ldx, .out = out, .rows = rows, .cols = cols};
    j.n_tasks = ap_op_tasks(ex, rows, cols / 4);
    ap_op_run(ex, quantise_task, &j, j.n_tasks);
}
