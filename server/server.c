#include "server.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "http.h"
#include "state.h"

void sv_settings_default(sv_settings *s)
{
    *s = (sv_settings){.host = "127.0.0.1",
                       .port = 8080,
                       .max_body = (size_t)32 << 20,
                       .max_connections = 512,
                       .header_s = 15,
                       .idle_s = 75,
                       .ping_s = 5,
                       .drain_s = 30};
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
    apus_diag d;
    apus_scheduler_settings set = s->set->scheduler;
    mask_signals(SIG_UNBLOCK);
    int rc = s->set->load(&s->model, &set);
    mask_signals(SIG_BLOCK);
    if (rc >= 0) return rc;
    s->info.size = sizeof s->info;
    apus_plan plan = {.size = sizeof plan};
    apus_err err = apus_model_info(s->model, &s->info, &d);
    if (!err) err = apus_engine_plan(s->model, set.engine, &plan, &d);
    if (!err) err = apus_scheduler_create(s->model, &set, &s->scheduler, &d);
    if (err) {
        fprintf(stderr, "apus serve: %s\n", d.text);
        return 1;
    }
    s->ctx = plan.ctx;
    atomic_store(&s->phase, SV_READY);
    fprintf(stderr, "apus serve: %s is ready, context %d tokens\n", s->set->model_name, s->ctx);
    notify("READY=1");
    return -1;
}

/* No new requests; running answers have their time, unless a second signal comes. */
static void drain(sv_server *s, sv_http *h)
{
    notify("STOPPING=1");
    atomic_store(&s->phase, SV_DRAINING);
    apus_scheduler_drain(s->scheduler);
    sv_http_quiesce(h);
    int64_t until = sv_now_us() + (int64_t)s->set->drain_s * 1000000;
    struct timespec nap = {.tv_nsec = 20000000};
    while (atomic_load(&s->running) && sv_now_us() < until && !wait_for_end(0))
        nanosleep(&nap, NULL);
}

int sv_serve(const sv_settings *set)
{
    sv_server s = {.set = set, .started = time(NULL)};
    sv_metrics_init(&s.metrics);
    mask_signals(SIG_BLOCK);
    signal(SIGPIPE, SIG_IGN);
    sv_http *h = sv_http_start(&s);
    if (!h) return 1;
    int rc = make_ready(&s);
    if (rc < 0) {
        wait_for_end(-1);
        drain(&s, h);
        rc = 0;
    }
    atomic_store(&s.stopping, true);
    sv_http_stop(h);
    apus_scheduler_free(s.scheduler);
    if (s.model && set->unload) set->unload(s.model);
    apus_model_close(s.model);
    return rc;
}
