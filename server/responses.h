/* responses.h - what the Responses API takes: items in, and tools. */
#ifndef APUS_SERVER_RESPONSES_H
#define APUS_SERVER_RESPONSES_H

#include "answer.h"
#include "conversation.h"

/* input: a string or items; instructions: NULL = none */
bool sv_responses_input(sv_exchange *x, sv_job *j, const char *instructions, const sv_json *input);
bool sv_responses_tools(sv_exchange *x, sv_job *j, const sv_json *tools);

#endif
