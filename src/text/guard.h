/* guard.h - what people wrote stays text, whatever it looks like.
 *
 * Conversations are rendered to one text, in which a marker such as <|im_end|> means the same wherever it came
 * from. So a character that no text holds (a noncharacter of Unicode) is put into each marker that stands in a
 * string of a conversation: it matches no token then, templates pass the string on as it is, and where tokens
 * are made the character is dropped again. */
#ifndef AP_TEXT_GUARD_H
#define AP_TEXT_GUARD_H

#include "base/json.h"
#include "text/tokenizer.h"

#define AP_GUARD "\xEF\xB7\x90" /* U+FDD0 */

/* Guard the strings and keys of a value. Where they hold the character already, U+FFFD takes its place.
 *   special  of special tokens only: in what an assistant said, templates look for ordinary markers
 * Returns OK; ENOMEM. */
apus_err ap_guard_json(const ap_tokenizer *t, ap_arena *mem, ap_json *value, bool special,
                       apus_diag *diag);

/* Append a text without its guards. */
void ap_guard_drop(ap_buf *out, const char *s, size_t n);

#endif
