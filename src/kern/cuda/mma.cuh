/* mma.cuh - a warp's matrix instructions, D += A B with A 16 rows and B 8 columns, and their operands.
 *
 * With r = lane / 4 and c = lane % 4, and "pair" two neighbours of the summed dimension k in 32 bits:
 *   bf16, k = 16   A: a0 = pair (row r, k 2c), a1 = (r + 8, 2c), a2 = (r, 2c + 8), a3 = (r + 8, 2c + 8)
 *                  B: b0 = pair (k 2c, column r), b1 = (2c + 8, r)
 *   8 bits, k = 32 the same with fours: a0 = (r, 4c), a2 = (r, 4c + 16), b0 = (4c, r), b1 = (4c + 16, r)
 *   D: d0, d1 = (row r, columns 2c and 2c + 1), d2, d3 = (row r + 8, the same) */
#ifndef AP_KERN_CUDA_MMA_H
#define AP_KERN_CUDA_MMA_H

#include <stdint.h>

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

/* Two floats as bf16, lo in the low half. */
static __device__ __forceinline__ uint32_t ap_bf16_pair(float lo, float hi)
{
    uint32_t v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
    return v;
}

static __device__ __forceinline__ float ap_bf16_low(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
static __device__ __forceinline__ float ap_bf16_high(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

/* 2^x to some 2^-22 of itself. */
static __device__ __forceinline__ float ap_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

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

static __device__ __forceinline__ void ap_copies_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most `left` of this thread's groups of copies are under way. */
template <int left> static __device__ __forceinline__ void ap_copies_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

#endif
