/* cmd_bench.c - apus bench: prefill and decode speed by depth, against the machine's ceilings. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "apus/apus_unstable.h"
#include "bench_profile.h"
#include "common.h"
#include "json_out.h"

static struct {
    const char *prompts, *depths, *format;
    int generate, repeat;
    bool profile;
} o;

static const opt bench_table[] = {
    {"prompt", 'p', OPT_STRING, &o.prompts, NULL, 0, 0, "N,...",
     "prompt lengths to time (default 512; 0 = none)"},
    {"generate", 'n', OPT_INT, &o.generate, NULL, 0, 1 << 20, "N",
     "tokens to generate (default 64)"},
    {"depth", 'd', OPT_STRING, &o.depths, NULL, 0, 0, "N,...",
     "tokens in the context before each test (default 0)"},
    {"repeat", 'r', OPT_INT, &o.repeat, NULL, 1, 1000, "N",
     "repetitions; the median counts (default 3)"},
    {"profile", 0, OPT_FLAG, &o.profile, NULL, 0, 0, NULL,
     "after each test, run it once more and tell where the time goes,\noperation by operation"},
    {"output", 'o', OPT_STRING, &o.format, NULL, 0, 0, "FORMAT", "md (default), csv or json"},
    {0}};

static int run(int argc, char **argv);
const command cmd_bench = {
    "bench", "[MODEL] [-p N,...] [-n N] [-d N,...] [options]", "measure prefill and decode speed",
    "pp rows feed a prompt of n tokens behind `depth` others, tg rows generate n tokens there, "
    "greedily\n"
    "over a fixed stream of ids. Shares are of the read bandwidth and f32 multiply-add rate that "
    "simple\n"
    "loops reach in the same run; a decode step reads the active weights once.",
    run};

enum { MAX_LIST = 32 };

typedef struct row {
    bool prefill;
    int n, depth;
    double median, min, max; /* tokens per second */
    double bandwidth_share, compute_share;
    long peak_rss_bytes;
    bench_profile *profile; /* or NULL */
} row;

typedef struct bench {
    apus_info info;
    apus_plan plan;
    apus_engine *engine;
    double read, flops, load_s;
    row rows[2 * MAX_LIST * MAX_LIST];
    int n_rows;
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static long peak_rss(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss * 1024;
}

/* "512,4096" into out; returns the count, or -1. */
static int parse_list(const char *text, int out[MAX_LIST])
{
    int n = 0;
    for (const char *p = text;;) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || v < 0 || v > 1 << 24 || n == MAX_LIST || (*end && *end != ',')) return -1;
        out[n++] = (int)v;
        if (!*end) return n;
        p = end + 1;
    }
}

/* A stream of ordinary ids: the text does not matter, but experts should vary. */
static int32_t id_at(const bench *b, int i)
{
    uint32_t x = (uint32_t)i * 2654435761u;
    return (int32_t)((x >> 8) % (uint32_t)b->info.vocab);
}

/* Feed n ids from stream position `at`; one at a time when decoding. Seconds, or < 0. */
static double feed(const bench *b, apus_session *s, int at, int n, bool one_by_one, float *logits,
                   apus_diag *d)
{
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids) return -1;
    for (int i = 0; i < n; i++) ids[i] = id_at(b, at + i);
    double t = now();
    apus_err err = APUS_OK;
    if (one_by_one)
        for (int i = 0; i < n && !err; i++) err = apus_session_feed(s, ids + i, 1, logits, d);
    else
        err = apus_session_feed(s, ids, n, logits, d);
    t = now() - t;
    free(ids);
    return err ? -1 : t;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The test once more, with a look at the clock around every operation. */
static bool profile_row(bench *b, row *x, apus_session *s, float *logits, apus_diag *d)
{
    x->profile = malloc(sizeof *x->profile);
    if (!x->profile) {
        snprintf(d->text, sizeof d->text, "out of memory");
        return false;
    }
    if (apus_engine_profile(b->engine, true, d)) return false;
    double t = feed(b, s, x->depth, x->n, !x->prefill, logits, d);
    return t >= 0 && profile_take(x->profile, b->engine, t, x->prefill ? 1 : x->n, d);
}

/* One row: every repetition starts from a session that holds `depth` tokens. */
static bool measure(bench *b, bool prefill, int n, int depth, float *logits, apus_diag *d)
{
    double speed[1000];
    apus_session *s;
    if (apus_session_create(b->engine, &s, d)) return false;
    bool ok = depth == 0 || feed(b, s, 0, depth, false, NULL, d) >= 0;
    /* One repetition to warm up. */
    for (int r = -1; ok && r < o.repeat; r++) {
        double t = feed(b, s, depth, n, !prefill, logits, d);
        ok = t >= 0 && apus_session_rewind(s, depth, d) == APUS_OK;
        if (ok && r >= 0) speed[r] = n / t;
        progress_bar(NULL, prefill ? "prefill" : "decode", (uint64_t)(r + 1),
                     (uint64_t)o.repeat + 1);
    }
    progress_clear();
    row *x = &b->rows[b->n_rows++];
    *x = (row){.prefill = prefill, .n = n, .depth = depth};
    if (ok && o.profile) ok = profile_row(b, x, s, logits, d);
    apus_session_free(s);
    if (!ok) return false;
    qsort(speed, (size_t)o.repeat, sizeof *speed, by_value);
    x->min = speed[0];
    x->max = speed[o.repeat - 1];
    x->median =
        o.repeat % 2 ? speed[o.repeat / 2] : (speed[o.repeat / 2 - 1] + speed[o.repeat / 2]) / 2;
    /* Bytes of the active weights, by the average of all weights; operations two per active weight. */
    double active = (double)b->info.params_active;
    double bytes = active * (double)b->info.weight_bytes / (double)b->info.params_total;
    x->bandwidth_share = prefill ? 0 : x->median * bytes / b->read;
    x->compute_share = x->median * 2 * active / b->flops;
    x->peak_rss_bytes = peak_rss();
    return true;
}

static void print_json(const bench *b, const char *level, int threads)
{
    json_out *j = json_new(true);
    json_map(j, NULL);
    json_map(j, "machine");
    json_real(j, "read_gb_s", b->read * 1e-9);
    json_real(j, "f32_gflop_s", b->flops * 1e-9);
    json_text(j, "level", level);
    json_int(j, "threads", threads);
    json_end_map(j);
    json_text(j, "model", b->info.path);
    json_array(j, "rows");
    for (int i = 0; i < b->n_rows; i++) {
        const row *r = &b->rows[i];
        json_map(j, NULL);
        json_text(j, "test", r->prefill ? "pp" : "tg");
        json_int(j, "n", r->n);
        json_int(j, "depth", r->depth);
        json_map(j, "tok_s");
        json_real(j, "median", r->median);
        json_real(j, "min", r->min);
        json_real(j, "max", r->max);
        json_end_map(j);
        json_real(j, "bandwidth_share", r->bandwidth_share);
        json_real(j, "compute_share", r->compute_share);
        json_int(j, "peak_rss_bytes", r->peak_rss_bytes);
        json_real(j, "load_s", b->load_s);
        if (r->profile) profile_json(r->profile, j);
        json_end_map(j);
    }
    json_end_array(j);
    json_end_map(j);
    puts(json_str(j, NULL));
    json_free(j);
}

static void print_table(const bench *b, const char *level, bool csv)
{
    if (csv) {
        puts("test,n,depth,tok_s_median,tok_s_min,tok_s_max,bandwidth_share,compute_share,peak_rss_"
             "bytes,load_s");
    } else {
        printf("%s: %s, loaded in %.2f s; machine: %.1f GB/s read, %.1f GFLOP/s f32 (%s)\n\n",
               b->info.path, b->info.weight_types, b->load_s, b->read * 1e-9, b->flops * 1e-9,
               level);
        puts("| test | depth | tok/s | min .. max | of bandwidth | of f32 peak | peak memory |\n"
             "|---|---|---|---|---|---|---|");
    }
    for (int i = 0; i < b->n_rows; i++) {
        const row *r = &b->rows[i];
        const char *test = r->prefill ? "pp" : "tg";
        if (csv)
            printf("%s,%d,%d,%.3f,%.3f,%.3f,%.4f,%.4f,%ld,%.3f\n", test, r->n, r->depth, r->median,
                   r->min, r->max, r->bandwidth_share, r->compute_share, r->peak_rss_bytes,
                   b->load_s);
        else
            printf("| %s%d | %d | %.2f | %.2f .. %.2f | %.0f %% | %.0f %% | %.0f MiB |\n", test,
                   r->n, r->depth, r->median, r->min, r->max, 100 * r->bandwidth_share,
                   100 * r->compute_share, (double)r->peak_rss_bytes / 1048576);
    }
    if (csv && o.profile) profile_csv_head();
    for (int i = 0; i < b->n_rows && o.profile; i++) {
        const row *r = &b->rows[i];
        const char *test = r->prefill ? "pp" : "tg";
        char title[64];
        snprintf(title, sizeof title, "%s%d, depth %d", test, r->n, r->depth);
        if (csv)
            profile_csv(r->profile, test, r->n, r->depth);
        else
            profile_print(r->profile, title);
    }
}

static int measure_all(bench *b, const apus_model *m, const int *prompts, int n_prompts,
                       const int *depths, int n_depths)
{
    apus_diag d;
    apus_engine_settings es;
    int longest = 0, deepest = 0;
    for (int i = 0; i < n_prompts; i++) longest = prompts[i] > longest ? prompts[i] : longest;
    if (o.generate > longest) longest = o.generate;
    for (int i = 0; i < n_depths; i++) deepest = depths[i] > deepest ? depths[i] : deepest;
    int rc = engine_settings(&cmd_bench, m, longest + deepest, &es);
    if (rc >= 0) return rc;
    float *logits = malloc((size_t)b->info.vocab * sizeof *logits);
    if (!logits) return EXIT_FAILED;
    bool ok = !apus_machine_peaks(es.cpu, es.threads, &b->read, &b->flops, &d) &&
              !apus_engine_create(m, &es, &b->engine, &d);
    for (int k = 0; ok && k < n_depths; k++) {
        for (int i = 0; ok && i < n_prompts; i++)
            if (prompts[i]) ok = measure(b, true, prompts[i], depths[k], logits, &d);
        if (ok && o.generate) ok = measure(b, false, o.generate, depths[k], logits, &d);
    }
    rc = ok ? 0 : report(&cmd_bench, &d);
    apus_engine_free(b->engine);
    free(logits);
    const char *level = apus_cpu_name(es.cpu == APUS_CPU_AUTO ? apus_cpu_best() : es.cpu);
    if (!ok) return rc;
    if (!strcmp(o.format, "json"))
        print_json(b, level, es.threads);
    else
        print_table(b, level, !strcmp(o.format, "csv"));
    return 0;
}

static int run(int argc, char **argv)
{
    const opt *tables[] = {bench_table, common_table, NULL};
    int n, prompts[MAX_LIST], depths[MAX_LIST];
    o.prompts = "512";
    o.depths = "0";
    o.format = "md";
    o.generate = 64;
    o.repeat = 3;
    int rc = options_parse(&cmd_bench, tables, argc, argv, 1, &n);
    if (rc >= 0) return rc;
    int n_prompts = parse_list(o.prompts, prompts), n_depths = parse_list(o.depths, depths);
    if (n_prompts < 0 || n_depths < 0)
        return usage_error(&cmd_bench,
                           "--prompt and --depth take numbers separated by commas, at most %d",
                           MAX_LIST);
    if (strcmp(o.format, "md") && strcmp(o.format, "csv") && strcmp(o.format, "json"))
        return usage_error(&cmd_bench, "--output: expected md, csv or json, found '%s'", o.format);
    apus_model *m;
    static bench b;
    double t = now();
    rc = open_model(&cmd_bench, n ? argv[1] : NULL, APUS_LOAD_ALL, &m);
    if (rc >= 0) return rc;
    b.load_s = now() - t;
    apus_diag d;
    b.info.size = sizeof b.info;
    rc = apus_model_info(m, &b.info, &d) ? report(&cmd_bench, &d)
                                         : measure_all(&b, m, prompts, n_prompts, depths, n_depths);
    for (int i = 0; i < b.n_rows; i++) free(b.rows[i].profile);
    apus_model_close(m);
    return finish_output(&cmd_bench, rc);
}
