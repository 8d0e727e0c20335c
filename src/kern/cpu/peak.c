/* peak.c - what the machine can do, measured with loops that do nothing else. Assembly, so that the
 * level decides the instruction and not the compiler. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/sysmem.h"
#include "kern/peak.h"

#define LOOPS   200000
#define OPS_US  120000 /* of a unit; at least two rounds */
#define READ_US 900000 /* at least one round of each distance */

#define MB         ((size_t)1 << 20)
#define READ_STEP  256 /* bytes of a loop */
#define READ_TASKS 64  /* at least; 8 for each thread */

typedef struct peak_job {
    apus_cpu level;
    apus_unit unit;
    uint8_t *data;
    size_t bytes; /* of a task */
    size_t ahead; /* bytes that are asked for before they are read */
} peak_job;

#if defined(__x86_64__)
/* clang-format off */
#define REPEAT12(OP, v)                                                                            \
    OP(v, "0")                                                                                     \
    OP(v, "1") OP(v, "2") OP(v, "3") OP(v, "4") OP(v, "5") OP(v, "6") OP(v, "7") OP(v, "8")        \
        OP(v, "9") OP(v, "10") OP(v, "11")
/* clang-format on */
#define CLEAR(v, n) "vxorps %%xmm" n ", %%xmm" n ", %%xmm" n "\n\t"
#define CLEAR_ALL   REPEAT12(CLEAR, "") CLEAR("", "12") CLEAR("", "14") CLEAR("", "15")
#define CLOBBERS                                                                                   \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm12", "xmm14", "xmm15", "cc"
#define LOOP(OP, v)                                                                                \
    __asm__ volatile(CLEAR_ALL "1:\n\t" REPEAT12(OP, v) REPEAT12(OP, v) "dec %0\n\tjnz 1b\n\t"     \
                                                                        "vzeroupper"               \
                     : "+r"(n)                                                                     \
                     :                                                                             \
                     : CLOBBERS)

/* sum n += products of 15 and 14 */
#define THREE(op, v, n) op " %%" v "15, %%" v "14, %%" v n "\n\t"
#define FMA(v, n)       THREE("vfmadd231ps", v, n)
#define DOT16(v, n)     THREE("vpdpwssd", v, n)
#define DOT8(v, n)      THREE("vpdpbusd", v, n)
/* AVX2 has no sum in the same instruction. */
#define ADD(op, v, n) op " %%" v "12, %%" v n ", %%" v n "\n\t"
#define MADD16(v, n)  THREE("vpmaddwd", v, "12") ADD("vpaddd", v, n)
#define MADD8(v, n)   THREE("vpmaddubsw", v, "12") ADD("vpaddw", v, n)

static bool wide(apus_cpu level)
{
    return level == APUS_CPU_AVX512 || level == APUS_CPU_AMX;
}

/* n loops; returns the multiply-adds of one, 0 = the level has no such unit. */
static double ops_loops(apus_cpu level, apus_unit unit, long n)
{
    if (wide(level)) {
        if (unit == APUS_UNIT_F32)
            LOOP(FMA, "zmm");
        else if (unit == APUS_UNIT_INT16)
            LOOP(DOT16, "zmm");
        else if (unit == APUS_UNIT_INT8)
            LOOP(DOT8, "zmm");
    } else if (level == APUS_CPU_AVX2) {
        if (unit == APUS_UNIT_F32)
            LOOP(FMA, "ymm");
        else if (unit == APUS_UNIT_INT16)
            LOOP(MADD16, "ymm");
        else if (unit == APUS_UNIT_INT8)
            LOOP(MADD8, "ymm");
    } else {
        return 0;
    }
    int lanes = wide(level) ? 16 : 8;
    return 24.0 * lanes * (unit == APUS_UNIT_F32 ? 1 : unit == APUS_UNIT_INT16 ? 2 : 4);
}

/* whole READ_STEPs from p to end */
static bool read_wide(const peak_job *j, const uint8_t *p, const uint8_t *end)
{
    if (wide(j->level))
        __asm__ volatile("1:\n\tvmovaps (%0), %%zmm0\n\tvmovaps 64(%0), %%zmm0\n\t"
                         "vmovaps 128(%0), %%zmm0\n\tvmovaps 192(%0), %%zmm0\n\t"
                         "prefetcht0 (%0,%2)\n\tprefetcht0 64(%0,%2)\n\t"
                         "prefetcht0 128(%0,%2)\n\tprefetcht0 192(%0,%2)\n\t"
                         "add $256, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"
                         : "+r"(p)
                         : "r"(end), "r"(j->ahead)
                         : "xmm0", "cc", "memory");
    else if (j->level == APUS_CPU_AVX2)
        __asm__ volatile("1:\n\tvmovaps (%0), %%ymm0\n\tvmovaps 32(%0), %%ymm0\n\t"
                         "vmovaps 64(%0), %%ymm0\n\tvmovaps 96(%0), %%ymm0\n\t"
                         "vmovaps 128(%0), %%ymm0\n\tvmovaps 160(%0), %%ymm0\n\t"
                         "vmovaps 192(%0), %%ymm0\n\tvmovaps 224(%0), %%ymm0\n\t"
                         "prefetcht0 (%0,%2)\n\tprefetcht0 64(%0,%2)\n\t"
                         "prefetcht0 128(%0,%2)\n\tprefetcht0 192(%0,%2)\n\t"
                         "add $256, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"
                         : "+r"(p)
                         : "r"(end), "r"(j->ahead)
                         : "xmm0", "cc", "memory");
    else
        return false;
    return true;
}
#elif defined(__aarch64__)
/* clang-format off */
#define REPEAT24(OP)                                                                               \
    OP("0")                                                                                        \
    OP("1") OP("2") OP("3") OP("4") OP("5") OP("6") OP("7") OP("8") OP("9") OP("10") OP("11")      \
        OP("12") OP("13") OP("14") OP("15") OP("16") OP("17") OP("18") OP("19") OP("20") OP("21")  \
            OP("22") OP("23")
/* clang-format on */
#define CLEAR(n)  "movi v" n ".4s, #0\n\t"
#define CLEAR_ALL REPEAT24(CLEAR) CLEAR("30") CLEAR("31")
#define LOOP(OP, arch)                                                                             \
    __asm__ volatile(arch CLEAR_ALL "1:\n\t" REPEAT24(OP) "subs %0, %0, #1\n\tb.ne 1b"             \
                     : "+r"(n)                                                                     \
                     :                                                                             \
                     : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",   \
                       "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21",       \
                       "v22", "v23", "v30", "v31", "cc")
#define FMA(n)   "fmla v" n ".4s, v30.4s, v31.4s\n\t"
#define SMLAL(n) "smlal v" n ".4s, v30.4h, v31.4h\n\t"
#define SDOT(n)  "sdot v" n ".4s, v30.16b, v31.16b\n\t"
#define SMMLA(n) "smmla v" n ".4s, v30.16b, v31.16b\n\t"

/* n loops; returns the multiply-adds of one, 0 = the level has no such unit. With dot products of bytes
 * one of 16-bit numbers is two of them. */
static double ops_loops(apus_cpu level, apus_unit unit, long n)
{
    if (level < APUS_CPU_NEON) return 0;
    if (unit == APUS_UNIT_F32) {
        LOOP(FMA, "");
        return 24 * 4;
    }
    int planes = unit == APUS_UNIT_INT16 ? 2 : 1;
    if (level == APUS_CPU_I8MM) {
        LOOP(SMMLA, ".arch armv8.2-a+i8mm\n\t");
        return 24.0 * 32 / planes;
    }
    if (level == APUS_CPU_DOT) {
        LOOP(SDOT, ".arch armv8.2-a+dotprod\n\t");
        return 24.0 * 16 / planes;
    }
    if (unit != APUS_UNIT_INT16) return 0;
    LOOP(SMLAL, "");
    return 24 * 4;
}

static bool read_wide(const peak_job *j, const uint8_t *p, const uint8_t *end)
{
    if (j->level < APUS_CPU_NEON) return false;
    const uint8_t *ahead = p + j->ahead;
    __asm__ volatile("1:\n\tldp q0, q1, [%0]\n\tldp q2, q3, [%0, #32]\n\t"
                     "ldp q0, q1, [%0, #64]\n\tldp q2, q3, [%0, #96]\n\t"
                     "prfm pldl1keep, [%1]\n\tprfm pldl1keep, [%1, #64]\n\t"
                     "add %0, %0, #128\n\tadd %1, %1, #128\n\tcmp %0, %2\n\tb.lo 1b"
                     : "+r"(p), "+r"(ahead)
                     : "r"(end)
                     : "v0", "v1", "v2", "v3", "cc", "memory");
    return true;
}
#else
static double ops_loops(apus_cpu level, apus_unit unit, long n)
{
    (void)level, (void)unit, (void)n;
    return 0;
}
static bool read_wide(const peak_job *j, const uint8_t *p, const uint8_t *end)
{
    (void)j, (void)p, (void)end;
    return false;
}
#endif

static double fma_scalar(long n)
{
    volatile float sink;
    float s[8] = {0}, x = 1.0f;
    __asm__ volatile("" : "+m"(x));
    for (long i = 0; i < n; i++)
        for (int j = 0; j < 8; j++) s[j] = fmaf(x, x, s[j]);
    for (int j = 0; j < 8; j++) sink = s[j];
    (void)sink;
    return 8;
}

static void ops_task(void *arg, int task, int worker)
{
    const peak_job *j = arg;
    (void)task, (void)worker;
    if (ops_loops(j->level, j->unit, LOOPS) == 0) fma_scalar(LOOPS / 8);
}

static double peak_of_loops(apus_cpu level, apus_unit unit, ap_pool *pool)
{
    peak_job j = {.level = level, .unit = unit};
    double fmas = ops_loops(level, unit, 1) * LOOPS;
    if (fmas == 0 && unit != APUS_UNIT_F32) return 0;
    if (fmas == 0) fmas = fma_scalar(1) * (LOOPS / 8);
    int n = ap_pool_threads(pool);
    int64_t best = INT64_MAX, all = 0;
    for (int r = 0; r < 2 || all < (int64_t)OPS_US * 1000; r++) {
        int64_t begin = ap_time_ns();
        ap_pool_run(pool, ops_task, &j, n);
        int64_t t = ap_time_ns() - begin;
        all += t;
        if (t < best) best = t;
    }
    return 2.0 * fmas * n / ((double)best * 1e-9);
}

double ap_peak_ops(apus_cpu level, apus_unit unit, ap_pool *pool)
{
    switch (unit) {
    case APUS_UNIT_F32:
    case APUS_UNIT_INT16:
    case APUS_UNIT_INT8:
        return peak_of_loops(level, unit, pool);
    case APUS_UNIT_BF16_TILES:
        return ap_peak_tiles(level, AP_TILES_BF16, pool);
    case APUS_UNIT_INT8_TILES:
        return ap_peak_tiles(level, AP_TILES_INT8, pool);
    default:
        return 0;
    }
}

static void fill_task(void *arg, int task, int worker)
{
    const peak_job *j = arg;
    (void)worker;
    memset(j->data + (size_t)task * j->bytes, 1, j->bytes);
}

static void read_task(void *arg, int task, int worker)
{
    const peak_job *j = arg;
    const uint8_t *p = j->data + (size_t)task * j->bytes, *end = p + j->bytes;
    (void)worker;
    if (read_wide(j, p, end)) return;
    uint64_t s = 0, v;
    for (; p < end; p += 8) {
        memcpy(&v, p, 8);
        s ^= v;
    }
    __asm__ volatile("" : : "r"(s));
}

/* 1 to 4 GB, the more the larger the machine and so its caches; less where memory is short. */
static size_t read_bytes(void)
{
    uint64_t have = ap_memory_available(), part = have / 16;
    if (have == 0) return 1024 * MB;
    if (part < 1024 * MB) part = have / 4 < 1024 * MB ? have / 4 : 1024 * MB;
    return part < 160 * MB ? 160 * MB : part > 4096 * MB ? 4096 * MB : (size_t)part;
}

double ap_peak_bytes(apus_cpu level, ap_pool *pool)
{
    static const size_t distances[] = {0, 1024, 2048, 4096, 8192};
    enum { N_DISTANCES = sizeof distances / sizeof *distances };
    int n_tasks = ap_max_int(READ_TASKS, 8 * ap_pool_threads(pool));
    peak_job j = {.level = level};
    size_t bytes = 0;
    for (size_t want = read_bytes(); !j.data && want > 16 * MB; want /= 2) {
        j.bytes = want / (size_t)n_tasks / READ_STEP * READ_STEP;
        bytes = j.bytes * (size_t)n_tasks;
        j.data = ap_big_alloc(bytes); /* limits of the process may be lower than they seemed */
    }
    if (!j.data) return INFINITY;
    ap_pool_run(pool, fill_task, &j, n_tasks);
    int64_t best = INT64_MAX, all = 0;
    for (int r = 0; r < N_DISTANCES || all < (int64_t)READ_US * 1000; r++) {
        j.ahead = distances[r % N_DISTANCES];
        int64_t begin = ap_time_ns();
        ap_pool_run(pool, read_task, &j, n_tasks);
        int64_t t = ap_time_ns() - begin;
        all += t;
        if (t < best) best = t;
    }
    ap_big_free(j.data, bytes);
    return (double)bytes / ((double)best * 1e-9);
}

#if !defined(__x86_64__)
double ap_peak_tiles(apus_cpu level, ap_tile_kind kind, ap_pool *pool)
{
    (void)level, (void)kind, (void)pool;
    return 0;
}
#endif
