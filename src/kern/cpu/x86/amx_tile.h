/* amx_tile.h - the few tile instructions that kernels of the level amx use, and a stand-in for tests.
 *
 * All eight tiles have 16 rows of 64 bytes. A thread calls amx_begin before its first tile instruction
 * of a task and amx_end after the last, so that nothing is kept for it on a context switch later.
 *   AMX_ZERO(c)            c = 0
 *   AMX_LOAD(t, p, step)   row r of t = 64 bytes at p + r * step
 *   AMX_STORE(t, p, step)
 *   AMX_BF16(c, a, b)      f32 c[m][n] += sum over k < 16, e < 2 of bf16 a[m][2k+e] * b[k][2n+e]
 *   AMX_INT8(c, a, b)      i32 c[m][n] += sum over k < 16, e < 4 of i8 a[m][4k+e] * b[k][4n+e]
 * t, a, b, c are numbers 0 .. 7 written out. Sums of AMX_BF16 round to nearest even after each product,
 * denormal inputs and results count as zero; the order inside one instruction is the processor's own.
 *
 * The instructions are assembly that says which memory it touches: as intrinsics they do not in every
 * compiler. With AP_EMULATE plain C stands in, so that the kernels' indexing is tested on any
 * processor. */
#ifndef AP_KERN_CPU_X86_AMX_TILE_H
#define AP_KERN_CPU_X86_AMX_TILE_H

#include <stdint.h>
#include <string.h>

#define AMX_ROWS 16
#define AMX_TILE 1024 /* bytes */

#ifdef AP_EMULATE
typedef union amx_regs {
    float f[8][16][16];
    int32_t i[8][16][16];
    uint16_t h[8][16][32];
    int8_t b[8][16][64];
} amx_regs;
static _Thread_local amx_regs amx;
static _Thread_local int amx_on;

static inline void amx_need(void)
{
    if (!amx_on) __builtin_trap();
}
static inline void amx_begin(void)
{
    memset(&amx, 0xff, sizeof amx);
    amx_on = 1;
}
static inline void amx_end(void)
{
    amx_on = 0;
}
static inline void amx_zero(int t)
{
    amx_need();
    memset(amx.f[t], 0, AMX_TILE);
}
static inline void amx_load(int t, const void *p, size_t step)
{
    amx_need();
    for (size_t r = 0; r < AMX_ROWS; r++) memcpy(amx.f[t][r], (const uint8_t *)p + r * step, 64);
}
static inline void amx_store(int t, void *p, size_t step)
{
    amx_need();
    for (size_t r = 0; r < AMX_ROWS; r++) memcpy((uint8_t *)p + r * step, amx.f[t][r], 64);
}
static inline float amx_wide(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline void amx_bf16(int c, int a, int b)
{
    amx_need();
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 32; k++) {
            float v = amx_wide(amx.h[a][m][k]);
            for (int n = 0; n < 16; n++)
                amx.f[c][m][n] += v * amx_wide(amx.h[b][k / 2][2 * n + k % 2]);
        }
}
static inline void amx_int8(int c, int a, int b)
{
    amx_need();
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 64; k++)
            for (int n = 0; n < 16; n++)
                amx.i[c][m][n] += amx.b[a][m][k] * amx.b[b][k / 4][4 * n + k % 4];
}
#define AMX_ZERO(c)           amx_zero(c)
#define AMX_LOAD(t, p, step)  amx_load(t, p, step)
#define AMX_STORE(t, p, step) amx_store(t, p, step)
#define AMX_BF16(c, a, b)     amx_bf16(c, a, b)
#define AMX_INT8(c, a, b)     amx_int8(c, a, b)
#else
static inline void amx_begin(void)
{
    /* palette 1; from byte 16 on bytes per row, from 48 on rows */
    _Alignas(64) uint8_t config[64] = {1};
    for (int t = 0; t < 8; t++) {
        config[16 + 2 * t] = 64;
        config[48 + t] = AMX_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}
static inline void amx_end(void)
{
    __asm__ volatile("tilerelease" : : : "memory");
}
#define AMX_ZERO(c) __asm__ volatile("tilezero %%tmm" #c : :)
#define AMX_LOAD(t, p, step)                                                                       \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t : : "r"(p), "r"((size_t)(step)) : "memory")
#define AMX_STORE(t, p, step)                                                                      \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)"                                           \
                     :                                                                             \
                     : "r"(p), "r"((size_t)(step))                                                 \
                     : "memor"                                                                     \
                       "y")
#define AMX_BF16(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#define AMX_INT8(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : :)
#endif

#endif
