/* apus.h - the whole stable interface of the apus inference library.
 *
 * A model is loaded once and shared; an engine adds workers and memory for sessions; a session is
 * one timeline of tokens. Text in and out (tokenizer, chat template, output parser) hangs off the
 * model. Handles are opaque. Settings structs are filled by their `_default()` and carry their
 * size. Results leave through pointers only on success. The library never prints, exits, aborts or
 * reads the environment; every fallible call returns a code and, if `diag` is given, a sentence.
 *
 * Threads. No call needs a lock of its own, and objects that are not mentioned together do not
 * touch each other.
 *   apus_model        once open, any number of threads may use it at once: all calls on it but
 *                     apus_model_close only read
 *   apus_engine       one thread at a time, together with its sessions, which compute on its
 *   apus_session      workers; which thread that is may change. Several engines of a model run side
 *                     by side. apus_cancel and apus_session_cancel alone may come from any thread or a
 *                     signal handler
 *   apus_detok, apus_chat_parser, apus_sampler
 *                     one thread at a time each; any number of them side by side
 *   apus_scheduler, apus_request
 *                     any number of threads at once, but for apus_scheduler_free and, for one request,
 *                     apus_request_take and apus_request_free. They own an engine that nobody else sees
 *   callbacks         run in the thread of the call that they were given to, before it returns.
 *                     From them apus_cancel, apus_session_cancel, and everything on other engines,
 *                     detokenizers, parsers and samplers may be called; nothing that computes or frees on the same engine
 *   the rest          free of state, except apus_set_allocator, which says so
 *
 * Compatibility of programs with later versions of the library: docs/abi.md. */
#ifndef APUS_APUS_H
#define APUS_APUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Stack that a thread must have left when it calls apus: threads of other languages and systems may have
 * less, and running over it ends the program. Threads that apus makes have it. */
#define APUS_STACK_BYTES (512 << 10)

#define APUS_VERSION_MAJOR 0
#define APUS_VERSION_MINOR 1
#define APUS_VERSION_PATCH 0

#if defined(__GNUC__)
#define APUS_API __attribute__((visibility("default")))
#else
#define APUS_API
#endif

/* ---------------------------------------------------------------- codes and diagnostics */

typedef enum apus_err {
    APUS_OK = 0,
    APUS_EINVAL = 1,       /* an argument is outside its documented range */
    APUS_EFILE = 2,        /* a file is missing or cannot be read or written */
    APUS_EFORMAT = 3,      /* a file or text breaks its format */
    APUS_EUNSUPPORTED = 4, /* well-formed, but of a kind this build does not run */
    APUS_ENOMEM = 5,       /* memory could not be had */
    APUS_EFULL = 6,        /* the context or a caller's buffer has no room */
    APUS_ECANCELLED = 7,   /* apus_cancel, or a callback asked to stop */
    APUS_EINTERNAL = 8,    /* a defect of apus */
    APUS_EDEVICE = 9,      /* a device failed or is lost: what is on it cannot be used any more */
    APUS_ENONFINITE =
        10,         /* the model computed NaN or infinity: damaged weights, or sums that overflow */
    APUS_EBUSY = 11 /* a queue is full: try again later */
} apus_err;

/* The reason of a failure in one sentence: the file, the tensor or field, expected and found. The
 * one struct without a size: it never changes (docs/abi.md). */
typedef struct apus_diag {
    apus_err code;
    char text[1024]; /* UTF-8, zero-terminated, one line */
} apus_diag;

/* Short name of a code, such as "format error". Never NULL. */
APUS_API const char *apus_err_name(apus_err code);

/* Library version, such as "0.1.0". */
APUS_API const char *apus_version(void);

/* Free memory that an apus call handed out as "apus_free it". NULL is fine. */
APUS_API void apus_free(void *p);

/* Where the library takes its memory, in the manner of malloc, realloc and free: aligned for any
 * type; `resize` keeps the contents, of NULL it allocates, and on NULL the old block stays;
 * `release` of NULL does nothing. Called from several threads at once. */
typedef struct apus_allocator {
    size_t size; /* sizeof(apus_allocator) */
    void *(*allocate)(void *ctx, size_t bytes);
    void *(*resize)(void *ctx, void *p, size_t bytes);
    void (*release)(void *ctx, void *p);
    void *ctx; /* for all three */
} apus_allocator;

/* Use another allocator, for everything but what the system maps (files of weights, stacks of
 * workers), small blocks of the C library and the libraries for regular expressions and hashes, and what
 * libraries that decode pictures need while they do.
 * Weights and K/V pages come from it too; without one they are mapped in large pages.
 *
 * This is the library's one setting for the whole process, since apus_free knows no model: call it
 * before anything else of apus, from one thread. Returns OK; EINVAL: a field is missing, or
 * something was allocated already. */
APUS_API apus_err apus_set_allocator(const apus_allocator *a, apus_diag *diag);

/* What a program may want to write down. Nothing in it is needed: errors leave through codes. */
typedef enum apus_log_level {
    APUS_LOG_INFO = 0, /* what was opened or made, and how */
    APUS_LOG_WARNING,  /* something was not as expected, and what was done about it */
    APUS_LOG_PLAN      /* what of a model stays in memory and what on disk, before it is loaded */
} apus_log_level;

/* One line, UTF-8, zero-terminated, without a line feed; it lives for the call only. */
typedef void (*apus_log_fn)(void *ctx, apus_log_level level, const char *text);

/* ---------------------------------------------------------------- processor levels */

typedef enum apus_cpu {
    APUS_CPU_AUTO = 0, /* the best level this processor and system allow */
    APUS_CPU_REF,      /* scalar reference */
    APUS_CPU_AVX2,     /* AVX2, FMA, F16C, BMI2 */
    APUS_CPU_AVX512,   /* F, BW, DQ, VL, VNNI */
    APUS_CPU_AMX,      /* tile, int8, bf16, with the system's permission */
    APUS_CPU_NEON,     /* aarch64 baseline */
    APUS_CPU_DOT,      /* aarch64 with dot products of bytes (FEAT_DotProd) */
    APUS_CPU_I8MM      /* and with their matrix products (FEAT_I8MM) */
} apus_cpu;

/* "auto", "ref", "avx2", "avx512", "amx", "neon", "dot", "i8mm" to a level. EINVAL: unknown name. */
APUS_API apus_err apus_cpu_parse(const char *name, apus_cpu *out, apus_diag *diag);

/* Name of a level. Never NULL. */
APUS_API const char *apus_cpu_name(apus_cpu level);

/* The best level here. */
APUS_API apus_cpu apus_cpu_best(void);

/* ---------------------------------------------------------------- model */

typedef struct apus_model apus_model;

typedef enum apus_load {
    APUS_LOAD_INFO = 0, /* config and tensor headers only */
    APUS_LOAD_TEXT = 1, /* tokenizer and chat template too, no weights */
    APUS_LOAD_ALL = 2   /* everything: ready for an engine */
} apus_load;

/* How products with quantised weights are computed. Weights keep the values that the file defines;
 * what differs is what their inputs are rounded to. Weights in bf16, f16 and f32 are not concerned
 * unless FAST says so. docs/performance.md has the cost in quality of each. */
typedef enum apus_precision {
    APUS_PRECISION_HIGH = 0, /* integers: inputs of 15 bits, 32 of them to a scale */
    APUS_PRECISION_EXACT,    /* f32 inputs and sums */
    APUS_PRECISION_FAST /* inputs of 8 bits or bf16, whatever runs fastest for the row count, and the
                                delta rule in chunks: results depend on chunks, batches and levels */
} apus_precision;

/* "high", "exact", "fast" to a precision. EINVAL: unknown name. */
APUS_API apus_err apus_precision_parse(const char *name, apus_precision *out, apus_diag *diag);

/* Name of a precision. Never NULL. */
APUS_API const char *apus_precision_name(apus_precision p);

/* Called while something long runs, from the calling thread, at most some 20 times a second.
 *   stage  "load" or "prefill"
 *   done, total  work units (bytes or tokens), 0 <= done <= total
 * Return false to cancel. */
typedef bool (*apus_progress_fn)(void *ctx, const char *stage, uint64_t done, uint64_t total);

typedef struct apus_model_settings {
    size_t size;               /* sizeof(apus_model_settings) */
    apus_load load;            /* default APUS_LOAD_ALL */
    apus_cpu cpu;              /* level that the weights are packed for; default AUTO */
    int threads;               /* workers for packing; 0 = one per physical core allowed to us */
    const char *hub_cache;     /* Hugging Face cache folder for org/repo names; NULL = none */
    apus_progress_fn progress; /* may be NULL */
    void *progress_ctx;
    apus_precision precision; /* default APUS_PRECISION_HIGH */
    /* The engine that is to be made of the model: if its memory would not fit beside the weights, opening
     * fails before they are read. NULL (default): only the weights must fit. APUS_LOAD_ALL only. */
    const struct apus_engine_settings *engine;
    /* Where the weights are and engines run: "cpu", "cuda" or "cuda:N"; NULL (default) or "auto": the best
     * that this build and machine have. EINVAL: no such name; EUNSUPPORTED: no such device here. */
    const char *device;
    apus_log_fn
        log; /* of the model and its engines; may be NULL. Engines in several threads: calls from
                      * all of them */
    void *log_ctx;
    /* Bytes that model and engines may take together; 0 (default): what is available. Of a mixture of experts that
     * does not fit, all other weights and as many experts as there is room for stay in memory, beside the engine of
     * `engine` (NULL: one of the defaults); other experts are read from the files when they are chosen, and results
     * are the same to the bit. On the CPU; a model that fits, or has no experts, is loaded whole or refused. */
    uint64_t memory;
    /* A file of packed experts that apus_repack made of this model, to read them from. NULL (default): NAME.gguf.experts
     * beside a GGUF file, or experts.apus in a folder, if it is there. EFORMAT: of another model or form. */
    const char *experts;
    /* Towers that are loaded beside the text model: APUS_TOWER_* added up, or 0 (default). Pictures and sounds can
     * be fed only with theirs. EUNSUPPORTED: the model does not see, or hear. */
    unsigned towers;
    /* The file with the towers of a GGUF model (mmproj). NULL (default): the only mmproj*.gguf in its folder, or the
     * one of several that is called after it. EUNSUPPORTED: of another model, or several are there and towers are
     * wanted; EFORMAT. */
    const char *mmproj;
} apus_model_settings;

APUS_API void apus_model_settings_default(apus_model_settings *s);

/* What a model sees and hears with, for apus_model_settings.towers. */
enum { APUS_TOWER_VISION = 1, APUS_TOWER_AUDIO = 2 };

/* Open a model.
 *   name  a folder, a file in it (config.json, *.safetensors or *.gguf), or org/repo[@rev] looked up in
 *         `hub_cache`; with NAME:TYPE (such as :Q4_K_M), NAME:FILE.gguf or org/repo/FILE.gguf one of
 *         several GGUF files there
 *   s     NULL = defaults
 *   out   the model; close it with apus_model_close after every engine on it
 * Returns OK; EFILE, EFORMAT, EUNSUPPORTED with the file and field in diag; ENOMEM, before weights are
 * read, with the numbers and the nearest choice that fits; EINVAL: a setting; ECANCELLED. */
APUS_API apus_err apus_model_open(const char *name, const apus_model_settings *s, apus_model **out,
                                  apus_diag *diag);
APUS_API void apus_model_close(apus_model *m);

typedef struct apus_info {
    size_t size;              /* sizeof(apus_info), set by the caller */
    const char *path;         /* folder; owned by the model, as every string here */
    const char *architecture; /* "gemma4", "qwen3_5", "qwen3_5_moe", "qwen3_next", "qwen3_moe",
                               * "qwen3", "gemma3" */
    const char *weight_types; /* such as "bf16 97.9 %, f32 2.1 %" by bytes */
    uint64_t params_total;    /* text model, embeddings included */
    uint64_t params_active;   /* touched by one decode step; input embedding row not counted */
    uint64_t weight_bytes;    /* text tensors in the files */
    int n_layers, n_attn_full, n_attn_sliding, n_recurrent, n_moe;
    int hidden, vocab, experts, experts_used, sliding_window;
    int context; /* positions the model was made for */
    bool has_tokenizer, has_chat_template, is_multimodal, is_quantised;
    unsigned towers; /* APUS_TOWER_* that the model has and that are understood, loaded or not */
    uint64_t fingerprint; /* of saved sessions and lists of experts; 0 without APUS_LOAD_ALL */
} apus_info;

APUS_API apus_err apus_model_info(const apus_model *m, apus_info *out, apus_diag *diag);

/* Experts of a model that was loaded with fewer than all of them, since it was opened. */
typedef struct apus_expert_stats {
    size_t size;         /* sizeof(apus_expert_stats), set by the caller */
    int experts;         /* of all layers */
    int resident;        /* that memory has room for */
    uint64_t hits;       /* experts that were chosen in a layer of a step and were in memory, */
    uint64_t misses;     /* and that were not */
    uint64_t bytes_read; /* from files */
    uint64_t stall_us;   /* spent waiting for reads with nothing to compute, */
    uint64_t pack_us;    /* and bringing what was read into the form that is computed with */
    const char *io;      /* "io_uring" or "threads"; NULL: nothing is read */
    uint64_t ahead;      /* experts that were read before their layer chose them, */
    uint64_t ahead_used; /* and then were chosen; these are misses too */
} apus_expert_stats;

/* By any thread, also while engines run. */
APUS_API apus_err apus_model_experts(const apus_model *m, apus_expert_stats *out, apus_diag *diag);

/* Which experts are in memory and how much they were used lately, for a later run on the same model.
 *   data  out, apus_free it
 * EUNSUPPORTED: all of the model is in memory, or it has no experts. */
APUS_API apus_err apus_model_save_experts(const apus_model *m, void **data, size_t *bytes,
                                          apus_diag *diag);
/* Read them again, before anything is computed; of those that there is no room for the least used are left out.
 *   data      borrowed for the call, of any alignment
 *   progress  may be NULL; returns false: the rest is left out
 * EFORMAT: damaged, or of another model; EUNSUPPORTED. Results do not depend on it. */
APUS_API apus_err apus_model_recall_experts(apus_model *m, const void *data, size_t bytes,
                                            apus_progress_fn progress, void *progress_ctx,
                                            apus_diag *diag);

/* What is odd about the model's files and what was made of it, although it loads: sentence i, from 0
 * on, owned by the model; NULL when there are no more. */
APUS_API const char *apus_model_note(const apus_model *m, size_t i);

/* ---------------------------------------------------------------- tokens and text */

enum {
    APUS_TOK_SPECIAL = 1, /* text such as <|im_end|> becomes the special token it names */
    APUS_TOK_BOS = 2,     /* add what the tokenizer's post-processor adds, such as <bos> */
    APUS_TOK_PLAIN = 4,   /* no marker is recognised: neither special tokens nor others that are
                             written like them (<think>, <tool_call>); without it, and without
                             SPECIAL, those others are, as in the reference library */
    APUS_TOK_GUARDED = 8  /* the text was rendered with `guarded`: its guards are dropped */
};

/* Text to token ids.
 *   text, len  UTF-8; invalid sequences are read as U+FFFD, as the reference library's callers do
 *   flags      APUS_TOK_* or 0; SPECIAL and PLAIN exclude each other
 *   ids        i32 out, apus_free it (never NULL on success)
 * Returns OK; EINVAL: flags; EUNSUPPORTED: the model has no tokenizer; ENOMEM. */
APUS_API apus_err apus_tokenize(const apus_model *m, const char *text, size_t len, unsigned flags,
                                int32_t **ids, size_t *n, apus_diag *diag);

/* Token ids to text, whole.
 *   skip_special  leave out special tokens
 *   text          UTF-8, zero-terminated, apus_free it
 * Returns OK; EINVAL: an id outside the vocabulary; EUNSUPPORTED; ENOMEM. */
APUS_API apus_err apus_detokenize(const apus_model *m, const int32_t *ids, size_t n,
                                  bool skip_special, char **text, size_t *len, apus_diag *diag);

/* A streaming detokenizer: what it returns are whole UTF-8 characters, and the pieces joined are
 * what apus_detokenize gives for the same ids. */
typedef struct apus_detok apus_detok;
APUS_API apus_err apus_detok_create(const apus_model *m, bool skip_special, apus_detok **out,
                                    apus_diag *diag);
/* Push one id; *piece (owned by the detokenizer, valid until the next call) gets what became
 * certain, maybe nothing. */
APUS_API apus_err apus_detok_push(apus_detok *t, int32_t id, const char **piece, size_t *len,
                                  apus_diag *diag);
/* What is held back at the end; broken sequences come out as U+FFFD. */
APUS_API apus_err apus_detok_finish(apus_detok *t, const char **piece, size_t *len);
APUS_API void apus_detok_free(apus_detok *t);

/* Is `id` one of the ids that end a generation: those of config and generation_config, the tokenizer's
 * eos_token and, of models opened with text, the family's end-of-turn tokens? */
APUS_API bool apus_is_stop_token(const apus_model *m, int32_t id);

typedef enum apus_think { APUS_THINK_DEFAULT = 0, APUS_THINK_ON, APUS_THINK_OFF } apus_think;

typedef struct apus_chat_settings {
    size_t size;
    apus_think think;          /* enable_thinking of the template; DEFAULT = not passed */
    bool no_generation_prompt; /* default false: the prompt ends where the answer begins */
    const char *extra_json;    /* JSON object with more template variables; NULL = none */
    const char
        *template_text; /* a Jinja template in the place of the model's; NULL = the model's */
    const char *template_name; /* what to call it in errors; may be NULL */
    /* What stands in messages and tools stays text, also where it looks like a marker: a guard, U+FDD0, is put
     * into it. Tokenize the result with APUS_TOK_SPECIAL and APUS_TOK_GUARDED. In what an assistant said, only
     * special tokens are guarded. Default false. Of models with a tokenizer. */
    bool guarded;
} apus_chat_settings;

APUS_API void apus_chat_settings_default(apus_chat_settings *s);

/* Render a conversation with the model's chat template.
 *   messages_json  JSON array of {"role", "content", ...} as the OpenAI API has them
 *   tools_json     JSON array of tools, or NULL
 *   text           the prompt, apus_free it; tokenize it with APUS_TOK_SPECIAL and without _BOS
 * Returns OK; EINVAL: messages are not JSON of that shape; EFORMAT: the template is broken, raised
 * an exception or ran over its bounds (the sentence names the line); EUNSUPPORTED: no template. */
APUS_API apus_err apus_chat_render(const apus_model *m, const char *messages_json,
                                   const char *tools_json, const apus_chat_settings *s, char **text,
                                   size_t *len, apus_diag *diag);

typedef enum apus_part {
    APUS_PART_CONTENT = 0, /* text for the user */
    APUS_PART_THINK,       /* reasoning */
    APUS_PART_CALL         /* one finished tool call: name and JSON arguments */
} apus_part;

typedef struct apus_event {
    size_t size; /* sizeof(apus_event), as this library knows it */
    apus_part part;
    const char *text; /* CONTENT, THINK: a piece, whole UTF-8 characters; CALL: the name */
    size_t len;
    const char *args; /* CALL: JSON object text; else NULL */
    size_t args_len;
} apus_event;

/* Receives the parts of an answer in order; the strings live for the call only. */
typedef void (*apus_event_fn)(void *ctx, const apus_event *ev);

/* A streaming parser of the model's output. Feed it the decoded text with special tokens kept
 * (a detokenizer with skip_special = false), cut anywhere. */
typedef struct apus_chat_parser apus_chat_parser;
/*   prompt  the rendered prompt that the answer continues: it tells whether the answer starts
 *           inside a thought; may be NULL
 *   tools_json  the tools the prompt was rendered with (their schemas type the arguments); or NULL */
APUS_API apus_err apus_chat_parser_create(const apus_model *m, const char *prompt,
                                          size_t prompt_len, const char *tools_json,
                                          apus_event_fn fn, void *ctx, apus_chat_parser **out,
                                          apus_diag *diag);
APUS_API apus_err apus_chat_parser_push(apus_chat_parser *p, const char *text, size_t len);
/* End of output: what is open is delivered (an unclosed thought as THINK, a broken call as
 * CONTENT, as it was written). */
APUS_API apus_err apus_chat_parser_finish(apus_chat_parser *p);
APUS_API void apus_chat_parser_free(apus_chat_parser *p);

/* ---------------------------------------------------------------- pictures, video and sound */

/* A picture, a video or a sound, prepared for one model: what its towers are to be shown. Only read once it
 * is open, by any number of threads, but that it keeps what a tower makes of it. */
typedef struct apus_media apus_media;

typedef enum apus_media_type {
    APUS_MEDIA_PICTURE = 0,
    APUS_MEDIA_VIDEO,
    APUS_MEDIA_SOUND
} apus_media_type;

typedef struct apus_media_settings {
    size_t size; /* sizeof(apus_media_settings) */
    int image_tokens; /* most tokens of a picture in the prompt; of videos, of a frame (Gemma) or of all frames
                       * together (Qwen). 0 (default) = what the model's processor says. Gemma: 70, 140, 280,
                       * 560 or 1120 */
    bool still; /* of an animation only the first frame, as a picture; default false */
    /* Pictures and frames with more are refused before they are unpacked, and films of more than 40 times as many;
     * 0 (default) = 100 million, the most */
    uint64_t max_pixels;
} apus_media_settings;

APUS_API void apus_media_settings_default(apus_media_settings *s);

/* Read a file and prepare it as the reference's processor does.
 *   m     opened in any way; may be closed before the media
 *   path  JPEG, PNG, WebP or GIF; one with several frames is a video, and so is a folder of pictures, in the
 *         order of their names; WAV, FLAC, AIFF: sound; or a .safetensors file with what the reference's processor has made of
 *         one picture, video or sound: pixel_values and image_grid_thw or image_position_ids, pixel_values_videos
 *         and video_grid_thw or video_position_ids, or input_features and input_features_mask
 *   s     NULL = defaults
 *   out   apus_media_free it
 * Pictures are turned upright as their EXIF data say, and what is transparent lies over white. Files of more than
 * 256 MiB, pictures of more than 100 million pixels (max_pixels) and videos of more than 20,000 frames or 4 billion pixels are
 * refused before memory is taken for them.
 * Returns OK; EINVAL: a setting; EFILE; EFORMAT: none of these formats, damaged, or cut short; EUNSUPPORTED: too
 * large, of a kind or shape that is not read, or the model does not see or hear; ENOMEM. */
APUS_API apus_err apus_media_open(const apus_model *m, const char *path,
                                  const apus_media_settings *s, apus_media **out, apus_diag *diag);

/* The same of the bytes of a file; no folders.
 *   data, len  borrowed for the call
 *   name       what to call it in errors */
APUS_API apus_err apus_media_open_memory(const apus_model *m, const void *data, size_t len,
                                         const char *name, const apus_media_settings *s,
                                         apus_media **out, apus_diag *diag);
APUS_API void apus_media_free(apus_media *x);

APUS_API apus_media_type apus_media_type_of(const apus_media *x);
/* Tokens that it takes in a prompt, marks around it not counted. */
APUS_API int apus_media_tokens(const apus_media *x);

/* A rendered prompt with room for what is shown: each of its marks of a picture, a video or a sound (such as
 * <|image_pad|> or <|audio|>) becomes what the reference's processor writes for the next media, as many marks as it
 * takes tokens, with frames' times beside those of videos.
 *   text, len  UTF-8, as from apus_chat_render
 *   media      [n_media] in the order of their marks
 *   out        zero-terminated, apus_free it; tokenize it with APUS_TOK_SPECIAL
 * Returns OK; EINVAL: marks and media do not agree in number or kind; EUNSUPPORTED: the model takes text only;
 * ENOMEM. */
APUS_API apus_err apus_media_expand(const apus_model *m, const char *text, size_t len,
                                    const apus_media *const *media, int n_media, char **out,
                                    size_t *out_len, apus_diag *diag);

/* The ids that apus_session_tokens would have for such tokens once they are fed, to compare a prompt with what a
 * session holds.
 *   tok  i32 [n] changed where media are
 * Returns OK; EINVAL as above. */
APUS_API apus_err apus_media_ids(const apus_model *m, int32_t *tok, int n,
                                 const apus_media *const *media, int n_media, apus_diag *diag);

/* Where media stand among tokens, as apus_feed would have it: from tok[begin[i]] up to tok[end[i]].
 *   begin, end  [n_media] out
 * Returns OK; EINVAL: places and media do not agree; ENOMEM. */
APUS_API apus_err apus_media_find(const apus_model *m, const int32_t *tok, int n,
                                  const apus_media *const *media, int n_media, int *begin, int *end,
                                  apus_diag *diag);

/* ---------------------------------------------------------------- engine */

typedef struct apus_engine apus_engine;
typedef struct apus_session apus_session;

/* Run the tower of the engine's model over a picture, video or sound now, rather than when it is first fed; what
 * comes of it is kept with it.
 * Returns OK; EINVAL; EUNSUPPORTED: the model was opened without that tower; ENOMEM; ECANCELLED; EDEVICE. */
APUS_API apus_err apus_media_encode(apus_engine *e, const apus_media *x, apus_diag *diag);

/* What keys and values are kept as. BF16 takes half the memory of F32, Q8 (8 bits, a scale for each
 * 64 dims of a key and for each value) a little more than a quarter; docs/performance.md has what it costs. */
typedef enum apus_kv {
    APUS_KV_AUTO = 0, /* F32 for a model opened with precision EXACT, else BF16 */
    APUS_KV_F32,
    APUS_KV_BF16,
    APUS_KV_Q8
} apus_kv;

/* "auto", "f32", "bf16", "q8" to a type. EINVAL: unknown name. */
APUS_API apus_err apus_kv_parse(const char *name, apus_kv *out, apus_diag *diag);

/* Name of a type. Never NULL. */
APUS_API const char *apus_kv_name(apus_kv type);

/* Guesses at what follows: some tokens are guessed and computed together with the next one, and those that turn out to
 * be what is chosen need no step of their own. What is chosen does not depend on it: the text is that of decoding one
 * by one (to rounding where docs/speculation.md says so). Guesses are made where the sequence ends as it did somewhere
 * before, and by the head that some Qwen models have; they are taken as far as measured times and successes say that
 * they pay. */
typedef enum apus_speculate {
    APUS_SPECULATE_AUTO =
        0, /* NGRAM, and MTP where nothing repeats and the model has a head, where the text is the same to the bit
            * and no experts are read from disk, else OFF */
    APUS_SPECULATE_OFF,
    APUS_SPECULATE_NGRAM,
    APUS_SPECULATE_MTP /* by the model's own head for further tokens; EUNSUPPORTED: it has none */
} apus_speculate;

#define APUS_DEFAULT_CTX 8192

typedef struct apus_engine_settings {
    size_t size;
    apus_cpu cpu; /* default AUTO; not above the level of the processor. Of models on the CPU */
    int threads;  /* 0 = one per physical core allowed to us; likewise */
    int ctx;      /* tokens a session can hold; 0 = the model's context, at most APUS_DEFAULT_CTX */
    int prefill_chunk; /* tokens of all sequences computed at once; results do not depend on it, except
                        * with precision FAST. 0 = 512 to 4096, as many as take little memory beside the
                        * weights */
    int max_sessions; /* default 1; memory for all of them is taken at creation */
    bool gdn_chunked; /* delta rule in the 64-token chunk form instead of the recurrence: equal to
                        * rounding, not to the bit; default false */
    apus_kv kv;       /* default AUTO; EUNSUPPORTED: not for this model's head size */
    /* Memory for K/V pages and recurrent states of all sessions together; 0 (default) = enough for max_sessions
     * that are full. With less, sessions share it as they grow: one of them can always be full, and a feed that
     * finds none left is ENOMEM with the numbers. EINVAL: too little for one. */
    uint64_t kv_bytes;
    apus_speculate speculate; /* default AUTO */
    int n_draft; /* 0 (default) = as many guesses as pay; 1 to 14: as many as there are up to so many, always */
} apus_engine_settings;

APUS_API void apus_engine_settings_default(apus_engine_settings *s);

/* What an engine would need, in bytes. */
typedef struct apus_plan {
    size_t size;
    uint64_t weight_bytes; /* packed weights in memory */
    uint64_t kv_bytes; /* all pages: for max_sessions x ctx, or as kv_bytes of the settings says */
    uint64_t kv_bytes_per_token; /* growth of one session by one token before windows fill up */
    uint64_t state_bytes;        /* recurrent and conv states with snapshots */
    uint64_t scratch_bytes;      /* one step */
    uint64_t total_bytes;
    int ctx;    /* as it would be */
    apus_kv kv; /* likewise: not AUTO */
    uint64_t
        other_bytes; /* estimate of the rest: program, tokenizer, tables, whole large pages, rows of
                           * the embedding that stay mapped from the file */
    int prefill_chunk; /* as it would be */
} apus_plan;

APUS_API apus_err apus_engine_plan(const apus_model *m, const apus_engine_settings *s,
                                   apus_plan *out, apus_diag *diag);

/* All memory is taken here; nothing is allocated while tokens are computed.
 * Returns OK; EINVAL; ENOMEM with the numbers. The model must outlive the engine. */
APUS_API apus_err apus_engine_create(const apus_model *m, const apus_engine_settings *s,
                                     apus_engine **out, apus_diag *diag);
/* Ends its sessions too. Not from a callback. */
APUS_API void apus_engine_free(apus_engine *e);

/* Make the running call on this engine return ECANCELLED soon. Safe in a signal handler. The next
 * call starts afresh. */
APUS_API void apus_cancel(apus_engine *e);

/* The same for one session: its generation alone ends (APUS_STOP_CALLER); a feed of several is cancelled as a
 * whole, since they move together or not at all. Nothing if the running call does not concern it. The session
 * must not be freed meanwhile. */
APUS_API void apus_session_cancel(apus_session *s);

/* ---------------------------------------------------------------- sessions */

/* EFULL: max_sessions exist already; ENOMEM: no recurrent state is left (kv_bytes). */
APUS_API apus_err apus_session_create(apus_engine *e, apus_session **out, apus_diag *diag);
/* Not from a callback. */
APUS_API void apus_session_free(apus_session *s);

/* Tokens held, and tokens that still fit. */
APUS_API int apus_session_pos(const apus_session *s);
APUS_API int apus_session_room(const apus_session *s);
/* The tokens held, i32 [pos], owned by the session, valid until it changes. Where a picture is, ids are
 * negative: equal ones show the same. */
APUS_API const int32_t *apus_session_tokens(const apus_session *s);

/* Run n tokens and give the logits that follow the last one.
 *   s       position advances by n
 *   tok     i32 [n]      ids in [0, V); borrowed for the call
 *   n       1 .. apus_session_room(s)
 *   logits  f32 [V]      out, natural log, unnormalised; NULL = not wanted
 * Returns OK; EINVAL bad id or n; EFULL no room; ECANCELLED; ENONFINITE: wanted logits are not all
 * finite; ENOMEM: kv_bytes are used up; EDEVICE.
 * On error the session is where it was. Blocks. Never allocates. */
APUS_API apus_err apus_session_feed(apus_session *s, const int32_t *tok, int n, float *logits,
                                    apus_diag *diag);

/* One sequence's share of a ragged batch. */
typedef struct apus_feed {
    size_t size; /* sizeof(apus_feed), in each */
    apus_session *session;
    const int32_t *tok;  /* i32 [n] */
    int n;               /* >= 1 */
    float *logits;       /* f32 [n_rows, V] out; NULL = not wanted */
    const int32_t *rows; /* i32 [n_rows] ascending indices into tok whose logits are wanted; NULL
                          * with logits set = the last token only */
    int n_rows;
    /* [n_media] pictures, videos and sounds that fill the places among tok (ids of image_token_id and the like):
     * what is seen in order, and what is heard; those of a picture, of a frame of a video, or of a sound, stand
     * in a row. What the tower makes of them is kept with them. NULL with n_media 0: such ids are tokens. */
    const apus_media *const *media;
    int n_media;
} apus_feed;

/* Run several sequences together; the results are bit-equal to running them alone. Distinct
 * sessions of one engine. Towers run before anything else; memory is taken for that alone. Errors as apus_session_feed; on error no session has moved. */
APUS_API apus_err apus_feed_batch(apus_engine *e, apus_feed *feeds, int n_feeds,
                                  apus_progress_fn progress, void *progress_ctx, apus_diag *diag);

/* Go back to pos (0 .. current), not into a picture (EINVAL). States that cannot be stepped back are restored from the nearest
 * snapshot and the tokens since are run again, so this may take as long as feeding them. */
APUS_API apus_err apus_session_rewind(apus_session *s, int pos, apus_diag *diag);

/* A second session with the same tokens and state. EFULL: no session left. */
APUS_API apus_err apus_session_fork(const apus_session *s, apus_session **out, apus_diag *diag);

/* Write to / read from a file. Loading checks that the file was written with the same model, opened
 * with the same precision, and an engine of the same kv and, with recurrent layers, gdn_chunked. The
 * continuation after a load is bit-equal. EFILE, EFORMAT, EFULL (does not fit the context). A file that
 * is saved is readable by its owner alone and appears when it is complete; a regular file of that name
 * is replaced then, and all else (links, devices, pipes) is EFILE. A failed save leaves nothing behind. */
APUS_API apus_err apus_session_save(const apus_session *s, const char *path, apus_diag *diag);
APUS_API apus_err apus_session_load(apus_engine *e, const char *path, apus_session **out,
                                    apus_diag *diag);

/* The same to and from memory: the bytes that the file would have.
 *   data  out, apus_free it; in, borrowed for the call, of any alignment */
APUS_API apus_err apus_session_save_memory(const apus_session *s, void **data, size_t *bytes,
                                           apus_diag *diag);
APUS_API apus_err apus_session_load_memory(apus_engine *e, const void *data, size_t bytes,
                                           apus_session **out, apus_diag *diag);

/* ---------------------------------------------------------------- sampling and generation */

typedef struct apus_sampling {
    size_t size;
    float temperature;        /* 0 = greedy; >= 0 */
    int top_k;                /* 0 = off */
    float top_p;              /* (0, 1]; 1 = off */
    float min_p;              /* [0, 1); 0 = off */
    float repetition_penalty; /* > 0; 1 = off (CTRL, divides or multiplies logits of seen tokens) */
    float presence_penalty;   /* 0 = off */
    float frequency_penalty;  /* 0 = off */
    int penalty_last;         /* tokens looked back for penalties; 0 = all */
    uint64_t seed;
} apus_sampling;

/* Neutral values: temperature 1, everything off, seed 0. */
APUS_API void apus_sampling_default(apus_sampling *s);
/* What the model's generation_config says, over the neutral values. */
APUS_API void apus_sampling_from_model(const apus_model *m, apus_sampling *s);

/* Choose tokens. The same seed, logits and history give the same tokens on every machine. */
typedef struct apus_sampler apus_sampler;
APUS_API apus_err apus_sampler_create(const apus_sampling *s, int vocab, apus_sampler **out,
                                      apus_diag *diag);
/*   logits   f32 [V], not changed
 *   history  i32 [n] tokens the penalties look at; may be NULL with n = 0
 * Returns an id; -1: an argument is NULL or n < 0, a logit is NaN or plus infinity, or all are minus
 * infinity (which keeps a token from being chosen). */
APUS_API int32_t apus_sampler_next(apus_sampler *p, const float *logits, const int32_t *history,
                                   int n);
APUS_API void apus_sampler_free(apus_sampler *p);

typedef enum apus_stop {
    APUS_STOP_TOKEN = 0, /* the model ended its turn */
    APUS_STOP_LENGTH,    /* max_tokens reached */
    APUS_STOP_CONTEXT,   /* no room in the session */
    APUS_STOP_CALLER,    /* a callback returned false, or apus_cancel */
    APUS_STOP_STRING     /* the text reached a stop string */
} apus_stop;

/* What an answer must be, enforced by what may be chosen: exactly one of the first four is given. Before a thought
 * is over, and while it may still begin, anything may come but the answer's end. An answer that ends by itself is
 * complete; one that is cut (max_tokens, the context, a stop string) may not be. */
typedef struct apus_constraint {
    size_t size;
    const char *
        json_schema; /* a JSON document that is valid under this schema. docs/server.md: what is supported */
    const char *grammar; /* a text of this grammar, in llama.cpp's notation (GBNF) */
    bool json_object;    /* any JSON object */
    /* Calls of these tools, a JSON array as in apus_chat_render, written as the model's template writes them: their
     * arguments obey the schemas of tools that are "strict", and with must_call of the others as far as they are
     * supported. Of arguments between tags (Qwen) that may be strings or something else, nothing is said. Beside
     * json_schema or json_object the answer is such a document, or calls and no text */
    const char *tools_json;
    bool must_call;   /* the answer is nothing but calls; no document can be asked for beside it */
    bool single_call; /* one at most */
    const char *call_name; /* with must_call: of this tool; NULL = any */
    apus_think think; /* as the prompt was rendered with: OFF = the answer begins with no thought */
} apus_constraint;

APUS_API void apus_constraint_default(apus_constraint *s);

/* Compile what a constraint says; what uses it soon finds it compiled.
 * Returns OK; EINVAL: a field, or nothing can satisfy it; EFORMAT: broken; EUNSUPPORTED: a keyword or construct (named
 * with its place), too large, or the model has no tokenizer; ENOMEM. */
APUS_API apus_err apus_constraint_check(const apus_model *m, const apus_constraint *s,
                                        apus_diag *diag);

typedef struct apus_generate_settings {
    size_t size;
    const apus_sampling *sampling; /* NULL (default) = apus_sampling_from_model */
    int max_tokens;                /* -1 (default) = until the model stops or the context is full */
    bool ignore_eos;               /* go on past stop tokens */
    /* Called with each new token before the next is computed; return false to stop. The stop token
     * is not reported. May be NULL. */
    bool (*on_token)(void *ctx, int32_t id);
    /* Called with the text that has become certain, whole UTF-8 characters, after the token that
     * made it so; return false to stop. The pieces joined are the detokenized tokens up to the stop
     * string. What could yet become a stop string is held back, and delivered when something else
     * ends the generation, but not after a callback returned false. May be NULL. */
    bool (*on_text)(void *ctx, const char *text, size_t len);
    bool
        keep_special; /* special tokens are part of the text, as apus_chat_parser_push wants them */
    /* Strings that end the generation, matched over the text, also across tokens: the one that is
     * complete first, and of those the longest. It is not part of the text. None may be empty. */
    const char *const *stop_strings; /* UTF-8 [n_stop_strings], borrowed for the call */
    int n_stop_strings;
    apus_progress_fn progress; /* prefill; may be NULL */
    void *ctx;                 /* for all callbacks */
    const apus_media *const
        *media; /* [n_media] that fill the places of the prompt, as in apus_feed */
    int n_media;
    const apus_constraint *constraint; /* what the answer must be; NULL (default) = anything */
} apus_generate_settings;

APUS_API void apus_generate_settings_default(apus_generate_settings *s);

typedef struct apus_generate_result {
    size_t size; /* sizeof(apus_generate_result), set by the caller */
    apus_stop stop;
    int32_t stop_id; /* the token that ended it, or -1 */
    int stop_string; /* index of the string that ended it, or -1 */
    int n_prompt, n_generated;
    int64_t prefill_us, decode_us;
    int draft_rounds, n_drafted, n_accepted; /* steps with guesses, and what became of them */
} apus_generate_result;

/* Feed a prompt and generate. Afterwards the session holds the prompt and every reported token but
 * the last one (which the next prompt must begin with), as apus_session_pos tells. Allocates nothing
 * unless text or stop strings are wanted.
 *   prompt  i32 [n] tokens to append to the session, n >= 1
 *   set     NULL = defaults
 *   res     may be NULL
 * Returns OK also when stopped by the caller; EFULL: the prompt does not fit (the numbers are in
 * diag), nothing was fed; EUNSUPPORTED: text is wanted of a model without a tokenizer; EINVAL;
 * ENOMEM; EDEVICE; ENONFINITE as apus_session_feed, the session then holds what led there. */
APUS_API apus_err apus_generate(apus_session *s, const int32_t *prompt, int n,
                                const apus_generate_settings *set, apus_generate_result *res,
                                apus_diag *diag);

/* One session's share of a batch of generations. */
typedef struct apus_generation {
    size_t size; /* sizeof(apus_generation), in each */
    apus_session *session;
    const int32_t *prompt;                  /* i32 [n] */
    int n;                                  /* >= 1 */
    const apus_generate_settings *settings; /* NULL = defaults */
    apus_generate_result *result;           /* may be NULL */
} apus_generation;

/* Generate for several sessions side by side: each as apus_generate does, with the same tokens, and
 * faster than one after the other. Distinct sessions of one engine. In every step the callbacks are
 * called in the order of the list; false or apus_session_cancel ends that generation alone, apus_cancel ends all.
 * Progress: that of list[0] is told of all prompts together.
 *   list  [n], n = 1 .. max_sessions
 * Errors as apus_generate. After an error in the prompts no session has moved; after a later one each
 * holds what it held when the last step had been computed. */
APUS_API apus_err apus_generate_batch(apus_engine *e, const apus_generation *list, int n,
                                      apus_diag *diag);

/* ---------------------------------------------------------------- requests
 * A scheduler owns an engine and the one thread that computes on it: requests of any number of other threads are
 * admitted as memory allows, decoded together, and prefilled in between. What a request has computed is kept as long
 * as there is room, for others that begin with the same tokens. What a request gives depends neither on what else
 * runs nor on what was kept (but with precision FAST). */

typedef struct apus_scheduler apus_scheduler;
typedef struct apus_request apus_request;

/* Records of prefixes that several processes share, such as those of servers with the same model: what one has
 * computed the others begin with. A record is some bytes under a name of 36 printable characters; it is checked when it
 * comes, so a store may lose, damage and mix up what it has; but whoever can write good records to it decides what
 * answers begin with. The functions are called in one thread of the scheduler's own, never two at once. They may wait,
 * and should not for long: a request waits for them, up to store_wait_us. */
typedef struct apus_store {
    size_t size; /* sizeof(apus_store) */
    void *ctx;
    /* there[i]: is there a record of that name? False: it cannot be told now */
    bool (*has)(void *ctx, const char *const *names, int n, bool *there);
    /* The record's bytes to data [cap]. Returns how many; 0: there is none, or it cannot be had, or has more than cap */
    size_t (*get)(void *ctx, const char *name, void *data, size_t cap);
    /* Keep a record; what cannot be kept is dropped. */
    void (*put)(void *ctx, const char *name, const void *data, size_t bytes);
} apus_store;

typedef struct apus_scheduler_settings {
    size_t size; /* sizeof(apus_scheduler_settings) */
    /* NULL (default) = defaults, with 4 sessions. max_sessions: requests that run at once; ctx: tokens of prompt
     * and answer of one request at most; kv_bytes: memory of K/V pages and recurrent states of all of them. What
     * a request can need at most is set aside when it is admitted. */
    const apus_engine_settings *engine;
    int max_queue; /* requests that wait at most; beyond, submit returns EBUSY. Default 512 */
    int step_us; /* how long a decoding request may wait for a step that also prefills: prefill chunks are
                    * cut to it. Default 100000; 0 = no limit */
    /* Memory for prefixes of earlier requests beside that of those which run. 0 (default) = none of its own: what
     * those which run leave of engine.kv_bytes */
    uint64_t cache_bytes;
    /* A folder for prefixes on the disk, which survive a restart; made if it is not there. NULL (default) = none.
     * What it holds is bound to the model, its precision and the forms in memory, and written when nothing runs. */
    const char *cache_dir;
    uint64_t cache_dir_bytes; /* on the disk at most; default 16 GB */
    const apus_store
        *store; /* shared with others; NULL (default) = none. Copied; ctx outlives the scheduler */
    int store_wait_us; /* that a request waits for it at most before it is computed without. Default 1000000 */
    /* Memory for what towers have made of pictures, for requests that show them again elsewhere. Default 256 MB; 0 =
     * none */
    uint64_t media_bytes;
} apus_scheduler_settings;

APUS_API void apus_scheduler_settings_default(apus_scheduler_settings *s);

/* Make an engine and start its thread. Errors as apus_engine_create; EFILE: cache_dir. The model outlives it. */
APUS_API apus_err apus_scheduler_create(const apus_model *m, const apus_scheduler_settings *s,
                                        apus_scheduler **out, apus_diag *diag);
/* Take no more requests: submit returns ECANCELLED from now on. Those that run or wait go on. Any thread. */
APUS_API void apus_scheduler_drain(apus_scheduler *s);
/* Cancel what runs or waits, write to cache_dir what is not there, and end the thread. Requests must still be freed, before or after; nothing else may be
 * called on them or the scheduler meanwhile. Not from a callback. */
APUS_API void apus_scheduler_free(apus_scheduler *s);

typedef struct apus_request_settings {
    size_t size; /* sizeof(apus_request_settings) */

    /* The prompt: ids, or a conversation that is rendered and tokenized in the submitting thread. Copied. */
    const int32_t *prompt; /* i32 [n_prompt] */
    int n_prompt;
    const char *messages_json, *tools_json; /* as apus_chat_render; instead of prompt */
    const apus_chat_settings *chat;         /* NULL = defaults; always guarded */
    /* Positions in `prompt` that other requests are likely to branch off at, such as where the generation prompt
     * begins: recurrent states are kept there. Ascending; with messages_json they are found by apus. Copied. */
    const int32_t *branch; /* i32 [n_branch] */
    int n_branch;
    bool no_cache;                 /* neither take nor leave a prefix */
    const apus_sampling *sampling; /* NULL = apus_sampling_from_model */
    int max_tokens; /* -1 (default) = as many as the context takes; 0 = prefill only (FINISHED: LENGTH). What is
                     * reserved at admission is prompt + max_tokens, so give the real bound if there is one */
    bool ignore_eos;
    bool no_text;      /* ids only; stop strings still work */
    bool keep_special; /* as apus_generate_settings: what apus_chat_parser_push wants */
    const char *const *stop_strings; /* UTF-8 [n_stop_strings]; copied */
    int n_stop_strings;
    int logprobs; /* -1 (default) = none; 0 = of the chosen token; 1..20 = and of so many best */
    const int32_t *bias_id; /* i32 [n_bias], with */
    const float
        *bias;  /* f32 [n_bias] added to the logits before all else; -INFINITY = never. Copied */
    int n_bias; /* 0 to 4096 */

    /* Which ids may follow, for grammars and schemas. Called in the scheduler's thread before each token, must
     * be quick (microseconds), and may call nothing of the scheduler.
     *   ids, n   the answer so far
     *   allowed  u32 [(V + 31) / 32], all bits set; clear those of ids that may not follow
     * Returns 1: look at allowed; 0: everything may follow; -1: nothing may, the answer ends here
     * (APUS_FINISH_MASK). Stop tokens are allowed only if their bits are. */
    int (*mask)(void *ctx, const int32_t *ids, int n, uint32_t *allowed);
    void *mask_ctx; /* used until FINISHED has been put in the queue */

    int priority; /* higher is admitted and prefilled first; default 0; -100 .. 100 */
    uint64_t
        client; /* equal priorities are served in turn by client, and in order within one; default 0 */
    int64_t
        deadline_us; /* from submission; 0 (default) = none. When over: finished with DEADLINE */

    /* Called when the queue of events was empty and no longer is, and not again before a take has found it
     * empty. In the scheduler's thread (or that of submit or cancel), without locks: may call apus_request_take
     * with timeout 0, apus_request_cancel; must not block. NULL = none. */
    void (*wake)(void *ctx, apus_request *r);
    void *ctx;
    const apus_constraint
        *constraint; /* what the answer must be, beside what mask says; copied. NULL = anything */

    /* [n_media] pictures and videos that fill the places of the prompt in order, as in apus_feed; with messages_json,
     * the marks that the template writes for them (apus_media_expand). They must stay until apus_request_free; any
     * number of requests may show the same. Towers run in the scheduler's thread, some layers between two steps; what
     * a prefix of an earlier request shows already is not looked at again. */
    const apus_media *const *media;
    int n_media;
} apus_request_settings;

APUS_API void apus_request_settings_default(apus_request_settings *s);

/* Queue a request. Any thread. Strings and arrays are copied.
 * Returns OK; EINVAL: a field (named), such as an id outside the vocabulary, or media that do not fit its places, or a
 *   picture that is computed at once and exceeds prefill_chunk; EFULL: the prompt is longer than ctx;
 *   EBUSY: the queue is full; ECANCELLED: draining; EUNSUPPORTED: no tokenizer, no template, no tower;
 *   EFORMAT as apus_chat_render; ENOMEM; EDEVICE: the device is lost. */
APUS_API apus_err apus_request_submit(apus_scheduler *s, const apus_request_settings *set,
                                      apus_request **out, apus_diag *diag);

/* End it at the next chance: a waiting request at once, a running one after at most the running step (prefill
 * included). A FINISHED event with APUS_FINISH_CANCELLED follows unless it had finished. Any thread; not a
 * signal handler. */
APUS_API void apus_request_cancel(apus_request *r);

/* Cancel it if it has not finished, wait until it has, and give it back; no callback runs any more when this has
 * returned. Not from a callback. NULL is fine. */
APUS_API void apus_request_free(apus_request *r);

/* Number of the request in its scheduler, from 1. The prompt's ids, owned by the request; where media are, they are
 * negative, as in apus_session_tokens. */
APUS_API uint64_t apus_request_id(const apus_request *r);
APUS_API const int32_t *apus_request_prompt(const apus_request *r, int *n);
/* The rendered prompt's text (messages_json), for apus_chat_parser_create; NULL if ids were given. */
APUS_API const char *apus_request_prompt_text(const apus_request *r, size_t *len);

typedef enum apus_finish {
    APUS_FINISH_STOP = 0,  /* the model ended its turn: stop_id */
    APUS_FINISH_STRING,    /* a stop string: stop_string */
    APUS_FINISH_LENGTH,    /* max_tokens */
    APUS_FINISH_CONTEXT,   /* no room in the context */
    APUS_FINISH_MASK,      /* the mask let nothing follow */
    APUS_FINISH_CANCELLED, /* apus_request_cancel, or the scheduler was freed */
    APUS_FINISH_DEADLINE,
    APUS_FINISH_ERROR /* err and message */
} apus_finish;
APUS_API const char *apus_finish_name(apus_finish f);

/* Why no more of a prompt was found in the prefix cache. */
typedef enum apus_miss {
    APUS_MISS_NONE = 0, /* all was that can be: up to the last token, or the last page's begin */
    APUS_MISS_EMPTY,    /* nothing like it was ever seen, or the request wants no cache */
    APUS_MISS_DIVERGED, /* the first token that differs from the nearest prompt seen */
    APUS_MISS_EVICTED,  /* what followed was given up for its room */
    APUS_MISS_NO_STATE  /* tokens go on matching, but recurrent states were kept before only */
} apus_miss;
APUS_API const char *apus_miss_name(apus_miss m);

typedef struct apus_usage {
    size_t size;                             /* as this library knows it */
    int n_prompt;                            /* tokens */
    int n_cached;                            /* of these, taken from the prefix cache */
    int n_disk;                              /* of those, from the disk */
    int n_generated;                         /* reported tokens (the stop token is not one) */
    apus_miss miss;                          /* why no more of the prompt was cached, */
    int miss_pos;                            /* and from where on; -1: all was */
    int64_t queue_us, prefill_us, decode_us; /* so far: waiting; until the first token; since */
    int n_drafted, n_accepted;               /* tokens that were guessed; those that came true */
} apus_usage;

typedef enum apus_request_event_kind {
    APUS_REQUEST_STARTED = 0, /* admitted */
    APUS_REQUEST_PREFILL, /* prefill_done of usage.n_prompt tokens are computed; merged while nobody takes it */
    APUS_REQUEST_TOKENS,  /* new tokens and the text that became certain (either may be empty) */
    APUS_REQUEST_FINISHED /* the last one */
} apus_request_event_kind;

/* What the pointers name is owned by the request and lives until the next take on it, or its free. */
typedef struct apus_request_event {
    size_t size; /* sizeof(apus_request_event), set by the caller */
    apus_request_event_kind kind;
    int prefill_done;
    const int32_t
        *ids; /* i32 [n_ids]: since the last TOKENS; several where nobody took them in between */
    int n_ids;
    const char *text; /* UTF-8, whole characters, zero-terminated */
    size_t len;
    /* [n_ids, 1 + logprobs]: of the chosen token, then of the best in order. Natural logs, of the unchanged
     * distribution (temperature 1, before penalties, bias and masks). NULL = not wanted */
    const int32_t *logprob_id;
    const float *logprob;
    /* FINISHED */
    apus_finish finish;
    int32_t stop_id; /* or -1 */
    int stop_string; /* index, or -1 */
    apus_err err;    /* of APUS_FINISH_ERROR */
    const char *message;
    const apus_usage *usage; /* in every event: as of now */
} apus_request_event;

/* Take the next event. One thread at a time for each request.
 *   timeout_us  0 = don't wait, -1 = for ever
 * Returns true and fills *ev, or false: nothing came in time, or FINISHED was taken before. */
APUS_API bool apus_request_take(apus_request *r, int64_t timeout_us, apus_request_event *ev);

/* For metrics. Counters since the scheduler was made, and gauges. Any thread; costs a short lock. */
typedef struct apus_scheduler_stats {
    size_t size; /* set by the caller */
    /* gauges */
    int waiting, running, prefilling; /* requests; prefilling ones are among the running */
    bool draining, lost;              /* lost: the device failed, every submit returns EDEVICE */
    uint64_t kv_bytes, kv_used_bytes,
        kv_cached_bytes; /* pages and states: all, in use by requests, cached only */
    /* counters */
    uint64_t submitted, rejected;             /* rejected: the queue was full */
    uint64_t finished[APUS_FINISH_ERROR + 1]; /* by reason */
    uint64_t cancelled_in_queue, cancelled_in_prefill;
    uint64_t prompt_tokens, cached_tokens, disk_tokens, prefill_tokens, generated_tokens;
    uint64_t miss[APUS_MISS_NO_STATE + 1];          /* admitted requests, by reason */
    uint64_t steps, step_us, step_rows, step_lanes; /* sums over steps: time, tokens, sequences */
    uint64_t prefill_us, decode_us;                 /* of finished requests */
    /* of cache_dir: bytes there; written and read since; records that could not be written or were damaged */
    uint64_t disk_bytes, disk_written_bytes, disk_read_bytes, disk_errors;
    /* of finished requests: steps with guesses, tokens guessed, those that came true */
    uint64_t draft_rounds, drafted_tokens, accepted_tokens;
    /* of store: tokens and bytes of records that came; bytes handed to it; records that were not what they should
     * be; requests that waited longer than store_wait_us */
    uint64_t store_tokens, store_read_bytes, store_written_bytes, store_errors, store_late;
    /* pictures and frames that a tower was run for, and that were found among those of earlier requests (what prefixes
     * show is in neither); time of towers */
    uint64_t media_encoded, media_reused, media_us;
} apus_scheduler_stats;
APUS_API void apus_scheduler_stats_get(const apus_scheduler *s, apus_scheduler_stats *out);

#ifdef __cplusplus
}
#endif
#endif
