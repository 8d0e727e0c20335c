/* ops_pack.c - weights from the file's row-major form to panels (ap_mat in kern.h). */
#include <string.h>

#include "base/mem.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/product/product.h"

/* Bytes of one panel: a multiple of 64. */
size_t ap_panel_bytes(ap_dtype t, int cols)
{
    size_t n = (size_t)cols;
    if (t == AP_BF16) n = (n + 1) / 2 * 2;
    return n * AP_PANEL * ap_dtype_bytes(t);
}

size_t ap_mat_panel_bytes(const ap_mat *w)
{
    return w->q.bits ? ap_q_panel_bytes(w->q, w->cols) : ap_panel_bytes(w->dtype, w->cols);
}

size_t ap_cpu_pack_bytes(const ap_kern *k, const ap_tensor *t)
{
    ap_qform f = ap_q_form(t);
    (void)k;
    if (!f.bits && t->dtype != AP_F32 && t->dtype != AP_F16 && t->dtype != AP_BF16) return 0;
    if (t->shape[0] <= 0 || t->shape[1] <= 0) return 0;
    int cols = (int)t->shape[1];
    size_t panels = ((size_t)t->shape[0] + AP_PANEL - 1) / AP_PANEL, bytes;
    size_t each = f.bits ? ap_q_panel_bytes(f, cols) : ap_panel_bytes(t->dtype, cols);
    return ap_mul_size(panels, each, &bytes) ? bytes : 0;
}

typedef struct pack_job {
    bool plain; /* by the definition, number by number */
    const ap_tensor *tensor;
    ap_qform q;
    const uint8_t *src;
    uint8_t *dst;
    ap_dtype type;
    int rows, cols;
} pack_job;

/* Rows of 32-bit units, `units` of them whole and in the source. */
static void pack_u32(const uint8_t *src, size_t row_bytes, int rows, int units, uint32_t *dst)
{
    int done = rows == AP_PANEL ? units / 4 * 4 : 0;
    ap_q_transpose(src, row_bytes, done / 4, dst);
    for (int i = done; i < units; i++)
        for (int r = 0; r < rows; r++)
            memcpy(&dst[(size_t)i * AP_PANEL + r], src + r * row_bytes + (size_t)i * 4, 4);
}

static void pack_u16(const uint8_t *src, size_t row_bytes, int rows, int units, uint16_t *dst)
{
    int done = 0;
    for (; rows == AP_PANEL && done + 8 <= units; done += 8) {
        uint32_t pair[4][AP_PANEL];
        ap_q_transpose(src + (size_t)done * 2, row_bytes, 1, pair[0]);
        for (int i = 0; i < 8; i++)
            for (int r = 0; r < AP_PANEL; r++)
                dst[(size_t)(done + i) * AP_PANEL + (size_t)r] =
                    (uint16_t)(pair[i / 2][r] >> 16 * (i % 2));
    }
    for (int i = done; i < units; i++)
        for (int r = 0; r < rows; r++)
            memcpy(&dst[(size_t)i * AP_PANEL + r], src + r * row_bytes + (size_t)i * 2, 2);
}

static void pack_panel(const pack_job *j, int p)
{
    if (j->q.bits) {
        uint8_t *dst = j->dst + (size_t)p * ap_q_panel_bytes(j->q, j->cols);
        if (j->plain || !ap_q_pack_panel_fast(j->tensor, j->q, p, dst))
            ap_q_pack_panel(j->tensor, j->q, p, dst);
        return;
    }
    size_t panel = ap_panel_bytes(j->type, j->cols);
    size_t row_bytes = (size_t)j->cols * ap_dtype_bytes(j->type);
    const uint8_t *src = j->src + (size_t)p * AP_PANEL * row_bytes;
    uint8_t *dst = j->dst + (size_t)p * panel;
    int rows = j->rows - p * AP_PANEL;
    if (rows > AP_PANEL) rows = AP_PANEL;
    if (rows < AP_PANEL) memset(dst, 0, panel);
    if (j->type == AP_F32) {
        pack_u32(src, row_bytes, rows, j->cols, (uint32_t *)dst);
    } else if (j->type == AP_F16) {
        pack_u16(src, row_bytes, rows, j->cols, (uint16_t *)dst);
    } else {
        /* two columns of bf16 travel as one 32-bit unit */
        int pairs = j->cols / 2;
        pack_u32(src, row_bytes, rows, pairs, (uint32_t *)dst);
        if (j->cols % 2) {
            uint16_t *last = (uint16_t *)dst + (size_t)pairs * AP_PANEL * 2;
            memset(last, 0, AP_PANEL * 4);
            for (int r = 0; r < rows; r++)
                memcpy(&last[r * 2], src + r * row_bytes + (size_t)pairs * 4, 2);
        }
    }
}

void ap_cpu_pack_mat(const ap_kern *k, const ap_tensor *src, void *dst, ap_mat *out)
{
    (void)k;
    ap_qform q = ap_q_form(src);
    *out = (ap_mat){.dtype = src->dtype, .rows = (int)src->shape[0], .cols = (int)src->shape[1]};
    if (!q.bits && ap_dtype_block(src->dtype) != 1) {
        out->raw = *src;
    } else {
        out->data = dst;
        out->q = q;
    }
}

void ap_cpu_pack(const ap_kern *k, const ap_tensor *src, void *dst)
{
    ap_mat m;
    ap_cpu_pack_mat(k, src, dst, &m);
    if (!m.data) return;
    pack_job j = {
        .plain = k->level == APUS_CPU_REF,
        .tensor = src,
        .q = m.q,
        .src = src->data,
        .dst = dst,
        .type = src->dtype,
        .rows = m.rows,
        .cols = m.cols,
    };
    for (int p = 0; p < ap_n_panels(&m); p++) pack_panel(&j, p);
}

bool ap_cpu_mat_rows(const ap_kern *k, const ap_mat *whole, int begin, int n, ap_mat *out)
{
    (void)k;
    if (begin % AP_PANEL || (!whole->data && whole->raw.scales)) return false;
    *out = *whole;
    out->rows = n;
    if (whole->data)
        out->data =
            (const uint8_t *)whole->data + (size_t)(begin / AP_PANEL) * ap_mat_panel_bytes(whole);
    else
        out->raw = ap_tensor_rows(&whole->raw, begin, begin + n);
    return true;
}
