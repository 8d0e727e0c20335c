#include "tensor/quantize_row.h"

#include "tensor/quantize_blocks.h"

static ap_encode_fn encoder(ap_dtype t)
{
    static const ap_encode_fn table[AP_DTYPE_COUNT] = {
        [AP_Q4_0] = ap_encode_q4_0,     [AP_Q4_1] = ap_encode_q4_1,
        [AP_Q5_0] = ap_encode_q5_0,     [AP_Q5_1] = ap_encode_q5_1,
        [AP_Q8_0] = ap_encode_q8_0,     [AP_MXFP4] = ap_encode_mxfp4,
        [AP_IQ4_NL] = ap_encode_iq4_nl, [AP_IQ4_XS] = ap_encode_iq4_xs,
        [AP_Q2_K] = ap_encode_q2_k,     [AP_Q3_K] = ap_encode_q3_k,
        [AP_Q4_K] = ap_encode_q4_k,     [AP_Q5_K] = ap_encode_q5_k,
        [AP_Q6_K] = ap_encode_q6_k};
    return table[t];
}

bool ap_quantize_can(ap_dtype t)
{
    return t == AP_F32 || t == AP_F16 || t == AP_BF16 || encoder(t);
}

void ap_quantize_row(ap_dtype t, const float *w, size_t n, void *out)
{
    uint8_t *dst = out;
    ap_encode_fn encode = encoder(t);
    if (encode) {
        size_t block = (size_t)ap_dtype_block(t), bytes = ap_dtype_block_bytes(t);
        for (size_t i = 0; i < n; i += block, dst += bytes) encode(w + i, dst);
    } else if (t == AP_F32) {
        memcpy(dst, w, n * sizeof *w);
    } else {
        for (size_t i = 0; i < n; i++)
            ap_store16(dst + 2 * i, t == AP_BF16 ? ap_f32_to_bf16(w[i]) : ap_f32_to_f16(w[i]));
    }
}
