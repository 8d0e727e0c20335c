/* config.h - config.json and generation_config.json, validated, as plain numbers.
 *
 * Source: the model specifications; where transformers reads a key differently it wins. Every
 * count is checked against sane bounds, so that products of any two fit easily in 64 bits. */
#ifndef AP_FILE_CONFIG_H
#define AP_FILE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/notes.h"
#include "media/media_settings.h"

#define AP_MAX_LAYERS   512
#define AP_MAX_STOP     64
#define AP_MAX_SUPPRESS 1024
#define AP_MAX_ROT      512 /* angles of one rope table = rotated dims / 2 */

/* What sets them apart is in file/family.c. */
typedef enum ap_arch_id {
    AP_ARCH_GEMMA4,
    AP_ARCH_QWEN3_5, /* dense */
    AP_ARCH_QWEN3_5_MOE,
    AP_ARCH_QWEN3_NEXT,
    AP_ARCH_QWEN3_MOE,
    AP_ARCH_QWEN3, /* dense */
    AP_ARCH_GEMMA3
} ap_arch_id;

typedef enum ap_layer_kind { AP_LAYER_FULL, AP_LAYER_SLIDING, AP_LAYER_LINEAR } ap_layer_kind;

/* Rotary embedding of one layer kind. */
typedef struct ap_rope {
    int n_angle; /* angles; dims i and i + pair_offset of a head turn by angle i, i < n_angle */
    int pair_offset;
    float inv_freq[AP_MAX_ROT]; /* f32 recipe of the spec, yarn and factor applied */
    float attention_factor;     /* multiplies cos and sin (yarn); 1 otherwise */
} ap_rope;

typedef struct ap_layer_config {
    ap_layer_kind kind;
    int n_kv_head, head_dim; /* attention layers (own or donor geometry) */
    int kv_donor; /* layer whose K/V is used: itself, or an earlier one (gemma sharing) */
    bool k_eq_v;  /* V from the raw K projection */
    bool moe;
    int ffn; /* dense FFN width here (gemma: dense branch); 0 if none */
} ap_layer_config;

typedef struct ap_config {
    ap_arch_id arch;
    bool multimodal;     /* the file describes towers besides the text model: */
    bool sees, hears;    /* for pictures, for sound */
    ap_media_kind media; /* how pictures and sound are prepared for it, if it is multimodal */
    int n_layer, hidden, vocab, context;
    int n_head; /* query heads (every attention layer) */
    ap_layer_config layer[AP_MAX_LAYERS];
    int window; /* sliding layers see this many keys, self included; 0 = no such layer */
    ap_rope rope_full, rope_sliding;
    bool rope_axes;                /* qwen: angles turn with three axes, */
    uint8_t rope_axis[AP_MAX_ROT]; /* this one each: 0 time, 1 height, 2 width */
    float norm_eps;
    bool tie_embeddings;
    float softcap;    /* 0 = none */
    float attn_scale; /* gemma: of queries times keys */

    /* gemma4 */
    int ple_dim, ple_vocab; /* 0 = no per-layer embeddings */

    /* MoE */
    int n_expert, n_expert_used, expert_ffn, shared_ffn;
    bool norm_topk;

    /* qwen: a layer behind the others that guesses further tokens. Told by the weights (draft_head.h), not by the
     * files of the configuration. */
    bool has_head;
    ap_layer_config head;

    /* gated delta rule */
    int gdn_k_head, gdn_v_head, gdn_k_dim, gdn_v_dim, gdn_conv;

    /* media: ids of the places that pictures, frames of videos and sound take in a prompt, -1 = none */
    int image_token, video_token, audio_token;
    bool see_whole_pictures; /* gemma4: in sliding layers the places of a picture see one another */

    int bos, pad;                              /* -1 = none */
    int stop[AP_MAX_STOP], n_stop;             /* union of config and generation_config */
    int suppress[AP_MAX_SUPPRESS], n_suppress; /* never generated */

    /* generation_config; `has` flags by field: negative = not given */
    float temperature, top_p, min_p, repetition_penalty; /* < 0: not given */
    int top_k;                                           /* < 0: not given; 0: off */
    int penalty_last;                                    /* < 0: not given; 0: all tokens */
    bool do_sample;                                      /* false if given as false */
} ap_config;

/* Read dir/config.json and, if there, dir/generation_config.json. What the latter holds is advice: it
 * never fails, what cannot be used is told in notes (may be NULL). EFILE, EFORMAT (field, expected,
 * found), EUNSUPPORTED (architecture, rope type or setting by name). */
apus_err ap_config_read(const char *dir, ap_config *out, ap_notes *notes, apus_diag *diag);

/* The same from texts in memory. gen may be NULL. */
typedef struct ap_config_text {
    const char *name; /* for sentences */
    const char *text;
    size_t len;
} ap_config_text;
apus_err ap_config_parse(const ap_config_text *config, const ap_config_text *gen, ap_config *out,
                         ap_notes *notes, apus_diag *diag);

/* One more id that ends a generation, or that is never generated; one that the vocabulary does not hold
 * or that is there already changes nothing. false: the list is full. */
bool ap_config_add_stop(ap_config *c, int64_t id);
bool ap_config_add_suppress(ap_config *c, int64_t id);
static inline bool ap_config_is_stop(const ap_config *c, int64_t id)
{
    for (int i = 0; i < c->n_stop; i++)
        if (c->stop[i] == id) return true;
    return false;
}

/* Clear the bits of the ids that are never chosen: u32 [(vocab + 31) / 32]. */
static inline void ap_config_forbid(const ap_config *c, uint32_t *allowed)
{
    for (int i = 0; i < c->n_suppress; i++)
        if (c->suppress[i] >= 0 && c->suppress[i] < c->vocab)
            allowed[c->suppress[i] / 32] &= ~(UINT32_C(1) << c->suppress[i] % 32);
    if (c->vocab % 32) allowed[c->vocab / 32] &= (UINT32_C(1) << c->vocab % 32) - 1;
}

const char *ap_arch_name(ap_arch_id id);

#endif
