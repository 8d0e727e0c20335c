#include "models.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common.h"
#include "fetching.h"
#include "hub_env.h"
#include "progress.h"
#include "report.h"
#include "terminal.h"

#ifndef APUS_DEFAULT_MODEL
#define APUS_DEFAULT_MODEL "tiny-qwen"
#endif

static bool is_file(const char *dir, const char *name, char *out, size_t cap)
{
    int n = snprintf(out, cap, "%s/%s", dir, name);
    return n > 0 && (size_t)n < cap && access(out, R_OK) == 0;
}

/* The built-in model: $APUS_MODELS, beside an installed program, or in the source tree it was built
 * from. NULL if it is nowhere. */
static const char *default_model(void)
{
    static char dir[PATH_MAX];
    char probe[PATH_MAX + 32], exe[PATH_MAX];
    const char *env = getenv("APUS_MODELS");
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    char *slash = NULL;
    if (n > 0) {
        exe[n] = 0;
        slash = strrchr(exe, '/');
        if (slash) *slash = 0;
    }
    for (int i = 0; i < 3; i++) {
        int len = 0;
        if (i == 0 && env) len = snprintf(dir, sizeof dir, "%s/%s", env, APUS_DEFAULT_MODEL);
        if (i == 1 && slash)
            len = snprintf(dir, sizeof dir, "%s/../share/apus/models/%s", exe, APUS_DEFAULT_MODEL);
        if (i == 2 && slash) /* in a build folder */
            len = snprintf(dir, sizeof dir, "%s/models/%s", exe, APUS_DEFAULT_MODEL);
        if (len > 0 && (size_t)len < sizeof dir && is_file(dir, "config.json", probe, sizeof probe))
            return dir;
    }
    return NULL;
}

int take_model(const command *c, char **argv, int *n, int max_rest, const char **name)
{
    *name = common.model;
    if (!common.model && *n) {
        *name = argv[1];
        --*n;
        for (int i = 0; i < *n; i++) argv[1 + i] = argv[2 + i];
    }
    if (*n <= max_rest) return -1;
    return usage_error(c, "unexpected argument '%s': the model was given with --model", argv[*n]);
}

static int cpu_level(const command *c, apus_cpu *out)
{
    apus_diag d;
    *out = APUS_CPU_AUTO;
    if (common.cpumask && apus_cpu_parse(common.cpumask, out, &d))
        return usage_error(c, "--cpumask: %s", d.text);
    return -1;
}

/* -c 0 */
static bool whole_context(void)
{
    return common.ctx_given && !common.ctx;
}

/* Guesses; commands without the option make none. */
static int speculate_option(const command *c, apus_engine_settings *out)
{
    static const char *const names[] = {"auto", "off", "ngram", "mtp"};
    const char *how = common.speculate;
    char *end;
    if (!option_listed(c, "speculate", strlen("speculate"))) out->speculate = APUS_SPECULATE_OFF;
    if (!how) return -1;
    for (int i = 0; i < 4; i++) {
        if (strcmp(how, names[i])) continue;
        out->speculate = (apus_speculate)i;
        return -1;
    }
    long n = strtol(how, &end, 10);
    if (*end || end == how || n < 1 || n > 14)
        return usage_error(c,
                           "--speculate: expected auto, off, ngram, mtp or a number of 1 to 14, "
                           "found '%s'",
                           how);
    out->n_draft = (int)n;
    return -1;
}

/* The engine that the common options ask for. */
static int engine_options(const command *c, apus_engine_settings *out)
{
    apus_diag d;
    apus_engine_settings_default(out);
    int rc = cpu_level(c, &out->cpu);
    if (rc >= 0) return rc;
    if (common.kv && apus_kv_parse(common.kv, &out->kv, &d))
        return usage_error(c, "--kv: %s", d.text);
    out->threads = common.threads;
    out->prefill_chunk = common.prefill_chunk;
    out->ctx = common.ctx;
    return speculate_option(c, out);
}

/* What is odd about the model's files; apus info shows it with the rest. */
static void print_notes(const apus_model *m)
{
    const char *note;
    for (size_t i = 0; (note = apus_model_note(m, i)); i++)
        fprintf(stderr, "%snote: %s%s\n", dim(stderr), note, plain(stderr));
}

/* "8G", "6500M", "2.5G" or bytes; G and M are powers of 1000, Gi and Mi of 1024. False: no such size, or 0. */
static bool parse_bytes(const char *text, uint64_t *out)
{
    static const struct {
        const char *name;
        double unit;
    } units[] = {
        {"", 1},         {"M", 1e6},         {"G", 1e9},       {"MB", 1e6},        {"GB", 1e9},
        {"Mi", 1048576}, {"Gi", 1073741824}, {"MiB", 1048576}, {"GiB", 1073741824}};
    char *end;
    if (*text < '0' || *text > '9') return false;
    double v = strtod(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        double bytes = v * units[i].unit;
        if (strcasecmp(end, units[i].name) || !(bytes >= 1 && bytes < 1e18)) continue;
        *out = (uint64_t)bytes;
        return true;
    }
    return false;
}

/* Before loading: what of the model stays in memory. */
static void show_plan(void *ctx, apus_log_level level, const char *text)
{
    (void)ctx;
    if (level != APUS_LOG_PLAN) return;
    progress_clear();
    fputs(dim(stderr), stderr);
    put_textf(stderr, "%s\n", text);
    fputs(plain(stderr), stderr);
}

/* Why the library did not open a model. */
static apus_err open_code;

/* Take from a bound on memory what other models have of it; false: nothing is left. */
static bool memory_left(const command *c, const char *name, uint64_t *bytes)
{
    if (common.memory_taken < *bytes) {
        *bytes -= common.memory_taken;
        return true;
    }
    open_code = APUS_ENOMEM;
    fail(c, "%s: nothing is left of --memory %s beside the other models",
         name ? name : "the built-in model", common.memory);
    return false;
}

apus_err open_error(void)
{
    return open_code;
}

/* A failure to open a model; one that could be fetched gets the advice to do so. */
static int report_missing(const command *c, const char *name, apus_diag *d)
{
    size_t n = strlen(d->text);
    open_code = d->code;
    if (d->code == APUS_EFILE) snprintf(d->text + n, sizeof d->text - n, "%s", fetch_advice(name));
    return report(c, d);
}

/* engine: what will be made of the model; NULL = nothing. */
static int open_beside(const command *c, const char *name, apus_load load,
                       const apus_engine_settings *engine, apus_model **out)
{
    apus_diag d;
    apus_model_settings s;
    apus_model_settings_default(&s);
    s.load = load;
    s.engine = engine;
    s.threads = common.threads;
    s.device = common.device;
    s.towers = common.towers;
    s.hub_cache = hub_cache();
    s.progress = progress_bar;
    int rc = cpu_level(c, &s.cpu);
    if (rc >= 0) return rc;
    if (common.precision && apus_precision_parse(common.precision, &s.precision, &d))
        return usage_error(c, "--precision: %s", d.text);
    if (common.memory && !parse_bytes(common.memory, &s.memory))
        return usage_error(c, "--memory: expected a size such as 8G or 6500M, found '%s'",
                           common.memory);
    if (common.memory && !memory_left(c, name, &s.memory)) return EXIT_FAILED;
    s.experts = common.experts;
    s.mmproj = common.mmproj;
    s.log = show_plan;
    if (!name) {
        name = default_model();
        if (!name) {
            return fail(c,
                        "no MODEL given and the built-in %s is not installed; name a model "
                        "folder or set APUS_MODELS",
                        APUS_DEFAULT_MODEL);
        }
        static bool told;
        if (!told)
            fprintf(stderr, "%sno MODEL given: using the built-in %s%s\n", dim(stderr),
                    APUS_DEFAULT_MODEL, plain(stderr));
        told = true;
    }
    if (apus_model_open(name, &s, out, &d)) return report_missing(c, name, &d);
    progress_clear();
    if (load != APUS_LOAD_INFO) print_notes(*out);
    return -1;
}

int open_model(const command *c, const char *name, apus_load load, apus_model **out)
{
    apus_engine_settings es;
    int rc = load == APUS_LOAD_ALL ? engine_options(c, &es) : -1;
    if (rc < 0 && load == APUS_LOAD_ALL) rc = fetch_if_missing(c, name);
    return rc >= 0 ? rc : open_beside(c, name, load, load == APUS_LOAD_ALL ? &es : NULL, out);
}

unsigned loadable_towers(const char *name)
{
    static const unsigned all[] = {APUS_TOWER_VISION, APUS_TOWER_AUDIO};
    unsigned there = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        apus_model *m;
        apus_info info = {.size = sizeof info};
        apus_model_settings s;
        apus_model_settings_default(&s);
        s.load = APUS_LOAD_INFO;
        s.hub_cache = hub_cache();
        s.device = "cpu";
        s.towers = all[i];
        s.mmproj = common.mmproj;
        if (apus_model_open(name ? name : default_model(), &s, &m, NULL)) continue;
        if (!apus_model_info(m, &info, NULL)) there |= info.towers & all[i];
        apus_model_close(m);
    }
    return there;
}

int open_for_engine(const command *c, const char *name, int need_ctx, apus_model **out)
{
    apus_engine_settings es;
    int rc = engine_options(c, &es);
    if (rc < 0) rc = fetch_if_missing(c, name);
    if (rc < 0 && !es.ctx &&
        (need_ctx > APUS_DEFAULT_CTX || whole_context())) { /* how far does the model reach? */
        rc = open_beside(c, name, APUS_LOAD_INFO, NULL, out);
        if (rc >= 0) return rc;
        rc = engine_settings(c, *out, need_ctx, &es);
        apus_model_close(*out);
        *out = NULL;
    }
    return rc >= 0 ? rc : open_beside(c, name, APUS_LOAD_ALL, &es, out);
}

int engine_settings(const command *c, const apus_model *m, int need_ctx, apus_engine_settings *out)
{
    apus_info info = {.size = sizeof info};
    apus_diag d;
    if (apus_model_info(m, &info, &d)) return report(c, &d);
    int rc = engine_options(c, out);
    if (rc >= 0) return rc;
    /* Make room for a long prompt rather than ask for --ctx, as far as the model reaches. */
    if (whole_context()) out->ctx = info.context;
    if (!out->ctx && need_ctx > APUS_DEFAULT_CTX)
        out->ctx = need_ctx < info.context ? need_ctx : info.context;
    return -1;
}

const char *larger_context(int ctx, int most)
{
    static char text[64];
    if (ctx >= most) return ", and the model reaches no further";
    snprintf(text, sizeof text, ", -c N makes it larger, up to %d", most);
    return text;
}

int chunk_of(const apus_model *m, const apus_engine_settings *es)
{
    apus_plan plan = {.size = sizeof plan};
    return apus_engine_plan(m, es, &plan, NULL) ? 0 : plan.prefill_chunk;
}

void make_room_for_pictures(const apus_model *m, apus_engine_settings *es)
{
    enum { LARGEST = 1120 }; /* of Gemma */
    if (!es->prefill_chunk && chunk_of(m, es) < LARGEST) es->prefill_chunk = LARGEST;
}
