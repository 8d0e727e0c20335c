/* ops.h - the slots of struct ap_kern on the CPU: loops, blocking and threads over micro kernels.
 * Arguments and Orders are in kern.h; the other slots are in ops_state.h. */
#ifndef AP_KERN_CPU_OPS_OPS_H
#define AP_KERN_CPU_OPS_OPS_H

#include "kern/cpu/micro/micro.h"

size_t ap_cpu_pack_bytes(const ap_kern *k, const ap_tensor *t);
void ap_cpu_pack(const ap_kern *k, const ap_tensor *src, void *dst);
void ap_cpu_pack_mat(const ap_kern *k, const ap_tensor *src, void *dst, ap_mat *out);
bool ap_cpu_mat_rows(const ap_kern *k, const ap_mat *whole, int begin, int n, ap_mat *out);
void ap_cpu_embed(const ap_exec *ex, const ap_embed_args *a);
void ap_cpu_norm(const ap_exec *ex, const ap_norm_args *a);
void ap_cpu_layer_norm(const ap_exec *ex, const ap_layer_norm_args *a);
void ap_cpu_blend(const ap_exec *ex, const ap_blend_args *a);
void ap_cpu_matmul(const ap_exec *ex, const ap_matmul_args *a);
void ap_cpu_glu(const ap_exec *ex, const ap_glu_args *a);
void ap_cpu_route(const ap_exec *ex, const ap_route_args *a);
size_t ap_cpu_moe_scratch_bytes(const ap_exec *ex, int n_tok, int n_expert, int n_used, int hidden,
                                int ffn);
void ap_cpu_moe(const ap_exec *ex, const ap_moe_args *a);
size_t ap_cpu_moe_waves_scratch_bytes(const ap_exec *ex, int n_tok, int n_expert, int n_used,
                                      int hidden, int ffn);
int ap_cpu_moe_begin(const ap_exec *ex, const ap_moe_args *a, int32_t *need);
void ap_cpu_moe_wave(const ap_exec *ex, const ap_moe_args *a, const int32_t *id,
                     const ap_expert *expert, int n);
void ap_cpu_moe_end(const ap_exec *ex, const ap_moe_args *a);
void ap_cpu_project(const ap_exec *ex, const ap_project_args *a);
void ap_cpu_mix(const ap_exec *ex, const ap_mix_args *a);
void ap_cpu_recur(const ap_exec *ex, const ap_recur_args *a);
void ap_cpu_elem(const ap_exec *ex, const ap_elem_args *a);
size_t ap_cpu_sample_scratch_bytes(const ap_exec *ex, int n, int vocab);
void ap_cpu_sample(const ap_exec *ex, const ap_sample_args *a);

/* All tasks of a job; a single one runs in place, without waking anybody. */
static inline void ap_op_run(const ap_exec *ex, ap_task_fn fn, void *arg, int n_tasks)
{
    if (n_tasks == 1)
        fn(arg, 0, 0);
    else if (n_tasks > 1)
        ap_pool_run(ex->dev->pool, fn, arg, n_tasks);
}

/* Tasks of an operation that may run beside those of others. */
typedef struct ap_tasks {
    ap_task_fn fn;
    void *arg;
    int n;
} ap_tasks;

enum { AP_TOGETHER = 8 };

/* All of n <= AP_TOGETHER lists as one job: workers meet once. */
void ap_op_run_all(const ap_exec *ex, const ap_tasks *lists, int n);

/* Into how many tasks to cut `rows` equal rows that cost `cost` steps each (a step is some 16
 * multiply-adds): few enough that waking a worker pays, enough that the workers finish together.
 * Task i of n has rows [ap_op_first(rows, i, n), ap_op_first(rows, i + 1, n)). */
int ap_op_tasks(const ap_exec *ex, int64_t rows, int64_t cost);

static inline int ap_op_first(int64_t rows, int task, int n_tasks)
{
    return (int)(rows * task / n_tasks);
}

#endif
