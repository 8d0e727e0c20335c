/* bench_profile.h - the table of apus bench --profile. */
#ifndef APUS_CLI_BENCH_PROFILE_H
#define APUS_CLI_BENCH_PROFILE_H

#include "apus/apus_unstable.h"
#include "json_out.h"

enum { PROFILE_ENTRIES = 64 };

typedef struct bench_profile {
    double seconds; /* of the whole run */
    int units;      /* tokens of a decode run, 1 for a prompt: what times and calls are told for */
    int n;
    apus_profile entry[PROFILE_ENTRIES]; /* longest first */
} bench_profile;

/* What the engine counted in a run that took so long. */
void profile_take(bench_profile *p, const apus_engine *e, double seconds, int units);

/* title: such as "tg128, depth 0". */
void profile_print(const bench_profile *p, const char *title);
/* Lines of "test,n,depth,..." below a heading line that profile_csv_head prints. */
void profile_csv_head(void);
void profile_csv(const bench_profile *p, const char *test, int n, int depth);
/* As the array "profile". */
void profile_json(const bench_profile *p, json_out *j);

#endif
