/* wgmma.cuh - a warpgroup's matrix instructions (sm_90a), their operands in shared memory, and barriers there.
 *
 * D += A B with A 64 rows and B N columns, both stored with 64 bf16 of the summed dimension k in a row of 128 bytes,
 * and rows in groups of 8. Units of 16 bytes are swizzled: unit c of row r is at place c ^ (r % 8). With r = lane / 4
 * and c = lane % 4, warp w of the four has
 *   d[4j + e] = (row 16w + r, column 8j + 2c + e), d[4j + 2 + e] = (row 16w + r + 8, the same) */
#ifndef AP_KERN_CUDA_WGMMA_CUH
#define AP_KERN_CUDA_WGMMA_CUH

#include <stdint.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* An operand at an address of shared memory that is a multiple of 1024. 16 more of k: 2 more. */
static __device__ __forceinline__ uint64_t ap_wgmma_operand(uint32_t address)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

static __device__ __forceinline__ void ap_wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void ap_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Wait until at most `left` groups are under way. */
template <int left> static __device__ __forceinline__ void ap_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

/* What ordinary stores have put to shared memory may be an operand. */
static __device__ __forceinline__ void ap_wgmma_publish(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#define AP_D16(d, k)                                                                               \
    "+f"((d)[k]), "+f"((d)[k + 1]), "+f"((d)[k + 2]), "+f"((d)[k + 3]), "+f"((d)[k + 4]),          \
        "+f"((d)[k + 5]), "+f"((d)[k + 6]), "+f"((d)[k + 7]), "+f"((d)[k + 8]), "+f"((d)[k + 9]),  \
        "+f"((d)[k + 10]), "+f"((d)[k + 11]), "+f"((d)[k + 12]), "+f"((d)[k + 13]),                \
        "+f"((d)[k + 14]), "+f"((d)[k + 15])
#define AP_R0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define AP_R1                                                                                      \
    AP_R0 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define AP_R2                                                                                      \
    AP_R1 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define AP_R3                                                                                      \
    AP_R2 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define AP_R4                                                                                      \
    AP_R3 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define AP_R5                                                                                      \
    AP_R4 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define AP_R6                                                                                      \
    AP_R5 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, "     \
          "%110, %111"
#define AP_R7                                                                                      \
    AP_R6 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "       \
          "%125, %126, %127"
#define AP_WGMMA(n, regs, a, b, p, ...)                                                            \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, " p ", 0;"                                        \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" regs "}, " a ", " b   \
                 ", p, 1, 1, 0, 0; }"                                                              \
                 : __VA_ARGS__                                                                     \
                 : "l"(left), "l"(right), "r"((int)add))

/* d = left right over 16 of k, or with `add` d += it. N: a multiple of 32 up to 256. */
template <int N>
static __device__ __forceinline__ void ap_wgmma(float *d, uint64_t left, uint64_t right, bool add)
{
    if constexpr (N == 32)
        AP_WGMMA("32", AP_R0, "%16", "%17", "%18", AP_D16(d, 0));
    else if constexpr (N == 64)
        AP_WGMMA("64", AP_R1, "%32", "%33", "%34", AP_D16(d, 0), AP_D16(d, 16));
    else if constexpr (N == 96)
        AP_WGMMA("96", AP_R2, "%48", "%49", "%50", AP_D16(d, 0), AP_D16(d, 16), AP_D16(d, 32));
    else if constexpr (N == 128)
        AP_WGMMA("128", AP_R3, "%64", "%65", "%66", AP_D16(d, 0), AP_D16(d, 16), AP_D16(d, 32),
                 AP_D16(d, 48));
    else if constexpr (N == 160)
        AP_WGMMA("160", AP_R4, "%80", "%81", "%82", AP_D16(d, 0), AP_D16(d, 16), AP_D16(d, 32),
                 AP_D16(d, 48), AP_D16(d, 64));
    else if constexpr (N == 192)
        AP_WGMMA("192", AP_R5, "%96", "%97", "%98", AP_D16(d, 0), AP_D16(d, 16), AP_D16(d, 32),
                 AP_D16(d, 48), AP_D16(d, 64), AP_D16(d, 80));
    else if constexpr (N == 224)
        AP_WGMMA("224", AP_R6, "%112", "%113", "%114", AP_D16(d, 0), AP_D16(d, 16), AP_D16(d, 32),
                 AP_D16(d, 48), AP_D16(d, 64), AP_D16(d, 80), AP_D16(d, 96));
    else
        AP_WGMMA("256", AP_R7, "%128", "%129", "%130", AP_D16(d, 0), AP_D16(d, 16), AP_D16(d, 32),
                 AP_D16(d, 48), AP_D16(d, 64), AP_D16(d, 80), AP_D16(d, 96), AP_D16(d, 112));
}

/* d += left right, 256 columns, with the left operand in registers: rows r and r + 8, k 2c and 2c + 1 of the warp's 16
 * rows; then the same of k + 8. */
static __device__ __forceinline__ void ap_wgmma_left(float *d, const uint32_t *a, uint64_t right)
{
    asm volatile("{ wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" AP_R7
                 "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 0; }"
                 : AP_D16(d, 0), AP_D16(d, 16), AP_D16(d, 32), AP_D16(d, 48), AP_D16(d, 64),
                   AP_D16(d, 80), AP_D16(d, 96), AP_D16(d, 112)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right));
}

/* ------------------------------------------------------------------ barriers (mbarrier) */

static __device__ __forceinline__ void ap_barrier_make(uint32_t at, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}

static __device__ __forceinline__ void ap_barrier_arrive(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

/* Wait for the end of the phase with this parity. */
static __device__ __forceinline__ void ap_barrier_wait(uint32_t at, uint32_t parity)
{
    uint32_t done = 0;
    while (!done)
        asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                     "selp.b32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(at), "r"(parity)
                     : "memory");
}

#endif
#endif
