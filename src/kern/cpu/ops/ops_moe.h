/* ops_moe.h - the mixture of experts in steps, for groups of operations (ops_group.c). */
#ifndef AP_KERN_CPU_OPS_OPS_MOE_H
#define AP_KERN_CPU_OPS_OPS_MOE_H

#include "kern/cpu/ops/ops.h"
#include "kern/cpu/product/product.h"
#include "kern/cpu/product/tiled.h"

/* What a wave leaves to the next one. */
typedef struct ap_moe_memo {
    bool has_x_q; /* x is there in integer form */
} ap_moe_memo;

typedef struct ap_moe_job {
    const ap_exec *ex;
    const ap_micro *m;
    const ap_moe_args *a;
    const ap_micro_qdot *qdot;
    const int32_t *id;       /* [n_expert] whose experts are at hand; NULL: of all, in order */
    const ap_expert *expert; /* [n_expert] */
    int n_expert;
    ap_moe_memo *memo;
    int32_t *slot_of;   /* [T*K] slot of a pair */
    int32_t *tok_of;    /* [T*K] token of a slot */
    int32_t *start;     /* [E + 1] first slot of an expert */
    ap_moe_unit *units; /* those of tiles, then the others */
    float *mid;         /* [n_plain, ld_mid] act(gate) * up of the rows of units without tiles, */
    ap_qx *mid_q;       /* and for weights in integer form [.., F/32] */
    float *out;         /* [T*K, ld_out]: the outputs of a slice */
    ap_qx *x_own;       /* [T, H/32] room for x in integer form; */
    const ap_qx *x_q;   /* where it is: there or with the caller. NULL: nobody wants it */
    int ld_mid, ld_out, n_units, hidden, ffn, n_tasks;
    int slice, n_slice;   /* the slice's first panel and its panels, */
    int slice_most;       /* at most */
    int n_tiled, n_plain; /* rows of units by tiles, and of the others */
    ap_tiled_moe tiled;
    bool down_q;    /* does an expert want mid in integer form? */
    int widest;     /* rows of the largest unit without tiles */
    ap_split split; /* of one unit */
} ap_moe_job;

/* All experts at hand, T > 0. x_q: x in integer form, or NULL. Then glu, inputs, and for slices of the outputs
 * until it returns no tasks: down, combine. */
void ap_moe_start(const ap_exec *ex, const ap_moe_args *a, const ap_qx *x_q, ap_moe_job *j);
ap_tasks ap_moe_glu_tasks(ap_moe_job *j);
void ap_moe_inputs(ap_moe_job *j);
ap_tasks ap_moe_down_tasks(ap_moe_job *j);
void ap_moe_combine(ap_moe_job *j);

#endif
