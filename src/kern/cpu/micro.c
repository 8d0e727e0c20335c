/* micro.c - the table of each level. Constant, so nothing needs a lock. */
#include "kern/cpu/micro.h"

#include "kern/cpu/micro_amx.h"
#include "kern/cpu/micro_attn.h"
#include "kern/cpu/micro_elem.h"
#include "kern/cpu/micro_matmul.h"
#include "kern/cpu/micro_qdot.h"
#include "kern/cpu/micro_qwiden.h"
#include "kern/cpu/micro_recur.h"

static const ap_micro micro_ref = {
    .level = APUS_CPU_REF,
    .matmul = &ap_matmul_ref,
    .qwiden = &ap_qwiden_ref,
    .qdot = &ap_qdot_ref,
    .elem = &ap_elem_ref,
    .attn = &ap_attn_ref,
    .recur = &ap_recur_ref,
};

#if defined(__x86_64__)
static const ap_micro micro_avx2 = {
    .level = APUS_CPU_AVX2,
    .matmul = &ap_matmul_avx2,
    .qwiden = &ap_qwiden_avx2,
    .qdot = &ap_qdot_avx2,
    .elem = &ap_elem_avx2,
    .attn = &ap_attn_avx2,
    .recur = &ap_recur_avx2,
};

static const ap_micro micro_avx512 = {
    .level = APUS_CPU_AVX512,
    .matmul = &ap_matmul_avx512,
    .qwiden = &ap_qwiden_avx512,
    .qdot = &ap_qdot_avx512,
    .elem = &ap_elem_avx512,
    .attn = &ap_attn_avx512,
    .fast = &ap_attn_fast_avx512,
    .recur = &ap_recur_avx512,
};

static const ap_micro micro_amx = {
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
static const ap_micro micro_neon = {
    .level = APUS_CPU_NEON,
    .matmul = &ap_matmul_neon,
    .qwiden = &ap_qwiden_neon,
    .qdot = &ap_qdot_neon,
    .elem = &ap_elem_neon,
    .attn = &ap_attn_neon,
    .recur = &ap_recur_neon,
};

static const ap_micro micro_dot = {
    .level = APUS_CPU_DOT,
    .matmul = &ap_matmul_neon,
    .qwiden = &ap_qwiden_neon,
    .qdot = &ap_qdot_dot,
    .elem = &ap_elem_neon,
    .attn = &ap_attn_neon,
    .recur = &ap_recur_neon,
};

static const ap_micro micro_i8mm = {
    .level = APUS_CPU_I8MM,
    .matmul = &ap_matmul_neon,
    .qwiden = &ap_qwiden_neon,
    .qdot = &ap_qdot_i8mm,
    .elem = &ap_elem_neon,
    .attn = &ap_attn_neon,
    .recur = &ap_recur_neon,
};
#endif

const ap_micro *ap_micro_for(apus_cpu level)
{
#if defined(__x86_64__)
    if (level == APUS_CPU_AVX2) return &micro_avx2;
    if (level == APUS_CPU_AVX512) return &micro_avx512;
    if (level == APUS_CPU_AMX) return &micro_amx;
#endif
#if defined(__aarch64__)
    if (level == APUS_CPU_NEON) return &micro_neon;
    if (level == APUS_CPU_DOT) return &micro_dot;
    if (level == APUS_CPU_I8MM) return &micro_i8mm;
#endif
    (void)level;
    return &micro_ref;
}
