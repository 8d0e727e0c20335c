/* harness.h - what kcheck.c needs of harness.c and peak.c besides kcheck.h. */
#ifndef KCHECK_HARNESS_H
#define KCHECK_HARNESS_H

#include "kcheck.h"

/* Look at all canaries of this check and free its memory. */
void kc_release(kc *c);

/* A clock: processor time of this thread for one thread, so that what else runs on the machine
 * disturbs less; for several, wall time. */
double kc_seconds(int n_threads);

#endif
