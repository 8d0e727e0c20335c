/* attn.cuh - what the two forms of attention share: what a kernel is given, tiles, and pages.
 *
 * A tile is the query rows of some tokens of one sequence for one KV head, token-major: all query heads of
 * the KV head (or a part of them) of a token, then the next token. They share every page that is read. */
#ifndef AP_KERN_CUDA_ATTN_H
#define AP_KERN_CUDA_ATTN_H

#include <limits.h>

#include "kern/cuda/cuda.cuh"

#define AP_ATTN_FEW 8 /* tokens of a sequence up to which the split form takes it */

/* The arguments of the slot as kernels take them, by value. */
struct ap_attn_in {
    const float *q;
    float *out;
    const uint8_t *base; /* of the layer in page 0 */
    size_t page_bytes;
    const int32_t *page; /* block tables */
    int page_ld;
    const ap_seq *seq;
    const int32_t *pos, *see_end, *seq_of;
    int n_tok, n_seq, n_head, n_kv_head, group, head_dim, window, first;
    float scale;       /* times log2(e): powers are of 2 */
    const float *gate; /* of the split form: outputs times its sigmoid; NULL = none */
    int64_t ldgate, gate_head_stride;
};

/* Which sequences a launch takes. */
enum ap_attn_which { AP_ATTN_ALL, AP_ATTN_THE_FEW, AP_ATTN_THE_MANY };

static inline bool __host__ __device__ ap_attn_takes(int which, int n_tok)
{
    return n_tok > 0 &&
           (which == AP_ATTN_ALL || (n_tok <= AP_ATTN_FEW) == (which == AP_ATTN_THE_FEW));
}

/* The split form (attn.cu): any rows, any page type; fast for few rows a sequence. */
void ap_attn_split(const ap_exec *x, const ap_attn_args *a, const ap_attn_in *in, int which);
size_t ap_attn_split_scratch(const ap_exec *x, int n_tok, int n_head, int n_kv_head, int head_dim);
/* The form for many rows (attn_flash.cu): bf16 and q8 pages. */
bool ap_attn_flash_takes(const ap_exec *x, const ap_attn_args *a);
void ap_attn_flash(const ap_exec *x, const ap_attn_args *a, const ap_attn_in *in, int which);

/* Tiles of `tokens` tokens that the sequences of a step make (from the host's copy). */
static inline int ap_attn_tiles(const ap_batch *b, int which, int tokens)
{
    int n = 0;
    for (int i = 0; i < b->n_seq; i++)
        if (ap_attn_takes(which, b->seq[i].n_tok)) n += (b->seq[i].n_tok + tokens - 1) / tokens;
    return n;
}

#ifdef __CUDACC__
/* First position that a query at `pos` sees. */
static __device__ __forceinline__ int ap_attn_first(const ap_attn_in &in, int pos)
{
    int first = in.window > 0 && pos >= in.window ? pos - in.window + 1 : 0;
    return first > in.first ? first : in.first;
}

/* Tile `tile` of the sequences: its first row, and rows up to the end of its sequence. The whole warp
 * calls; false: there is no such tile. */
static __device__ inline bool ap_attn_tile(const ap_attn_in &in, int which, int tokens, int tile,
                                           int *row, int *rows)
{
    int lane = (int)threadIdx.x % 32;
    for (int first = 0; first < in.n_seq; first += 32) {
        int i = first + lane, n_tok = i < in.n_seq ? in.seq[i].n_tok : 0;
        int n = ap_attn_takes(which, n_tok) ? (n_tok + tokens - 1) / tokens : 0, end = n;
        for (int s = 1; s < 32; s *= 2) {
            int before = __shfl_up_sync(0xffffffffu, end, s);
            if (lane >= s) end += before;
        }
        unsigned mine = __ballot_sync(0xffffffffu, tile < end);
        if (mine) {
            int from = __ffs((int)mine) - 1;
            int token = (tile - __shfl_sync(0xffffffffu, end - n, from)) * tokens;
            int begin = i < in.n_seq ? in.seq[i].begin : 0;
            *row = __shfl_sync(0xffffffffu, begin, from) + token;
            *rows = __shfl_sync(0xffffffffu, n_tok, from) - token;
            return true;
        }
        tile -= __shfl_sync(0xffffffffu, end, 31);
    }
    return false;
}

/* One KV head's part of a page. ks, vs: Q8 only. */
struct ap_attn_page {
    const uint8_t *k, *v;
    const float *ks, *vs; /* f32 [blocks of AP_KV_BLOCK][AP_PAGE], f32 [AP_PAGE] */
};

template <int KV>
static __device__ __forceinline__ ap_attn_page ap_attn_page_at(const ap_attn_in &in, int page,
                                                               int g)
{
    constexpr int size = KV == APUS_KV_F32 ? 4 : KV == APUS_KV_BF16 ? 2 : 1;
    size_t G = (size_t)in.n_kv_head, head = (size_t)in.head_dim * AP_PAGE;
    const uint8_t *base = in.base + (size_t)page * in.page_bytes;
    ap_attn_page p = {base + (size_t)g * head * size, base + (G + (size_t)g) * head * size, NULL,
                      NULL};
    if (KV == APUS_KV_Q8) {
        const float *scales = (const float *)(base + 2 * G * head);
        size_t blocks = (size_t)(in.head_dim + AP_KV_BLOCK - 1) / AP_KV_BLOCK;
        p.ks = scales + (size_t)g * blocks * AP_PAGE;
        p.vs = scales + (G * blocks + (size_t)g) * AP_PAGE;
    }
    return p;
}
#endif

#endif
