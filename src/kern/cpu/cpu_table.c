#include "kern/cpu/cpu_table.h"

#include "kern/cpu/micro.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/ops_state.h"

void ap_cpu_table(apus_cpu level, ap_pool *pool, ap_kern *out)
{
    *out = (ap_kern){
        .name = "cpu",
        .level = level,
        .pool = pool,
        .impl = ap_micro_for(level),
        .pack_bytes = ap_cpu_pack_bytes,
        .pack = ap_cpu_pack,
        .pack_mat = ap_cpu_pack_mat,
        .embed = ap_cpu_embed,
        .norm = ap_cpu_norm,
        .matmul = ap_cpu_matmul,
        .glu = ap_cpu_glu,
        .route = ap_cpu_route,
        .moe_scratch_bytes = ap_cpu_moe_scratch_bytes,
        .moe = ap_cpu_moe,
        .elem = ap_cpu_elem,
        .rope = ap_cpu_rope,
        .qkv = ap_cpu_qkv,
        .attn_scratch_bytes = ap_cpu_attn_scratch_bytes,
        .attn = ap_cpu_attn,
        .conv = ap_cpu_conv,
        .delta_scratch_bytes = ap_cpu_delta_scratch_bytes,
        .delta = ap_cpu_delta,
    };
}
