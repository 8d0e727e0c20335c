/* kcheck.c - checks and times every slot of the kernel table at every level.
 *
 *   kcheck [--cpumask LEVEL | --device NAME] [--op SLOT,...] [--except SLOT,...] [--seed N]
 *          [--threads N] [--short] [--bench]
 *
 * Exit: 0 all checks passed, 1 a check failed, 2 usage, 77 the processor lacks the level, or the machine the
 * device. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cpu.h"
#include "base/file.h"
#include "harness.h"
#include "kern/peak.h"

typedef struct slot {
    const char *name;
    size_t offset;
    void (*check)(kc *c);
    void (*bench)(kc_bench *b);
} slot;

#define SLOT(name, bench)                                                                          \
    {                                                                                              \
#name, offsetof(ap_kern, name), check_##name, bench                                        \
    }

static const slot slots[] = {
    SLOT(pack_bytes, NULL),
    SLOT(pack, bench_pack),
    SLOT(pack_mat, NULL),
    SLOT(mat_rows, NULL),
    SLOT(embed, bench_embed),
    SLOT(norm, bench_norm),
    SLOT(layer_norm, bench_layer_norm),
    SLOT(blend, NULL),
    SLOT(matmul, bench_matmul),
    SLOT(glu, bench_glu),
    SLOT(route, bench_route),
    SLOT(moe_scratch_bytes, NULL),
    SLOT(moe, bench_moe),
    SLOT(moe_waves_scratch_bytes, NULL),
    SLOT(moe_begin, NULL),
    SLOT(moe_wave, NULL),
    SLOT(moe_end, NULL),
    SLOT(rope, bench_rope),
    SLOT(qkv, bench_qkv),
    SLOT(attn_scratch_bytes, NULL),
    SLOT(attn, bench_attn),
    SLOT(attn_fast_dim, NULL),
    SLOT(attn_near, bench_attn_near),
    SLOT(conv, bench_conv),
    SLOT(delta_scratch_bytes, NULL),
    SLOT(delta, bench_delta),
    SLOT(commit, bench_commit),
    SLOT(carry, NULL),
    SLOT(elem, bench_elem),
    SLOT(project, NULL),
    SLOT(mix, NULL),
    SLOT(recur, NULL),
    SLOT(attend, NULL),
    SLOT(sample_scratch_bytes, NULL),
    SLOT(sample, bench_sample),
};
enum { N_SLOTS = sizeof slots / sizeof slots[0] };
_Static_assert(offsetof(ap_kern, packed_tables) - offsetof(ap_kern, pack_bytes) + sizeof(ap_kern) -
                       offsetof(ap_kern, embed) ==
                   N_SLOTS * sizeof(void (*)(void)),
               "a slot of struct ap_kern has no check");

static const apus_cpu levels[] = {APUS_CPU_REF,  APUS_CPU_AVX2, APUS_CPU_AVX512, APUS_CPU_AMX,
                                  APUS_CPU_NEON, APUS_CPU_DOT,  APUS_CPU_I8MM};
enum { N_LEVELS = sizeof levels / sizeof levels[0], N_THREAD_COUNTS = 3 };

typedef struct options {
    apus_cpu level;     /* AUTO = all that this processor has */
    const char *device; /* NULL = CPUs */
    const char *op;     /* names between commas; NULL = all */
    const char *except; /* likewise; NULL = none */
    uint64_t seed;
    int threads; /* 0 = 1, 2 and 3 */
    bool bench, is_short;
} options;

static int usage(void)
{
    fprintf(stderr, "usage: kcheck [--cpumask LEVEL | --device NAME] [--op SLOT,...] "
                    "[--except SLOT,...] [--seed N] [--threads N] [--short] [--bench]\n");
    return 2;
}

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!strcmp(a, "--bench")) {
            o->bench = true;
            continue;
        }
        if (!strcmp(a, "--short")) {
            o->is_short = true;
            continue;
        }
        if (i + 1 == argc) return false;
        const char *v = argv[++i];
        char *end = NULL;
        errno = 0;
        if (!strcmp(a, "--cpumask")) {
            if (apus_cpu_parse(v, &o->level, NULL)) return false;
        } else if (!strcmp(a, "--device")) {
            o->device = v;
        } else if (!strcmp(a, "--op")) {
            o->op = v;
        } else if (!strcmp(a, "--except")) {
            o->except = v;
        } else if (!strcmp(a, "--seed")) {
            o->seed = strtoull(v, &end, 0);
            if (errno || end == v || *end) return false;
        } else if (!strcmp(a, "--threads")) {
            long n = strtol(v, &end, 10);
            if (errno || end == v || *end || n < 1 || n > 1024) return false;
            o->threads = (int)n;
        } else {
            return false;
        }
    }
    return true;
}

/* Is it one of the names between commas? */
static bool is_listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (; list; list = strchr(list, ',') ? strchr(list, ',') + 1 : NULL)
        if (!strncmp(list, name, n) && (!list[n] || list[n] == ',')) return true;
    return false;
}

static bool is_wanted(const options *o, const char *name)
{
    return (!o->op || is_listed(o->op, name)) && !is_listed(o->except, name);
}

static int run_checks(const options *o, kc *c)
{
    int red = 0, ran = 0;
    for (int i = 0; i < N_SLOTS; i++) {
        if (!is_wanted(o, slots[i].name)) continue;
        void (*fn)(void);
        memcpy(&fn, (const char *)c->ref->k + slots[i].offset, sizeof fn);
        c->slot = slots[i].name;
        c->fails = 0;
        c->values = 0;
        c->where[0] = 0;
        /* a check's inputs do not depend on which checks ran before it */
        ap_rng_seed(&c->rng, o->seed + (uint64_t)i * 7919);
        int64_t begin = ap_time_us();
        ran++;
        if (!fn) {
            kc_fail(c, "the slot is empty");
        } else {
            slots[i].check(c);
            kc_release(c);
        }
        printf("%-4s %-20s %10lld values  %7.2f s\n", c->fails ? "FAIL" : "ok", slots[i].name,
               (long long)c->values, (double)(ap_time_us() - begin) * 1e-6);
        fflush(stdout);
        red += c->fails != 0;
    }
    if (!ran) {
        fprintf(stderr, "kcheck: no slot is left of \"%s\"\n", o->op ? o->op : "all");
        return 2;
    }
    if (red) printf("%d of %d slots are red; seed %llu\n", red, ran, (unsigned long long)o->seed);
    return red != 0;
}

double kc_seconds(int n_threads)
{
    struct timespec t;
    clock_gettime(n_threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void kc_time(kc_bench *b, const char *shape, double flops, double bytes, kc_fn fn, void *arg)
{
    enum { ROUNDS = 50, ROUND_US = 4000 }; /* short: the best one was not disturbed */
    bool host = b->x->dev->is_host;
    int threads = host ? ap_pool_threads(b->x->dev->pool) : 0;
    double best = INFINITY;
    fn(b->x, arg);
    kc_finish(b->x);
    for (int r = 0; r < ROUNDS; r++) {
        double begin = kc_seconds(threads), t;
        int n = 0;
        do {
            fn(b->x, arg);
            n++;
            if (host || n % 16 == 0) kc_finish(b->x);
            t = kc_seconds(threads) - begin;
        } while (t < ROUND_US * 1e-6);
        kc_finish(b->x);
        t = kc_seconds(threads) - begin;
        best = fmin(best, t / n);
    }
    double need = fmax(flops / b->peak_flops, bytes / b->peak_bytes);
    printf("%-10s %-8s %-34s %11.2f us", b->slot, b->name, shape, best * 1e6);
    if (flops > 0)
        printf(" %8.1f GFLOP/s", flops / best * 1e-9);
    else
        printf(" %8s        ", "");
    printf(" %7.1f GB/s %5.1f %% of %s\n", bytes / best * 1e-9, 100.0 * need / best,
           flops / b->peak_flops > bytes / b->peak_bytes ? "fma" : "read");
    fflush(stdout);
}

/* Multiply-adds of bytes that a lane does in the place of one of f32. */
static double dots_per_fma(apus_cpu level)
{
    switch (level) {
    case APUS_CPU_AVX512: /* vpdpbusd */
    case APUS_CPU_AMX:
    case APUS_CPU_DOT:
        return 4.0; /* sdot */
    case APUS_CPU_I8MM:
        return 8.0; /* smmla: 2 x 2 sums of 8 in four lanes */
    default:
        return 2.0; /* AVX2: two instructions and an addition; NEON: smlal of bytes */
    }
}

/* What a CPU could do at most; of other devices it is not known. */
static void find_peaks(kc_bench *b)
{
    ap_pool *pool = b->x->dev->pool;
    apus_cpu level = b->x->k->level;
    b->peak_flops = b->peak_bytes = b->peak_dots = INFINITY;
    if (!b->x->dev->is_host) return;
    b->peak_flops = ap_peak_ops(level, APUS_UNIT_F32, pool);
    b->peak_bytes = ap_peak_bytes(level, pool);
    b->peak_dots = b->peak_flops * dots_per_fma(level);
    b->peak_tiles = ap_peak_tiles(level, AP_TILES_BF16, pool);
    printf("\n%s: peak %.1f GFLOP/s (f32 fma), %.1f GB/s (read)\n", b->name, b->peak_flops * 1e-9,
           b->peak_bytes * 1e-9);
    if (b->peak_tiles > 0)
        printf("%s: peak %.1f GFLOP/s (bf16 tiles), %.1f GOP/s (8-bit tiles)\n", b->name,
               b->peak_tiles * 1e-9, ap_peak_tiles(level, AP_TILES_INT8, pool) * 1e-9);
}

static void run_bench(const options *o, kc *c)
{
    c->bench = true;
    for (int v = 0; v < c->n_kern; v++) {
        const kc_kern *kern = &c->kern[v];
        kc_bench b = {.x = &kern->x, .name = kern->name, .c = c};
        find_peaks(&b);
        for (int i = 0; i < N_SLOTS; i++) {
            if (!slots[i].bench || !is_wanted(o, slots[i].name)) continue;
            c->slot = b.slot = slots[i].name;
            ap_rng_seed(&c->rng, o->seed);
            slots[i].bench(&b);
            kc_release(c);
        }
    }
}

static apus_err open_cpu(apus_cpu level, int threads, kc_kern *out, apus_diag *diag)
{
    ap_device *dev;
    apus_err err = ap_device_cpu(level, threads, &dev, diag);
    if (err) return err;
    *out = (kc_kern){.x = {.k = dev->kern, .dev = dev}, .exact = true};
    snprintf(out->name, sizeof out->name, "%s x%d", apus_cpu_name(level), threads);
    return APUS_OK;
}

/* What is compared with ref: CPUs of the levels asked for, with these numbers of threads. */
static apus_err open_cpus(const options *o, const int *threads, int n_threads, kc *c, kc_kern *out,
                          apus_diag *diag)
{
    apus_err err = APUS_OK;
    for (int i = 0; i < N_LEVELS; i++) {
        if (o->level != APUS_CPU_AUTO && o->level != levels[i]) continue;
        if (!ap_cpu_has(levels[i])) continue;
        for (int t = 0; t < n_threads && !err; t++) {
            err = open_cpu(levels[i], threads[t], &out[c->n_kern], diag);
            if (!err) c->n_kern++;
        }
    }
    return err;
}

/* Or a device by name. */
static apus_err open_device(const options *o, kc *c, kc_kern *out, apus_diag *diag)
{
    apus_err err = ap_device_open(o->device, APUS_CPU_AUTO, o->threads, &c->dev, diag);
    if (err) return err;
    *out = (kc_kern){.x = {.k = c->dev->kern, .dev = c->dev}, .exact = c->dev->is_host};
    snprintf(out->name, sizeof out->name, "%s", c->dev->name);
    c->n_kern = 1;
    return APUS_OK;
}

static apus_err open_all(const options *o, kc *c, kc_kern *ref, kc_kern *kern, apus_diag *diag)
{
    int threads[N_THREAD_COUNTS] = {1, 2, 3}, n = o->bench || o->threads ? 1 : N_THREAD_COUNTS;
    if (o->bench) threads[0] = ap_pool_default_threads();
    if (o->threads) threads[0] = o->threads;
    apus_err err = open_cpu(APUS_CPU_REF, 1, ref, diag);
    if (err) return err;
    c->dev = ref->x.dev;
    return o->device ? open_device(o, c, kern, diag) : open_cpus(o, threads, n, c, kern, diag);
}

static int run(const options *o, kc *c)
{
    printf("kcheck: seed %llu, against ref:", (unsigned long long)o->seed);
    for (int i = 0; i < c->n_kern; i++) printf(" [%s]", c->kern[i].name);
    printf("\n");
    int rc = run_checks(o, c);
    if (rc == 0 && o->bench) run_bench(o, c);
    return rc;
}

int main(int argc, char **argv)
{
    options o = {.level = APUS_CPU_AUTO, .seed = 1};
    if (!parse(argc, argv, &o)) return usage();
    if (!ap_cpu_has(o.level)) {
        printf("skipped: this processor does not have the level \"%s\"\n", apus_cpu_name(o.level));
        return 77;
    }
    apus_diag diag;
    kc_kern ref = {0}, kern[N_LEVELS * N_THREAD_COUNTS];
    kc c = {.ref = &ref.x, .kern = kern, .is_short = o.is_short};
    apus_err err = open_all(&o, &c, &ref, kern, &diag);
    int rc = err == APUS_EUNSUPPORTED ? 77 : 2;
    if (err)
        fprintf(stderr, "kcheck: %s\n", diag.text);
    else
        rc = run(&o, &c);
    for (int i = 0; i < c.n_kern; i++) kern[i].x.dev->op->destroy(kern[i].x.dev);
    if (ref.x.dev) ref.x.dev->op->destroy(ref.x.dev);
    return rc;
}
