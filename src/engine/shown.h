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

/* What tables beside the embedding look up in the place of media. */
static inline int32_t ap_media_pad(const apus_model *m)
{
    return m->config.pad > 0 ? m->config.pad : 0;
}

#endif
