/* peak.h - the most that this machine gives to the threads of a pool, measured with plain loops. */
#ifndef AP_KERN_PEAK_H
#define AP_KERN_PEAK_H

#include "base/pool.h"

/* f32 operations per second (a multiply-add counts two) at a level, over registers. */
double ap_peak_flops(apus_cpu level, ap_pool *pool);

/* Operations per second of matrix products of tiles in L1; 0 at levels without tiles. */
typedef enum ap_tile_kind { AP_TILES_BF16, AP_TILES_INT8 } ap_tile_kind;
double ap_peak_tiles(apus_cpu level, ap_tile_kind kind, ap_pool *pool);

/* Bytes read per second from memory far beyond the caches; infinity when memory is out. */
double ap_peak_bytes(apus_cpu level, ap_pool *pool);

#endif
