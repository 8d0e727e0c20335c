/* audio_impl.h - the audio tower inside src/model: weights, and the memory of one sound in work.
 *
 * A row sees no row behind it, so a layer works on pieces one after the other, with the keys and values of all rows and
 * the convolution's last inputs kept from piece to piece. */
#ifndef AP_MODEL_AUDIO_IMPL_H
#define AP_MODEL_AUDIO_IMPL_H

#include "model/audio_tower.h"
#include "model/tower_linear.h"

/* x += share * norm(down silu(up norm(x))) */
typedef struct ap_audio_ffn {
    const float *norm_in, *norm_out; /* f32 [H]; the share is in norm_out */
    ap_linear up, down;
} ap_audio_ffn;

typedef struct ap_audio_layer {
    ap_audio_ffn ffn[2];
    const float *norm_pre_attn, *norm_post_attn, *norm_out; /* f32 [H] */
    ap_linear q, k, v, post;
    ap_mat relative;      /* [H, H]: what positions are as keys */
    const float *q_scale; /* f32 [D] */
    const float *norm_conv_in, *norm_conv;
    ap_linear start, end; /* [2H, H], [H, H] around the convolution */
    const float *taps;    /* f32 [n_tap, H] */
} ap_audio_layer;

struct ap_audio_tower {
    ap_audio_config a;
    const ap_config *c;
    ap_device *dev;
    ap_mat conv[2];        /* [channels, inputs of a square of 3 x 3] */
    const float *norm[2];  /* f32 [channels] */
    ap_mat input;          /* [H, bands * channels] */
    const float *distance; /* f32 [reach, H]: positions as sines and cosines */
    ap_audio_layer *layer;
    ap_mat output; /* [middle, H] */
    const float *output_bias;
    ap_mat project; /* [text hidden, middle] */
    ap_bound bound;
};

#define AP_AUDIO_SQUARE 9 /* of a convolution: 3 rows of 3 bands */

/* One sound in work. */
typedef struct ap_audio_work {
    const ap_audio_tower *t;
    ap_exec ex;
    int n_in, width,
        bands[2];          /* rows that go in, their values, and bands behind each convolution */
    int n;                 /* soft tokens */
    int piece, head_piece; /* soft tokens worked on at once: by layers, by the convolutions */
    /* Of the device; head_*: of the convolutions, for one of their pieces. */
    ap_seq *seq;        /* [2] a piece, the last piece */
    float *head_in;     /* f32 [rows, SQUARE] squares of the sound */
    float *head_mid;    /* f32 [rows, channels[0]] */
    float *head_square; /* f32 [rows, SQUARE * channels[0]] */
    float *head_out;    /* f32 [rows, channels[1]] */
    int32_t *tap;       /* i32 [rows * SQUARE] rows of head_mid that make a square, */
    float *tap_weight;  /* f32 likewise: 1, or 0 where there are none */
    float *x, *k, *v;   /* f32 [n, H] */
    float *relative;    /* f32 [reach, H] */
    float *conv_state;  /* f32 [n_tap - 1, H] */
    float *h, *a, *b;   /* f32 [piece, widest of what passes through] */
    float *out;         /* f32 [piece, text hidden] */
    uint8_t *mem;       /* all of it */
    size_t mem_bytes;
    ap_seq host_seq[2];
    uint8_t *
        stage; /* host memory for head_in, tap and tap_weight; NULL: they are used where they are */
    size_t stage_bytes;
} ap_audio_work;

/* audio_layer.c: one layer over all rows. */
void ap_audio_layer_run(const ap_audio_work *w, const ap_audio_layer *y);
/* audio_head.c: the convolutions, rows of the sound to w->x. values: host memory. */
void ap_audio_head(const ap_audio_work *w, const float *values);
/* Room that the convolutions take for a piece of n soft tokens, in rows: of head_in and head_mid, of head_square. */
int ap_audio_head_rows(const ap_audio_work *w, int n);
int ap_audio_square_rows(const ap_audio_work *w, int n);

/* audio_bind.c */
void ap_audio_bind(ap_bind *b, ap_audio_tower *t);

#define AP_AUDIO_NORM_EPS                                                                          \
    1e-6f /* of the layers' norms but the convolution's, whatever the configuration says */

#endif
