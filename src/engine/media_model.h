/* media_model.h - pictures, videos and sound prepared for a model. */
#ifndef AP_ENGINE_MEDIA_MODEL_H
#define AP_ENGINE_MEDIA_MODEL_H

#include "apus/apus.h"
#include "media/media.h"

struct apus_media {
    apus_media_type type;
    ap_clip clip;
};

#endif
