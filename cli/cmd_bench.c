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
#include "models.h"
#include "progress.h"
#include "report.h"
#include "terminal.h"

static struct {
    const char *prompts, *depths, *format;
    int generate, repeat;
    bool prompts_given, depths_given, generate_given, profile;
} o;

static const opt bench_table[] = {
    {"prompt", 'p', OPT_STRING, &o.prompts, &o.prompts_given, 0, 0, "N,...",
     "prompt lengths to time (default 512,4096; 0 = none)"},
    {"generate", 'n', OPT_INT, &o.generate, &o.generate_given, 0, 1 << 20, "N",
     "tokens to generate (default 128; 0 = none)"},
    {"depth", 'd', OPT_STRING, &o.depths, &o.depths_given, 0, 0, "N,...",
     "tokens in the context before each test (default 0)"},
    {"repeat", 'r', OPT_INT, &o.repeat, NULL, 1, 1000, "N",
     "repetitions; the median counts (default 5)"},
    {"profile", 0, OPT_FLAG, &o.profile, NULL, 0, 0, NULL,
     "after each test, run it once more and tell where the time goes, operation by operation"},
    {"output", 'o', OPT_STRING, &o.format, NULL, 0, 0, "FORMAT", "md (default), csv or json"},
    {0}};

static const opt *const tables[] = {bench_table, model_table, threads_table, engine_table, NULL};

static int run(int argc, char **argv);
const command cmd_bench = {
    "bench",
    "[MODEL] [-p N,...] [-n N] [-d N,...] [options]",
    "measure prefill and decode speed",
    "pp rows feed a prompt of n tokens behind `depth` others, tg rows generate n tokens there, "
    "sampling included. Default tests that the model's context or the "
    "memory cannot hold are left out with a note; it is an error if one was asked for.\n\n"
    "Of bandwidth: bytes / time / what a loop that only reads gets in the same run. The bytes are "
    "those that each step (a token of tg, a chunk of pp) must read once:\n"
    "  packed weights of all its products, of experts those that were chosen, of\n"
    "  the embedding none unless it is the head too\n"
    "  + keys and values in sight, in whole pages of 64 positions\n"
    "  + recurrent states of the delta rule\n\n"
    "Of compute: sum over products with weights of (2 x rows x columns x tokens "
    "/ rate of the unit that computes them) / time, rates by loops in registers in the same run. "
    "Units: f32 multiply-adds for --precision exact and for weights in f32, f16 and bf16; for "
    "quantised weights int16 with high and int8 with fast; bf16_tiles with fast on amx, for "
    "prompts. The one with most of the time is named. f32, int16, int8 are the vector units of "
    "the level (VNNI; vpmaddwd, vpmaddubsw and an addition; smlal, sdot, smmla).\n\n"
    "The profile has the calls and milliseconds of each operation, of a token in tg and of the "
    "whole prompt "
    "in pp, and GFLOP/s and GB/s of the same operations and bytes.",
    tables,
    run};

enum { MAX_LIST = 32 };

typedef struct row {
    bool prefill, dropped;
    int n, depth;
    double seconds;                  /* median of a run */
    double median, min, max;         /* tokens per second */
    double bytes, flops[APUS_UNITS]; /* of a run: read; of products, by unit */
    double bandwidth_share, compute_share;
    apus_unit unit;
    long peak_rss_bytes;
    apus_expert_stats experts; /* of all repetitions; io NULL: all experts are in memory */
    bench_profile *profile;    /* or NULL */
} row;

typedef struct bench {
    apus_model *model;
    apus_expert_stats experts;   /* of the model when it was closed */
    char path[4096], types[512]; /* of info, likewise */
    apus_info info;
    apus_engine *engine;
    apus_peaks peaks;
    double load_s;
    row rows[MAX_LIST * (MAX_LIST + 1)];
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

/* n tokens, each chosen after the last one's logits: among 20, so that experts vary. */
static apus_err generate(apus_session *s, int32_t first, int n, apus_diag *d)
{
    apus_sampling few;
    apus_generate_settings set;
    apus_sampling_default(&few);
    few.temperature = 1;
    few.top_k = 20;
    few.seed = 1;
    apus_generate_settings_default(&set);
    set.sampling = &few;
    set.max_tokens = n;
    set.ignore_eos = true;
    return apus_generate(s, &first, 1, &set, NULL, d);
}

/* Feed n ids from stream position `at`, or generate as many tokens when decoding. Seconds, or < 0. */
static double feed(const bench *b, apus_session *s, int at, int n, bool decodes, float *logits,
                   apus_diag *d)
{
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    if (!ids) {
        snprintf(d->text, sizeof d->text, "out of memory for %d token ids", n);
        return -1;
    }
    for (int i = 0; i < n; i++) ids[i] = id_at(b, at + i);
    double t = now();
    apus_err err = decodes ? generate(s, ids[0], n, d) : apus_session_feed(s, ids, n, logits, d);
    t = now() - t;
    free(ids);
    return err ? -1 : t;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* What the operations of a run read and computed. */
static void count(row *x, const apus_engine *e)
{
    apus_profile entry[PROFILE_ENTRIES];
    int n = apus_engine_profile_read(e, entry, PROFILE_ENTRIES);
    for (int i = 0; i < n; i++) {
        x->bytes += entry[i].bytes;
        if (entry[i].unit) x->flops[entry[i].unit] += entry[i].flops;
    }
}

/* The test with a look at the clock around every operation: seconds, or < 0. */
static double feed_profiled(bench *b, const row *x, apus_session *s, float *logits, apus_diag *d)
{
    if (apus_engine_profile(b->engine, true, d)) return -1;
    double t = feed(b, s, x->depth, x->n, !x->prefill, logits, d);
    return apus_engine_profile(b->engine, false, d) ? -1 : t;
}

static bool profile_row(bench *b, row *x, apus_session *s, float *logits, apus_diag *d)
{
    x->profile = malloc(sizeof *x->profile);
    if (!x->profile) {
        snprintf(d->text, sizeof d->text, "out of memory");
        return false;
    }
    double t = feed_profiled(b, x, s, logits, d);
    if (t >= 0) profile_take(x->profile, b->engine, t, x->prefill ? 1 : x->n);
    return t >= 0 && !apus_session_rewind(s, x->depth, d);
}

static apus_expert_stats experts_of(const bench *b)
{
    apus_expert_stats s = {.size = sizeof s};
    apus_model_experts(b->model, &s, NULL);
    return s;
}

/* What has come since. */
static apus_expert_stats experts_since(const bench *b, const apus_expert_stats *before)
{
    apus_expert_stats s = experts_of(b);
    s.hits -= before->hits;
    s.misses -= before->misses;
    s.bytes_read -= before->bytes_read;
    s.stall_us -= before->stall_us;
    s.pack_us -= before->pack_us;
    s.ahead -= before->ahead;
    s.ahead_used -= before->ahead_used;
    return s;
}

static double hit_share(const apus_expert_stats *s)
{
    uint64_t n = s->hits + s->misses;
    return n ? (double)s->hits / (double)n : 1;
}

/* One row. The session holds `depth` tokens before and after. */
static bool measure(bench *b, row *x, apus_session *s, float *logits, apus_diag *d)
{
    double times[1000];
    /* One repetition to warm up; it counts what the others time. */
    bool ok = feed_profiled(b, x, s, logits, d) >= 0 && !apus_session_rewind(s, x->depth, d);
    if (ok) count(x, b->engine);
    apus_expert_stats before = experts_of(b);
    for (int r = 0; ok && r < o.repeat; r++) {
        progress_bar(NULL, x->prefill ? "prefill" : "decode", (uint64_t)r, (uint64_t)o.repeat);
        times[r] = feed(b, s, x->depth, x->n, !x->prefill, logits, d);
        ok = times[r] >= 0 && !apus_session_rewind(s, x->depth, d);
    }
    progress_clear();
    x->experts = experts_since(b, &before);
    if (!ok || (o.profile && !profile_row(b, x, s, logits, d))) return false;
    qsort(times, (size_t)o.repeat, sizeof *times, by_value);
    x->seconds =
        o.repeat % 2 ? times[o.repeat / 2] : (times[o.repeat / 2 - 1] + times[o.repeat / 2]) / 2;
    x->median = x->n / x->seconds;
    x->min = x->n / times[o.repeat - 1];
    x->max = x->n / times[0];
    x->peak_rss_bytes = peak_rss();
    return true;
}

static void find_shares(row *x, const apus_peaks *p)
{
    double most = 0, all = 0;
    for (int u = APUS_UNIT_F32; u < APUS_UNITS; u++) {
        double rate = p->ops[u] > 0 ? p->ops[u] : p->ops[APUS_UNIT_F32], t = x->flops[u] / rate;
        all += t;
        if (t > most) x->unit = (apus_unit)u;
        if (t > most) most = t;
    }
    x->compute_share = all / x->seconds;
    x->bandwidth_share = x->bytes / x->seconds / p->read;
}

static bool is_tiles(int unit)
{
    return unit == APUS_UNIT_BF16_TILES || unit == APUS_UNIT_INT8_TILES;
}
static bool is_integer(int unit)
{
    return unit == APUS_UNIT_INT16 || unit == APUS_UNIT_INT8 || unit == APUS_UNIT_INT8_TILES;
}

/* Of one run. */
static double per_run(uint64_t sum)
{
    return (double)sum / o.repeat;
}

static void json_experts(json_out *j, const row *r)
{
    const apus_expert_stats *s = &r->experts;
    json_map(j, "experts");
    json_text(j, "io", s->io);
    json_int(j, "experts", s->experts);
    json_int(j, "resident", s->resident);
    json_real(j, "hit_share", hit_share(s));
    json_real(j, "read_gb", per_run(s->bytes_read) * 1e-9);
    json_real(j, "read_ahead", per_run(s->ahead));
    json_real(j, "read_ahead_used", per_run(s->ahead_used));
    json_real(j, "stall_s", per_run(s->stall_us) * 1e-6);
    json_real(j, "pack_s", per_run(s->pack_us) * 1e-6);
    json_end_map(j);
}

static void print_json(const bench *b)
{
    json_out *j = json_new(true);
    json_map(j, NULL);
    json_map(j, "machine");
    json_real(j, "read_gb_s", b->peaks.read * 1e-9);
    for (int u = APUS_UNIT_F32; u < APUS_UNITS; u++) {
        char key[32];
        snprintf(key, sizeof key, "%s_%s", apus_unit_name((apus_unit)u),
                 is_integer(u) ? "gop_s" : "gflop_s");
        if (b->peaks.ops[u] > 0) json_real(j, key, b->peaks.ops[u] * 1e-9);
    }
    json_text(j, "level", apus_cpu_name(b->peaks.level));
    json_array(j, "levels");
    for (int l = APUS_CPU_REF; l <= APUS_CPU_I8MM; l++)
        if (apus_cpu_has((apus_cpu)l)) json_text(j, NULL, apus_cpu_name((apus_cpu)l));
    json_end_array(j);
    json_int(j, "threads", b->peaks.threads);
    json_end_map(j);
    json_text(j, "model", b->info.path);
    json_array(j, "rows");
    for (int i = 0; i < b->n_rows; i++) {
        const row *r = &b->rows[i];
        if (r->dropped) continue;
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
        json_text(j, "compute_unit", apus_unit_name(r->unit));
        json_int(j, "peak_rss_bytes", r->peak_rss_bytes);
        json_real(j, "load_s", b->load_s);
        if (r->experts.io) json_experts(j, r);
        if (r->profile) profile_json(r->profile, j);
        json_end_map(j);
    }
    json_end_array(j);
    json_end_map(j);
    json_print(j);
    json_free(j);
}

static void print_head(const bench *b)
{
    put_textf(stdout, "%s", b->info.path);
    printf(": %s, loaded in %.2f s\n\nmachine: %d threads of %s, %.1f GB/s read",
           b->info.weight_types, b->load_s, b->peaks.threads, apus_cpu_name(b->peaks.level),
           b->peaks.read * 1e-9);
    for (int u = APUS_UNIT_F32; u < APUS_UNITS; u++)
        if (b->peaks.ops[u] > 0)
            printf(", %s %.1f %s/s", apus_unit_name((apus_unit)u),
                   b->peaks.ops[u] * (is_tiles(u) ? 1e-12 : 1e-9),
                   is_tiles(u)     ? is_integer(u) ? "TOP" : "TFLOP"
                   : is_integer(u) ? "GOP"
                                   : "GFLOP");
    puts("\n\n| test | depth | tok/s | min .. max | of bandwidth | of compute | peak memory |\n"
         "|---|---|---|---|---|---|---|");
}

/* Of the experts that were read, those that were before their layer asked; and of these, those that it then chose. */
static double ahead_share(const apus_expert_stats *s)
{
    uint64_t n = s->misses + s->ahead - s->ahead_used;
    return n ? (double)s->ahead / (double)n : 0;
}

static double ahead_used_share(const apus_expert_stats *s)
{
    return s->ahead ? (double)s->ahead_used / (double)s->ahead : 0;
}

/* Where experts come from files. */
static void print_experts_table(const bench *b)
{
    apus_expert_stats s = b->experts;
    if (!s.io) return;
    printf("\n%d of %d experts in memory, the others read by %s; of a run:\n\n"
           "| test | depth | found in memory | read | GB/s | read ahead | of it used | waiting | "
           "packing |\n"
           "|---|---|---|---|---|---|---|---|---|\n",
           s.resident, s.experts, s.io);
    for (int i = 0; i < b->n_rows; i++) {
        const row *r = &b->rows[i];
        const apus_expert_stats *x = &r->experts;
        if (r->dropped) continue;
        printf("| %s%d | %d | %.1f %% | %.2f GB | %.2f | %.0f %% | %.0f %% | %.0f %% | %.0f %% |\n",
               r->prefill ? "pp" : "tg", r->n, r->depth, 100 * hit_share(x),
               per_run(x->bytes_read) * 1e-9, per_run(x->bytes_read) * 1e-9 / r->seconds,
               100 * ahead_share(x), 100 * ahead_used_share(x),
               per_run(x->stall_us) * 1e-4 / r->seconds, per_run(x->pack_us) * 1e-4 / r->seconds);
    }
}

static void print_table(const bench *b, bool csv)
{
    if (csv)
        puts("test,n,depth,tok_s_median,tok_s_min,tok_s_max,bandwidth_share,compute_share,compute_"
             "unit,"
             "peak_rss_bytes,load_s,expert_hit_share,expert_read_gb,expert_stall_s,"
             "expert_ahead_share,expert_ahead_used_share");
    else
        print_head(b);
    for (int i = 0; i < b->n_rows; i++) {
        const row *r = &b->rows[i];
        const char *test = r->prefill ? "pp" : "tg";
        if (r->dropped) continue;
        if (csv)
            printf("%s,%d,%d,%.3f,%.3f,%.3f,%.4f,%.4f,%s,%ld,%.3f,%.4f,%.4f,%.4f,%.4f,%.4f\n", test,
                   r->n, r->depth, r->median, r->min, r->max, r->bandwidth_share, r->compute_share,
                   apus_unit_name(r->unit), r->peak_rss_bytes, b->load_s, hit_share(&r->experts),
                   per_run(r->experts.bytes_read) * 1e-9, per_run(r->experts.stall_us) * 1e-6,
                   ahead_share(&r->experts), ahead_used_share(&r->experts));
        else
            printf("| %s%d | %d | %.2f | %.2f .. %.2f | %.0f %% | %.0f %% of %s | %.0f MiB |\n",
                   test, r->n, r->depth, r->median, r->min, r->max, 100 * r->bandwidth_share,
                   100 * r->compute_share, apus_unit_name(r->unit),
                   (double)r->peak_rss_bytes / 1048576);
    }
    if (!csv) print_experts_table(b);
    if (csv && o.profile) profile_csv_head();
    for (int i = 0; i < b->n_rows && o.profile; i++) {
        const row *r = &b->rows[i];
        const char *test = r->prefill ? "pp" : "tg";
        char title[64];
        if (r->dropped) continue;
        snprintf(title, sizeof title, "%s%d, depth %d", test, r->n, r->depth);
        if (csv)
            profile_csv(r->profile, test, r->n, r->depth);
        else
            profile_print(r->profile, title);
    }
}

/* ---------------------------------------------------------------- which tests */

static void list_rows(bench *b, const int *prompts, int n_prompts, const int *depths, int n_depths)
{
    for (int k = 0; k < n_depths; k++) {
        for (int i = 0; i < n_prompts; i++)
            if (prompts[i])
                b->rows[b->n_rows++] = (row){.prefill = true, .n = prompts[i], .depth = depths[k]};
        if (o.generate) b->rows[b->n_rows++] = (row){.n = o.generate, .depth = depths[k]};
    }
}

/* The row that needs the most positions; NULL = none is left. */
static row *longest(bench *b)
{
    row *most = NULL;
    for (int i = 0; i < b->n_rows; i++) {
        row *x = &b->rows[i];
        if (!x->dropped && (!most || x->n + x->depth > most->n + most->depth)) most = x;
    }
    return most;
}

/* Did the user ask for this row, or for a depth that would be without any? */
static bool asked_for(const bench *b, const row *x)
{
    if (x->prefill ? o.prompts_given : o.generate_given) return true;
    for (int i = 0; i < b->n_rows; i++) {
        const row *y = &b->rows[i];
        if (y != x && y->depth == x->depth && !y->dropped) return false;
    }
    return o.depths_given;
}

static void drop(row *x, const char *why)
{
    progress_clear();
    fprintf(stderr, "apus bench: left out %s%d at depth %d: %s\n", x->prefill ? "pp" : "tg", x->n,
            x->depth, why);
    x->dropped = true;
}

/* Leave out what needs more positions than there are. */
static bool fit_context(bench *b, apus_diag *d)
{
    bool own = common.ctx && common.ctx < b->info.context;
    int limit = own ? common.ctx : b->info.context;
    for (row *x; (x = longest(b)) && x->n + x->depth > limit;) {
        char why[128];
        snprintf(why, sizeof why, "it needs %d positions, %s %d", x->n + x->depth,
                 own ? "--ctx has" : "the model was made for", limit);
        if (asked_for(b, x)) {
            snprintf(d->text, sizeof d->text, "no room for %s%d at depth %d: %s",
                     x->prefill ? "pp" : "tg", x->n, x->depth, why);
            return false;
        }
        drop(x, why);
    }
    if (b->n_rows && !longest(b))
        snprintf(d->text, sizeof d->text,
                 "no test fits in %d positions; choose others with -p, -n and -d", limit);
    return !b->n_rows || longest(b);
}

/* An engine for all rows, or for as many as memory allows. Returns -1, or the exit status. */
static int make_engine(bench *b, const apus_model *m, apus_engine_settings *es)
{
    apus_diag d;
    for (;;) {
        row *x = longest(b);
        int need = x ? x->n + x->depth : 0, rc = engine_settings(&cmd_bench, m, need, es);
        if (rc >= 0) return rc;
        apus_err err = apus_engine_create(m, es, &b->engine, &d);
        if (err == APUS_ENOMEM && !es->ctx && need) {
            es->ctx = need; /* less than the default */
            err = apus_engine_create(m, es, &b->engine, &d);
        }
        if (!err) return -1;
        if (err != APUS_ENOMEM || !x || common.ctx || asked_for(b, x))
            return report(&cmd_bench, &d);
        drop(x, d.text);
    }
}

/* All rows of the depth that row `first` has: one session is brought there and back again. */
static bool measure_depth(bench *b, int first, float *logits, apus_diag *d)
{
    int depth = b->rows[first].depth, end = first;
    bool wanted = false;
    for (; end < b->n_rows && b->rows[end].depth == depth; end++) wanted |= !b->rows[end].dropped;
    if (!wanted) return true;
    apus_session *s;
    if (apus_session_create(b->engine, &s, d)) return false;
    bool ok = depth == 0 || feed(b, s, 0, depth, false, NULL, d) >= 0;
    for (int i = first; ok && i < end; i++)
        if (!b->rows[i].dropped) ok = measure(b, &b->rows[i], s, logits, d);
    apus_session_free(s);
    return ok;
}

/* The model's memory is given back, and what is told of it kept: peaks take memory that is none of the rows'. */
static void close_model(bench *b)
{
    b->experts = experts_of(b);
    snprintf(b->path, sizeof b->path, "%s", b->info.path);
    snprintf(b->types, sizeof b->types, "%s", b->info.weight_types);
    b->info.path = b->path;
    b->info.weight_types = b->types;
    apus_model_close(b->model);
    b->model = NULL;
}

static int measure_all(bench *b)
{
    apus_diag d;
    apus_engine_settings es;
    if (!fit_context(b, &d)) return report(&cmd_bench, &d);
    int rc = make_engine(b, b->model, &es);
    if (rc >= 0) return rc;
    float *logits = malloc((size_t)b->info.vocab * sizeof *logits);
    bool ok = logits != NULL;
    if (!ok) snprintf(d.text, sizeof d.text, "out of memory");
    for (int i = 0; ok && i < b->n_rows; i++)
        if (i == 0 || b->rows[i].depth != b->rows[i - 1].depth)
            ok = measure_depth(b, i, logits, &d);
    apus_engine_free(b->engine);
    free(logits);
    close_model(b);
    b->peaks.size = sizeof b->peaks;
    ok = ok && !apus_machine_peaks(es.cpu, es.threads, &b->peaks, &d);
    if (!ok) return report(&cmd_bench, &d);
    for (int i = 0; i < b->n_rows; i++)
        if (!b->rows[i].dropped) find_shares(&b->rows[i], &b->peaks);
    if (!strcmp(o.format, "json"))
        print_json(b);
    else
        print_table(b, !strcmp(o.format, "csv"));
    return 0;
}

/* What the largest of the tests that were asked for needs; defaults may be left out instead. */
static int most_positions(const int *prompts, int n_prompts, const int *depths, int n_depths)
{
    int n = o.generate_given ? o.generate : 0, depth = 0;
    for (int i = 0; i < n_prompts && o.prompts_given; i++)
        if (prompts[i] > n) n = prompts[i];
    for (int i = 0; i < n_depths; i++)
        if (depths[i] > depth) depth = depths[i];
    return n + depth;
}

static int run(int argc, char **argv)
{
    const char *name;
    int n, prompts[MAX_LIST], depths[MAX_LIST];
    o.prompts = "512,4096";
    o.depths = "0";
    o.format = "md";
    o.generate = 128;
    o.repeat = 5;
    int rc = options_parse(&cmd_bench, argc, argv, 1, &n);
    if (rc < 0) rc = take_model(&cmd_bench, argv, &n, 0, &name);
    if (rc >= 0) return rc;
    int n_prompts = parse_list(o.prompts, prompts), n_depths = parse_list(o.depths, depths);
    if (n_prompts < 0 || n_depths < 0)
        return usage_error(&cmd_bench,
                           "--prompt and --depth take numbers separated by commas, at most %d",
                           MAX_LIST);
    if (strcmp(o.format, "md") && strcmp(o.format, "csv") && strcmp(o.format, "json"))
        return usage_error(&cmd_bench, "--output: expected md, csv or json, found '%s'", o.format);
    static bench b;
    double t = now();
    rc = open_for_engine(&cmd_bench, name, most_positions(prompts, n_prompts, depths, n_depths),
                         &b.model);
    if (rc >= 0) return rc;
    b.load_s = now() - t;
    apus_diag d;
    b.info.size = sizeof b.info;
    list_rows(&b, prompts, n_prompts, depths, n_depths);
    rc = apus_model_info(b.model, &b.info, &d) ? report(&cmd_bench, &d) : measure_all(&b);
    for (int i = 0; i < b.n_rows; i++) free(b.rows[i].profile);
    apus_model_close(b.model);
    return finish_output(&cmd_bench, rc);
}
