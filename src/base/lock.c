#include "base/lock.h"

#include <pthread.h>

#include "base/mem.h"

struct ap_lock {
    pthread_mutex_t mutex;
};

ap_lock *ap_lock_create(void)
{
    ap_lock *l = ap_malloc(1, sizeof *l);
    if (l) pthread_mutex_init(&l->mutex, NULL);
    return l;
}

void ap_lock_free(ap_lock *l)
{
    if (l) pthread_mutex_destroy(&l->mutex);
    ap_free(l);
}

void ap_lock_take(ap_lock *l)
{
    pthread_mutex_lock(&l->mutex);
}

void ap_lock_leave(ap_lock *l)
{
    pthread_mutex_unlock(&l->mutex);
}
