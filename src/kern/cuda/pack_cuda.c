/* pack_cuda.c - weights for the device: the panels that the CPU packs (kern.h), made by host workers. What
 * the CPU uses where the file has it, since it has no packed form, becomes panels of f32. */
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/product/product.h"
#include "kern/cuda/device_cuda.h"
#include "tensor/quant.h"

#define PIECE                                                                                      \
    256 /* values of a row that are widened at a time: whole blocks and groups of every type */

static size_t f32_bytes(const ap_tensor *t)
{
    if (!ap_dtype_is_weight(t->dtype) || t->shape[0] <= 0 || t->shape[1] <= 0) return 0;
    size_t panels = ((size_t)t->shape[0] + AP_PANEL - 1) / AP_PANEL, bytes;
    return ap_mul_size(panels, ap_panel_bytes(AP_F32, (int)t->shape[1]), &bytes) ? bytes : 0;
}

size_t ap_cuda_pack_bytes(const ap_kern *k, const ap_tensor *t)
{
    size_t bytes = ap_cpu_pack_bytes(k, t);
    return bytes ? bytes : f32_bytes(t);
}

void ap_cuda_pack(const ap_kern *k, const ap_tensor *src, void *dst)
{
    if (ap_cpu_pack_bytes(k, src)) {
        ap_cpu_pack(k, src, dst);
        return;
    }
    int64_t rows = src->shape[0], cols = src->shape[1];
    float *panel = dst, value[PIECE];
    memset(dst, 0, f32_bytes(src));
    for (int64_t r = 0; r < rows; r++) {
        float *to = panel + r / AP_PANEL * cols * AP_PANEL + r % AP_PANEL;
        for (int64_t c = 0; c < cols; c += PIECE) {
            int64_t n = cols - c < PIECE ? cols - c : PIECE;
            ap_tensor_row_f32(src, r, c, n, value);
            for (int64_t i = 0; i < n; i++) to[(c + i) * AP_PANEL] = value[i];
        }
    }
}

void ap_cuda_pack_mat(const ap_kern *k, const ap_tensor *src, void *dst, ap_mat *out)
{
    if (ap_cpu_pack_bytes(k, src)) {
        ap_cpu_pack_mat(k, src, dst, out);
        return;
    }
    *out = (ap_mat){
        .data = dst, .dtype = AP_F32, .rows = (int)src->shape[0], .cols = (int)src->shape[1]};
}

bool ap_cuda_mat_rows(const ap_kern *k, const ap_mat *whole, int begin, int n, ap_mat *out)
{
    return ap_cpu_mat_rows(k, whole, begin, n, out);
}
