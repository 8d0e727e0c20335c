/* model_impl.h - a loaded model inside src/model: packed weights by layer, and the families' entries. */
#ifndef AP_MODEL_MODEL_IMPL_H
#define AP_MODEL_MODEL_IMPL_H

#include "model/arch.h"
#include "model/experts.h"

/* What a walk over tensors has made of them. */
typedef struct ap_bound {
    uint8_t *mem; /* of the device: every packed matrix and vector */
    size_t bytes;
    size_t in_place; /* bytes of matrices that stay where the files have them */
} ap_bound;

/* Dense gated feed-forward: gate, up [F, H], down [H, F]. */
typedef struct ap_ffn {
    ap_mat gate, up, down;
} ap_ffn;

typedef struct ap_attn_weights {
    ap_mat q, k, v, o;            /* k, v empty (rows 0) where another layer's K/V is used, v also
                                   * where V is the raw K */
    const float *q_norm, *k_norm; /* f32 [D] */
} ap_attn_weights;

typedef struct ap_gdn_weights {
    ap_mat qkv, z, b, a, out;         /* [2kd+vd, H], [vd, H], [Hv, H], [Hv, H], [H, vd] */
    const float *conv;                /* f32 [Kc, 2kd+vd], tap-major */
    const float *neg_exp_a, *dt_bias; /* f32 [Hv] */
    const float *norm;                /* f32 [Dv] */
} ap_gdn_weights;

typedef struct ap_moe_weights {
    ap_mat router;                 /* [E, H] */
    const float *per_expert_scale; /* gemma: f32 [E]; else NULL */
    ap_ffn shared;                 /* qwen: rows 0 = none */
    ap_mat shared_gate;            /* qwen: [1, H] */
} ap_moe_weights;

typedef struct ap_layer {
    const float *norm_in, *norm_post; /* input_ and post_attention_layernorm, f32 [H] */
    ap_attn_weights attn;
    ap_gdn_weights gdn;
    ap_ffn ffn;
    ap_moe_weights moe;

    /* gemma4 */
    const float *norm_pre_ffn, *norm_post_ffn;                   /* f32 [H] */
    const float *norm_pre_moe, *norm_post_dense, *norm_post_moe; /* with MoE, f32 [H] */
    const float *router_scale;  /* f32 [H], with h^-1/2 folded in */
    ap_mat ple_gate, ple_proj;  /* [P, H], [H, P] */
    const float *norm_post_ple; /* f32 [H] */
    float layer_scalar;

    size_t kv_offset[AP_KV_TYPES];    /* of the K/V this layer reads, in a page of its group */
    size_t conv_offset, delta_offset; /* floats into a sequence's recurrent state, linear layers */
    int recur_index;                  /* among linear layers, whose states lie one behind another */
} ap_layer;

struct ap_model_impl {
    const ap_config *c;
    const ap_weights *w;
    ap_device *dev;
    ap_mat embed;                /* [V, H] table */
    ap_mat ple_embed;            /* [V, L*P] table */
    ap_mat ple_project;          /* [L*P, H] */
    const float *norm_ple;       /* f32 [P] */
    ap_mat head;                 /* [V, H] */
    const float *inv_freq[2];    /* f32 [n_angle] of full and sliding layers */
    const float *norm_out;       /* f32 [H] */
    ap_layer *layer;             /* [L] */
    ap_experts *experts;         /* NULL: none, or views */
    ap_expert_view *views;       /* [L][E] or NULL */
    struct ap_draft_head *draft; /* qwen; NULL: none */
    bool value_heads_tiled;      /* gated delta rule: value head h pairs with key head h % Hk */
    ap_bound bound;
};

/* ---------------------------------------------------------------- binding (bind.c) */

typedef struct ap_pack_job ap_pack_job; /* a matrix that waits to be packed (bind_pack.c) */

/* Walks the tensors of a model twice: first to add up sizes, then to pack. Errors are sticky: after
 * the first one every call does nothing, so binding code needs no checks. */
typedef struct ap_bind {
    const ap_config *c;
    const ap_weights *w;
    ap_device *dev;
    const ap_kern *k;   /* the device's */
    const char *prefix; /* of the text model, such as "model.language_model." */
    uint8_t *mem;       /* of the device: of matrices; NULL in the sizing pass */
    uint8_t *
        floats; /* of the device: of vectors, which lie together: one strewn in among matrices would take
                      * a large page on the thread that binds */
    uint8_t *host_floats; /* where they are made: the same memory on the CPU */
    size_t used, floats_used;
    size_t in_place;  /* bytes of matrices that are used where the files have them */
    ap_pack_job *job; /* [job_room]; NULL in the sizing pass */
    size_t job_room, n_job, n_slice;
    size_t total_bytes; /* of packed weights, for progress */
    apus_progress_fn progress;
    void *progress_ctx;
    apus_err err;
    apus_diag *diag;
} ap_bind;

/* bind_run.c. The two passes of `fn`, which binds what `arg` is. size: b has c, w, dev, k, prefix and diag; tells
 * *out but for the memory. fill: takes that and fills it. Both return b->err; after an error of fill the memory
 * is still there to be freed. */
typedef void (*ap_bind_fn)(ap_bind *b, void *arg);
apus_err ap_bind_size(ap_bind *b, ap_bind_fn fn, void *arg, ap_bound *out);
apus_err ap_bind_fill(ap_bind *b, ap_bind_fn fn, void *arg, ap_bound *out);
void ap_bound_free(ap_bound *m, ap_device *dev); /* of a zeroed one too */

/* prefix + formatted name, as a view; rank (-1: any) and shape are checked. NULL data when an error is set. */
ap_tensor ap_bind_view(ap_bind *b, int rank, const int64_t *shape, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Does prefix + formatted name exist? */
bool ap_bind_has(ap_bind *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A matrix [rows, cols], packed. */
void ap_bind_mat(ap_bind *b, ap_mat *out, int rows, int cols, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The same of a tensor [rows, ...] of any rank with as many values, row by row. */
void ap_bind_mat_flat(ap_bind *b, ap_mat *out, int rows, int cols, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The same from a view that was found already. */
void ap_bind_mat_view(ap_bind *b, ap_mat *out, const ap_tensor *view);
/* Rows row[0..n) of a view [*, cols], in that order. row may be NULL in the sizing pass. */
void ap_bind_mat_rows(ap_bind *b, ap_mat *out, const ap_tensor *view, const int *row, int n);
/* Columns col[0..n) of a view [rows, n] of numbers that are not quantised, in that order. */
void ap_bind_mat_cols(ap_bind *b, ap_mat *out, const ap_tensor *view, const int *col);
/* A table of embeddings [rows, cols]: packed, or where the file has it, as the device wants it. */
void ap_bind_table(ap_bind *b, ap_mat *out, const ap_tensor *view);
/* n values as f32, each `add` + w; any rank with n elements. Returns them where they may still be changed,
 * on the host, until binding ends; NULL in the sizing pass. */
float *ap_bind_vec(ap_bind *b, const float **out, int n, float add, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* n uninitialised floats, likewise. */
float *ap_bind_floats(ap_bind *b, size_t n, const float **out);
/* Fails if one of the values read from a tensor is NaN or infinity. For vectors, of which it costs nothing:
 * some would never show in the logits, since a gate hides them. */
void ap_bind_finite(ap_bind *b, const float *v, int n, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* gate_proj, up_proj, down_proj under the formatted module name. */
void ap_bind_ffn(ap_bind *b, ap_ffn *out, int hidden, int ffn, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* Experts of layer l: "layers.L.<module>" with gate_up_proj and down_proj, with gate_proj, up_proj and
 * down_proj, or one by one; or "layers.L.<mlx_module>" with gate_proj.weight and so on. */
void ap_bind_experts(ap_bind *b, ap_model_impl *m, int l, const char *module,
                     const char *mlx_module);
/* embed_tokens, norm and lm_head. norm_add as in ap_bind_vec. */
void ap_bind_ends(ap_bind *b, ap_model_impl *m, float norm_add);

/* bind_pack.c. Put a matrix in the queue: *out is what it will be, its bytes follow with ap_bind_pack. In
 * the sizing pass, dst NULL, it is only counted. */
void ap_bind_queue(ap_bind *b, ap_mat *out, const ap_tensor *view, void *dst);
/* Between the passes: room for as many as the sizing pass has counted. ap_free b->job. ENOMEM. */
apus_err ap_bind_make_room(ap_bind *b);
/* Pack what is in the queue; ECANCELLED in b->err. */
void ap_bind_pack(ap_bind *b);
/* Pack a view in memory to dst at once. ENOMEM in b->err. */
void ap_bind_pack_now(ap_bind *b, const ap_tensor *view, uint8_t *dst);
/* The pages of a tensor in its file stop counting as ours. */
void ap_give_back(const ap_weights *w, const ap_tensor *t);

/* ---------------------------------------------------------------- families */

/* Buffers of a step; carved from ap_step.scratch in a fixed order. */
typedef struct ap_work ap_work;

/* qwen3.c: parts of a layer, for the draft head too. l: in m and in the names. */
void ap_qwen3_bind_layer(ap_bind *b, ap_model_impl *m, int l, float norm_add);
/* w->x += Attn(norm(w->x)); keys before position `first` are not there. */
void ap_qwen3_attention(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                        int l, int first);
/* Its keys and values of norm(w->x) alone. */
void ap_qwen3_store(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w, int l);
/* w->x += FFN(norm(w->x)) */
apus_err ap_qwen3_feed_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                               ap_work *w, int l, apus_diag *diag);

/* qwen3_head.c: the draft head, a model of one layer with the embedding and the head of the one behind which it stands.
 * NULL: no memory. */
typedef struct ap_draft_head ap_draft_head;
ap_draft_head *ap_draft_head_create(const ap_model_impl *m);
void ap_draft_head_free(ap_draft_head *h);
/* After the rest of m. */
void ap_draft_head_bind(ap_bind *b, ap_model_impl *m);
/* Keys and values of all rows of a step, whose residual stream is in w->x, and what its sequences carry on. */
void ap_draft_head_fill(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w);

void ap_gemma4_bind(ap_bind *b, ap_model_impl *m);
void ap_qwen3_bind(ap_bind *b, ap_model_impl *m);

/* The layers of a step; ECANCELLED. */
apus_err ap_gemma4_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                           const volatile int *cancel, apus_diag *diag);
apus_err ap_qwen3_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                          const volatile int *cancel, apus_diag *diag);

/* What a family implements (passes.c). */
typedef struct ap_pass {
    void (*bind)(ap_bind *b, ap_model_impl *m);
    apus_err (*forward)(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                        const volatile int *cancel, apus_diag *diag);
} ap_pass;

const ap_pass *ap_pass_of(const ap_config *c);

/* ---------------------------------------------------------------- blocks shared by families (blocks.c) */

/* More tokens want so many experts that a guess of the next layer's choice would be late. */
#define AP_GUESS_TOKENS 4

struct ap_work {
    float *x;               /* f32 [T, H] residual stream */
    float *h;               /* f32 [T, H] normed input of a block */
    float *t;               /* f32 [T, H] output of a block before its norm */
    float *q;               /* f32 [T, q width] raw projection, gates included */
    float *k, *v;           /* f32 [T, G*D] raw projections */
    float *qr;              /* f32 [T, n_head*D] normed, rotated */
    float *att;             /* f32 [T, n_head*D] */
    float *act;             /* f32 [T, F] activations of a dense FFN */
    float *cos[2], *sin[2]; /* f32 [T, n_angle] full, sliding */
    float *router;          /* f32 [T, E] */
    int32_t *ids;           /* i32 [T, K] */
    float *wts;             /* f32 [T, K] */
    int32_t *need;          /* i32 [E] experts of a layer, for a source */
    int32_t *guess;         /* i32 [AP_GUESS_TOKENS, K] what the next layer may choose, */
    float *guess_wts;       /* f32 [AP_GUESS_TOKENS, K] and its weights, which nobody needs */
    float *moe;             /* f32 [T, H] output of the experts */
    float *gate1;           /* f32 [T] shared expert's gate */
    float *gdn_qkv, *gdn_conv, *gdn_z, *gdn_a, *gdn_b, *gdn_out;
    float *ple, *ple_g; /* f32 [T, L*P], [T, P] */
    float *pair;        /* f32 [T, 2*H] what the draft head makes a row of */
    float *hidden;      /* f32 [T, H] the step's normed hidden rows */
    void *op;           /* scratch of attn, moe and delta, one at a time */
    void *inputs;       /* ap_exec.inputs */
    size_t input_bytes;
    size_t bytes;
};

/* Carve the buffers for n_tok tokens from mem (64-byte aligned), or only compute w->bytes with mem NULL.
 *   waves  experts come from a source */
void ap_work_init(ap_work *w, const ap_config *c, const ap_exec *ex, int n_tok, bool waves,
                  void *mem);

/* out[t] = table[tok[t]] * scale for the step's tokens; table: embed or ple_embed. */
void ap_embed_rows(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, const ap_mat *table,
                   float scale, float *out, int width);
/* After a step: the pages of the file that rows of tables were read from are given back from time to time. */
void ap_embed_done(const ap_model_impl *m, const ap_step *s);

/* Angles of the step's positions. */
void ap_step_angles(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w);

/* K/V memory, and recurrent states at `offset` of a sequence's, of layer l in this step. */
ap_kv ap_step_kv(const ap_model_impl *m, const ap_step *s, int l);
ap_recur_at ap_step_recur(const ap_step *s, size_t offset);
/* Where rows of layer l are kept in this step. */
ap_kept_rows ap_step_kept(const ap_model_impl *m, const ap_step *s, int l);

void ap_matmul(const ap_exec *ex, const float *x, const ap_mat *m, float *y, int n_tok);
void ap_matmul_add(const ap_exec *ex, const float *x, const ap_mat *m, float *y, int n_tok);
void ap_norm(const ap_exec *ex, const float *x, const float *w, float *out, int rows, int n,
             float eps);
/* out = (out + norm(x) * w) * scale */
void ap_norm_add(const ap_exec *ex, const float *x, const float *w, float *out, int rows, int n,
                 float eps, float scale);
/* y (+)= Down(act(Gate x) * Up x) */
void ap_ffn_run(const ap_exec *ex, const ap_ffn *f, ap_act act, const float *x, float *y,
                bool accumulate, int n_tok, float *tmp);

/* What the routed experts of layer l are given; x, y, act and accumulate are the caller's to set. */
ap_moe_args ap_moe_of(const ap_model_impl *m, const ap_step *s, const ap_work *w, int l);
/* Run them, once w->ids are there, in two halves: what does not need the experts is computed in between, while a
 * step's source reads them. x is looked at in the second half, which must follow; its error is the step's. */
void ap_moe_begin(const ap_exec *ex, const ap_step *s, const ap_work *w, int l,
                  const ap_moe_args *a);
apus_err ap_moe_end(const ap_exec *ex, const ap_step *s, const ap_moe_args *a, apus_diag *diag);

/* A family's choice of experts of layer l for w->x, by way of h: ids and weights [T, K]. */
typedef void ap_choose_fn(const ap_model_impl *m, const ap_exec *ex, ap_work *w, int l, int T,
                          float *h, int32_t *ids, float *weights);
/* Between the halves: what the next layer would choose for what is known now, by way of w->t, so that its experts
 * may be read; nothing where a step's source has no use for it. */
void ap_moe_guess(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w,
                  ap_choose_fn *choose);

/* The flag is set by other threads and signal handlers. */
static inline bool ap_step_cancelled(const volatile int *cancel)
{
    return cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED);
}

/* Where rows that sequences carry are in this step, and where they are kept: with a shape that has them. */
ap_carry_args ap_step_carry(const ap_model_impl *m, const ap_step *s);

/* Final norm and head for the wanted rows. */
void ap_head(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w);

#endif
