/* answer.h - generating an answer and taking it apart while it streams. */
#ifndef APUS_CLI_ANSWER_H
#define APUS_CLI_ANSWER_H

#include "apus/apus.h"
#include "json_out.h"
#include "options.h"

/* A growing string. */
typedef struct strbuf {
    char *data;
    size_t len, cap;
} strbuf;

void strbuf_add(strbuf *t, const char *s, size_t n);
void strbuf_free(strbuf *t);

typedef struct call {
    strbuf name, args;
} call;

/* What an answer was made of. */
typedef struct answer {
    strbuf content, thinking;
    call *calls;
    size_t n_calls;
    int32_t *ids;
    size_t n_ids, cap_ids;
    apus_generate_result result;
} answer;

typedef enum answer_mode {
    ANSWER_CHAT, /* parsed into thinking, content and calls */
    ANSWER_RAW,  /* text as it comes */
    ANSWER_IDS   /* no text: ids only */
} answer_mode;

/* What is to be answered. */
typedef struct question {
    const apus_model *model;
    apus_engine *engine;
    apus_session *session;
    const int32_t *ids; /* tokens that the session does not hold yet */
    int n;
    int chunk; /* tokens of the prompt read at once: a stop loses no more of it */
    answer_mode mode;
    const char *prompt; /* rendered prompt text for the parser (ANSWER_CHAT), else NULL */
    size_t prompt_len;
    const char *tools; /* JSON array of the tools in the prompt, or NULL */
    const string_list
        *stop;  /* texts that end the content (of ANSWER_IDS: the text of the tokens) and are
                              * left out of it; NULL = none */
    bool quiet; /* do not print while generating */
    const apus_generate_settings *set; /* sampling, max_tokens and ignore_eos are used */
} question;

/* Generate. Prints content on stdout as it comes; thinking dimmed and only on a terminal. Ctrl-C stops
 * the answer; within the prompt, the session keeps the chunks that were read, which n_prompt counts.
 * Returns the library's code. */
apus_err answer_generate(const question *q, answer *out, apus_diag *d);
void answer_free(answer *a);

/* Tokens at the front of ids that the session holds already. At least one is left to feed. */
int shared_prefix(const apus_session *s, const int32_t *ids, size_t n);

/* Did the model speak to the user at all? */
bool answer_says_something(const answer *a);

/* {"role":"assistant","content":...,"reasoning_content":...,"tool_calls":[...]} members into the
 * open map of j. */
void answer_message(const answer *a, json_out *j);

/* "stop", "length", "context" or "cancelled" */
const char *stop_name(apus_stop s);

#endif
