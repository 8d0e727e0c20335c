/* chat.h - a model's chat template found, messages rendered; the output parsed back. */
#ifndef AP_TEXT_CHAT_H
#define AP_TEXT_CHAT_H

#include "base/err.h"
#include "text/tokenizer.h"

typedef struct ap_chat ap_chat;

/* What the output parser expects; rows in chat_stream.c. */
typedef enum ap_chat_syntax { AP_CHAT_PLAIN, AP_CHAT_QWEN, AP_CHAT_GEMMA } ap_chat_syntax;
/* "qwen", "gemma"; NULL or another name: plain text. */
ap_chat_syntax ap_chat_syntax_named(const char *name);

/* Look for dir/chat_template.jinja, else chat_template of dir/tokenizer_config.json (a string, or a
 * list of named ones: "default", and "tool_use" for conversations with tools), else
 * dir/chat_template.json; the texts of bos_token, eos_token and the like come from
 * tokenizer_config.json. No template at all gives OK with *out = NULL. A template that does not
 * compile is no error here: ap_chat_render tells it. EFILE, EFORMAT, ENOMEM.
 * syntax tells the output parser what to expect. */
apus_err ap_chat_load(const char *dir, ap_chat_syntax syntax, ap_chat **out, apus_diag *diag);
/* The same from the text of a tokenizer_config.json. name is used in errors. */
apus_err ap_chat_parse(const char *config, size_t len, const char *name, ap_chat_syntax syntax,
                       ap_chat **out, apus_diag *diag);
void ap_chat_free(ap_chat *c);

/* As apus_chat_render. The template sees messages, tools (none if NULL), documents (none),
 * add_generation_prompt, enable_thinking unless DEFAULT, the special token texts, and extra_json,
 * which overrides all but messages and tools. As transformers 5 does, reasoning given as
 * "reasoning" or "thinking" is seen as "reasoning_content" too, and keys of messages whose value is
 * null are dropped. Unlike it, the arguments of a tool call that are a string holding a JSON object
 * (or nothing) are that object to templates that iterate over them or write them as JSON, because
 * OpenAI's clients send them so; to templates that print or concatenate them, they are the string
 * still. guard: whose markers are guarded in messages and tools (guard.h), NULL = none. c NULL without a
 * template_text: EUNSUPPORTED. */
apus_err ap_chat_render(const ap_chat *c, const char *messages_json, const char *tools_json,
                        const apus_chat_settings *s, const ap_tokenizer *guard, char **text,
                        size_t *len, apus_diag *diag);

/* As apus_chat_parser_*. What the parser does with the edges:
 * - Newlines around a thought are dropped (between content and content the longer of the breaks
 *   before and behind the thought stays), and white space between calls, and newlines between
 *   content and a call; newlines elsewhere come out, a trailing one as soon as more text follows.
 * - A marker counts where a model uses it and is text where it speaks of it: in code between
 *   backticks or fences; <think> within a line; a call that does not begin with a name, names no
 *   tool and begins within a line, or stands in the middle of a sentence; a closing marker of
 *   nothing, unless no content came before it.
 * - A call inside a thought is a part of the thought (a draft), unless nothing but other calls
 *   follows it until the end of the output; then it ends the thought.
 * - What looked like a call but is none, or never ended, comes out as it was written. No call has
 *   an argument that was cut, nor a key twice: the last value counts.
 * - A value ends at its closing tag only where another tag follows it, or where the tag of the next
 *   parameter begins a line. Names may stand in quotes, and behind a namespace that is no tool's.
 * - A marker cut off by the end of the output is plain text. Markers that end an answer
 *   (<|im_end|>, <turn|>, <eos> and the like) are dropped.
 * - Gemma: what follows <|tool_response> behind a call, up to <tool_response|>, is dropped.
 * push after finish: EINVAL. */
typedef struct ap_chat_parser ap_chat_parser;
apus_err ap_chat_parser_create(ap_chat_syntax syntax, const char *prompt, size_t prompt_len,
                               const char *tools_json, apus_event_fn fn, void *ctx,
                               ap_chat_parser **out, apus_diag *diag);
apus_err ap_chat_parser_push(ap_chat_parser *p, const char *text, size_t len);
apus_err ap_chat_parser_finish(ap_chat_parser *p);
void ap_chat_parser_free(ap_chat_parser *p);

#endif
