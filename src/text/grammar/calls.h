/* calls.h - answers that call tools, as grammars: each call in the model's own syntax, its arguments by the tool's
 * schema. */
#ifndef AP_TEXT_GRAMMAR_CALLS_H
#define AP_TEXT_GRAMMAR_CALLS_H

#include "text/grammar/grammar.h"

typedef enum ap_call_syntax {
    AP_CALLS_TAGS, /* <function=NAME> with <parameter=KEY>, of Qwen 3.5 */
    AP_CALLS_JSON, /* {"name": NAME, "arguments": {...}}, of Qwen 3 */
    AP_CALLS_GEMMA /* call:NAME{key:value} */
} ap_call_syntax;

typedef struct ap_calls {
    ap_call_syntax syntax;
    int32_t open, close; /* tokens around a call */
    int32_t quote;       /* GEMMA: the token around strings */
    bool must;           /* the answer is a call, or several; else a text in which calls may come */
    bool single;         /* one call at most */
    const char *name;    /* the tool that must be called; NULL = any */
    /* Without `must`, instead of a text: a document of this schema (JSON text; NULL = none), or any JSON object.
     * The answer is it, or calls. */
    const char *schema;
    bool object;
} ap_calls;

/* Make the grammar of answers.
 *   tools  JSON array of OpenAI's shape. With `must`, arguments of every tool obey its schema as far as it is
 *          supported, and those of tools with "strict": true in any case; else those of the strict ones alone
 *   g      zeroed; ap_grammar_free it, also after an error
 * Returns OK; EFORMAT, EUNSUPPORTED with the tool's name and the place in its schema, or the place in `schema`; EINVAL;
 * ENOMEM. */
apus_err ap_calls_grammar(const char *tools, size_t len, const ap_calls *how, ap_grammar *g,
                          apus_diag *diag);

#endif
