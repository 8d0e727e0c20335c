/* thread.h - locks, conditions with a clock that never jumps, and threads as those of the pool. */
#ifndef AP_BASE_THREAD_H
#define AP_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

typedef pthread_mutex_t ap_mutex;
typedef pthread_cond_t ap_cond;
typedef pthread_t ap_thread;

void ap_mutex_init(ap_mutex *m);
static inline void ap_mutex_destroy(ap_mutex *m)
{
    pthread_mutex_destroy(m);
}
static inline void ap_mutex_lock(ap_mutex *m)
{
    pthread_mutex_lock(m);
}
static inline void ap_mutex_unlock(ap_mutex *m)
{
    pthread_mutex_unlock(m);
}

void ap_cond_init(ap_cond *c);
static inline void ap_cond_destroy(ap_cond *c)
{
    pthread_cond_destroy(c);
}
static inline void ap_cond_wake(ap_cond *c) /* all that wait */
{
    pthread_cond_broadcast(c);
}
/* Wait until woken, which may happen without reason, or until ap_time_us() is `until` (< 0: for ever); false: it
 * is. m is held. */
bool ap_cond_wait(ap_cond *c, ap_mutex *m, int64_t until);

/* Start a thread that takes no signals and has the stack that the library needs. ENOMEM. */
apus_err ap_thread_start(ap_thread *t, void *(*fn)(void *), void *arg, apus_diag *diag);
static inline void ap_thread_join(ap_thread t)
{
    pthread_join(t, NULL);
}

#endif
