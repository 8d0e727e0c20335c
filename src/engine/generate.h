/* generate.h - one session's share of a running generation. */
#ifndef AP_ENGINE_GENERATE_H
#define AP_ENGINE_GENERATE_H

#include "engine/sample.h"
#include "engine/stops.h"

typedef struct ap_gen {
    apus_session *session;
    apus_generate_settings set;
    apus_sampler sampler; /* settings and random numbers; its buffers are the engine's */
    apus_detok *detok;    /* NULL: neither text nor stop strings are wanted */
    ap_stops *stops;
    float *row; /* f32 [V] logits that the next token is chosen from */
    int32_t id; /* the token to be fed next */
    bool done;
    apus_generate_result res;
} ap_gen;

#endif
