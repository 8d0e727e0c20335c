/* why.h - failing with a sentence. */
#ifndef APUS_HUB_WHY_H
#define APUS_HUB_WHY_H

#include <stdbool.h>

#include "apus/apus.h"

/* Fill *why with EFILE and the sentence; returns false. */
bool hub_fail(apus_diag *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* ENOMEM; returns false. */
bool hub_no_memory(apus_diag *why);
/* ECANCELLED, and what is to be said about what is left; returns false. */
bool hub_stopped(apus_diag *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
