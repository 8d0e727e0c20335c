/* kern.h - THE TABLE: every operation a model may use, one slot each, same arguments on every
 * backend.
 *
 * Shape letters: T tokens of the step, S sequences, H hidden, N outputs, K inputs or chosen experts,
 * E experts, F FFN width, G KV heads, D head dim. "f32 [T, N] ld" is row-major with `ld` floats from
 * row to row.
 *
 * The promise of exact mode: every slot computes each output element by one fixed sequence of f32
 * operations that depends neither on T, S, chunking, thread count nor processor level. So results
 * are bit-equal however a batch is composed, and `ref`, `avx2` and `avx512` agree to the bit. What
 * this asks of an implementation is written at each slot as "Order:". exp is ap_expf (micro.h) in
 * every level. Never contract a*b+c unless the Order says fma. Other devices have Orders of their own
 * for sums, and say which promises they keep (docs/cuda.md).
 *
 * Pointers are device memory (device.h) unless a comment says host; the structs themselves, and what they
 * point to that is a struct of this header, are on the host and may be gone when a slot returns. Slots
 * enqueue: results are there for later slots and device operations, and for the host after finish.
 * Errors of a device show at finish. Kernels never lock, allocate or spawn; slots of the CPU run their own
 * parallel_for on the device's pool. */
#ifndef AP_KERN_KERN_H
#define AP_KERN_KERN_H

#include <stdbool.h>

#include "kern/device.h"
#include "tensor/tensor.h"

#define AP_PAGE     64   /* tokens of a KV page */
#define AP_PANEL    16   /* weight rows that are interleaved */
#define AP_K_BLOCK  512  /* inputs summed before a partial sum is added to the output */
#define AP_SEGMENT  512  /* keys of attention that are summed apart from others, in whole pages */
#define AP_KV_TYPES 4    /* of apus_kv, AUTO included */
#define AP_KV_BLOCK 64   /* dims of a key that share a scale in q8 pages */
#define AP_HEAD_MAX 1024 /* the largest head_dim */

struct ap_profile; /* profile.h */

/* What a slot runs with. Made by whoever runs steps; a slot keeps nothing of it. */
typedef struct ap_exec {
    const ap_kern *k;
    ap_device *dev;
    apus_precision
        precision; /* EXACT: quantised weights meet f32 inputs, in the Order of f32 weights */
    /* Room for inputs in integer form, 64-byte aligned device memory, or NULL: 3 bytes for each input of a
     * product let it run at once, less cuts it into pieces with the same results. */
    void *inputs;
    size_t input_bytes;
    struct ap_profile *profile; /* NULL unless operations are timed (profile.h) */
} ap_exec;

/* ------------------------------------------------------------------ rows of a step */

/* One sequence's share of a step. */
typedef struct ap_seq {
    int32_t begin, n_tok; /* rows [begin, begin + n_tok) */
    int32_t pos;          /* K/V position of row `begin` */
    int32_t table;        /* its row of the page tables */
    int32_t state;        /* its block of recurrent states */
    int32_t keep;         /* its first kept row (ap_kept_rows); negative: its states are replaced */
} ap_seq;

#define AP_KV_GROUPS 2 /* layers that keep all pages; layers with a window */

/* The rows of a step: T tokens of S sequences, sequences contiguous and ascending. The arrays are at the
 * same addresses of device memory in every step of an engine with as many tokens, so that a recorded step
 * can run again; what launches need to know beforehand is on the host too. On the CPU both are the same
 * memory. */
typedef struct ap_batch {
    int n_tok, n_seq, n_out;
    const ap_seq *seq;     /* [S] on the host */
    const ap_seq *seq_dev; /* [S] */
    const int32_t *tok; /* i32 [T] in [0, V), checked by the caller; -1 - i: the id at sampled[i] */
    const int32_t *sampled;   /* i32: ids that an earlier step has sampled */
    const int32_t *pos;       /* i32 [T] K/V positions */
    const int32_t *rope_pos;  /* i32 [3][T] angles turn with these; equal to pos for text */
    const int32_t *see_end;   /* i32 [T] keys before this position are visible: pos + 1, in a
                               * bidirectional span the span's end; ascends in a sequence */
    const int32_t *see_past;  /* i32 [T] pos + 1: see_end of layers that know no such spans */
    const int32_t *seq_of;    /* i32 [T] index into seq */
    const int32_t *out_row;   /* i32 [n_out] ascending rows whose logits are wanted */
    const int32_t *embed_row; /* i32 [T] row of embed, -1 = the token's own; NULL = all -1 */
    const float *embed;       /* f32 [*, H]: what pictures and sound put in the place of tokens */
    const int32_t *page
        [AP_KV_GROUPS]; /* i32 [tables][page_ld] logical to physical page; -1 = left the window */
    int page_ld;
} ap_batch;

/* ------------------------------------------------------------------ weights */

/* A matrix W [rows, cols] (y = W x), packed in panels of AP_PANEL rows, the last one zero-padded:
 *   BF16: [panel][cols/2 rounded up][AP_PANEL][2]  u16, an odd last column is padded with zero
 *   F16:  [panel][cols][AP_PANEL]                  u16
 *   F32:  [panel][cols][AP_PANEL]                  f32
 *   quantised: the integer form below, whatever the precision; types that have no such form are used
 *         where the file has them: data is NULL, raw borrows the file's bytes
 * data is 64-byte aligned. Memory belongs to whoever called pack. */

/* The integer form of quantised weights: w = s * (q - zero) + b with unsigned q, one s (and b) per group
 * of a row's inputs (the last group of FP8 rows may be short). A panel is
 *   [cols/32][bits * 64 bytes]  q of 32 inputs x 16 rows. 8 bits: vectors of 64 bytes, [row][4 inputs].
 *                               4 bits: inputs 8i .. 8i+3 in the low, 8i+4 .. 8i+7 in the high nibbles
 *                               of vector i; 5 and 6 bits: those, then the high bits; 2 and 3 bits:
 *                               the nibbles' bits apart (qpack.h)
 *   scales                      as `scale` says (qpack.h), padded to 64 bytes */
typedef enum ap_qscale { AP_QS_F16, AP_QS_BF16, AP_QS_F32, AP_QS_SUPER } ap_qscale;

typedef struct ap_qform {
    uint8_t bits;   /* stored: 2, 3, 4, 5, 6, 8; 0 = not in integer form */
    uint8_t table;  /* 3 and 4 bits: 0 = q is what is stored; else which ap_qtable has it */
    uint8_t scale;  /* ap_qscale */
    uint8_t shift;  /* AP_QS_SUPER: s is divided by 2^shift */
    bool affine;    /* b is not 0 */
    bool is_signed; /* AP_QS_SUPER: of the small scales */
    bool nibbles;   /* AP_QS_SUPER: small scale and small bias share a byte */
    bool is_float;  /* q is e4m3: widened to f32, never in integer products */
    uint8_t group;  /* 16, 32, 64 or 128 inputs */
    int16_t zero;
} ap_qform;

/* Field by field: there is padding between them. */
static inline bool ap_qform_same(ap_qform a, ap_qform b)
{
    return a.bits == b.bits && a.table == b.table && a.scale == b.scale && a.shift == b.shift &&
           a.affine == b.affine && a.is_signed == b.is_signed && a.nibbles == b.nibbles &&
           a.is_float == b.is_float && a.group == b.group && a.zero == b.zero;
}

typedef struct ap_mat {
    const void *data;
    ap_dtype dtype;
    ap_qform q;
    int rows, cols;
    ap_tensor raw;
} ap_mat;

/* Bytes that a product reads of a packed matrix; of one without a packed form those of the file. */
size_t ap_mat_bytes(const ap_mat *w);

/* One expert: gate and up [F, H], down [H, F]. */
typedef struct ap_expert {
    ap_mat gate, up, down;
} ap_expert;

typedef enum ap_act { AP_ACT_SILU, AP_ACT_GELU_TANH } ap_act;

/* ------------------------------------------------------------------ arguments */

/* out[t] = table[tok[t]] * scale, or the row of batch->embed that stands in the token's place, as it is. */
typedef struct ap_embed_args {
    const ap_mat
        *table; /* [V, H]: packed if the table of operations has packed_tables, else raw alone */
    const ap_batch *batch;
    int begin, n_tok; /* rows [begin, begin + n_tok) of the step */
    float scale;
    float *out; /* f32 [n_tok, H] */
    int width;
    bool ignore_embed; /* tables beside the first one: batch->embed is of that one */
} ap_embed_args;

/* y = x * rsqrt(mean(x^2) + eps) * w, row by row; then out = y, or out = (out + y) * post_scale.
 * Order: 16 partial sums, s[j] = fma(x[i], x[i], s[j]) for i = j, j+16, ... ascending; then the tree
 * ((s0+s8)+(s4+s12)) + ((s2+s10)+(s6+s14)) ... as ap_sum16 (micro.h) has it; r = 1/sqrtf(sum/n + eps)
 * with IEEE division and square root; y = (x * r) * w. */
typedef struct ap_norm_args {
    const float *x;      /* f32 [rows, n] ldx */
    const int32_t *row;  /* i32 [rows] or NULL: row r is of x's row[r] (then out is not x) */
    const float *weight; /* f32 [n] or NULL = none */
    float *out;          /* f32 [rows, n] ldout; may be x */
    int64_t ldx, ldout;
    int rows, n;
    float eps;
    bool accumulate;  /* out = (out + y) * post_scale */
    float post_scale; /* only with accumulate; 1 = none */
} ap_norm_args;

/* y = (x - mean(x)) * rsqrt(var(x) + eps) * w + bias, row by row.
 * Order: 16 partial sums s[j] = s[j] + x[i] for i = j, j+16, ... ascending, ap_sum16, divided by n; then those
 * of s[j] = s[j] + d * d with d = x[i] - mean, each operation rounded, likewise; r = 1/sqrtf(var + eps);
 * y = (d * r) * w + bias, three rounded operations. */
typedef struct ap_layer_norm_args {
    const float *x;      /* f32 [rows, n] ldx */
    const float *weight; /* f32 [n] */
    const float *bias;   /* f32 [n] or NULL = none */
    float *out;          /* f32 [rows, n] ldout; may be x */
    int64_t ldx, ldout;
    int rows, n;
    float eps;
} ap_layer_norm_args;

/* out[t] = sum over j of weight[t, j] * x[row[t, j]]: interpolation between rows of a table, pooling.
 * Order: acc = w * x of the first row, then acc = acc + w * x, j ascending, each operation rounded. */
typedef struct ap_blend_args {
    const float *x;      /* f32 [*, n] ldx */
    const int32_t *row;  /* i32 [rows, n_tap] */
    const float *weight; /* f32 [rows, n_tap] */
    float *out;          /* f32 [rows, n] ldout; not x */
    int64_t ldx, ldout;
    int rows, n, n_tap;
} ap_blend_args;

/* y = x W^T (+ y), then maybe the cap c*tanh(y/c).
 * Order: y[t,n] = sum over blocks of AP_K_BLOCK inputs, ascending, of the block's own sum, which is
 * acc = fma(x[k], w[n,k], acc) for k ascending from acc = 0. The first block's sum is the first
 * partial result (not 0 + it); the next ones are added to it. With accumulate: y_old + total, last.
 * cap: c * ap_tanhf(y / c).
 *
 * With precision HIGH or FAST, weights in integer form meet inputs in integer form, of 15 bits (HIGH:
 * L = 16256 = 127 * 128) or of 8 (FAST: L = 127). Per row and 32 inputs: a = max |x|,
 * X = round to even(x * (L / a)), d = a * (1/L rounded); a < 1e-30: X = 0, d = 0; an infinity or
 * NaN: X = 0, d = NaN. xs = d * sum X, over the 32 inputs, or over 16 of them for groups of 16.
 * Order: from acc = 0, blocks of 32 inputs ascending: acc = fma(s * float(sum (q - zero) X), d, acc),
 * once, or for groups of 16 twice; then, if affine, acc = fma(b, xs, acc), likewise. The sum of
 * (q - zero) X is exact (32 * 255 * 16256 < 2^31) and is rounded once, to even, by float().
 *
 * With precision FAST on the level amx, products of AP_TILED_ROWS rows or more (of an expert's rows in
 * moe) with weights in integer form or in bf16 go by bf16 tiles instead (cpu/tiled.h), and so do those of
 * glu and moe: x, and in moe act(gate) * up, is rounded to bf16, to even; weights in integer form are
 * computed in f32 and rounded to bf16, ties away from zero; products are summed in f32 in the order of
 * the tile unit, which takes denormals for zero. No Order, but one fixed sequence for each output: it
 * depends on that row, the weights and on whether there are enough rows, not on which other rows there
 * are, nor on threads or room. */
typedef struct ap_matmul_args {
    const float *x; /* f32 [T, K] ldx */
    const ap_mat *w;
    float *y; /* f32 [T, N] ldy */
    int64_t ldx, ldy;
    int n_tok;
    bool accumulate;
    float softcap; /* 0 = none */
} ap_matmul_args;

/* y = act(x Wg^T) * (x Wu^T). Products in the Order of matmul. */
typedef struct ap_glu_args {
    const float *x; /* f32 [T, K] ldx */
    const ap_mat *gate, *up;
    float *y; /* f32 [T, F] ldy */
    int64_t ldx, ldy;
    int n_tok;
    ap_act act;
} ap_glu_args;

/* Choose experts: the K largest logits (ties: lower index), most likely first.
 * p = ap_expf(l - max over all E) ; w = p / sum of the chosen p in rank order (norm) or of all E
 * ascending (no norm); then times per_expert_scale. NaN or plus infinity among the logits of a row: all its
 * weights are NaN, and the ids are distinct and in range nevertheless. */
typedef struct ap_route_args {
    const float *logits;           /* f32 [T, E] */
    const float *per_expert_scale; /* f32 [E] or NULL */
    int32_t *ids;                  /* i32 [T, K] out */
    float *weights;                /* f32 [T, K] out */
    int n_tok, n_expert, n_used;
    bool norm;
} ap_route_args;

/* y[t] (+)= sum over ranks j ascending of weights[t,j] * Down_e(act(Gate_e x) * (Up_e x)).
 * Tokens are sorted by expert, so that every expert is one matmul.
 * Order: each expert's output in the Order of matmul; then acc = fma(weight, out_j, acc) over ranks
 * from acc = 0; with accumulate y_old + acc. */
typedef struct ap_moe_args {
    const float *x;           /* f32 [T, H] ldx */
    const int32_t *ids;       /* i32 [T, K] */
    const float *weights;     /* f32 [T, K] */
    const ap_expert *experts; /* [E]; those named in ids are usable. Not for waves */
    float *y;                 /* f32 [T, H] ldy */
    int64_t ldx, ldy;
    int n_tok, n_expert, n_used;
    int hidden, ffn; /* H and F; for waves, else the experts tell */
    ap_act act;
    bool accumulate;
    void *
        scratch; /* moe_scratch_bytes(T, E, K, H, F), or moe_waves_scratch_bytes; 64-byte aligned */
} ap_moe_args;

/* cos and sin tables of a step. Angle = (float)pos * inv_freq[i], one f32 product; cos and sin of
 * that f32 angle in double precision libm, rounded to f32, times attention_factor. */
typedef struct ap_rope_args {
    const int32_t *pos; /* i32 [3][T]: temporal, height, width; text has one in all */
    const uint8_t
        *axis; /* u8 [n_angle] on the host: which of the three turns an angle; NULL = the first */
    const float *inv_freq; /* f32 [n_angle] */
    float attention_factor;
    float *cos, *sin; /* f32 [T, n_angle] out */
    int n_tok, n_angle;
} ap_rope_args;

/* The KV pages of a step's sequences, for one layer. Logical page i holds positions
 * [i*AP_PAGE, (i+1)*AP_PAGE); a sequence's block table is row seq.table of `page`. Page memory of the
 * layer, ap_kv_layer_bytes of it, is at base + (size_t)page[i] * page_bytes + layer_offset:
 *   F32   K f32 [G][D][AP_PAGE]       (transposed: 16 keys side by side)
 *         V f32 [G][AP_PAGE][D]
 *   BF16  K u16 [G][D/2][AP_PAGE][2]  (neighbours of a sum side by side: what instructions for
 *         V u16 [G][AP_PAGE/2][D][2]   pairs, and bf16 tiles, take as it is)
 *   Q8    K u8  [G][AP_PAGE/16][D/4][16 keys][4 dims]   128 + q
 *         V i8  [G][D/16][AP_PAGE/4][16 dims][4 keys]   q
 *         scales of K f32 [G][blocks of AP_KV_BLOCK dims][AP_PAGE], of V f32 [G][AP_PAGE]
 * Values are rounded when they are written: bf16 to nearest even. Q8: over the dims that share a scale
 * a = max |x|; q = round to even(x * (127 / a)), scale = a * (1/127 rounded); a < 1e-30: q = 0, scale
 * = 0; an infinity or NaN: q = 0, scale = NaN. BF16 and Q8 need D to be a multiple of 16, <= 512. */
typedef struct ap_kv {
    uint8_t *base;
    size_t page_bytes, layer_offset;
    const ap_batch *batch;
    int group;    /* whose block tables: batch->page[group] */
    apus_kv type; /* not AUTO */
} ap_kv;

/* Bytes of one layer's K and V in a page; 0 = the type does not take this head_dim. */
size_t ap_kv_layer_bytes(apus_kv type, int n_kv_head, int head_dim);

/* Per token and head: q = rope(norm(q)), k = rope(norm(k)), v = maybe norm without weight; q goes to
 * q_out, k and v into the pages. Norms in the Order of ap_norm_args, over D. A rotated pair is
 *   a' = a*cos - b*sin ; b' = b*cos + a*sin   (two rounded products, then the sum)
 * q_only (gemma's shared layers): k, v ignored, nothing is written. n_head 0: k and v alone. Heads with more dims
 * in the pages than they have end with zeros there and in q_out, which no score notices (attn_fast_dim says what
 * that is for). */
typedef struct ap_qkv_args {
    const float *q;     /* f32, head h of token t at q + t*ldq + h*q_head_stride, D values */
    const float *k, *v; /* f32, head g of token t at k + t*ldk + g*D; v likewise (may equal k) */
    int64_t ldq, q_head_stride, ldk, ldv;
    const float *q_norm, *k_norm; /* f32 [D] or NULL = no norm */
    bool v_norm;                  /* rms without weight */
    float eps;
    const float *cos, *sin;   /* f32 [T, n_angle] */
    int n_angle, pair_offset; /* dims i and i + pair_offset, i < n_angle */
    float *q_out;             /* f32 [T, n_head, page_dim]; may be q if the strides agree */
    ap_kv kv;
    int n_tok, n_head, n_kv_head, head_dim;
    int page_dim; /* D of the pages and of q_out, >= head_dim; 0 = head_dim */
    bool q_only;
} ap_qkv_args;

/* D of the pages and of q_out. */
static inline int ap_qkv_page_dim(const ap_qkv_args *a)
{
    return a->page_dim ? a->page_dim : a->head_dim;
}

/* Attention over the pages; query head h reads KV head h / (n_head / n_kv_head). Key p is visible to a
 * query at P iff first <= p < see_end of its row and, with window > 0, P - p < window; each sees one.
 * Order: a query's keys are cut into segments at the multiples of AP_SEGMENT. In each one with a
 * visible key, from m = -inf, l = 0, o = 0: pages ascending from the first one with a visible key. In
 * a page: scores of the keys j, times scale; invisible keys are -inf; m' = max(m, page max); p_j =
 * ap_expf(s_j - m') (0 for invisible); c = ap_expf(m - m'); l = l*c + ap_sum of the 64 p_j (16 partial
 * sums j, j+16, j+32, j+48 in this order, then ap_sum16); o[d] = o[d]*c, then the values are added.
 * Segments ascending: the first one's m, l, o are taken as they are; then, with those of the next one
 * m2, l2, o2: m' = max(m, m2), c = ap_expf(m - m'), c2 = ap_expf(m2 - m'), l = l*c + l2*c2 (two
 * products, then the sum), o[d] = fma(o2[d], c2, o[d]*c). At the end o[d] / l.
 *   F32, BF16: score = fma(q[d], K[d][j], acc), d ascending from acc = 0; values: o[d] =
 *     fma(p_j, V[j][d], o[d]) for visible j ascending.
 *   Q8: q in integers of 15 bits, X = round to even(q * (16256 / a)), a = max |q[d]|, sq = a * (1/16256
 *     rounded). score = acc * sq with acc = fma(float(sum of X K), scale of K, acc) over the blocks of
 *     AP_KV_BLOCK dims ascending from acc = 0. Values: w_j = p_j * scale of V (0 for invisible), a =
 *     max w_j, W_j = round to even(w_j * (32767 / a)), sw = a * (1/32767 rounded), o[d] = fma(float(sum
 *     over j of W_j V[j][d]), sw, o[d]). Small and odd a as in the pages (ap_kv).
 * The Order is that of all precisions but FAST, which may round q and p_j to bf16 for BF16 pages and
 * add up pairs and blocks in an order of its own; keys that no row of the step sees have no effect.
 * Only pages with a key that some row of the task sees are read. */
typedef struct ap_attn_args {
    const float *q; /* f32 [T, n_head, D] on 16 bytes */
    float *out;     /* f32 [T, n_head, D] on 16 bytes; not q: it is written while q is read */
    ap_kv kv;
    int n_tok, n_head, n_kv_head, head_dim;
    float scale;
    int window;    /* 0 = all */
    int first;     /* keys before this position are seen by nobody */
    void *scratch; /* attn_scratch_bytes(T, n_head, n_kv_head, D), 64-byte aligned */
} ap_attn_args;

#define AP_NEAR_MAX 256 /* the largest reach */

/* Attention of each row to itself and the rows right before it, `reach` rows in all, whose keys have a part that
 * tells how far away they are:
 *   s_j = cap * tanh(q . (k[t - j] + distant[j]) / cap), 0 <= j < reach, as far as there are rows
 *   out[t] = sum of softmax(s)_j v[t - j]
 * Order: both dots, with k and with distant, are 16 partial fma sums and ap_sum16, as those of delta, then added;
 * cap * ap_tanhf(s / cap); p_j = ap_expf(s_j - max); out[d] = fma(p_j, v[t - j][d], out[d]), j ascending from
 * out = 0; then out[d] * r with r = 1 / (sum of p_j, j ascending from 0). */
typedef struct ap_attn_near_args {
    const float *q;       /* f32 [T, n_head, D] ldq */
    const float *k, *v;   /* f32 [T, n_head, D] ldkv; n_past rows of the same lie before row 0 */
    const float *distant; /* f32 [reach, n_head, D] */
    float *out;           /* f32 [T, n_head, D] ldout; none of the inputs */
    int64_t ldq, ldkv, ldout;
    int n_tok, n_past, n_head, head_dim, reach; /* 1 <= reach <= AP_NEAR_MAX */
    float cap;                                  /* > 0 */
} ap_attn_near_args;

/* Where a layer's recurrent states of a step's sequences are: those of a sequence at
 * base + seq.state * block_floats + offset. States of different sequences do not overlap. */
typedef struct ap_recur_at {
    float *base;
    size_t block_floats, offset;
    const ap_batch *batch;
} ap_recur_at;

/* Rows whose recurrent states are not decided yet: a sequence whose `keep` is not negative leaves the states as they
 * are, and what each of its rows would have done to them is kept, to be replayed by `commit` for as many rows as turn
 * out to count. It has AP_KEPT_ROWS rows at most, so that it goes by the recurrence in every form. A kept row of a
 * layer, in floats:
 *   x       [C] before the convolution, C = 2*Hk*Dk + Hv*Dv
 *   k^      [Hk, Dk] as the delta rule normalises it
 *   d       [Hv, Dv]
 *   decay   [Hv], less1 [Hv] */
#define AP_KEPT_ROWS 15

typedef struct ap_kept_rows {
    float *base; /* f32 [*, row_floats] of a layer; NULL: every sequence's states are replaced */
    size_t row_floats; /* ap_kept_floats */
} ap_kept_rows;

static inline size_t ap_kept_floats(int n_k_head, int n_v_head, int k_dim, int v_dim)
{
    size_t keys = (size_t)n_k_head * (size_t)k_dim, heads = (size_t)n_v_head;
    return (3 * keys + 2 * heads * (size_t)v_dim + 2 * heads + 15) / 16 * 16;
}

/* u = silu(causal depthwise conv of x), or without silu. Order: acc = fma(w[c,j], x[t-Kc+1+j,c], acc), j
 * ascending from acc = 0; silu = ap_siluf. */
typedef struct ap_conv_args {
    const float *x;      /* f32 [T, C] ldx, before the conv */
    const float *weight; /* f32 [Kc, C]: tap-major, the last tap meets the current token */
    float *out;          /* f32 [T, C]; not x */
    int64_t ldx;
    ap_recur_at state; /* f32 [Kc-1, C] oldest first, read and replaced */
    ap_kept_rows kept;
    int n_tok, n_channel, n_tap; /* n_tap <= 64 */
    bool plain;                  /* without silu */
} ap_conv_args;

/* The gated delta rule with its gates, q/k normalisation and gated output norm.
 *   beta = ap_sigmoidf(b); g = neg_exp_a * softplus(a + dt); q^ = q*rsqrt(sum q^2 + 1e-6)*Dk^-1/2;
 *   k^ = k*rsqrt(sum k^2 + 1e-6); v head h reads key head h / (Hv/Hk)
 *   S <- e^g S; d = beta (v - S^T k^); S <- S + k^ d^T; o = S^T q^
 *   out = norm(o)*weight * silu(z), norm over Dv, eps
 * The state is f32 [Hv, Dv, Dk] (row per value channel).
 * Gates are made in double from the f32 inputs (recur_body.h) and rounded once: decay = e^g, less1 =
 * e^g - 1, each by itself. An error of half a unit in the last place of e^g, the same at every token,
 * would be worth 1e-3 of a state that remembers 32,768 tokens.
 * Order: q^ = (q*r)*s with r = 1/sqrtf(dot16(q,q) + 1e-6) and s = Dk^-1/2 rounded; k^ = k*r likewise;
 * kq = dot16(k^, q^). dot16 is 16 partial fma sums, i = j, j+16, ..., and ap_sum16. Per value channel
 * row S[Dk]: kv = decay*dot16(S, k^), d = beta*(v - kv), o = fma(kq, d, decay*dot16(S, q^)), both dots
 * of the old S, so that it is read once; then S = S + fma(k^, d, less1*S) if decay >= 1/2, else
 * S = fma(k^, d, decay*S). out = ((o*r)*weight)*ap_siluf(z), r in the Order of norm.
 * CHUNKED, and always with precision FAST: chunks of 64 tokens from the first of the call on, as
 * matrix products (ops_delta_chunk.c); equal to the recurrence to rounding. Sequences of fewer than 16
 * tokens go by the recurrence. Bit-equal over levels, threads and batch neighbours, not over other cuts
 * of the text. FAST on AMX: the products' inputs have 16 bits (two bf16), the sums are f32 in the order
 * of the processor; as bit-equal but over levels. State within 1e-4 of itself after 32,768 tokens. */
typedef enum ap_delta_form { AP_DELTA_RECURRENT, AP_DELTA_CHUNKED } ap_delta_form;

typedef struct ap_delta_args {
    const float *qkv; /* f32 [T, 2*Hk*Dk + Hv*Dv] on 16 bytes, after conv and silu: q | k | v */
    const float *a, *b, *z; /* f32 [T, Hv] lda, [T, Hv] ldb, [T, Hv*Dv] ldz */
    int64_t lda, ldb, ldz;
    const float *neg_exp_a, *dt_bias; /* f32 [Hv]; neg_exp_a = -exp(A_log) */
    const float *norm_weight;         /* f32 [Dv] */
    float eps;
    float *out;        /* f32 [T, Hv*Dv]; none of the inputs */
    ap_recur_at state; /* f32 [Hv, Dv, Dk] on 16 bytes, read and replaced */
    ap_kept_rows kept;
    int n_tok, n_k_head, n_v_head, k_dim, v_dim;
    bool tiled; /* v head h reads key head h % Hk instead */
    ap_delta_form form;
    void *scratch; /* delta_scratch_bytes(T, ...), 64-byte aligned */
} ap_delta_args;

/* The states of some layers after the first n_tok rows of what their sequences have kept from row `keep` on: the bits
 * that those rows would have left without being kept.
 * Order: the convolution's state is the last Kc-1 rows of [state; x]; the delta rule's, row by row, is S + fma(k^, d,
 * less1*S) if decay >= 1/2, else fma(k^, d, decay*S). */
typedef struct ap_commit_args {
    const float *kept; /* f32 [n_layer, *, row_floats] layer_floats */
    size_t row_floats, layer_floats;
    ap_recur_at conv, delta; /* of the first layer, of one batch; of it only seq is looked at */
    size_t state_floats;     /* from a layer's states to those of the next one */
    int n_layer, n_tap, n_k_head, n_v_head, k_dim, v_dim;
    bool tiled;
} ap_commit_args;

/* A row that every sequence carries from step to step, among its recurrent states: the last one that it had of x.
 * Nothing is computed.
 *   AP_CARRY_ROWS    out[t] = the row before row t: x[t - 1], or what is carried ahead of the first row of a sequence,
 *                    which then carries its last row of x. One whose `keep` is not negative carries what it carried,
 *                    and its rows of x are kept
 *   AP_CARRY_LOOK    out[i] = what sequence i carries; x is not read
 *   AP_CARRY_COMMIT  the sequences carry the last one of their first n_tok kept rows */
typedef enum ap_carry { AP_CARRY_ROWS, AP_CARRY_LOOK, AP_CARRY_COMMIT } ap_carry;

typedef struct ap_carry_args {
    ap_carry what;
    const float *x; /* f32 [T, n] */
    float *out;     /* f32 [T, n], LOOK [S, n]; not x; NULL: not wanted */
    ap_recur_at state;
    ap_kept_rows kept;
    int n;
} ap_carry_args;

/* Elementwise steps, row by row. */
typedef enum ap_elem {
    AP_ELEM_ADD,         /* y = y + x */
    AP_ELEM_MUL_SIGMOID, /* y = y * sigmoid(x) */
    AP_ELEM_ADD_GATED,   /* y = fma(sigmoid(g[t]), x, y) with g at `gate`, one per row */
    AP_ELEM_GELU_MUL,    /* y = gelu_tanh(y) * x */
    AP_ELEM_AVERAGE,     /* y = (y + x) * scale */
    AP_ELEM_MUL,         /* y = y * x */
    AP_ELEM_SILU,        /* y = silu(y) */
    AP_ELEM_GELU,        /* y = gelu_tanh(y + x) */
    AP_ELEM_GELU_ERF,    /* y = gelu(y + x), its erfc in double */
    AP_ELEM_CLAMP        /* y = x, but lo below lo and hi above hi */
} ap_elem;

typedef struct ap_elem_args {
    ap_elem op;
    float *y;          /* f32 rows of n; block b of row t at y + t*ldy + b*y_block */
    const float *x;    /* likewise; ldx 0: one row for all. CLAMP: may be y. SILU: not read */
    const float *gate; /* f32 [rows]: ADD_GATED */
    int64_t ldy, ldx;
    int rows, n;
    int n_block; /* blocks of n values per row, >= 1 */
    int64_t y_block, x_block;
    float scale;
    float lo, hi; /* CLAMP: lo <= hi */
} ap_elem_args;

/* The next token of each row of logits. (cpu/ops_sample.c has the Order of the CPU.) */
typedef struct ap_sample_row {
    float temperature;                     /* 0 = the largest logit, ties: lower id */
    int top_k;                             /* 0 = all */
    float top_p, min_p;                    /* 1 and 0 = off */
    float repetition, presence, frequency; /* 1, 0, 0 = off */
    const int32_t *history;                /* i32 [n_history] ids that penalties count */
    int n_history;
    const uint32_t *mask;   /* u32 [(V + 31) / 32] a set bit allows an id; NULL = all */
    const int32_t *bias_id; /* i32 [n_bias], with */
    const float *bias;      /* f32 [n_bias] added to the logits */
    int n_bias;
    uint64_t random; /* the draw's 64 random bits */
} ap_sample_row;

typedef struct ap_sample_args {
    float *logits;            /* f32 [n, V]; may be changed */
    const ap_sample_row *row; /* [n] on the host; pointers in it are device memory */
    int n, vocab;
    int32_t *id;   /* i32 [n] out; -1: a logit is NaN or +inf (-inf: the id is not allowed) */
    void *scratch; /* sample_scratch_bytes(n, V), 64-byte aligned */
} ap_sample_args;

/* ------------------------------------------------------------------ groups
 * What a backend may run as one launch or one parallel region. Each is defined as a sequence of the operations
 * above, in their Orders (groups.c). */

#define AP_GROUP 4

/* h = norm(x); then y[i] = h w[i]^T: norm, then matmul for each. */
typedef struct ap_project_args {
    const float *x;    /* f32 [T, K] */
    const float *norm; /* f32 [K] */
    float eps;
    float *h;                  /* f32 [T, K] out */
    const ap_mat *w[AP_GROUP]; /* of K columns */
    float *y[AP_GROUP];        /* f32 [T, rows of w[i]] */
    int n_mat, n_tok;
} ap_project_args;

/* A mixture's part of a layer: h = norm(x); the router's choice; y = y + what the chosen experts make of h; and with
 * a shared expert y = y + sigmoid(shared_gate h) * (what it makes of h). project, route, moe, glu, matmul, elem. */
typedef struct ap_mix_args {
    const float *x, *norm; /* f32 [T, H], [H] */
    float eps;
    float *h;             /* f32 [T, H] out */
    const ap_mat *router; /* [E, H] */
    float *logits;        /* f32 [T, E] out */
    int32_t *ids;         /* i32 [T, K] out */
    float *weights;       /* f32 [T, K] out */
    bool norm_topk;
    const ap_expert *experts;  /* [E] */
    const ap_expert *shared;   /* or NULL */
    const ap_mat *shared_gate; /* [1, H] */
    float *t, *mid, *gate;     /* f32 [T, H], [T, F of shared], [T]: room */
    float *y;                  /* f32 [T, H] */
    int n_tok, n_expert, n_used;
    ap_act act;
    void *scratch; /* moe_scratch_bytes(...) */
} ap_mix_args;

/* A layer's convolution, the delta rule over its outputs, and with w the product that they go to, y = y + out w^T: conv,
 * delta, matmul. Over the same states another operation must lie between two of these. */
typedef struct ap_recur_args {
    ap_conv_args conv;
    ap_delta_args delta; /* qkv is what conv puts out; of the same batch */
    const ap_mat *w;     /* [N, Hv * Dv] or NULL */
    float *y;            /* f32 [T, N] */
} ap_recur_args;

/* Attention with its heads before and a gate behind it: qkv, attn, elem (MUL_SIGMOID). */
typedef struct ap_attend_args {
    ap_qkv_args qkv;
    ap_attn_args attn;
    const float
        *gate; /* f32, of head h of token t at gate + t*ldgate + h*gate_head_stride; NULL = none */
    int64_t ldgate, gate_head_stride;
} ap_attend_args;

/* ------------------------------------------------------------------ the table */

struct ap_kern {
    const char *name; /* "cpu", "cuda" */
    apus_cpu level;
    const void *impl; /* the backend's own (cpu: ap_micro) */

    /* Bytes of a packed matrix [rows, cols]; 0 = not copied but used in place (types that
     * ap_dtype_is_weight refuses cannot be packed). Only type, shape, group and bits of t are used. */
    size_t (*pack_bytes)(const ap_kern *k, const ap_tensor *t);
    /* Pack src [rows, cols] (any alignment) to dst, host memory, 64-byte aligned, on the calling thread; not
     * where pack_bytes is 0: src->data must stay then. Rows from a multiple of 128 on may be packed apart, to
     * where pack_bytes of the rows before them ends. */
    void (*pack)(const ap_kern *k, const ap_tensor *src, void *dst);
    /* What a matrix packed to dst, device memory, is; no byte is read or written. */
    void (*pack_mat)(const ap_kern *k, const ap_tensor *src, void *dst, ap_mat *out);
    /* Rows [begin, begin + n) of a packed matrix, begin a multiple of AP_PANEL. False: it cannot be cut. */
    bool (*mat_rows)(const ap_kern *k, const ap_mat *whole, int begin, int n, ap_mat *out);
    /* May embed read rows of a matrix that pack has made (so that a tied head serves as table)? Else tables
     * stay where the files have them (ap_mat.raw). */
    bool packed_tables;

    void (*embed)(const ap_exec *x, const ap_embed_args *a);
    void (*norm)(const ap_exec *x, const ap_norm_args *a);
    void (*layer_norm)(const ap_exec *x, const ap_layer_norm_args *a);
    void (*blend)(const ap_exec *x, const ap_blend_args *a);
    void (*matmul)(const ap_exec *x, const ap_matmul_args *a);
    void (*glu)(const ap_exec *x, const ap_glu_args *a);
    void (*route)(const ap_exec *x, const ap_route_args *a);
    size_t (*moe_scratch_bytes)(const ap_exec *x, int n_tok, int n_expert, int n_used, int hidden,
                                int ffn);
    void (*moe)(const ap_exec *x, const ap_moe_args *a);
    /* The same to the bit with experts that are not at hand all at once; NULL: not on this backend. moe_begin
     * writes those that have a token, ascending, to need, i32 [E] on the host, and returns their number; each
     * of them is in exactly one moe_wave, in any order: expert[i], i < n, is the one with number id[i]. y is
     * written by moe_end. All calls have the same a, and nobody else writes to its scratch in between. */
    size_t (*moe_waves_scratch_bytes)(const ap_exec *x, int n_tok, int n_expert, int n_used,
                                      int hidden, int ffn);
    int (*moe_begin)(const ap_exec *x, const ap_moe_args *a, int32_t *need);
    void (*moe_wave)(const ap_exec *x, const ap_moe_args *a, const int32_t *id,
                     const ap_expert *expert, int n);
    void (*moe_end)(const ap_exec *x, const ap_moe_args *a);
    void (*rope)(const ap_exec *x, const ap_rope_args *a);
    void (*qkv)(const ap_exec *x, const ap_qkv_args *a);
    size_t (*attn_scratch_bytes)(const ap_exec *x, int n_tok, int n_head, int n_kv_head,
                                 int head_dim);
    void (*attn)(const ap_exec *x, const ap_attn_args *a);
    /* The fewest dims, head_dim or more, with which attention of many rows over bf16 pages goes by products of
     * bf16; 0: none does, on this processor or with this precision. */
    int (*attn_fast_dim)(const ap_exec *x, int head_dim);
    void (*attn_near)(const ap_exec *x, const ap_attn_near_args *a);
    void (*conv)(const ap_exec *x, const ap_conv_args *a);
    size_t (*delta_scratch_bytes)(const ap_exec *x, int n_tok, int n_k_head, int n_v_head,
                                  int k_dim, int v_dim);
    void (*delta)(const ap_exec *x, const ap_delta_args *a);
    void (*commit)(const ap_exec *x, const ap_commit_args *a);
    void (*carry)(const ap_exec *x, const ap_carry_args *a);
    void (*elem)(const ap_exec *x, const ap_elem_args *a);
    void (*project)(const ap_exec *x, const ap_project_args *a);
    void (*mix)(const ap_exec *x, const ap_mix_args *a);
    void (*recur)(const ap_exec *x, const ap_recur_args *a);
    void (*attend)(const ap_exec *x, const ap_attend_args *a);
    size_t (*sample_scratch_bytes)(const ap_exec *x, int n, int vocab);
    void (*sample)(const ap_exec *x, const ap_sample_args *a);
};

/* The CPU's operations at `level` (AUTO = best). EINVAL: this processor does not have that level. */
apus_err ap_kern_cpu(apus_cpu level, const ap_kern **out, apus_diag *diag);

#endif
