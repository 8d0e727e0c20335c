#include "kern/cpu/ops/ops.h"

#define STEPS_PER_TASK   2048 /* around a microsecond, what waking a worker costs */
#define TASKS_PER_THREAD 4

int ap_op_tasks(const ap_exec *ex, int64_t rows, int64_t cost)
{
    int threads = ap_pool_threads(ex->dev->pool);
    if (rows <= 0) return 0;
    if (threads == 1) return 1;
    int64_t n = rows * cost / STEPS_PER_TASK, most = (int64_t)threads * TASKS_PER_THREAD;
    if (n > most) n = most;
    if (n > rows) n = rows;
    return n < 1 ? 1 : (int)n;
}

typedef struct all_job {
    const ap_tasks *lists;
    int n;
} all_job;

static void task_of_all(void *arg, int task, int worker)
{
    const all_job *j = arg;
    const ap_tasks *t = j->lists;
    while (task >= t->n) task -= t++->n;
    t->fn(t->arg, task, worker);
}

void ap_op_run_all(const ap_exec *ex, const ap_tasks *lists, int n)
{
    all_job j = {lists, n};
    int total = 0;
    for (int i = 0; i < n; i++) total += lists[i].n;
    ap_op_run(ex, task_of_all, &j, total);
}
