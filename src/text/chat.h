/* chat.h - a model's chat template found, messages rendered; the output parsed back. */
#ifndef AP_TEXT_CHAT_H
#define AP_TEXT_CHAT_H

#include "base/err.h"

typedef struct ap_chat ap_chat;

typedef enum ap_chat_syntax { AP_CHAT_PLAIN, AP_CHAT_QWEN, AP_CHAT_GEMMA } ap_chat_syntax;

/* Look for dir/chat_template.jinja, else chat_template of dir/tokenizer_config.json (a string, or a
 * list of named ones: "default"); bos_token and eos_token texts come from tokenizer_config.json.
 * No template at all gives OK with *out = NULL. syntax tells the output parser what to expect. */
apus_err ap_chat_load(const char *dir, ap_chat_syntax syntax, ap_chat **out, apus_diag *diag);
void ap_chat_free(ap_chat *c);

/* As apus_chat_render. */
apus_err ap_chat_render(const ap_chat *c, const char *messages_json, const char *tools_json,
                        const apus_chat_settings *s, char **text, size_t *len, apus_diag *diag);

/* As apus_chat_parser_*. */
typedef struct ap_chat_parser ap_chat_parser;
apus_err ap_chat_parser_create(ap_chat_syntax syntax, const char *prompt, size_t prompt_len,
                               const char *tools_json, apus_event_fn fn, void *ctx,
                               ap_chat_parser **out, apus_diag *diag);
apus_err ap_chat_parser_push(ap_chat_parser *p, const char *text, size_t len);
apus_err ap_chat_parser_finish(ap_chat_parser *p);
void ap_chat_parser_free(ap_chat_parser *p);

#endif
