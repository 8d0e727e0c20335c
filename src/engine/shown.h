/* shown.h - showing media to a model: the tower's rows, and the places among tokens that they fill. */
#ifndef AP_ENGINE_SHOWN_H
#define AP_ENGINE_SHOWN_H

#include "engine/media_model.h"
#include "engine/model.h"

/* Is id a place for media of the model? */
bool ap_media_is_place(const apus_model *m, int32_t id);

/* A feed with media, step by step. check: EINVAL; `at` begins the sentence. ready: runs towers and makes room for
 * the spans; ENOMEM, ECANCELLED, EDEVICE, EUNSUPPORTED. begin: the places become spans, their ids those of what they
 * show; the feed's tokens are in the session already, at its position. */
apus_err ap_media_check(const apus_engine *e, const apus_feed *f, const char *at, apus_diag *diag);
apus_err ap_media_ready(apus_engine *e, const apus_feed *f, apus_diag *diag);
void ap_media_begin(apus_session *s, const apus_feed *f);

/* A part of media where it stands in a prompt. */
typedef struct ap_sight {
    ap_span span; /* embeds: borrowed; NULL where no tower has run */
    const ap_patches *part;
    const apus_media *media;
} ap_sight;

/* Where media stand among tok, the prompt of a session without tokens: tok gets the ids of what they show.
 *   together  tokens of others that a step may have beside a picture that sees itself whole
 *   out       [*n_out] ap_free it; media stay
 * EINVAL, EUNSUPPORTED, ENOMEM. */
apus_err ap_media_place(const apus_engine *e, int32_t *tok, int n, const apus_media *const *media,
                        int n_media, int together, ap_sight **out, int *n_out, apus_diag *diag);
/* Room for what a tower makes of it. EINVAL, ENOMEM. */
apus_err ap_sight_embeds(const apus_model *m, const ap_sight *s, ap_embeds **out, apus_diag *diag);

/* What tables beside the embedding look up in the place of media. */
static inline int32_t ap_media_pad(const apus_model *m)
{
    return m->config.pad > 0 ? m->config.pad : 0;
}

#endif
