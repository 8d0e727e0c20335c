/* openai.h - what OpenAI's APIs share. */
#ifndef APUS_SERVER_OPENAI_H
#define APUS_SERVER_OPENAI_H

#include "answer.h"
#include "conversation.h"
#include "fields.h"

/* What chat and text completions both take; their own structs begin with it. */
typedef struct sv_openai_request {
    sv_job job;
    const char *model, *grammar;
    const sv_json *stop, *bias, *stream_options, *format, *schema;
} sv_openai_request;

/* Read the body: the members of that by a table of openai.c, all others by `table`. */
bool sv_openai_read(sv_exchange *x, const sv_field *table, sv_openai_request *r);

/* messages of chat completions */
bool sv_openai_messages(sv_exchange *x, sv_job *j, const sv_json *list);
/* reasoning_effort: think, or don't */
bool sv_openai_effort(sv_exchange *x, sv_job *j, const char *effort, const char *path);
/* response_format, text.format */
bool sv_openai_format(sv_exchange *x, sv_job *j, const sv_json *format, const char *path);

/* "data: {...}\n\n"; begin puts the id, object, created and model too */
void sv_openai_begin(sv_buf *b, const sv_answer *a, const char *object);
void sv_openai_event(sv_buf *b, const sv_answer *a, const char *object);
void sv_openai_event_end(sv_buf *b);
void sv_sse_ping(sv_answer *a);
void sv_openai_usage(sv_buf *b, const sv_answer *a);
const char *sv_openai_finish(sv_end e);
/* An error within a stream, and its end. */
void sv_openai_fail(sv_answer *a, const sv_error *e);

/* The text of one token. */
void sv_put_token(sv_buf *b, const char *key, const apus_model *m, int32_t id);
/* How many characters it has. */
int sv_token_length(const apus_model *m, int32_t id);
/* token, logprob and bytes of one */
void sv_put_token_logprob(sv_buf *b, const apus_model *m, int32_t id, float p);

#endif
