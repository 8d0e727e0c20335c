/* ops_product.h - matmul and glu as lists of tasks, for groups of products (ops_group.c). */
#ifndef AP_KERN_CPU_OPS_OPS_PRODUCT_H
#define AP_KERN_CPU_OPS_OPS_PRODUCT_H

#include "kern/cpu/ops/ops.h"
#include "kern/cpu/product/product.h"

typedef struct ap_matmul_job {
    const ap_micro *m;
    ap_matmul_args a;
    const ap_micro_qdot *qdot;
    const ap_qx *inputs; /* [n_tok, cols / AP_Q_BLOCK] of weights in integer form */
    ap_split split;
} ap_matmul_job;

typedef struct ap_glu_job {
    const ap_micro *m;
    ap_glu_args a;
    const ap_micro_qdot *qdot;
    const ap_qx *inputs;
    ap_split split;
} ap_glu_job;

/* The tasks of a product without tiles. *j must live until they are done; inputs: x in integer form, NULL if the
 * matrices do not want it. */
ap_tasks ap_matmul_tasks(const ap_exec *ex, const ap_matmul_args *a, const ap_qx *inputs,
                         ap_matmul_job *j);
ap_tasks ap_glu_tasks(const ap_exec *ex, const ap_glu_args *a, const ap_qx *inputs, ap_glu_job *j);

#endif
