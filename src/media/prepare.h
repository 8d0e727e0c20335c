/* prepare.h - decoded pictures and frames to what a tower takes, as the reference's processors do it. */
#ifndef AP_MEDIA_PREPARE_H
#define AP_MEDIA_PREPARE_H

#include "media/film.h"
#include "media/media.h"
#include "media/media_settings.h"

/* One picture.
 *   name         of the picture, for sentences
 *   soft_tokens  the most the prompt shall hold for it; 0 = as the settings say. Gemma: one of the budgets
 *   out          ap_patches_clear it
 * Any number of threads. EINVAL: soft_tokens; EUNSUPPORTED: a shape that the reference refuses too; ENOMEM. */
apus_err ap_prepare_picture(const ap_media_settings *s, const ap_picture *p, const char *name,
                            int soft_tokens, ap_patches *out, apus_diag *diag);

/* A film: frames are chosen, and each (Gemma) or each pair (Qwen) becomes one part with its time.
 *   soft_tokens  of each frame (Gemma), or of all (Qwen); 0 = as the settings say
 *   out          ap_clip_clear it
 * Errors as above and as ap_film_next. */
apus_err ap_prepare_film(const ap_media_settings *s, ap_film *f, const char *name, int soft_tokens,
                         ap_clip *out, apus_diag *diag);

#endif
