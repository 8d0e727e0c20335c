#define _GNU_SOURCE /* sched_getaffinity */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

enum { SPIN_US = 40, MAX_THREADS = 1024 };

/* Each worker has a run of neighbouring tasks of its own and takes from those of others when it has none left, so
 * that processors meet on a line of memory only at the end. `left` of a worker counts down; who takes it from
 * t > 0 owns the task t before the run's end. fn, arg and n_tasks are plain fields: a worker reads them only
 * while it owns a task that is not counted in `done`, and the caller writes them only when all tasks are. So
 * a worker that comes late finds left <= 0, or a claim on the next job, never a torn one. */
struct ap_pool {
    int n_threads, n_started;
    int spin_us; /* 0 when there are more threads than processors */
    ap_task_fn fn;
    void *arg;
    int n_tasks;
    _Alignas(64) atomic_uint job; /* the number of the job: what workers watch */
    atomic_int stop;
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_int sleepers; /* workers that wait on `wake` */
    atomic_int caller_sleeps;         /* the caller waits on `finished` */
    pthread_mutex_t lock;
    pthread_cond_t wake, finished;
    struct worker {
        _Alignas(64) atomic_int left;
        ap_pool *pool;
        pthread_t thread;
        int index;
    } worker[];
};

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Where the run of a worker ends, and the next one's begins. */
static int run_end(const ap_pool *p, int worker)
{
    return (int)((int64_t)p->n_tasks * (worker + 1) / p->n_threads);
}

/* Do tasks of the run of `from` until none is left; returns their number. */
static int work_on(ap_pool *p, int from, int worker)
{
    atomic_int *left = &p->worker[from].left;
    int n = 0;
    while (atomic_load_explicit(left, memory_order_relaxed) > 0) {
        int t = atomic_fetch_sub(left, 1);
        if (t <= 0) break;
        p->fn(p->arg, run_end(p, from) - t, worker);
        n++;
    }
    return n;
}

static int work(ap_pool *p, int worker)
{
    int n = 0;
    for (int i = 0, from = worker; i < p->n_threads; i++, from++)
        n += work_on(p, from < p->n_threads ? from : from - p->n_threads, worker);
    return n;
}

static bool has_work(ap_pool *p, unsigned seen)
{
    return atomic_load(&p->job) != seen || atomic_load(&p->stop);
}

/* Wait a little for another job than the one seen; false: nothing came. */
static bool spin_for_work(ap_pool *p, unsigned seen)
{
    if (has_work(p, seen)) return true;
    if (!p->spin_us) return false;
    int64_t end = ap_time_us() + p->spin_us;
    do {
        for (int i = 0; i < 32; i++) {
            relax();
            if (has_work(p, seen)) return true;
        }
    } while (ap_time_us() < end);
    return false;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    ap_pool *p = w->pool;
    unsigned seen = 0;
    while (!atomic_load(&p->stop)) {
        if (!spin_for_work(p, seen)) {
            /* sleepers before job here, job before sleepers in ap_pool_run, all sequentially
             * consistent: one of the two sees the other. */
            pthread_mutex_lock(&p->lock);
            atomic_fetch_add(&p->sleepers, 1);
            while (!has_work(p, seen)) pthread_cond_wait(&p->wake, &p->lock);
            atomic_fetch_sub(&p->sleepers, 1);
            pthread_mutex_unlock(&p->lock);
        }
        seen = atomic_load(&p->job);
        int n = work(p, w->index);
        if (!n) continue;
        atomic_fetch_add(&p->done, n);
        if (atomic_load(&p->caller_sleeps)) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->finished);
            pthread_mutex_unlock(&p->lock);
        }
    }
    return NULL;
}

/* The caller's tasks are done; wait for those of the others. */
static void wait_done(ap_pool *p, int n)
{
    if (p->spin_us) {
        int64_t end = ap_time_us() + p->spin_us;
        do {
            for (int i = 0; i < 32; i++) {
                if (atomic_load(&p->done) == n) return;
                relax();
            }
        } while (ap_time_us() < end);
    }
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->caller_sleeps, 1);
    while (atomic_load(&p->done) != n) pthread_cond_wait(&p->finished, &p->lock);
    atomic_store(&p->caller_sleeps, 0);
    pthread_mutex_unlock(&p->lock);
}

void ap_pool_run(ap_pool *p, ap_task_fn fn, void *arg, int n_tasks)
{
    if (n_tasks <= 0) return;
    if (p->n_threads == 1 || n_tasks == 1) {
        for (int i = 0; i < n_tasks; i++) fn(arg, i, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->n_tasks = n_tasks;
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    for (int w = 0, begin = 0; w < p->n_threads; w++) {
        int end = run_end(p, w);
        atomic_store_explicit(&p->worker[w].left, end - begin, memory_order_release);
        begin = end;
    }
    atomic_fetch_add(&p->job, 1);
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
    int mine = work(p, 0);
    if (atomic_fetch_add(&p->done, mine) + mine != n_tasks) wait_done(p, n_tasks);
}

/* Workers take no signals: they belong to the threads of the application. */
static int start_workers(ap_pool *p)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_t attr;
    int e = pthread_attr_init(&attr);
    /* Said, for some systems give 128 KB; four times, for thread-local data and sanitizers take some too. */
    if (!e) e = pthread_attr_setstacksize(&attr, (size_t)4 * APUS_STACK_BYTES);
    for (int i = 1; i < p->n_threads && !e; i++) {
        p->worker[i].pool = p;
        p->worker[i].index = i;
        e = pthread_create(&p->worker[i].thread, &attr, worker_main, &p->worker[i]);
        if (!e) p->n_started = i;
    }
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e;
}

static int allowed_cpus(cpu_set_t *set)
{
    CPU_ZERO(set);
    if (sched_getaffinity(0, sizeof *set, set)) return 0;
    return CPU_COUNT(set);
}

apus_err ap_pool_create(int n_threads, ap_pool **out, apus_diag *diag)
{
    if (n_threads == 0) n_threads = ap_pool_default_threads();
    if (n_threads < 0 || n_threads > MAX_THREADS)
        return ap_fail(diag, APUS_EINVAL, "threads: expected 0 to %d, found %d", MAX_THREADS,
                       n_threads);
    size_t bytes = sizeof(ap_pool) + (size_t)n_threads * sizeof(struct worker);
    bytes = ap_round_up(bytes, 64);
    ap_pool *p = ap_big_alloc(bytes);
    if (!p) return ap_fail_nomem(diag, bytes, "the worker pool");
    p->n_threads = n_threads;
    cpu_set_t set;
    int cpus = allowed_cpus(&set);
    p->spin_us = cpus && n_threads > cpus ? 0 : SPIN_US;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->finished, NULL);
    if (start_workers(p)) {
        int n = p->n_started;
        ap_pool_free(p);
        return ap_fail(diag, APUS_ENOMEM, "the system refused worker thread %d of %d", n + 1,
                       n_threads);
    }
    *out = p;
    return APUS_OK;
}

void ap_pool_free(ap_pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->stop, 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i <= p->n_started; i++) pthread_join(p->worker[i].thread, NULL);
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    size_t bytes = sizeof(ap_pool) + (size_t)p->n_threads * sizeof(struct worker);
    ap_big_free(p, ap_round_up(bytes, 64));
}

int ap_pool_threads(const ap_pool *p)
{
    return p->n_threads;
}

/* ---------------------------------------------------------------- how many threads by default */

/* First line of a small system file. */
static bool read_line(const char *path, char *line, int size)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool ok = fgets(line, size, f) != NULL;
    fclose(f);
    return ok;
}

/* Physical cores among the processors that affinity allows: siblings count once. */
static int physical_cores(void)
{
    cpu_set_t set, cores;
    if (!allowed_cpus(&set)) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        return n < 1 ? 1 : (int)n;
    }
    CPU_ZERO(&cores);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &set)) continue;
        char path[96], line[256];
        int first = i; /* the lowest sibling stands for the core */
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 i);
        if (read_line(path, line, sizeof line) && sscanf(line, "%d", &first) == 1 &&
            (first < 0 || first >= CPU_SETSIZE))
            first = i;
        CPU_SET(first, &cores);
    }
    return CPU_COUNT(&cores);
}

static int min_quota(int best, double quota, double period)
{
    if (quota <= 0 || period <= 0) return best;
    double n = quota / period;
    return n < best ? (n < 1 ? 1 : (int)n) : best;
}

/* The processor time that control groups leave us (version 2: every level from our group up;
 * version 1: the mounted group). */
static int cgroup_limit(int best)
{
    char line[512], path[640];
    long long quota, period;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4)) continue;
        char *group = line + 3;
        group[strcspn(group, "\n")] = 0;
        for (;;) {
            char text[64];
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
            if (read_line(path, text, sizeof text) &&
                sscanf(text, "%lld %lld", &quota, &period) == 2)
                best = min_quota(best, (double)quota, (double)period);
            char *slash = strrchr(group, '/');
            if (!slash) break;
            *slash = 0;
        }
    }
    if (f) fclose(f);
    char q[64], p[64];
    if (read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", q, sizeof q) &&
        read_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us", p, sizeof p) &&
        sscanf(q, "%lld", &quota) == 1 && sscanf(p, "%lld", &period) == 1)
        best = min_quota(best, (double)quota, (double)period);
    return best;
}

int ap_pool_default_threads(void)
{
    int n = cgroup_limit(physical_cores());
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}
