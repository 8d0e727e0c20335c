/* pool.h - the worker pool: one job at a time, split into numbered tasks.
 *
 * The caller is worker 0. Workers spin for a short while between jobs and then sleep, so that an
 * idle engine costs nothing. Tasks are claimed with one atomic counter: what a task computes must
 * not depend on which worker runs it. */
#ifndef AP_BASE_POOL_H
#define AP_BASE_POOL_H

#include "base/err.h"

typedef struct ap_pool ap_pool;

/* task in [0, n_tasks), worker in [0, n_threads) */
typedef void (*ap_task_fn)(void *arg, int task, int worker);

/* n_threads >= 1; 0 = one per physical core that affinity and cgroup quota allow. */
apus_err ap_pool_create(int n_threads, ap_pool **out, apus_diag *diag);
void ap_pool_free(ap_pool *p);
int ap_pool_threads(const ap_pool *p);

/* Run fn for every task and return when all are done. Not reentrant. */
void ap_pool_run(ap_pool *p, ap_task_fn fn, void *arg, int n_tasks);

/* Threads that 0 would mean. */
int ap_pool_default_threads(void);

#endif
