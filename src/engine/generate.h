/* generate.h - one session's share of a running generation. */
#ifndef AP_ENGINE_GENERATE_H
#define AP_ENGINE_GENERATE_H

#include "engine/sample.h"
#include "engine/stops.h"

typedef struct ap_gen {
    apus_session *session;
    apus_generate_settings set;
    ap_sample_state sampling;
    apus_detok *detok; /* NULL: neither text nor stop strings are wanted */
    ap_stops *stops;
    int row;    /* of the engine's logits that the next token is chosen after; -1 = none */
    int32_t id; /* the token to be fed next */
    bool done;
    apus_generate_result res;
} ap_gen;

#endif
