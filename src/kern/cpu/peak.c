/* peak.c - what the machine can do, measured with loops that do nothing else. Assembly, so that the
 * level decides the instruction and not the compiler. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "kern/peak.h"

#define ROUNDS     40
#define FMA_LOOPS  400000
#define READ_BYTES ((size_t)160 << 20)
#define READ_TASKS 64

typedef struct peak_job {
    apus_cpu level;
    const uint8_t *data;
    size_t bytes; /* of a task */
} peak_job;

#if defined(__x86_64__)
#define FMA(v, n) "vfmadd231ps %%" v "15, %%" v "14, %%" v n "\n\t"
#define FMA12(v)                                                                                   \
    FMA(v, "0")                                                                                    \
    FMA(v, "1") FMA(v, "2") FMA(v, "3") FMA(v, "4") FMA(v, "5") FMA(v, "6") FMA(v, "7")            \
        FMA(v, "8") FMA(v, "9") FMA(v, "10") FMA(v, "11")
#define CLEAR(n) "vxorps %%xmm" n ", %%xmm" n ", %%xmm" n "\n\t"
#define CLEAR_ALL                                                                                  \
    CLEAR("0")                                                                                     \
    CLEAR("1") CLEAR("2") CLEAR("3") CLEAR("4") CLEAR("5") CLEAR("6") CLEAR("7") CLEAR("8")        \
        CLEAR("9") CLEAR("10") CLEAR("11") CLEAR("14") CLEAR("15")
#define CLOBBERS                                                                                   \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
        "xmm11", "xmm14", "xmm15", "cc"

static bool wide(apus_cpu level)
{
    return level == APUS_CPU_AVX512 || level == APUS_CPU_AMX;
}

/* Multiply-adds per loop. */
static double fma_loops(apus_cpu level, long n)
{
    if (wide(level)) {
        __asm__ volatile(CLEAR_ALL "1:\n\t" FMA12("zmm")
                             FMA12("zmm") "dec %0\n\tjnz 1b\n\tvzeroupper"
                         : "+r"(n)
                         :
                         : CLOBBERS);
        return 24 * 16;
    }
    if (level == APUS_CPU_AVX2) {
        __asm__ volatile(CLEAR_ALL "1:\n\t" FMA12("ymm")
                             FMA12("ymm") "dec %0\n\tjnz 1b\n\tvzeroupper"
                         : "+r"(n)
                         :
                         : CLOBBERS);
        return 24 * 8;
    }
    return 0;
}

static bool read_wide(apus_cpu level, const uint8_t *p, const uint8_t *end)
{
    if (wide(level))
        __asm__ volatile("1:\n\tvmovaps (%0), %%zmm0\n\tvmovaps 64(%0), %%zmm0\n\t"
                         "vmovaps 128(%0), %%zmm0\n\tvmovaps 192(%0), %%zmm0\n\t"
                         "prefetcht0 2048(%0)\n\tprefetcht0 2112(%0)\n\t"
                         "prefetcht0 2176(%0)\n\tprefetcht0 2240(%0)\n\t"
                         "add $256, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"
                         : "+r"(p)
                         : "r"(end)
                         : "xmm0", "cc", "memory");
    else if (level == APUS_CPU_AVX2)
        __asm__ volatile("1:\n\tvmovaps (%0), %%ymm0\n\tvmovaps 32(%0), %%ymm0\n\t"
                         "vmovaps 64(%0), %%ymm0\n\tvmovaps 96(%0), %%ymm0\n\t"
                         "vmovaps 128(%0), %%ymm0\n\tvmovaps 160(%0), %%ymm0\n\t"
                         "vmovaps 192(%0), %%ymm0\n\tvmovaps 224(%0), %%ymm0\n\t"
                         "prefetcht0 2048(%0)\n\tprefetcht0 2112(%0)\n\t"
                         "prefetcht0 2176(%0)\n\tprefetcht0 2240(%0)\n\t"
                         "add $256, %0\n\tcmp %1, %0\n\tjb 1b\n\tvzeroupper"
                         : "+r"(p)
                         : "r"(end)
                         : "xmm0", "cc", "memory");
    else
        return false;
    return true;
}
#elif defined(__aarch64__)
#define FMA(n) "fmla v" n ".4s, v30.4s, v31.4s\n\t"
#define FMA24                                                                                      \
    FMA("0")                                                                                       \
    FMA("1") FMA("2") FMA("3") FMA("4") FMA("5") FMA("6") FMA("7") FMA("8") FMA("9") FMA("10")     \
        FMA("11") FMA("12") FMA("13") FMA("14") FMA("15") FMA("16") FMA("17") FMA("18") FMA("19")  \
            FMA("20") FMA("21") FMA("22") FMA("23")
#define CLEAR(n) "movi v" n ".4s, #0\n\t"
#define CLEAR_ALL                                                                                  \
    CLEAR("0")                                                                                     \
    CLEAR("1") CLEAR("2") CLEAR("3") CLEAR("4") CLEAR("5") CLEAR("6") CLEAR("7") CLEAR("8")        \
        CLEAR("9") CLEAR("10") CLEAR("11") CLEAR("12") CLEAR("13") CLEAR("14") CLEAR("15")         \
            CLEAR("16") CLEAR("17") CLEAR("18") CLEAR("19") CLEAR("20") CLEAR("21") CLEAR("22")    \
                CLEAR("23") CLEAR("30") CLEAR("31")

static double fma_loops(apus_cpu level, long n)
{
    if (level < APUS_CPU_NEON) return 0;
    __asm__ volatile(CLEAR_ALL "1:\n\t" FMA24 "subs %0, %0, #1\n\tb.ne 1b"
                     : "+r"(n)
                     :
                     : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
                       "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
                       "v23", "v30", "v31", "cc");
    return 24 * 4;
}

static bool read_wide(apus_cpu level, const uint8_t *p, const uint8_t *end)
{
    if (level < APUS_CPU_NEON) return false;
    __asm__ volatile("1:\n\tldp q0, q1, [%0]\n\tldp q2, q3, [%0, #32]\n\t"
                     "ldp q0, q1, [%0, #64]\n\tldp q2, q3, [%0, #96]\n\t"
                     "prfm pldl1keep, [%0, #2048]\n\tprfm pldl1keep, [%0, #2112]\n\t"
                     "add %0, %0, #128\n\tcmp %0, %1\n\tb.lo 1b"
                     : "+r"(p)
                     : "r"(end)
                     : "v0", "v1", "v2", "v3", "cc", "memory");
    return true;
}
#else
static double fma_loops(apus_cpu level, long n)
{
    (void)level, (void)n;
    return 0;
}
static bool read_wide(apus_cpu level, const uint8_t *p, const uint8_t *end)
{
    (void)level, (void)p, (void)end;
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

static void fma_task(void *arg, int task, int worker)
{
    const peak_job *j = arg;
    (void)task, (void)worker;
    if (fma_loops(j->level, FMA_LOOPS) == 0) fma_scalar(FMA_LOOPS / 8);
}

static void read_task(void *arg, int task, int worker)
{
    const peak_job *j = arg;
    const uint8_t *p = j->data + (size_t)task * j->bytes, *end = p + j->bytes;
    (void)worker;
    if (read_wide(j->level, p, end)) return;
    uint64_t s = 0, v;
    for (; p < end; p += 8) {
        memcpy(&v, p, 8);
        s ^= v;
    }
    __asm__ volatile("" : : "r"(s));
}

double ap_peak_flops(apus_cpu level, ap_pool *pool)
{
    peak_job j = {.level = level};
    double best = INFINITY, per_loop = fma_loops(level, 1);
    double fmas = per_loop > 0 ? per_loop * FMA_LOOPS : 8.0 * (FMA_LOOPS / 8);
    int n = ap_pool_threads(pool);
    for (int r = 0; r < ROUNDS; r++) {
        int64_t begin = ap_time_us();
        ap_pool_run(pool, fma_task, &j, n);
        best = fmin(best, (double)(ap_time_us() - begin) * 1e-6);
    }
    return 2.0 * fmas * n / best;
}

double ap_peak_bytes(apus_cpu level, ap_pool *pool)
{
    uint8_t *data = ap_big_alloc(READ_BYTES);
    if (!data) return INFINITY;
    memset(data, 1, READ_BYTES);
    peak_job j = {.level = level, .data = data, .bytes = READ_BYTES / READ_TASKS};
    double best = INFINITY;
    for (int r = 0; r < ROUNDS; r++) {
        int64_t begin = ap_time_us();
        ap_pool_run(pool, read_task, &j, READ_TASKS);
        best = fmin(best, (double)(ap_time_us() - begin) * 1e-6);
    }
    ap_big_free(data, READ_BYTES);
    return (double)READ_BYTES / best;
}

#if !defined(__x86_64__)
double ap_peak_tiles(apus_cpu level, ap_tile_kind kind, ap_pool *pool)
{
    (void)level, (void)kind, (void)pool;
    return 0;
}
#endif
