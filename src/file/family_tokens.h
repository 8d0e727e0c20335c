/* family_tokens.h - what the texts of a vocabulary's tokens say: which end a turn, which stand for media,
 * which are control tokens. Source: the tokenizer.json of the released models. */
#ifndef AP_FILE_FAMILY_TOKENS_H
#define AP_FILE_FAMILY_TOKENS_H

#include <stdbool.h>
#include <stddef.h>

/* What a prompt says where a chat template has put a picture, a film or a sound. */
typedef struct ap_media_mark {
    const char *mark; /* what the template writes; once for each soft token; NULL: there is none */
    const char *begin, *end; /* around the soft tokens of a part */
    const char *between;     /* parts */
} ap_media_mark;

typedef enum ap_frame_time {
    AP_TIME_MINUTES, /* "01:05 " */
    AP_TIME_SECONDS  /* "<65.0 seconds>" */
} ap_frame_time;

typedef struct ap_media_marks {
    ap_media_mark picture, film, sound;
    ap_frame_time time; /* before each part of a film */
} ap_media_marks;

/* Lists of texts are ended by NULL. */
typedef struct ap_family_tokens {
    const char *first;            /* stands before every text; NULL: none does */
    const char *const *turn_ends; /* end a turn */
    const char *const
        *media; /* places of images, sound and video in a prompt, and the marks around them */
    ap_media_marks marks;
    const char *const *special; /* control tokens, beside words in <| |> */
    bool one_bar;               /* words in <| > and < |> are control tokens too */
    const char *const *added;   /* found in text before it is split, but no control tokens */
    const char *const
        *visible; /* control tokens that the usual converters mark as visible, so that they
                                 * appear in output */
    bool
        sentencepiece; /* a space is U+2581, bytes without a token are "<0x0A>"; else BPE of bytes */
    const char *gguf_model; /* tokenizer.ggml.model */
} ap_family_tokens;

extern const ap_family_tokens ap_gemma_tokens, ap_qwen_tokens;

typedef enum ap_token_kind {
    AP_TOKEN_PLAIN,
    AP_TOKEN_ADDED,  /* found in text before it is split, but no control token */
    AP_TOKEN_SPECIAL /* control token: never made of a user's text, not shown */
} ap_token_kind;

/* Kind of a token by its text alone. */
ap_token_kind ap_family_token_kind(const ap_family_tokens *f, const char *s, size_t n);
/* Is it in f->visible? */
bool ap_is_visible_marker(const ap_family_tokens *f, const char *s, size_t n);

#endif
