/* lock.h - a lock for what several threads may reach. */
#ifndef AP_BASE_LOCK_H
#define AP_BASE_LOCK_H

typedef struct ap_lock ap_lock;

ap_lock *ap_lock_create(void); /* NULL: no memory */
void ap_lock_free(ap_lock *l);
void ap_lock_take(ap_lock *l); /* waits; not again by the thread that has it */
void ap_lock_leave(ap_lock *l);

#endif
