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

/* Make g ready. Strings and callbacks of the settings are borrowed until ap_gen_close, which is called after an
 * error, too. EINVAL; EUNSUPPORTED: text is wanted of a model without a tokenizer; ENOMEM. */
apus_err ap_gen_start(ap_gen *g, const apus_model *m, apus_session *session,
                      const apus_generate_settings *set, apus_diag *diag);
void ap_gen_close(ap_gen *g); /* of a zeroed struct too */

/* What the engine's chooser chose after g->row, to g->id. EFORMAT: no token may be chosen; ENONFINITE. */
apus_err ap_gen_choice(ap_gen *g, apus_diag *diag);
/* Report a token that was chosen, and its text. g->done: it was the last one, and is not fed. ENOMEM. */
apus_err ap_gen_token(ap_gen *g, int32_t id, apus_diag *diag);
/* End between two tokens: text that was held back is delivered. ENOMEM. */
apus_err ap_gen_end(ap_gen *g, apus_stop why, apus_diag *diag);

#endif
