/* micro_state.c - which attention and recurrent kernels a level has. */
#include "kern/cpu/micro_attn.h"
#include "kern/cpu/micro_recur.h"

const ap_micro_attn *ap_micro_attn_for(apus_cpu level)
{
    (void)level;
    return &ap_attn_ref;
}

const ap_micro_recur *ap_micro_recur_for(apus_cpu level)
{
    (void)level;
    return &ap_recur_ref;
}
