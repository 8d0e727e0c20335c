/* gguf_meta.h - a model's configuration and tokenizer as GGUF metadata: the inverse of gguf_hf.h. */
#ifndef AP_FILE_GGUF_META_H
#define AP_FILE_GGUF_META_H

#include "file/config.h"
#include "file/gguf_write.h"

/* Architecture, sizes, rope, advice on sampling and the ids never to generate.
 *   c     the configuration; text, len: the config.json that it was read from (rope is taken from it)
 *   name  general.name
 *   most  the type of most weights, for general.file_type
 * EFORMAT; EUNSUPPORTED: what GGUF has no key for. */
apus_err ap_gguf_put_config(ap_gguf_writer *w, const ap_config *c, const ap_config_text *config,
                            const char *name, ap_dtype most, apus_diag *diag);

/* The metadata of another file of the same model, but for what is the file's own: the type of most
 * weights, alignment, parts, and layers behind the text model's. */
void ap_gguf_copy_meta(ap_gguf_writer *w, const ap_gguf *from, const ap_config *c, ap_dtype most);

/* Texts of a model folder; NULL: there is none. */
typedef struct ap_tokenizer_texts {
    const char *name; /* for sentences */
    const char *tokenizer, *config,
        *chat_template; /* tokenizer.json, tokenizer_config.json, *.jinja */
    size_t tokenizer_len, config_len, chat_template_len;
    const char *tool_template; /* additional_chat_templates/tool_use.jinja */
    size_t tool_template_len;
} ap_tokenizer_texts;

/* Vocabulary, kinds of tokens, merges and chat templates. Ids that tokenizer.json leaves out become
 * unused tokens. EFORMAT: not a BPE tokenizer of the family. */
apus_err ap_gguf_put_tokenizer(ap_gguf_writer *w, const ap_config *c, const ap_tokenizer_texts *t,
                               apus_diag *diag);

#endif
