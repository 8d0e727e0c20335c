/* media_model.h - pictures, videos and sound prepared for a model. */
#ifndef AP_ENGINE_MEDIA_MODEL_H
#define AP_ENGINE_MEDIA_MODEL_H

#include "engine/spans.h"
#include "media/media.h"

struct apus_media {
    apus_media_type type;
    char *name; /* for sentences */
    ap_clip clip;
    ap_embeds **
        rows; /* [clip.n] what a tower has made of the parts; NULL: not yet. Set once, atomically */
};

#endif
