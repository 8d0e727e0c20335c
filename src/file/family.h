/* family.h - the families of models, a row for each architecture: what it is called in files, which parts
 * its layers have, how files of it are read and written.
 *
 * A new one is a row in family.c, a reader of its config.json (config_NAME.c), and its tensors and GGUF keys
 * (family_NAME.c). The layers above have rows of their own for what they do with it: model/passes.c (binding
 * and forward pass), text/chat_stream.c (the syntax of answers), make/synth_vocab.c (a made-up vocabulary).
 * Nothing else asks which architecture a model has; tests/rules sees to it. */
#ifndef AP_FILE_FAMILY_H
#define AP_FILE_FAMILY_H

#include "file/config.h"
#include "file/family_tokens.h"
#include "file/fields.h"
#include "file/gguf_keys.h"
#include "file/model_tensors.h"

enum { AP_FAMILY_TYPES = 2 };

/* A tensor's name in GGUF files and in Hugging Face's, both behind the number of the layer. */
typedef struct ap_gguf_name {
    const char *gguf, *hf;
} ap_gguf_name;

typedef struct ap_family {
    const char *name; /* apus_info.architecture */

    /* config.json: its model_type, and another one that the same reader takes (or NULL). With `wrapped` the
     * text model stands in text_config, whose model_type has "_text" behind it; or that is all there is. */
    const char *type[AP_FAMILY_TYPES];
    const char *classes[AP_FAMILY_TYPES]; /* of transformers, for the text models of those */
    bool wrapped;
    bool ties;         /* tie_word_embeddings if it is not given */
    int bos, pad, eos; /* ids if none are given; -1: none */
    /* type is one of the row's; t the text model's part. c->arch is set. */
    void (*config)(const ap_fields *t, const char *type, ap_config *c);

    /* Layers */
    bool experts; /* some layers may have experts */
    bool gated;   /* attention has an output gate, behind the queries in q_proj, and delta layers */
    bool joint_delta;  /* the inputs of the delta rule are two joint projections, by key head */
    bool norm_offset;  /* norms multiply by 1 + w */
    bool v_norm;       /* values are normed as well */
    bool layer_scalar; /* the output of a layer is multiplied by a number */
    void (*tensors)(ap_tensor_walk *w); /* outside the layers, but for both ends; NULL: none */
    void (*layer)(ap_tensor_walk *w, const ap_layer_config *lc);

    /* Text */
    const ap_family_tokens *tokens;
    bool marks;          /* its tokenizer takes combining marks for letters */
    const char *answers; /* syntax of its answers, by name (text/chat.h); NULL: plain text */

    /* Pictures and sound */
    ap_media_kind media;     /* how they are prepared; NONE: it takes text only */
    int image, video, audio; /* ids of their places if none are given; -1: none */

    /* GGUF */
    const char *gguf;          /* general.architecture */
    const char *gguf_type;     /* model_type that its metadata is told as */
    const ap_gguf_name *names; /* in layers, beside those that all families have; {0} ends it */
    const ap_gguf_name *names_first; /* that win over both; NULL: none */
    bool gguf_llama;                 /* its files may call the tokenizer "llama" */
    bool tiled_heads; /* value head h pairs with key head h % Hk, in the model with h / (Hv / Hk) */
    bool joint_experts; /* gate and up rows of experts are one tensor */
    bool freqs;         /* divisors of full layers' angles are a tensor, rope_freqs.weight */
    bool sections;      /* rope has sections for several axes */
    void (*read)(ap_meta_in *in, ap_buf *json); /* members of config.json from metadata */
    void (*write)(ap_meta_out *p, const ap_fields *t);

    /* MLX */
    const char *mlx_experts; /* what stands for "experts" in their names; NULL: it has none */
} ap_family;

/* Of an architecture of the enumeration; never NULL. */
const ap_family *ap_family_of(ap_arch_id arch);

/* Of a model_type: *arch and *type, which is one of the row's; *text: the text model's own type was named.
 * NULL: there is none. */
const ap_family *ap_family_of_type(const char *model_type, ap_arch_id *arch, const char **type,
                                   bool *text);
/* Of a GGUF file's general.architecture, n bytes; NULL: there is none. */
const ap_family *ap_family_of_gguf(const char *s, size_t n);

/* For sentences: "a, b and c". */
void ap_family_list_types(char *out, size_t cap);
void ap_family_list_gguf(char *out, size_t cap);

#endif
