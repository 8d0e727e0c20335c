/* ptx.cuh - stands for src/kern/cuda/ptx.cuh, which describes these: the card's instructions in plain code. */
#ifndef AP_KERN_CUDA_PTX_CUH
#define AP_KERN_CUDA_PTX_CUH

#include "cuda_bf16.h"
#include "cuda_runtime.h"

static inline void ap_ptx_grid_wait(void) {} /* kernels run one after the other */
static inline void ap_ptx_grid_release(void) {}

/* ------------------------------------------------------------------ a warp's products */

static inline float emulate_bf16(uint32_t pair, int which)
{
    return __uint_as_float(which ? pair & 0xffff0000u : pair << 16);
}

/* Bytes of a word, signed or not. */
template <bool SIGNED> static inline int emulate_byte(uint32_t word, int i)
{
    return SIGNED ? (int)(int8_t)(word >> 8 * i) : (int)(word >> 8 * i & 255);
}

static inline void ap_mma_bf16(float d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                               uint32_t b0, uint32_t b1)
{
    uint32_t v[6] = {a0, a1, a2, a3, b0, b1};
    auto *lane = emulate_exchange(v, 6, __LINE__);
    int r = emulate_lane() / 4, c = emulate_lane() % 4;
    for (int o = 0; o < 4; o++) {
        int row = o / 2, col = 2 * c + o % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            int half = k / 8, at = k % 8 / 2;
            sum += emulate_bf16(lane[4 * r + at][row + 2 * half], k % 2) *
                   emulate_bf16(lane[4 * col + at][4 + half], k % 2);
        }
        d[o] += sum;
    }
}

template <bool A_SIGNED, bool B_SIGNED>
static inline void emulate_mma_8(int32_t d[4], const uint32_t v[6], int kind)
{
    auto *lane = emulate_exchange(v, 6, kind);
    int r = emulate_lane() / 4, c = emulate_lane() % 4;
    for (int o = 0; o < 4; o++)
        for (int k = 0; k < 8; k++) {
            uint32_t a = lane[4 * r + k % 4][o / 2 + k / 4 * 2];
            uint32_t b = lane[4 * (2 * c + o % 2) + k % 4][4 + k / 4];
            for (int i = 0; i < 4; i++)
                d[o] += emulate_byte<A_SIGNED>(a, i) * emulate_byte<B_SIGNED>(b, i);
        }
}
static inline void ap_mma_s8(int d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                             uint32_t b0, uint32_t b1)
{
    uint32_t v[6] = {a0, a1, a2, a3, b0, b1};
    emulate_mma_8<true, true>(d, v, __LINE__);
}
static inline void ap_mma_s8u8(int d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                               uint32_t b0, uint32_t b1)
{
    uint32_t v[6] = {a0, a1, a2, a3, b0, b1};
    emulate_mma_8<true, false>(d, v, __LINE__);
}
static inline void ap_mma(int32_t *c, const uint32_t *a, uint2 b)
{
    uint32_t v[6] = {a[0], a[1], a[2], a[3], b.x, b.y};
    emulate_mma_8<false, true>(c, v, __LINE__);
}

/* Lanes give addresses of rows. */
static inline void emulate_load_4(uint32_t x[4], const void *row, bool turned)
{
    uint32_t v = emulate_address(row);
    auto *lane = emulate_exchange(&v, 1, turned ? __LINE__ : -__LINE__);
    int r = emulate_lane() / 4, c = emulate_lane() % 4;
    for (int j = 0; j < 4; j++) {
        uint16_t pair[2];
        for (int e = 0; e < 2; e++) {
            int at = turned ? 2 * c + e : r, column = turned ? r : 2 * c + e;
            pair[e] = ((const uint16_t *)emulate_pointer(lane[8 * j + at][0]))[column];
        }
        x[j] = pair[0] | (uint32_t)pair[1] << 16;
    }
    __syncwarp(); /* all have read */
}
static inline void ap_load_4(uint32_t x[4], const void *row)
{
    emulate_load_4(x, row, false);
}
static inline void ap_load_4t(uint32_t x[4], const void *row)
{
    emulate_load_4(x, row, true);
}

/* ------------------------------------------------------------------ numbers, memory */

static inline uint32_t ap_bf16_pair(float lo, float hi)
{
    return emulate_to_bf16(lo) | (uint32_t)emulate_to_bf16(hi) << 16;
}
static inline float ap_exp2(float x)
{
    return std::exp2(x);
}
static inline uint4 ap_load_once(const void *p)
{
    return *(const uint4 *)p;
}
static inline void ap_copy16(void *shared, const void *global)
{
    emulate_copy(shared, global, 16, 16);
}
static inline void ap_copy16_part(uint32_t to, const void *global, int bytes)
{
    emulate_copy(emulate_pointer(to), global, bytes, 16);
}
static inline void ap_copy4_part(uint32_t to, const void *global, int bytes)
{
    emulate_copy(emulate_pointer(to), global, bytes, 4);
}
static inline void ap_copies_commit(void)
{
    emulate_copies_commit();
}
template <int left> static inline void ap_copies_wait(void)
{
    emulate_copies_wait(left);
}
static inline void ap_store_shared(uint32_t to, uint32_t x, uint32_t y, uint32_t z, uint32_t w)
{
    *(uint4 *)emulate_pointer(to) = {x, y, z, w};
}
template <int threads> static inline void ap_sync_some(int number)
{
    emulate_sync_some(number, threads);
}

/* ------------------------------------------------------------------ barriers that count bytes, clusters */

static inline void ap_barrier_make(uint32_t at, int arrivals)
{
    emulate_barrier_make(at, arrivals);
}
static inline void ap_barrier_arrive(uint32_t at)
{
    emulate_barrier_arrive(at, 0);
}
static inline void ap_barrier_wait(uint32_t at, uint32_t parity)
{
    emulate_barrier_wait(at, parity);
}
static inline void ap_barriers_publish(void) {}
static inline void ap_barrier_expect(uint32_t at, uint32_t bytes)
{
    emulate_barrier_arrive(at, bytes);
}
static inline void ap_copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
    emulate_copy_bulk(to, from, bytes, barrier);
}
static inline void ap_ptx_cluster_arrive(void)
{
    emulate_cluster_arrive();
}
static inline void ap_ptx_cluster_wait(void)
{
    emulate_cluster_wait();
}
static inline void ap_ptx_cluster_sync(void)
{
    emulate_cluster_arrive();
    emulate_cluster_wait();
}
static inline void *ap_ptx_cluster_map(const void *p, int rank)
{
    return emulate_pointer_in(p, rank);
}
static inline float ap_ptx_cluster_load(const void *at)
{
    return *(const volatile float *)at;
}
static inline void ap_ptx_cluster_store(void *at, float v)
{
    *(volatile float *)at = v;
}
static inline void ap_ptx_cluster_store(void *at, int v)
{
    *(volatile int *)at = v;
}

/* ------------------------------------------------------------------ a warpgroup's products */

static inline void ap_wgmma_begin(void) {} /* at once, from what is in shared memory now */
static inline void ap_wgmma_commit(void) {}
template <int left> static inline void ap_wgmma_wait(void) {}
static inline void ap_wgmma_publish(void) {}

/* Row r, input k of an operand. */
static inline float emulate_operand(uint64_t operand, int r, int k)
{
    uint32_t group = (uint32_t)(operand >> 32 & 0x3fff) << 4;
    uint32_t at = ((uint32_t)(operand & 0x3fff) << 4) + (uint32_t)(r / 8) * group +
                  (uint32_t)(r % 8 * 128 + k * 2);
    at ^= (at >> 7 & 7) << 4; /* the swizzle of 128 bytes */
    return __uint_as_float((uint32_t) * (const uint16_t *)emulate_pointer(at) << 16);
}

template <int N> static inline void ap_wgmma(float *d, uint64_t left, uint64_t right, bool add)
{
    int warp = (int)(threadIdx.x / 32 % 4), r = emulate_lane() / 4, c = emulate_lane() % 4;
    float a[2][16];
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < 16; k++) a[h][k] = emulate_operand(left, 16 * warp + r + 8 * h, k);
    for (int j = 0; j < N / 8; j++)
        for (int e = 0; e < 2; e++) {
            float sum[2] = {0, 0};
            for (int k = 0; k < 16; k++) {
                float b = emulate_operand(right, 8 * j + 2 * c + e, k);
                sum[0] += a[0][k] * b;
                sum[1] += a[1][k] * b;
            }
            d[4 * j + e] = (add ? d[4 * j + e] : 0) + sum[0];
            d[4 * j + 2 + e] = (add ? d[4 * j + 2 + e] : 0) + sum[1];
        }
}

static inline void ap_wgmma_left(float *d, const uint32_t *a, uint64_t right)
{
    auto *lane = emulate_exchange(a, 4, __LINE__);
    int r = emulate_lane() / 4, c = emulate_lane() % 4;
    float left[2][16];
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < 16; k++)
            left[h][k] = emulate_bf16(lane[4 * r + k % 8 / 2][h + k / 8 * 2], k % 2);
    for (int j = 0; j < 32; j++)
        for (int e = 0; e < 2; e++)
            for (int k = 0; k < 16; k++) {
                float b = emulate_operand(right, 8 * j + 2 * c + e, k);
                d[4 * j + e] += left[0][k] * b;
                d[4 * j + 2 + e] += left[1][k] * b;
            }
}

template <int n> static inline void ap_registers_fewer(void) {}
template <int n> static inline void ap_registers_more(void) {}

#endif
