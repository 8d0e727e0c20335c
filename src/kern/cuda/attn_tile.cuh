/* attn_tile.cuh - a tile of attention of many rows: which rows it has and what they see. */
#ifndef AP_KERN_CUDA_ATTN_TILE_CUH
#define AP_KERN_CUDA_ATTN_TILE_CUH

#include "kern/cuda/attn.cuh"

struct ap_flash_job {
    ap_attn_in in;
    int which, tokens; /* of a tile */
};

#ifdef __CUDACC__
/* In shared memory. */
template <int ROWS> struct ap_tile {
    int lo[ROWS], hi[ROWS]; /* visible keys of each row */
    int min_lo, max_lo, min_hi, max_hi;
    int first, n, tokens, seq; /* the tile's first row of the step, rows, tokens */
};

/* By one warp; false: there is none. */
template <int ROWS> static __device__ bool ap_open_tile(const ap_flash_job &j, ap_tile<ROWS> *m)
{
    int first, left, lane = (int)threadIdx.x % 32;
    int tile =
        (int)(gridDim.x - 1 - blockIdx.x); /* late tiles see the most keys: they come first */
    if (!ap_attn_tile(j.in, j.which, j.tokens, tile, &first, &left)) return false;
    int tokens = min(j.tokens, left), min_lo = INT_MAX, max_lo = 0, min_hi = INT_MAX, max_hi = 0;
    for (int i = lane; i < ROWS; i += 32) {
        int token = i / j.in.group, lo = 0, hi = 0;
        if (token < tokens) {
            lo = ap_attn_first(j.in, j.in.pos[first + token]);
            hi = max(j.in.see_end[first + token], lo);
            min_lo = min(min_lo, lo), max_lo = max(max_lo, lo);
            min_hi = min(min_hi, hi), max_hi = max(max_hi, hi);
        }
        m->lo[i] = lo;
        m->hi[i] = hi;
    }
    min_lo = __reduce_min_sync(0xffffffffu, min_lo);
    max_lo = __reduce_max_sync(0xffffffffu, max_lo);
    min_hi = __reduce_min_sync(0xffffffffu, min_hi);
    max_hi = __reduce_max_sync(0xffffffffu, max_hi);
    if (lane == 0) {
        m->min_lo = min_lo, m->max_lo = max_lo, m->min_hi = min_hi, m->max_hi = max_hi;
        m->first = first;
        m->tokens = tokens;
        m->n = tokens * j.in.group;
        m->seq = j.in.seq_of[first];
    }
    return true;
}

/* Row i of the tile in q and out. */
template <int D, int ROWS>
static __device__ __forceinline__ size_t ap_tile_row(const ap_flash_job &j, const ap_tile<ROWS> *m,
                                                     int i)
{
    int group = j.in.group;
    return ((size_t)(m->first + i / group) * (size_t)j.in.n_head +
            (size_t)((int)blockIdx.y * group) + (size_t)(i % group)) *
           D;
}
#endif

/* attn_wgmma.cu: bf16 pages with precision FAST on Hopper. */
bool ap_attn_wgmma_takes(const ap_exec *x, const ap_attn_args *a);
void ap_attn_wgmma(const ap_exec *x, const ap_attn_args *a, const ap_attn_in *in, int which);

#endif
