/* help.h - shared by the engine tests. */
#ifndef HELP_H
#define HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fake.h"

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        apus_err e_ = (call);                                                                      \
        if (e_) fail_msg("%s: %s: %s", #call, apus_err_name(e_), diag.text);                       \
    } while (0)

extern apus_diag diag;

/* A session and what it should be. */
typedef struct pair {
    apus_session *s;
    oracle o;
} pair;

/* "host": on a device that is the host. */
void help_args(int argc, char **argv);
apus_engine *help_engine(const apus_model *m, int ctx, int chunk, int sessions);
/* Fill every block that nobody uses with garbage: stale values must never matter. */
void help_poison(apus_engine *e);

void pair_open(pair *p, apus_engine *e);
void pair_close(pair *p);
/* Feed n random tokens with logits of the last, and compare. */
void pair_feed(pair *p, int n, ap_rng *rng);
/* Position, tokens and, after feeding one token more and going back, logits agree. */
void pair_check(pair *p);

int random_int(ap_rng *rng, int low, int high); /* low .. high */

#endif
