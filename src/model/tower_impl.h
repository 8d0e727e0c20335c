/* tower_impl.h - towers inside src/model: weights, and the memory of one picture in work.
 *
 * Attention runs over K/V pages that hold one layer's keys of one picture, so it is the text model's: blockwise, on
 * every device. Rows are worked on in pieces, for nothing but the residual stream, the queries and those pages has
 * to be there for all of them. */
#ifndef AP_MODEL_TOWER_IMPL_H
#define AP_MODEL_TOWER_IMPL_H

#include "model/model_impl.h"
#include "model/tower.h"
#include "model/tower_linear.h"

typedef struct ap_norm_weights {
    const float *weight, *bias; /* bias: layer norms */
} ap_norm_weights;

typedef struct ap_tower_layer {
    ap_norm_weights norm_attn, norm_ffn;           /* before them */
    ap_norm_weights norm_post_attn, norm_post_ffn; /* gemma: after them */
    ap_linear qkv;                                 /* qwen: q | k | v */
    ap_linear q, k, v;                             /* gemma */
    const float *q_norm, *k_norm;                  /* gemma: f32 [D] */
    ap_linear o;
    ap_linear gate, up, down; /* qwen: no gate */
} ap_tower_layer;

struct ap_tower {
    ap_vision_config v;
    const ap_config *c;
    ap_device *dev;
    ap_linear patch;        /* [hidden, patch width] */
    const float *positions; /* qwen: f32 [positions^2, hidden] */
    ap_mat position_table;  /* gemma: [2 * positions, hidden] */
    const float *inv_freq;  /* f32 [D / 2] */
    ap_tower_layer *layer;
    ap_norm_weights norm_in, norm_patch; /* embedder: of patches, before and after their product */
    ap_norm_weights norm_out; /* qwen: of the merger; embedder: of patches with their positions */
    const float *std_bias, *std_scale; /* gemma: f32 [hidden], the bias negated; or NULL */
    ap_linear merge, project;          /* qwen: merger's two; gemma: project alone */
    ap_bound bound;
};

/* Arrays that tell of rows, on the host or on the device. */
typedef struct ap_tower_index {
    ap_seq *seq;       /* [pieces] */
    int32_t *pos;      /* [n] */
    int32_t *see_end;  /* [n] all see all */
    int32_t *seq_of;   /* [n] */
    int32_t *page;     /* [pages] */
    int32_t *axis;     /* [2][n] row and column; gemma: column and row */
    int32_t *tok;      /* [2][n] gemma: rows of the position table, of columns and of rows */
    int32_t *tap;      /* [n_tap] rows that are blended */
    float *tap_weight; /* [n_tap] */
} ap_tower_index;

/* One picture in work. */
typedef struct ap_tower_work {
    const ap_tower *t;
    ap_exec ex;
    int n, piece, n_piece; /* rows; of a piece, whole soft tokens; pieces */
    ap_tower_index host, dev;
    int32_t *order; /* [n] which patch a row is, on the host; NULL: they are in order */
    float *stage; /* f32 [piece, patch width] on the host; NULL: patches are used where they are */
    uint8_t *index_host, *index_dev;
    size_t index_bytes;
    apus_kv kv_type;
    int page_dim; /* dims of a head in q, the pages and what attention puts out; the tower's, then zeros */
    size_t page_bytes;
    float *x, *q;         /* f32 [n, hidden], [n, heads * page_dim] */
    float *cos, *sin;     /* f32 [n, D / 2] */
    uint8_t *kv;          /* pages */
    float *patches;       /* f32 [piece, patch width]; NULL: the host's are used */
    float *h, *a, *b, *c; /* f32 [piece, widest of what passes through] */
    float *out;           /* f32 [piece / merge^2, text hidden] */
    void *op;             /* of attn */
    uint8_t *mem;         /* of the device: all of it */
    size_t mem_bytes;
} ap_tower_work;

/* Rows [first, first + n) of a piece. */
typedef struct ap_piece {
    int first, n;
    ap_batch batch;
} ap_piece;

/* tower.c */
ap_piece ap_tower_piece(const ap_tower_work *w, int i);
/* x += W y + bias */
void ap_linear_add(const ap_exec *ex, const ap_linear *l, const float *y, float *x, int n);
void ap_tower_layer_norm(const ap_exec *ex, const float *x, const ap_norm_weights *w, float *out,
                         int rows, int n, float eps);
void ap_tower_bias(const ap_exec *ex, ap_elem op, const float *bias, float *y, int rows, int n);
/* gemma: a table [2 * positions, hidden]; x = what it says of a piece's columns and rows, added up. */
void ap_tower_bind_table(ap_bind *b, ap_tower *t, const ap_tensor *table);
void ap_tower_positions(const ap_tower_work *w, const ap_piece *p, float *x);
ap_kv ap_tower_kv(const ap_tower_work *w, const ap_batch *b);
/* Keys and values of a piece to the pages, its queries to w->q. q, k, v: rows ld floats apart. */
void ap_tower_qkv(const ap_tower_work *w, const ap_tower_layer *y, const ap_piece *p,
                  const float *q, const float *k, const float *v, int64_t ldq, int64_t ldk);
/* w->h = attention of a piece's queries; changes w->b */
void ap_tower_attend(const ap_tower_work *w, const ap_piece *p, float scale);

/* The families: tensors; arrays of a picture; rows of patches to w->x; a layer; soft tokens of a piece to w->out. */
typedef struct ap_tower_family {
    const char *const
        *prefixes; /* that the names may have, the first one that fits; NULL ends them */
    const char *mark,
        *other_mark; /* names behind the prefix of which every such tower has one; or NULL */
    bool centre;     /* values of patches go from 0 ... 1 to -1 ... 1 first */
    void (*bind)(ap_bind *b, ap_tower *t);
    size_t (*n_tap)(const ap_tower *t, int rows);
    void (*index)(const ap_tower_work *w, const ap_patches *p);
    void (*embed)(const ap_tower_work *w, const ap_piece *p, const float *patches);
    void (*layer)(const ap_tower_work *w, const ap_tower_layer *y);
    void (*project)(const ap_tower_work *w, const ap_piece *p);
} ap_tower_family;

extern const ap_tower_family ap_tower_qwen, ap_tower_gemma, ap_tower_embedder;

#endif
