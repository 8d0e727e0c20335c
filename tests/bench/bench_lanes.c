/* bench_lanes - what a prefill costs those who decode beside it.
 *
 *     bench_lanes MODEL [LANES [PREFILL [DEPTH [ROUNDS]]]]
 *
 * In each round, one after the other: a token for each of LANES - 1 sessions that hold DEPTH tokens; a prefill
 * of PREFILL tokens alone; both in one call. Printed are medians and the ratio of the last to the sum of the
 * first two, of each round. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "apus/apus.h"

enum { MOST_LANES = 64, MOST_ROUNDS = 1000, VARIED = 4096 };

static apus_diag diag;

static void must(apus_err err)
{
    if (!err) return;
    fprintf(stderr, "bench_lanes: %s\n", diag.text);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

typedef struct bench {
    apus_engine *engine;
    apus_session *session[MOST_LANES];
    int lanes, prefill, depth;
    int32_t tok[VARIED];
} bench;

/* Milliseconds of one call over lanes [begin, end); the sessions are put back. */
static double call(bench *b, int begin, int end)
{
    apus_feed f[MOST_LANES];
    for (int i = begin; i < end; i++)
        f[i - begin] = (apus_feed){.size = sizeof *f,
                                   .session = b->session[i],
                                   .tok = b->tok + i,
                                   .n = i == b->lanes - 1 ? b->prefill : 1};
    double t = now();
    must(apus_feed_batch(b->engine, f, end - begin, NULL, NULL, &diag));
    t = now() - t;
    for (int i = begin; i < end; i++)
        must(apus_session_rewind(b->session[i], i == b->lanes - 1 ? 0 : b->depth, &diag));
    return t;
}

static void open_engine(bench *b, const apus_model *m)
{
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.max_sessions = b->lanes;
    s.ctx = b->depth + b->prefill + 64;
    must(apus_engine_create(m, &s, &b->engine, &diag));
    for (int i = 0; i < VARIED; i++) b->tok[i] = 3 + (int32_t)((uint32_t)i * 2654435761u % 1000);
    for (int i = 0; i < b->lanes; i++) must(apus_session_create(b->engine, &b->session[i], &diag));
    for (int i = 0; i < b->lanes - 1; i++)
        must(apus_session_feed(b->session[i], b->tok, b->depth, NULL, &diag));
}

int main(int argc, char **argv)
{
    static double decode[MOST_ROUNDS], prefill[MOST_ROUNDS], both[MOST_ROUNDS], ratio[MOST_ROUNDS];
    static bench b = {.lanes = 8, .prefill = 16, .depth = 64};
    int rounds = 21;
    int *const arg[] = {&b.lanes, &b.prefill, &b.depth, &rounds};
    for (int i = 2; i < argc && i < 6; i++) *arg[i - 2] = atoi(argv[i]);
    if (argc < 2 || b.lanes < 2 || b.lanes > MOST_LANES || b.prefill < 1 ||
        b.prefill + MOST_LANES > VARIED || b.depth < 1 || b.depth > VARIED || rounds < 1 ||
        rounds > MOST_ROUNDS) {
        fputs("usage: bench_lanes MODEL [LANES [PREFILL [DEPTH [ROUNDS]]]]\n", stderr);
        return 2;
    }
    apus_model *m;
    must(apus_model_open(argv[1], NULL, &m, &diag));
    open_engine(&b, m);
    call(&b, 0, b.lanes);
    for (int i = 0; i < rounds; i++) {
        decode[i] = call(&b, 0, b.lanes - 1);
        prefill[i] = call(&b, b.lanes - 1, b.lanes);
        both[i] = call(&b, 0, b.lanes);
        ratio[i] = both[i] / (decode[i] + prefill[i]);
    }
    printf(
        "%d lanes decode: %.2f ms; %d tokens prefill: %.2f ms; together %.2f ms, %.3f of the sum\n",
        b.lanes - 1, median(decode, rounds), b.prefill, median(prefill, rounds),
        median(both, rounds), median(ratio, rounds));
    apus_engine_free(b.engine);
    apus_model_close(m);
    return 0;
}
