/* bench_streams - how fast several answers come at once.
 *
 *     bench_streams MODEL STREAMS,... [DEVICE [PRECISION [TOKENS [ROUNDS]]]]
 *
 * For each number of STREAMS, so many sessions generate TOKENS tokens each (default 64), the choice among the 20 likeliest
 * included, from prompts of one token that differ. The fastest of ROUNDS rounds (default 3) counts, the first one, which
 * records steps, does not. One JSON object: for each number of streams tokens per second of all together and the
 * milliseconds of a step. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "apus/apus.h"

enum { MOST_STREAMS = 256, MOST_COUNTS = 16 };

static apus_diag diag;

static void must(apus_err err)
{
    if (!err) return;
    fprintf(stderr, "bench_streams: %s\n", diag.text);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct bench {
    apus_engine *engine;
    apus_session *session[MOST_STREAMS];
    int vocab, tokens;
} bench;

/* Seconds in which n sessions, from their beginning, generate. */
static double generate(bench *b, int n)
{
    apus_generation list[MOST_STREAMS];
    int32_t first[MOST_STREAMS];
    apus_sampling few;
    apus_generate_settings set;
    apus_sampling_default(&few);
    few.temperature = 1;
    few.top_k = 20;
    few.seed = 1;
    apus_generate_settings_default(&set);
    set.sampling = &few;
    set.max_tokens = b->tokens;
    set.ignore_eos = true;
    for (int i = 0; i < n; i++) {
        must(apus_session_rewind(b->session[i], 0, &diag));
        first[i] = (int32_t)((uint32_t)(i + 1) * 2654435761u % (uint32_t)b->vocab);
        list[i] = (apus_generation){.size = sizeof *list,
                                    .session = b->session[i],
                                    .prompt = &first[i],
                                    .n = 1,
                                    .settings = &set};
    }
    double t = now();
    must(apus_generate_batch(b->engine, list, n, &diag));
    return now() - t;
}

/* "1,16" into out; returns the count, or 0. */
static int parse_counts(const char *text, int out[MOST_COUNTS])
{
    for (int n = 0; n < MOST_COUNTS;) {
        char *end;
        long v = strtol(text, &end, 10);
        if (v < 1 || v > MOST_STREAMS || (*end && *end != ',')) return 0;
        out[n++] = (int)v;
        if (!*end) return n;
        text = end + 1;
    }
    return 0;
}

static void open_engine(bench *b, const apus_model *m, int sessions)
{
    apus_info info = {.size = sizeof info};
    apus_engine_settings s;
    must(apus_model_info(m, &info, &diag));
    b->vocab = info.vocab;
    apus_engine_settings_default(&s);
    s.max_sessions = sessions;
    s.ctx = b->tokens + 64;
    must(apus_engine_create(m, &s, &b->engine, &diag));
    for (int i = 0; i < sessions; i++) must(apus_session_create(b->engine, &b->session[i], &diag));
}

int main(int argc, char **argv)
{
    static bench b = {.tokens = 64};
    int count[MOST_COUNTS], rounds = 3, most = 0;
    int n = argc > 2 ? parse_counts(argv[2], count) : 0;
    apus_model_settings s;
    apus_model *m;
    apus_model_settings_default(&s);
    if (argc > 3) s.device = argv[3];
    if (argc > 4) must(apus_precision_parse(argv[4], &s.precision, &diag));
    if (argc > 5) b.tokens = atoi(argv[5]);
    if (argc > 6) rounds = atoi(argv[6]);
    if (!n || b.tokens < 1 || b.tokens > 1 << 16 || rounds < 1) {
        fputs("usage: bench_streams MODEL STREAMS,... [DEVICE [PRECISION [TOKENS [ROUNDS]]]]\n",
              stderr);
        return 2;
    }
    for (int i = 0; i < n; i++) most = count[i] > most ? count[i] : most;
    must(apus_model_open(argv[1], &s, &m, &diag));
    open_engine(&b, m, most);
    printf("{\"tokens\": %d, \"streams\": [\n", b.tokens);
    for (int i = 0; i < n; i++) {
        double best = 1e9;
        generate(&b, count[i]);
        for (int r = 0; r < rounds; r++) {
            double t = generate(&b, count[i]);
            best = t < best ? t : best;
        }
        printf("%s{\"n\": %d, \"tok_s\": %.1f, \"step_ms\": %.3f}", i ? ",\n" : "", count[i],
               count[i] * b.tokens / best, best / b.tokens * 1e3);
        fflush(stdout);
    }
    puts("]}");
    apus_engine_free(b.engine);
    apus_model_close(m);
    return 0;
}
