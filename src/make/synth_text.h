/* synth_text.h - the text files of a made-up model: its configuration, cut to some layers, and a
 * tokenizer that stands in for the real one. */
#ifndef AP_MAKE_SYNTH_TEXT_H
#define AP_MAKE_SYNTH_TEXT_H

#include "base/json.h"
#include "file/config.h"

/* config.json of the text model alone, of its first `layers` layers (0 = all).
 *   config  the original, with or without a text_config
 * EFORMAT, EUNSUPPORTED. */
apus_err ap_synth_config(const ap_config_text *config, int layers, ap_buf *out, apus_diag *diag);

/* A byte-level tokenizer with as many tokens as the vocabulary, special tokens in their places:
 * tokenizer.json, tokenizer_config.json and a chat template. Text comes apart into bytes (Qwen) or
 * letters (Gemma); other tokens read " w123". */
void ap_synth_tokenizer(const ap_config *c, ap_buf *out);
void ap_synth_tokenizer_config(const ap_config *c, ap_buf *out);
const char *ap_synth_template(const ap_config *c);

#endif
