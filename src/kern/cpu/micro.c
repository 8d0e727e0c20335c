/* micro.c - the table of each level, filled from ref upward. Constant, so nothing needs a lock. */
#include "kern/cpu/micro.h"

#include "kern/cpu/micro_attn.h"
#include "kern/cpu/micro_elem.h"
#include "kern/cpu/micro_matmul.h"
#include "kern/cpu/micro_recur.h"

static const ap_micro micro_ref = {
    .level = APUS_CPU_REF,
    .matmul = &ap_matmul_ref,
    .elem = &ap_elem_ref,
    .attn = &ap_attn_ref,
    .recur = &ap_recur_ref,
};

const ap_micro *ap_micro_for(apus_cpu level)
{
    (void)level;
    return &micro_ref;
}
