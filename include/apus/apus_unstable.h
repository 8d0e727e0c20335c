/* apus_unstable.h - what tools and tests need besides apus.h; may change with every version. */
#ifndef APUS_APUS_UNSTABLE_H
#define APUS_APUS_UNSTABLE_H

#include "apus/apus.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What multiplies and adds. */
typedef enum apus_unit {
    APUS_UNIT_NONE = 0,
    APUS_UNIT_F32,        /* multiply-adds of f32 */
    APUS_UNIT_INT16,      /* of 16-bit integers */
    APUS_UNIT_INT8,       /* of bytes */
    APUS_UNIT_BF16_TILES, /* AMX */
    APUS_UNIT_INT8_TILES,
    APUS_UNITS
} apus_unit;

/* "f32", "int16", "int8", "bf16_tiles", "int8_tiles", or "" for NONE. Never NULL. */
APUS_API const char *apus_unit_name(apus_unit unit);

/* Does this processor have a level? AUTO and REF always. */
APUS_API bool apus_cpu_has(apus_cpu level);

typedef struct apus_peaks {
    size_t size;    /* sizeof(apus_peaks), set by the caller */
    apus_cpu level; /* as measured: not AUTO */
    int threads;    /* likewise: not 0 */
    double read;    /* bytes per second that memory delivers to all threads together */
    double
        ops[APUS_UNITS]; /* operations per second of all threads, a multiply-add counts two; 0 = the
                             * level has no such unit */
} apus_peaks;

/* What this machine can do, measured now with loops that do nothing else; takes about two seconds and up
 * to 4 GB of memory, a sixteenth of what is available if that is more than 1 GB.
 *   level    AUTO or one the processor has
 *   threads  0 = one per physical core allowed to us
 * Returns OK; EINVAL, ENOMEM. */
APUS_API apus_err apus_machine_peaks(apus_cpu level, int threads, apus_peaks *out, apus_diag *diag);

/* Where the time of an engine goes: calls of one operation with weights of one type and shape. */
typedef struct apus_profile {
    const char
        *op; /* "embed", "norm", "matmul", "glu", "route", "moe", "rope", "qkv", "attn", "conv",
                       * "delta", "elem", "sample" */
    const char
        *type; /* of the weights, gate's in glu and moe; "window" of sliding attention; else "" */
    int rows,
        cols;  /* of the weights, gate's in glu and moe; attn, delta: heads, head size; else 0 */
    bool head; /* the product that makes logits */
    apus_unit unit;        /* of matmul, glu and moe: what their products ran on; else NONE */
    int64_t calls, tokens; /* tokens: rows of all calls */
    double seconds;        /* of the calling thread, workers waited for */
    double flops;          /* 2 for a multiply-add; 0 = not counted for this operation */
    double
        bytes; /* packed weights, keys and values in sight, recurrent states: once for each call */
    int64_t experts; /* moe: experts that had a row, added up over calls */
} apus_profile;

/* Begin to time the operations of an engine, or end it (on = false); what was counted before is
 * forgotten when it begins again. Two looks at the clock for each operation; nothing when off.
 * Returns OK; EINVAL: a call is running; ENOMEM. */
APUS_API apus_err apus_engine_profile(apus_engine *e, bool on, apus_diag *diag);

/* What was counted, in the order of first use, at most `cap` of it to out; also after the end. Returns
 * how many entries there are, at most 64; strings live as long as the program. */
APUS_API int apus_engine_profile_read(const apus_engine *e, apus_profile *out, int cap);

/* What a tower has made of part i: f32 [tokens of the part, hidden], owned by the media; NULL before it has run. */
APUS_API const float *apus_media_rows(const apus_media *x, size_t i);

/* The token that a text without a chat template should begin with even where the tokenizer does not
 * add it: <bos> of Gemma 4, which has never seen a text without. -1: none. */
APUS_API int32_t apus_text_start(const apus_model *m);

/* Text up to the first of several stop strings, as apus_generate finds it: for texts that are a part of what is
 * generated, such as the content that apus_chat_parser takes out of it. One thread at a time. */
typedef struct apus_stops apus_stops;

/*   strings  UTF-8 [n], n >= 0, not empty; borrowed until apus_stops_free
 * Returns OK; EINVAL: a string is empty, NULL or not UTF-8; ENOMEM. */
APUS_API apus_err apus_stops_create(const char *const *strings, int n, apus_stops **out,
                                    apus_diag *diag);

/* Push text. What becomes certain does not depend on how the text is cut.
 *   out, out_len  what cannot be part of a stop string any more; owned by s, until the next call
 *   hit           index of the string that is complete first, the longest of several; *out ends where it
 *                 begins, and nothing may be pushed after it. -1: none yet
 * Returns OK; EINVAL; ENOMEM. */
APUS_API apus_err apus_stops_push(apus_stops *s, const char *text, size_t len, const char **out,
                                  size_t *out_len, int *hit, apus_diag *diag);

/* The text has ended: what was held back is no stop string. */
APUS_API apus_err apus_stops_finish(apus_stops *s, const char **out, size_t *out_len);
APUS_API void apus_stops_free(apus_stops *s);

/* A tensor with values that are not finite. */
typedef struct apus_nonfinite {
    const char *tensor, *file; /* owned by the model */
    uint64_t values, nan, infinite;
    uint64_t row,
        col; /* of the first such value; rows are those of all axes but the last together */
} apus_nonfinite;

/* Called from the calling thread for each of them. */
typedef void (*apus_nonfinite_fn)(void *ctx, const apus_nonfinite *t);

typedef struct apus_check_settings {
    size_t size;               /* sizeof(apus_check_settings) */
    int threads;               /* 0 = one per physical core allowed to us */
    apus_nonfinite_fn found;   /* needed */
    apus_progress_fn progress; /* stage "check", in tensors; may be NULL */
    void *ctx;                 /* for both */
} apus_check_settings;

APUS_API void apus_check_settings_default(apus_check_settings *s);

/* Read every value of a model's tensors of numbers, quantised or not, and tell which tensors hold NaN or
 * infinity; those make logits that are not finite. The model: opened in any way but APUS_LOAD_TEXT.
 * Returns OK also if there were some; EINVAL; EFILE: the model has no weights; ENOMEM; ECANCELLED. */
APUS_API apus_err apus_model_check(const apus_model *m, const apus_check_settings *s,
                                   apus_diag *diag);

typedef struct apus_quantize_settings {
    size_t size; /* sizeof(apus_quantize_settings) */
    int bits;    /* of MLX's format: 2, 3, 4, 5, 6 or 8; default 4 */
    int group;   /* of MLX's format, weights that share a scale: 32, 64 or 128; default 64 */
    int threads; /* 0 = one per physical core allowed to us */
    const char *hub_cache;     /* as in apus_model_settings */
    apus_progress_fn progress; /* stage "quantize"; may be NULL */
    void *progress_ctx;
    const char
        *gguf_type;     /* "q4_k", "q8_0", "bf16", ...: a GGUF file; NULL (default): MLX's format */
    const char *recipe; /* lines of "PATTERN TYPE", see docs/quantising.md; NULL = defaults */
    const char *recipe_name; /* what to call it in errors; may be NULL */
    bool force;              /* dst may exist; default false */
} apus_quantize_settings;

APUS_API void apus_quantize_settings_default(apus_quantize_settings *s);

/* Write a model with smaller weights.
 *   src  a folder of f32, f16 or bf16 safetensors, or org/repo[@rev] in `hub_cache`; for GGUF also
 *        one of the block FP8 releases, or a GGUF file of any types, whose weights are read as numbers
 *   dst  the result, which appears when it is complete. A GGUF file (NAME.gguf), or a folder with
 *        config.json, model.safetensors and the text files of the source. It must not exist; with
 *        `force` a regular file, or a folder that holds nothing but such files, is replaced
 * Which matrix gets which type: the recipe, else the defaults of docs/quantising.md. Vectors and
 * convolutions are never quantised. Vision and audio towers and draft heads stay as they are in
 * folders and are left out of GGUF files, which have them in an mmproj file beside. Memory is some megabytes, whatever the size of the model; as
 * much disk as the result needs.
 * Returns OK; EINVAL (also: a line of the recipe that fits nothing); EFILE (also: not enough room);
 * EFORMAT, EUNSUPPORTED (quantised already, not a folder of safetensors); ENOMEM; ECANCELLED.
 * Nothing is left behind then. */
APUS_API apus_err apus_quantize(const char *src, const char *dst,
                                const apus_quantize_settings *settings, apus_diag *diag);

/* Bytes that the weights of a model would have after apus_quantize to a type with its defaults, headers
 * apart. Of the text model alone.
 *   m     opened at any level; its weights need not be there
 *   type  "q4_k", "bf16", ... of a GGUF file; "mlx2" to "mlx8" of a folder
 * Returns OK; EINVAL: no such type. */
APUS_API apus_err apus_quantized_bytes(const apus_model *m, const char *type, uint64_t *bytes,
                                       apus_diag *diag);

typedef struct apus_synth_settings {
    size_t size; /* sizeof(apus_synth_settings) */
    const char
        *to;       /* type of most weights. GGUF: any of its types, such as "q4_k"; folders: "bf16",
                     * "f16", "f32", "mlx2" .. "mlx8"; NULL = "bf16" */
    uint64_t seed; /* the same seed gives the same file; default 0 */
    int layers;    /* only the first ones; 0 = all */
    int threads;   /* 0 = one per physical core allowed to us */
    apus_progress_fn progress; /* stage "synth", in bytes; may be NULL */
    void *progress_ctx;
    bool force; /* dst may exist; default false */
    /* Some experts are chosen more often than others, in proportion to 1 / rank to this power; 0 (default): all alike, which is
     * the hardest case for a model in less memory than it takes. 0 to 4 */
    double router_skew;
} apus_synth_settings;

APUS_API void apus_synth_settings_default(apus_synth_settings *s);

/* Write a model with random weights and a tokenizer that stands in for the real one: as large and as
 * fast as the real model, and it says nothing sensible.
 *   config  a config.json, or the folder that holds one; generation_config.json beside it is taken too
 *   dst     a name that ends in .gguf gives a GGUF file, any other a folder of safetensors; as dst of
 *           apus_quantize otherwise
 * Types of single matrices follow the default recipes of apus_quantize. The text model alone is made.
 * Returns OK; EINVAL; EFILE (also: not enough room); EFORMAT, EUNSUPPORTED; ENOMEM; ECANCELLED.
 * Nothing is left behind then. */
APUS_API apus_err apus_synth(const char *config, const char *dst,
                             const apus_synth_settings *settings, apus_diag *diag);

/* What the reference's processor would make of a picture, a sound, or a frame of a video (Qwen: of two). */
typedef struct apus_media_part {
    size_t size;         /* sizeof(apus_media_part), set by the caller */
    const float *values; /* f32 [n, width], owned by the media */
    size_t n, width;
    size_t padded; /* rows of the reference: it adds rows of zeros behind n */
    const int32_t (*pos)
        [2]; /* Gemma's pictures: x and y of each row, -1 in the reference's added rows; else NULL */
    int32_t grid[3]; /* Qwen: frames of patches, rows and columns of patches; else 0 */
    int tokens;
    double seconds; /* of a video's frame */
} apus_media_part;

/* Part i of a media, from 0 on. false: there are no more. */
APUS_API bool apus_media_part_at(const apus_media *x, size_t i, apus_media_part *out);

typedef struct apus_repack_settings {
    size_t size;               /* sizeof(apus_repack_settings) */
    int threads;               /* 0 = one per physical core allowed to us */
    const char *hub_cache;     /* as in apus_model_settings */
    apus_progress_fn progress; /* stage "repack", in bytes; may be NULL */
    void *progress_ctx;
    bool force; /* dst may exist; default false */
} apus_repack_settings;

APUS_API void apus_repack_settings_default(apus_repack_settings *s);

/* Write the experts of a model in the form that they are computed with, one aligned record each: a model in less
 * memory than it takes (apus_model_settings.memory) reads an expert at once instead of gathering and packing it.
 *   model  as in apus_model_open; it is needed as before, the file holds experts alone
 *   dst    a file; NAME.gguf.experts beside NAME.gguf, or experts.apus in a model's folder, is found by itself
 * Returns OK; EUNSUPPORTED: the model has no experts; errors of apus_model_open; EFILE (also: not enough room);
 * ENOMEM; ECANCELLED. Nothing is left behind then. */
APUS_API apus_err apus_repack(const char *model, const char *dst,
                              const apus_repack_settings *settings, apus_diag *diag);

/* A file that appears under its name when it is complete and on the disk. Until then it is written in
 * a folder beside it, `.NAME.apus-` and 16 hexadecimal digits, which is removed when the file is
 * finished or dropped; after a crash, by the next apus_output_create of that name. */
typedef struct apus_output apus_output;

/* Begin a file.
 *   path   its name: nothing that exists, or with `force` a regular file (a symbolic link is none)
 *   out    end it with apus_output_finish or apus_output_drop
 * Returns OK; EINVAL; EFILE with the reason; ENOMEM. */
APUS_API apus_err apus_output_create(const char *path, bool force, apus_output **out,
                                     apus_diag *diag);

/* A file must not take the place of what it is made from: EINVAL if `path` is the file or folder `source`, or
 * a file of the model in that folder. Also where they are NULL. */
APUS_API apus_err apus_output_apart(const char *path, const char *source, apus_diag *diag);

/* Write n bytes at byte `at`, in any order; gaps read as zeros. Returns OK; EINVAL; EFILE. */
APUS_API apus_err apus_output_put(apus_output *o, uint64_t at, const void *data, size_t n,
                                  apus_diag *diag);

/* Bring the file to the disk and give it its name; frees it in any case. EINVAL; EFILE (also: somebody
 * else made a file of that name meanwhile, which stays): nothing of ours is left then. */
APUS_API apus_err apus_output_finish(apus_output *o, apus_diag *diag);

/* Remove what was written. NULL is fine. */
APUS_API void apus_output_drop(apus_output *o);

/* Remove everything that this process has begun to write and not finished, of files as of models and
 * sessions. For a signal handler that ends the program; safe there. */
APUS_API void apus_outputs_remove(void);

/* ---------------------------------------------------------------- names */

/* Is the file, of a model's folder or repository, the model that NAME:which means (apus_model_open)?
 *   name   below the folder
 *   which  a type such as "Q4_K_M" that its name or its folder's ends in, the name of a file, or NULL: any
 * Projectors and importance matrices are no models, nor are the later parts of a split one. */
APUS_API bool apus_gguf_fits(const char *name, const char *which);

#ifdef __cplusplus
}
#endif
#endif
