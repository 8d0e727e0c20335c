#include "kern/cpu/cpu_table.h"

#include "kern/groups.h"

#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

/* One for each level, all with the same slots: what differs is behind impl. */
#define TABLE(which, micro)                                                                        \
    {                                                                                              \
        .name = "cpu", .level = which, .impl = &micro, .pack_bytes = ap_cpu_pack_bytes,            \
        .pack = ap_cpu_pack, .pack_mat = ap_cpu_pack_mat, .mat_rows = ap_cpu_mat_rows,             \
        .embed = ap_cpu_embed, .norm = ap_cpu_norm, .layer_norm = ap_cpu_layer_norm,               \
        .blend = ap_cpu_blend, .matmul = ap_cpu_matmul, .glu = ap_cpu_glu, .route = ap_cpu_route,  \
        .moe_scratch_bytes = ap_cpu_moe_scratch_bytes, .moe = ap_cpu_moe,                          \
        .moe_waves_scratch_bytes = ap_cpu_moe_waves_scratch_bytes, .moe_begin = ap_cpu_moe_begin,  \
        .moe_wave = ap_cpu_moe_wave, .moe_end = ap_cpu_moe_end, .rope = ap_cpu_rope,               \
        .qkv = ap_cpu_qkv, .attn_scratch_bytes = ap_cpu_attn_scratch_bytes, .attn = ap_cpu_attn,   \
        .attn_fast_dim = ap_cpu_attn_fast_dim, .attn_near = ap_cpu_attn_near, .conv = ap_cpu_conv, \
        .delta_scratch_bytes = ap_cpu_delta_scratch_bytes, .delta = ap_cpu_delta,                  \
        .commit = ap_cpu_commit, .carry = ap_cpu_carry, .elem = ap_cpu_elem,                       \
        .project = ap_cpu_project, .mix = ap_cpu_mix, .recur = ap_cpu_recur,                       \
        .attend = ap_group_attend, .sample_scratch_bytes = ap_cpu_sample_scratch_bytes,            \
        .sample = ap_cpu_sample,                                                                   \
    }

static const ap_kern tables[] = {
    TABLE(APUS_CPU_REF, ap_micro_ref_table),
#if defined(__x86_64__)
    TABLE(APUS_CPU_AVX2, ap_micro_avx2_table),
    TABLE(APUS_CPU_AVX512, ap_micro_avx512_table),
    TABLE(APUS_CPU_AMX, ap_micro_amx_table),
#elif defined(__aarch64__)
    TABLE(APUS_CPU_NEON, ap_micro_neon_table),
    TABLE(APUS_CPU_DOT, ap_micro_dot_table),
    TABLE(APUS_CPU_I8MM, ap_micro_i8mm_table),
#endif
};

const ap_kern *ap_cpu_table(apus_cpu level)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (tables[i].level == level) return &tables[i];
    return &tables[0];
}
