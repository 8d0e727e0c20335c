/* anthropic.h - the messages of Anthropic's API. */
#ifndef APUS_SERVER_ANTHROPIC_H
#define APUS_SERVER_ANTHROPIC_H

#include "answer.h"
#include "conversation.h"

/* system: a string or blocks, or NULL */
bool sv_anthropic_messages(sv_exchange *x, sv_job *j, const sv_json *system, const sv_json *list);

#endif
