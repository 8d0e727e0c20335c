#include "fetching.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "hub_env.h"
#include "progress.h"
#include "report.h"
#include "signals.h"
#include "terminal.h"

enum { PARALLEL = 8 };

#ifdef APUS_NO_PULL
enum { CAN_FETCH = 0 };
#else
enum { CAN_FETCH = 1 };
#endif

#ifndef APUS_NO_PULL

/* ---------------------------------------------------------------- signals */

static volatile sig_atomic_t stopped; /* the signal */
static const int stops[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_STOPS = sizeof stops / sizeof *stops };

static void on_stop(int sig)
{
    stopped = sig;
}

/* What was in their place; SIGPIPE too, which lost connections would raise. */
typedef struct handlers {
    struct sigaction stop[N_STOPS], pipe;
} handlers;

static void take_signals(handlers *was)
{
    struct sigaction sa = {0};
    sa.sa_handler = on_stop;
    sigemptyset(&sa.sa_mask);
    stopped = 0;
    for (int i = 0; i < N_STOPS; i++) {
        sigaction(stops[i], NULL, &was->stop[i]);
        if (was->stop[i].sa_handler != SIG_IGN) sigaction(stops[i], &sa, NULL);
    }
    sa.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &sa, &was->pipe);
}

static void give_signals_back(const handlers *was)
{
    for (int i = 0; i < N_STOPS; i++) sigaction(stops[i], &was->stop[i], NULL);
    sigaction(SIGPIPE, &was->pipe, NULL);
}

/* ---------------------------------------------------------------- fetching */

static bool must_stop(void *ctx)
{
    (void)ctx;
    return stopped != 0;
}

static void show(void *ctx, uint64_t done, uint64_t total)
{
    (void)ctx;
    progress_bytes(done, total);
}

static void say(void *ctx, const char *line)
{
    (void)ctx;
    progress_clear();
    fputs(dim(stderr), stderr);
    put_textf(stderr, "%s\n", line);
    fputs(plain(stderr), stderr);
}

static int settings(const command *c, hub_settings *s)
{
    *s = (hub_settings){.endpoint = hub_endpoint(),
                        .cache = hub_cache(),
                        .timeout_s = hub_timeout(),
                        .parallel = PARALLEL,
                        .stop = must_stop,
                        .progress = show,
                        .say = say};
    if (!s->cache) return fail(c, "no folder to keep models in: set HF_HOME or HOME");
    return hub_token(c, &s->token);
}

static void tell_speed(const hub_pulled *p, const struct timespec *since)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double s = (double)(now.tv_sec - since->tv_sec) + (double)(now.tv_nsec - since->tv_nsec) * 1e-9;
    if (p->new_bytes)
        fprintf(stderr, "%sfetched in %.1f s, checksums agree%s\n", dim(stderr), s, plain(stderr));
}

int fetch_model(const command *c, const hub_name *name, bool dry, hub_pulled *out)
{
    hub_settings set;
    handlers was;
    struct timespec since;
    apus_diag why;
    int rc = settings(c, &set);
    if (rc >= 0) return rc;
    clock_gettime(CLOCK_MONOTONIC, &since);
    take_signals(&was);
    bool ok = hub_pull(&set, name, dry, out, &why);
    progress_clear();
    give_signals_back(&was);
    if (ok && !dry) tell_speed(out, &since);
    if (!ok) rc = report(c, &why);
    if (stopped) {
        signals_restore(stopped);
        raise(stopped);
    }
    return rc;
}

#else

int fetch_model(const command *c, const hub_name *name, bool dry, hub_pulled *out)
{
    (void)name, (void)dry, (void)out;
    return fail(c,
                "this program was built without libcurl and cannot fetch models: install its "
                "development files (Debian: libcurl4-openssl-dev libssl-dev) and build it again");
}

#endif

/* ---------------------------------------------------------------- when it is needed */

/* org/repo that is not whole in the cache, and no path. */
static bool is_missing(const char *name, hub_name *out)
{
    const char *cache = hub_cache();
    if (!name || access(name, F_OK) == 0 || !hub_name_parse(name, out)) return false;
    return !cache || !hub_has(cache, out);
}

int fetch_if_missing(const command *c, const char *name)
{
    hub_name n;
    hub_pulled p;
    if (!CAN_FETCH || !is_missing(name, &n) || hub_offline()) return -1; /* who opens it tells */
    return fetch_model(c, &n, false, &p);
}

const char *fetch_advice(const char *name)
{
    static char text[1200];
    hub_name n;
    if (!is_missing(name, &n)) return "";
    const char *word = hub_offline();
    if (word)
        snprintf(text, sizeof text, "; %s keeps it from being fetched", word);
    else
        snprintf(text, sizeof text, "; 'apus pull %.900s' fetches it", name);
    return text;
}
