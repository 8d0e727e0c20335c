/* passes.c - which file binds and runs a family. */
#include "model/model_impl.h"

static const ap_pass passes[] = {
    [AP_ARCH_GEMMA4] = {ap_gemma4_bind, ap_gemma4_forward},
    [AP_ARCH_GEMMA3] = {ap_gemma4_bind, ap_gemma4_forward},
    [AP_ARCH_QWEN3_5] = {ap_qwen3_bind, ap_qwen3_forward},
    [AP_ARCH_QWEN3_5_MOE] = {ap_qwen3_bind, ap_qwen3_forward},
    [AP_ARCH_QWEN3_NEXT] = {ap_qwen3_bind, ap_qwen3_forward},
    [AP_ARCH_QWEN3_MOE] = {ap_qwen3_bind, ap_qwen3_forward},
    [AP_ARCH_QWEN3] = {ap_qwen3_bind, ap_qwen3_forward},
};

const ap_pass *ap_pass_of(const ap_config *c)
{
    return &passes[c->arch];
}
