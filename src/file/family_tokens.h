/* family_tokens.h - what the texts of a family's tokens say: which end a turn, which stand for media,
 * which are control tokens. Source: the tokenizer.json of the released models. */
#ifndef AP_FILE_FAMILY_TOKENS_H
#define AP_FILE_FAMILY_TOKENS_H

#include <stdbool.h>
#include <stddef.h>

/* Texts, ended by NULL. */
const char *const *ap_family_turn_ends(bool gemma);
/* Places of images, sound and video in a prompt, and the marks around them. */
const char *const *ap_family_media(bool gemma);

typedef enum ap_token_kind {
    AP_TOKEN_PLAIN,
    AP_TOKEN_ADDED,  /* found in text before it is split, but no control token */
    AP_TOKEN_SPECIAL /* control token: never made of a user's text, not shown */
} ap_token_kind;

/* Kind of a token by its text alone. */
ap_token_kind ap_family_token_kind(bool gemma, const char *s, size_t n);

/* Control tokens of Gemma that the usual converters mark as visible, so that they appear in output. */
bool ap_is_visible_marker(const char *s, size_t n);

#endif
