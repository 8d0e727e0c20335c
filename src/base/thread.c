#include "base/thread.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

void ap_mutex_init(ap_mutex *m)
{
    pthread_mutex_init(m, NULL);
}

void ap_cond_init(ap_cond *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* that of ap_time_us */
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

bool ap_cond_wait(ap_cond *c, ap_mutex *m, int64_t until)
{
    if (until < 0) return pthread_cond_wait(c, m) == 0;
    struct timespec t = {.tv_sec = (time_t)(until / 1000000), .tv_nsec = until % 1000000 * 1000};
    return pthread_cond_timedwait(c, m, &t) != ETIMEDOUT;
}

apus_err ap_thread_start(ap_thread *t, void *(*fn)(void *), void *arg, apus_diag *diag)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_t attr;
    int e = pthread_attr_init(&attr);
    if (!e) e = pthread_attr_setstacksize(&attr, (size_t)4 * APUS_STACK_BYTES);
    if (!e) e = pthread_create(t, &attr, fn, arg);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e ? ap_fail(diag, APUS_ENOMEM, "the system refused a thread") : APUS_OK;
}
