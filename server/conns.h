/* conns.h - connections and how long they may wait: a client that sends its head or body by drops is cut off. */
#ifndef APUS_SERVER_CONNS_H
#define APUS_SERVER_CONNS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct sv_conn sv_conn;
typedef struct sv_conns {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t thread;
    sv_conn *first;
    bool ending;
} sv_conns;

bool sv_conns_start(sv_conns *c); /* false: no thread could be had */
void sv_conns_stop(sv_conns *c);

/* NULL: memory is out, and the connection has no bound. */
sv_conn *sv_conn_add(sv_conns *c, int fd, int64_t deadline_us);
/* Shut it down when that time has come, unless another is set before; 0 = never. NULL conn is fine. */
void sv_conn_deadline(sv_conns *c, sv_conn *conn, int64_t deadline_us);
void sv_conn_remove(sv_conns *c, sv_conn *conn);

#endif
