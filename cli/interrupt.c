#include "interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "signals.h"

static apus_engine *volatile interrupt_engine;
static volatile sig_atomic_t interrupt_fd = -1;
static volatile sig_atomic_t interrupted; /* since the target was set, or since interrupt_note */

static void on_interrupt(int sig)
{
    int saved = errno;
    unsigned char b = (unsigned char)sig;
    interrupted = 1;
    if (interrupt_engine)
        apus_cancel(interrupt_engine);
    else if (interrupt_fd >= 0 && write(interrupt_fd, &b, 1) < 0) { /* full: enough are waiting */
    }
    errno = saved;
}

static void handle_interrupt(void (*handler)(int))
{
    struct sigaction sa = {0};
    sa.sa_handler = handler;
    sa.sa_flags = SA_RESTART; /* a write that waits for the terminal is no failure */
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
}

static void choose_handler(void)
{
    if (interrupt_engine || interrupt_fd >= 0)
        handle_interrupt(on_interrupt);
    else
        signals_restore(SIGINT);
}

void interrupt_target(apus_engine *e)
{
    interrupted = 0;
    interrupt_engine = e;
    choose_handler();
}

void interrupt_note(void)
{
    interrupted = 0;
    handle_interrupt(on_interrupt);
}

bool interrupt_came(void)
{
    return interrupted;
}

void interrupt_to(int fd)
{
    interrupt_fd = fd;
    choose_handler();
}

void interrupt_ignore(bool on)
{
    if (on)
        handle_interrupt(SIG_IGN);
    else
        choose_handler();
}
