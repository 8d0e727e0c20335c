/* micro.c - the table of each level. Constant, so nothing needs a lock. */
#include "kern/cpu/micro/micro.h"

#include "kern/cpu/micro/micro_amx.h"
#include "kern/cpu/micro/micro_attn.h"
#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/micro/micro_matmul.h"
#include "kern/cpu/micro/micro_qdot.h"
#include "kern/cpu/micro/micro_qwiden.h"
#include "kern/cpu/micro/micro_recur.h"

const ap_micro ap_micro_ref_table = {
    .level = APUS_CPU_REF,
    .matmul = &ap_matmul_ref,
    .qwiden = &ap_qwiden_ref,
    .qdot = &ap_qdot_ref,
    .elem = &ap_elem_ref,
    .attn = &ap_attn_ref,
    .recur = &ap_recur_ref,
};

#if defined(__x86_64__)
const ap_micro ap_micro_avx2_table = {
    .level = APUS_CPU_AVX2,
    .matmul = &ap_matmul_avx2,
    .qwiden = &ap_qwiden_avx2,
    .qdot = &ap_qdot_avx2,
    .elem = &ap_elem_avx2,
    .attn = &ap_attn_avx2,
    .recur = &ap_recur_avx2,
};

const ap_micro ap_micro_avx512_table = {
    .level = APUS_CPU_AVX512,
    .matmul = &ap_matmul_avx512,
    .qwiden = &ap_qwiden_avx512,
    .qdot = &ap_qdot_avx512,
    .elem = &ap_elem_avx512,
    .attn = &ap_attn_avx512,
    .fast = &ap_attn_fast_avx512,
    .recur = &ap_recur_avx512,
};

const ap_micro ap_micro_amx_table = {
    .level = APUS_CPU_AMX,
    .matmul = &ap_matmul_avx512,
    .qwiden = &ap_qwiden_avx512,
    .qdot = &ap_qdot_avx512,
    .amx = &ap_product_amx,
    .elem = &ap_elem_avx512,
    .attn = &ap_attn_avx512,
    .fast = &ap_attn_fast_amx,
    .recur = &ap_recur_amx,
};
#elif defined(__aarch64__)
const ap_micro ap_micro_neon_table = {
    .level = APUS_CPU_NEON,
    .matmul = &ap_matmul_neon,
    .qwiden = &ap_qwiden_neon,
    .qdot = &ap_qdot_neon,
    .elem = &ap_elem_neon,
    .attn = &ap_attn_neon,
    .recur = &ap_recur_neon,
};

const ap_micro ap_micro_dot_table = {
    .level = APUS_CPU_DOT,
    .matmul = &ap_matmul_neon,
    .qwiden = &ap_qwiden_neon,
    .qdot = &ap_qdot_dot,
    .elem = &ap_elem_neon,
    .attn = &ap_attn_neon,
    .recur = &ap_recur_neon,
};

const ap_micro ap_micro_i8mm_table = {
    .level = APUS_CPU_I8MM,
    .matmul = &ap_matmul_neon,
    .qwiden = &ap_qwiden_neon,
    .qdot = &ap_qdot_i8mm,
    .elem = &ap_elem_neon,
    .attn = &ap_attn_neon,
    .recur = &ap_recur_neon,
};
#endif
