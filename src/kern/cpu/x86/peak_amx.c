/* peak_amx.c - operations per second of the tile unit, operands in L1. */
#include <math.h>

#include "base/file.h"
#include "kern/cpu/x86/amx_tile.h"
#include "kern/peak.h"

#ifdef AP_EMULATE
#define LOOPS 20
#else
#define LOOPS 40000
#endif
#define ROUNDS 20
#define STEPS  4 /* 4 x 2 x 2 KB of operands */

typedef struct tiles_job {
    ap_tile_kind kind;
} tiles_job;

static void tiles_task(void *arg, int task, int worker)
{
    const tiles_job *j = arg;
    _Alignas(64) uint8_t w[STEPS * 2 * AMX_TILE] = {0}, x[STEPS * 2 * AMX_TILE] = {0};
    (void)task, (void)worker;
    amx_begin();
    AMX_ZERO(0);
    AMX_ZERO(1);
    AMX_ZERO(2);
    AMX_ZERO(3);
    for (int i = 0; i < LOOPS; i++) {
        const uint8_t *a = w + i % STEPS * 2 * AMX_TILE, *b = x + i % STEPS * 2 * AMX_TILE;
        AMX_LOAD(4, a, 64);
        AMX_LOAD(6, b, 64);
        AMX_LOAD(7, b + AMX_TILE, 64);
        AMX_LOAD(5, a + AMX_TILE, 64);
        if (j->kind == AP_TILES_INT8) {
            AMX_INT8(0, 4, 6);
            AMX_INT8(1, 4, 7);
            AMX_INT8(2, 5, 6);
            AMX_INT8(3, 5, 7);
        } else {
            AMX_BF16(0, 4, 6);
            AMX_BF16(1, 4, 7);
            AMX_BF16(2, 5, 6);
            AMX_BF16(3, 5, 7);
        }
    }
    AMX_STORE(0, w, 64);
    amx_end();
}

double ap_peak_tiles(apus_cpu level, ap_tile_kind kind, ap_pool *pool)
{
    if (level != APUS_CPU_AMX) return 0;
    tiles_job j = {.kind = kind};
    double best = INFINITY, each = 16.0 * 16 * (kind == AP_TILES_INT8 ? 64 : 32) * 4;
    int n = ap_pool_threads(pool);
    for (int r = 0; r < ROUNDS; r++) {
        int64_t begin = ap_time_us();
        ap_pool_run(pool, tiles_task, &j, n);
        best = fmin(best, (double)(ap_time_us() - begin) * 1e-6);
    }
    return 2.0 * each * LOOPS * n / best;
}
