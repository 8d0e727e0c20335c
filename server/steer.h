/* steer.h - which tokens may come next where the client has a say: a thought that has to end. */
#ifndef APUS_SERVER_STEER_H
#define APUS_SERVER_STEER_H

#include "prompt.h"

typedef struct sv_steer {
    bool thinking;      /* the prompt ends inside a thought */
    bool may_think;     /* or the answer may begin one */
    int32_t begin, end; /* tokens around a thought; -1 = none */
    int vocab_words;    /* of 32 tokens, in a mask */
    int budget;         /* tokens of a thought at most; -1 = any */
} sv_steer;

/* Work out what a job asks for. false: sv_fail was called. */
bool sv_steer_init(sv_steer *s, sv_exchange *x, const sv_job *j, const sv_prompt *p);
/* Is there anything to be said? */
bool sv_steer_needed(const sv_steer *s);
/* mask of apus_request_settings, with a sv_steer as its ctx */
int sv_steer_mask(void *ctx, const int32_t *ids, int n, uint32_t *allowed);
void sv_steer_free(sv_steer *s);

#endif
