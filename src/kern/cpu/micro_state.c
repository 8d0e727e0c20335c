/* micro_state.c - which attention and recurrent kernels a level has. */
#include "kern/cpu/micro_attn.h"
#include "kern/cpu/micro_recur.h"

const ap_micro_attn *ap_micro_attn_for(apus_cpu level)
{
#if defined(__x86_64__)
    if (level == APUS_CPU_AVX2) return &ap_attn_avx2;
    if (level == APUS_CPU_AVX512 || level == APUS_CPU_AMX) return &ap_attn_avx512;
#endif
    (void)level;
    return &ap_attn_ref;
}

const ap_micro_recur *ap_micro_recur_for(apus_cpu level)
{
#if defined(__x86_64__)
    if (level == APUS_CPU_AVX2) return &ap_recur_avx2;
    if (level == APUS_CPU_AVX512 || level == APUS_CPU_AMX) return &ap_recur_avx512;
#endif
    (void)level;
    return &ap_recur_ref;
}
