#include "signals.h"

#include <signal.h>
#include <stddef.h>

#include "apus/apus_unstable.h"

/* The default action follows when the handler returns and the signal is let through again. */
static void end(int sig)
{
    apus_outputs_remove();
    signal(sig, SIG_DFL);
    raise(sig);
}

void signals_restore(int sig)
{
    struct sigaction sa = {0};
    sa.sa_handler = end;
    sigemptyset(&sa.sa_mask);
    sigaction(sig, &sa, NULL);
}

void signals_begin(void)
{
    static const int ends[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGPIPE, SIGALRM,   SIGTERM,
                               SIGUSR1, SIGUSR2, SIGXCPU, SIGPROF, SIGVTALRM, SIGBUS};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct sigaction was;
        /* What the parent ignores stays ignored: nohup. */
        if (sigaction(ends[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN)
            signals_restore(ends[i]);
    }
    signal(SIGXFSZ, SIG_IGN);
}
