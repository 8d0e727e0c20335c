/* interrupt.h - what Ctrl-C does. */
#ifndef APUS_CLI_INTERRUPT_H
#define APUS_CLI_INTERRUPT_H

#include <stdbool.h>

#include "apus/apus.h"

/* SIGINT cancels this engine's running call; NULL = default behaviour again. */
void interrupt_target(apus_engine *e);
/* SIGINT only sets what interrupt_came tells: for work that asks now and then (progress_until_interrupt). */
void interrupt_note(void);
/* Did a SIGINT come since then? One between two calls cancels neither. */
bool interrupt_came(void);
/* Without a target SIGINT writes a byte, its number, to fd instead of ending the program; -1 = no
 * more. */
void interrupt_to(int fd);
/* Leave it to another program that runs meanwhile. */
void interrupt_ignore(bool on);

#endif
