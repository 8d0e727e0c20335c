#include "server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "heap.h"
#include "http.h"
#include "log.h"
#include "remote.h"
#include "state.h"

void sv_settings_default(sv_settings *s)
{
    *s = (sv_settings){.host = "127.0.0.1",
                       .port = 8080,
                       .max_body = (size_t)32 << 20,
                       .max_media = 64,
                       .max_pixels = 64000000,
                       .max_connections = 512,
                       .header_s = 15,
                       .idle_s = 75,
                       .ping_s = 5,
                       .drain_s = 30,
                       .max_loaded = 1,
                       .redis_ttl_s = 86400};
    apus_scheduler_settings_default(&s->scheduler);
}

/* ---------------------------------------------------------------- signals */

static void end_signals(sigset_t *s)
{
    sigemptyset(s);
    sigaddset(s, SIGTERM);
    sigaddset(s, SIGINT);
}

/* SIG_BLOCK while connections begin their threads and once the model is there, when one thread waits for
 * them; while it loads they end the program as always. */
static void mask_signals(int how)
{
    sigset_t s;
    end_signals(&s);
    pthread_sigmask(how, &s, NULL);
}

/* One comes within so many seconds (-1: for ever). */
static bool wait_for_end(int seconds)
{
    sigset_t s;
    struct timespec t = {.tv_sec = seconds};
    end_signals(&s);
    if (seconds < 0) return sigwaitinfo(&s, NULL) > 0 || wait_for_end(seconds);
    return sigtimedwait(&s, NULL, &t) > 0;
}

/* What systemd waits for (sd_notify): a line in a datagram. */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof a.sun_path) return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    memcpy(a.sun_path, path, strlen(path));
    if (*path == '@') a.sun_path[0] = 0;
    socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&a, n);
    close(fd);
}

/* ---------------------------------------------------------------- a life */

static int make_ready(sv_server *s)
{
    if (s->set->load_first) {
        mask_signals(SIG_UNBLOCK);
        int rc = sv_pool_load_first(s->pool);
        mask_signals(SIG_BLOCK);
        if (rc >= 0) return rc;
    }
    if (s->set->n_entries > 1)
        sv_log(s->set, "info", "%d models are ready to be asked for, %d at a time in memory",
               s->set->n_entries, s->set->max_loaded);
    if (!sv_pool_start(s->pool)) {
        sv_log(s->set, "error", "the thread that loads models could not be started");
        return 1;
    }
    atomic_store(&s->phase, SV_READY);
    if (s->set->load_first) sv_pool_tell_ready(s->pool, sv_pool_at(s->pool, 0));
    notify("READY=1");
    return -1;
}

/* No new requests; running answers have their time, unless a second signal comes. */
static void drain(sv_server *s, sv_http *h)
{
    notify("STOPPING=1");
    atomic_store(&s->phase, SV_DRAINING);
    sv_pool_drain(s->pool);
    sv_http_quiesce(h);
    int64_t until = sv_now_us() + (int64_t)s->set->drain_s * 1000000;
    struct timespec nap = {.tv_nsec = 20000000};
    while (atomic_load(&s->running) && sv_now_us() < until && !wait_for_end(0))
        nanosleep(&nap, NULL);
}

int sv_serve(const sv_settings *set)
{
    sv_server s = {.set = set, .started = time(NULL)};
    sv_heap_tame();
    sv_metrics_init(&s.metrics);
    sv_media_gate_init(&s.media);
    if (set->media_hosts.n && !sv_remote_init()) {
        sv_log(set, "error", "out of memory");
        return 1;
    }
    mask_signals(SIG_BLOCK);
    signal(SIGPIPE, SIG_IGN);
    s.pool = sv_pool_new(set);
    sv_http *h = s.pool ? sv_http_start(&s) : NULL;
    if (!h) {
        sv_pool_free(s.pool);
        return 1;
    }
    int rc = make_ready(&s);
    if (rc < 0) {
        wait_for_end(-1);
        drain(&s, h);
        rc = 0;
    }
    atomic_store(&s.stopping, true);
    sv_http_stop(h);
    sv_pool_free(s.pool);
    return rc;
}
