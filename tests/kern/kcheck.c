/* kcheck.c - checks and times every slot of the kernel table at every level.
 *
 *   kcheck [--cpumask LEVEL] [--op SLOT] [--seed N] [--threads N] [--short] [--bench]
 *
 * Exit: 0 all checks passed, 1 a check failed, 2 usage, 77 the processor lacks the level. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cpu.h"
#include "base/file.h"
#include "base/mem.h"
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
    SLOT(pack_bytes, NULL),   SLOT(pack, bench_pack),        SLOT(pack_mat, NULL),
    SLOT(embed, bench_embed),
    SLOT(norm, bench_norm),   SLOT(matmul, bench_matmul),    SLOT(glu, bench_glu),
    SLOT(route, bench_route), SLOT(moe_scratch_bytes, NULL), SLOT(moe, bench_moe),
    SLOT(rope, bench_rope),   SLOT(qkv, bench_qkv),          SLOT(attn_scratch_bytes, NULL),
    SLOT(attn, bench_attn),   SLOT(conv, bench_conv),        SLOT(delta_scratch_bytes, NULL),
    SLOT(delta, bench_delta), SLOT(elem, bench_elem),
};
enum { N_SLOTS = sizeof slots / sizeof slots[0] };
_Static_assert(sizeof(ap_kern) - offsetof(ap_kern, pack_bytes) == N_SLOTS * sizeof(void (*)(void)),
               "a slot of struct ap_kern has no check");

static const apus_cpu levels[] = {APUS_CPU_REF, APUS_CPU_AVX2, APUS_CPU_AVX512, APUS_CPU_AMX,
                                  APUS_CPU_NEON, APUS_CPU_DOT, APUS_CPU_I8MM};
enum { N_LEVELS = sizeof levels / sizeof levels[0], N_THREAD_COUNTS = 3 };

typedef struct options {
    apus_cpu level; /* AUTO = all that this processor has */
    const char *op; /* NULL = all */
    uint64_t seed;
    int threads; /* 0 = 1, 2 and 3 */
    bool bench, is_short;
} options;

static int usage(void)
{
    fprintf(stderr,
            "usage: kcheck [--cpumask LEVEL] [--op SLOT] [--seed N] [--threads N] [--short] [--bench]\n");
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
        } else if (!strcmp(a, "--op")) {
            o->op = v;
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

static int run_checks(const options *o, kc *c)
{
    int red = 0, ran = 0;
    for (int i = 0; i < N_SLOTS; i++) {
        if (o->op && strcmp(o->op, slots[i].name)) continue;
        void (*fn)(void);
        memcpy(&fn, (const char *)c->ref + slots[i].offset, sizeof fn);
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
        fprintf(stderr, "kcheck: there is no slot \"%s\"\n", o->op);
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
    int threads = ap_pool_threads(b->k->pool);
    double best = INFINITY;
    fn(b->k, arg);
    for (int r = 0; r < ROUNDS; r++) {
        double begin = kc_seconds(threads), t;
        int n = 0;
        do {
            fn(b->k, arg);
            n++;
            t = kc_seconds(threads) - begin;
        } while (t < ROUND_US * 1e-6);
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
    case APUS_CPU_DOT: return 4.0; /* sdot */
    case APUS_CPU_I8MM: return 8.0; /* smmla: 2 x 2 sums of 8 in four lanes */
    default: return 2.0; /* AVX2: two instructions and an addition; NEON: smlal of bytes */
    }
}

static void run_bench(const options *o, kc *c)
{
    c->bench = true;
    for (int v = 0; v < c->n_kern; v++) {
        const kc_kern *kern = &c->kern[v];
        kc_bench b = {.k = &kern->k, .name = kern->name, .c = c};
        b.peak_flops = ap_peak_ops(kern->k.level, APUS_UNIT_F32, kern->k.pool);
        b.peak_bytes = ap_peak_bytes(kern->k.level, kern->k.pool);
        b.peak_dots = b.peak_flops * dots_per_fma(kern->k.level);
        b.peak_tiles = ap_peak_tiles(kern->k.level, AP_TILES_BF16, kern->k.pool);
        printf("\n%s: peak %.1f GFLOP/s (f32 fma), %.1f GB/s (read)\n", kern->name,
               b.peak_flops * 1e-9, b.peak_bytes * 1e-9);
        if (b.peak_tiles > 0)
            printf("%s: peak %.1f GFLOP/s (bf16 tiles), %.1f GOP/s (8-bit tiles)\n", kern->name,
                   b.peak_tiles * 1e-9,
                   ap_peak_tiles(kern->k.level, AP_TILES_INT8, kern->k.pool) * 1e-9);
        for (int i = 0; i < N_SLOTS; i++) {
            if (!slots[i].bench || (o->op && strcmp(o->op, slots[i].name))) continue;
            c->slot = b.slot = slots[i].name;
            ap_rng_seed(&c->rng, o->seed);
            slots[i].bench(&b);
            kc_release(c);
        }
    }
}

/* The tables to compare with ref. Returns their number, or -1. */
static int open_kerns(const options *o, ap_pool *const *pools, int n_pools, kc_kern *out)
{
    int n = 0;
    for (int i = 0; i < N_LEVELS; i++) {
        if (o->level != APUS_CPU_AUTO && o->level != levels[i]) continue;
        if (!ap_cpu_has(levels[i])) continue;
        for (int p = 0; p < n_pools; p++) {
            if (ap_kern_cpu(levels[i], pools[p], &out[n].k, NULL)) return -1;
            snprintf(out[n].name, sizeof out[n].name, "%s x%d", apus_cpu_name(levels[i]),
                     ap_pool_threads(pools[p]));
            n++;
        }
    }
    return n;
}

int main(int argc, char **argv)
{
    options o = {.level = APUS_CPU_AUTO, .seed = 1};
    if (!parse(argc, argv, &o)) return usage();
    if (!ap_cpu_has(o.level)) {
        printf("skipped: this processor does not have the level \"%s\"\n", apus_cpu_name(o.level));
        return 77;
    }
    int counts[N_THREAD_COUNTS] = {1, 2, 3}, n_pools = o.bench ? 1 : N_THREAD_COUNTS, rc = 2;
    if (o.bench) counts[0] = ap_pool_default_threads();
    if (o.threads) {
        counts[0] = o.threads;
        n_pools = 1;
    }
    ap_pool *one = NULL, *pools[N_THREAD_COUNTS] = {0};
    apus_diag diag;
    ap_kern ref;
    kc_kern kern[N_LEVELS * N_THREAD_COUNTS];
    kc c = {.ref = &ref, .kern = kern, .is_short = o.is_short};
    if (ap_pool_create(1, &one, &diag) || ap_kern_cpu(APUS_CPU_REF, one, &ref, &diag)) goto done;
    for (int i = 0; i < n_pools; i++)
        if (ap_pool_create(counts[i], &pools[i], &diag)) goto done;
    c.n_kern = open_kerns(&o, pools, n_pools, kern);
    if (c.n_kern < 0) goto done;

    printf("kcheck: seed %llu, against ref:", (unsigned long long)o.seed);
    for (int i = 0; i < c.n_kern; i++) printf(" [%s]", kern[i].name);
    printf("\n");
    rc = run_checks(&o, &c);
    if (rc == 0 && o.bench) run_bench(&o, &c);
done:
    if (rc == 2) fprintf(stderr, "kcheck: could not run\n");
    for (int i = 0; i < N_THREAD_COUNTS; i++) ap_pool_free(pools[i]);
    ap_pool_free(one);
    return rc;
}
