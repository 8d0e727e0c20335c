/* prompt.h - a job's conversation or text as the token ids that a model is given. */
#ifndef APUS_SERVER_PROMPT_H
#define APUS_SERVER_PROMPT_H

#include "job.h"

typedef struct sv_prompt {
    char *text; /* rendered, apus_free it; NULL: ids were given */
    size_t len;
    int32_t *ids; /* apus_free it, unless they are the exchange's */
    bool joined;  /* with what the answer begins with: the ids are in the exchange's arena */
    size_t n;
    int branch; /* where the generation prompt begins; -1 = nowhere */
} sv_prompt;

/* false: sv_fail was called, also if prompt and one token exceed the context. */
bool sv_prompt_make(sv_exchange *x, const sv_job *j, sv_prompt *out);
void sv_prompt_free(sv_prompt *p);

#endif
