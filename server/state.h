/* state.h - the running server: what the exchanges of all connections share. */
#ifndef APUS_SERVER_STATE_H
#define APUS_SERVER_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "media.h"
#include "metrics.h"
#include "pool.h"
#include "server.h"

typedef enum sv_phase { SV_LOADING, SV_READY, SV_DRAINING } sv_phase;

typedef struct sv_server {
    const sv_settings *set;
    _Atomic int phase; /* sv_phase */
    sv_pool *pool;
    int64_t started; /* seconds since 1970 */
    bool loopback;   /* only this machine can reach it */
    _Atomic uint64_t n_exchanges;
    _Atomic int running;   /* exchanges whose answer is not through */
    _Atomic bool stopping; /* answers end where they are */
    sv_metrics metrics;
    sv_media_gate media;
} sv_server;

int64_t sv_now_us(void); /* of a clock that only goes forward */

#endif
