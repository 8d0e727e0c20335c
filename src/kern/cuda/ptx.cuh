/* ptx.cuh - the instructions of the card that CUDA C++ has no name for, each as a function.
 *
 * Nothing else in this folder is assembly, so that another header of this name can stand for it: tests/emulate/cuda runs
 * the kernels without a card. What a device lacks is under the architecture that has it.
 *
 * A warp's matrix instructions: D += A B with A 16 rows and B 8 columns. With r = lane / 4 and c = lane % 4, and "pair"
 * two neighbours of the summed dimension k in 32 bits:
 *   bf16, k = 16   A: a0 = pair (row r, k 2c), a1 = (r + 8, 2c), a2 = (r, 2c + 8), a3 = (r + 8, 2c + 8)
 *                  B: b0 = pair (k 2c, column r), b1 = (2c + 8, r)
 *   8 bits, k = 32 the same with fours: a0 = (r, 4c), a2 = (r, 4c + 16), b0 = (4c, r), b1 = (4c + 16, r)
 *   D: d0, d1 = (row r, columns 2c and 2c + 1), d2, d3 = (row r + 8, the same)
 *
 * A warpgroup's (sm_90a): D += A B with A 64 rows and B N columns, both stored with 64 bf16 of the summed dimension k in
 * a row of 128 bytes, and rows in groups of 8. Units of 16 bytes are swizzled: unit c of row r is at place c ^ (r % 8).
 * Warp w of the four has
 *   d[4j + e] = (row 16w + r, column 8j + 2c + e), d[4j + 2 + e] = (row 16w + r + 8, the same) */
#ifndef AP_KERN_CUDA_PTX_CUH
#define AP_KERN_CUDA_PTX_CUH

#include <stdint.h>

/* ------------------------------------------------------------------ grids */

#if __CUDA_ARCH__ >= 900
/* Until the kernels ahead have ended, and what they wrote is seen. */
static __device__ __forceinline__ void ap_ptx_grid_wait(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* The kernel behind may begin. */
static __device__ __forceinline__ void ap_ptx_grid_release(void)
{
    asm volatile("griddepcontrol.launch_dependents;");
}
#endif

/* ------------------------------------------------------------------ a warp's products */

static __device__ __forceinline__ void ap_mma_bf16(float d[4], uint32_t a0, uint32_t a1,
                                                   uint32_t a2, uint32_t a3, uint32_t b0,
                                                   uint32_t b1)
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* s8 times s8. */
static __device__ __forceinline__ void ap_mma_s8(int d[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                 uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* s8 times u8. */
static __device__ __forceinline__ void ap_mma_s8u8(int d[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                   uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* u8 times s8. */
static __device__ __forceinline__ void ap_mma(int32_t *c, const uint32_t *a, uint2 b)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
                 "{%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

/* Four matrices of 8 x 8 bf16 from shared memory: lane i gives the address of row i % 8 of matrix i / 8, 16
 * bytes. x[j] is the pair (row r, columns 2c and 2c + 1) of matrix j. */
static __device__ __forceinline__ void ap_load_4(uint32_t x[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

/* The same, transposed: x[j] is (rows 2c and 2c + 1, column r). */
static __device__ __forceinline__ void ap_load_4t(uint32_t x[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

/* ------------------------------------------------------------------ numbers */

/* Two floats as bf16, lo in the low half. */
static __device__ __forceinline__ uint32_t ap_bf16_pair(float lo, float hi)
{
    uint32_t v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
    return v;
}

/* 2^x to some 2^-22 of itself. */
static __device__ __forceinline__ float ap_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* ------------------------------------------------------------------ memory */

/* 16 bytes that are read once. */
static __device__ __forceinline__ uint4 ap_load_once(const void *p)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

/* 16 bytes from global to shared memory, behind the program's back until ap_copies_wait. */
static __device__ __forceinline__ void ap_copy16(void *shared, const void *global)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(global) : "memory");
}

/* The same to an address of shared memory; of 16 (or 4) bytes the first `bytes` are read, and the others are 0. */
static __device__ __forceinline__ void ap_copy16_part(uint32_t to, const void *global, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
                 "r"(bytes));
}

static __device__ __forceinline__ void ap_copy4_part(uint32_t to, const void *global, int bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(bytes));
}

static __device__ __forceinline__ void ap_copies_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `left` of this thread's groups of copies are under way. */
template <int left> static __device__ __forceinline__ void ap_copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/* 16 bytes to an address of shared memory. */
static __device__ __forceinline__ void ap_store_shared(uint32_t to, uint32_t x, uint32_t y,
                                                       uint32_t z, uint32_t w)
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x), "r"(y), "r"(z),
                 "r"(w)
                 : "memory");
}

/* __syncthreads of some warps of a block: number 1 .. 15, and how many threads take part. */
template <int threads> static __device__ __forceinline__ void ap_sync_some(int number)
{
    asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(threads) : "memory");
}

/* ------------------------------------------------------------------ barriers that count bytes (sm_90) */

#if __CUDA_ARCH__ >= 900
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

/* Barriers made by this thread are there for copies too. */
static __device__ __forceinline__ void ap_barriers_publish(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrive; the phase ends when copies have brought `bytes` more, too. */
static __device__ __forceinline__ void ap_barrier_expect(uint32_t at, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
                 : "memory");
}

/* `bytes`, a multiple of 16, from global to shared memory, which the barrier counts. */
static __device__ __forceinline__ void ap_copy_bulk(uint32_t to, const void *from, uint32_t bytes,
                                                    uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(barrier)
        : "memory");
}

/* ------------------------------------------------------------------ clusters (sm_90) */

static __device__ __forceinline__ void ap_ptx_cluster_sync(void)
{
    asm volatile(
        "barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
            : "memory");
}

static __device__ __forceinline__ void ap_ptx_cluster_arrive(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

static __device__ __forceinline__ void ap_ptx_cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* An address of this block's shared memory as it is in block `rank` of the cluster. */
static __device__ __forceinline__ uint32_t ap_ptx_cluster_map(const void *p, int rank)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(at) : "r"(rank));
    return at;
}

static __device__ __forceinline__ float ap_ptx_cluster_load(uint32_t at)
{
    float v;
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}

static __device__ __forceinline__ void ap_ptx_cluster_store(uint32_t at, float v)
{
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}

static __device__ __forceinline__ void ap_ptx_cluster_store(uint32_t at, int v)
{
    asm volatile("st.shared::cluster.s32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}
#endif

/* ------------------------------------------------------------------ a warpgroup's products (sm_90a) */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

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

/* Registers of a thread from here on, in a block whose warps need different numbers. */
template <int n> static __device__ __forceinline__ void ap_registers_fewer(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n> static __device__ __forceinline__ void ap_registers_more(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}
#endif

#endif
