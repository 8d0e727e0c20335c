/* runner.h - what the checks of the golden runner share: engines, runs and comparisons. */
#ifndef TESTS_GOLDEN_RUNNER_H
#define TESTS_GOLDEN_RUNNER_H

#include <stdbool.h>
#include <stddef.h>

#include "apus/apus.h"
#include "few_slots.h"
#include "gold.h"

#define TOL_GOLD 1e-3 /* to the reference; or twice its own noise where that is more */
#define TOL_DEVICE                                                                                 \
    2e-3 /* of devices that add up in an order of their own: of the logits' standard deviation */
#define TOL_SELF 1e-4 /* between our own ways of computing, where bits are not demanded */
#define GAP_NEAR 1e-3 /* best two logits closer than this: either token may be chosen */
#define RGAP_NEAR                                                                                  \
    1e-6 /* two experts closer than this: either may be chosen; by devices within ten times this */

typedef struct options {
    const char *data, *model;
    bool quick, verbose;
    apus_cpu cpu;
    const char *device; /* NULL = the CPU */
} options;

/* What one model's run has found. */
typedef struct report {
    const char *name;
    int checks, failures, not_bit_equal;
    bool verbose;
    const char *device; /* NULL = the CPU */
    double gold, noise; /* largest distance to the reference; its own */
    double kv[3];       /* distance to f32 pages, of apus_kv less 1 */
    int rows, near_token, near_router;
} report;

/* Everything computed for one prompt: the rows the golden has, and the logits of 32 more steps
 * along the golden's tokens (step i has seen greedy[0 .. i)); step 0 is the last row. */
typedef struct trace {
    float *rows;  /* f32 [n_pos, V] */
    float *steps; /* f32 [GOLD_GREEDY, V] */
} trace;

/* An open model with an engine. */
typedef struct rig {
    apus_model *model;
    apus_engine *engine;
    few_slots *slots; /* NULL: experts are resident, or there are none */
} rig;

typedef struct rig_spec {
    apus_cpu cpu;
    int threads, chunk, sessions;
    bool gdn_chunked;
    apus_kv kv; /* AUTO = F32 */
    const char *device;
    int expert_slots; /* 0 = all experts are resident */
    bool own_files;   /* of the slots: copies that can be cut */
} rig_spec;

/* What the checks of a model share. */
typedef struct bench {
    report *r;
    const options *o;
    const char *folder;
    gold g;
    trace base[GOLD_MAX_PROMPTS]; /* one thread, default chunk, level --cpumask */
    trace work[GOLD_MAX_PROMPTS];
    int expert_slots; /* of all rigs from now on; 0 = all experts are resident */
} bench;

/* calloc that ends the program when memory is out. */
void *need(size_t bytes);

/* Count a failure of the model and print it (the first 20). */
void fail(report *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Open model and engine. Returns 0, or -1 after fail(). */
int rig_open(report *r, const char *folder, const gold *g, rig_spec spec, rig *out);
void rig_close(rig *g);
apus_session *open_session(report *r, rig *g);

trace trace_new(const gold *g, const gold_prompt *p);
void trace_free(trace *t);

/* Make `f` the share of prompt tokens [from, to), with the golden's rows among them. `rows` is room
 * for n_pos indices; the logits land where a whole run would put them. */
void share(const gold *g, const gold_prompt *p, int from, int to, int32_t *rows, trace *t,
           apus_session *s, apus_feed *f);
/* Feed prompt tokens [from, n) in pieces of `piece` (0 = all), collecting rows. */
int feed_prompt(report *r, rig *e, const gold *g, const gold_prompt *p, int from, int piece,
                apus_session *s, trace *t);
/* Walk `n` of the 32 steps. steps[0] comes from the last row. */
int walk(report *r, const gold *g, const gold_prompt *p, int n, apus_session *s, trace *t);
/* One prompt alone, from nothing. */
int run_prompt(report *r, rig *e, const gold *g, const gold_prompt *p, int piece, trace *t);

int argmax(const float *x, int n);
/* Two of our own runs: rows from row0 on, and n_step steps.
 *   exact  bits are demanded; else TOL_SELF and the same tokens, and unequal bits are counted */
void compare_self(report *r, const gold *g, int k, const char *what, const trace *want,
                  const trace *got, int row0, int n_step, bool exact);
/* Our run against the reference. Returns the largest distance over the rows that count. */
double compare_gold(report *r, const gold *g, int k, const char *what, const trace *t,
                    int *near_token, int *near_router);

/* Does prompt k take part in a check of prompts up to `limit` tokens? */
bool selected(const bench *b, int k, int limit);
/* One thread, default chunk, one session, the level asked for. */
rig_spec plain(const bench *b);

/* walk.c */
void check_random_walk(bench *b);
void check_cancel(bench *b);

#endif
