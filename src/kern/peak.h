/* peak.h - the most that this machine gives to the threads of a pool, measured with plain loops. */
#ifndef AP_KERN_PEAK_H
#define AP_KERN_PEAK_H

#include "apus/apus_unstable.h"
#include "base/pool.h"

/* Operations per second of a unit (a multiply-add counts two) at a level: over registers, of tiles in L1.
 * INT16 and INT8: VNNI; without it vpmaddwd or vpmaddubsw and an addition; on aarch64 smlal, sdot or
 * smmla, 16-bit numbers by the last two as two planes of bytes. 0 where a level has no such unit. */
double ap_peak_ops(apus_cpu level, apus_unit unit, ap_pool *pool);

/* Operations per second of matrix products of tiles in L1; 0 at levels without tiles. */
typedef enum ap_tile_kind { AP_TILES_BF16, AP_TILES_INT8 } ap_tile_kind;
double ap_peak_tiles(apus_cpu level, ap_tile_kind kind, ap_pool *pool);

/* Bytes read per second from memory far beyond the caches: 1 to 4 GB on large pages, the best of several
 * distances at which memory is asked for ahead; infinity when memory is out. About a second. */
double ap_peak_bytes(apus_cpu level, ap_pool *pool);

#endif
