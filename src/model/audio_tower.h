/* audio_tower.h - what a model hears with: rows of a sound become rows in the place of embeddings. As tower.h. */
#ifndef AP_MODEL_AUDIO_TOWER_H
#define AP_MODEL_AUDIO_TOWER_H

#include "file/tower_config.h"
#include "file/weights.h"
#include "kern/kern.h"
#include "media/media.h"

typedef struct ap_audio_tower ap_audio_tower;

/* Bind and pack the weights of an audio tower.
 *   a    copied
 *   c    the text model's configuration; c, w and dev stay as long as the tower
 * Errors name tensor and file. progress as in apus_model_settings, may be NULL. */
apus_err ap_audio_tower_load(const ap_audio_config *a, const ap_config *c, const ap_weights *w,
                             ap_device *dev, apus_progress_fn progress, void *ctx,
                             ap_audio_tower **out, apus_diag *diag);
void ap_audio_tower_free(ap_audio_tower *t);

/* Check all tensors as ap_audio_tower_load does, and tell how many bytes it would take. */
apus_err ap_audio_tower_measure(const ap_audio_config *a, const ap_config *c, const ap_weights *w,
                                ap_device *dev, size_t *bytes, apus_diag *diag);

/* Are these rows what the tower takes? name: of the sound, for sentences.
 *   n  soft tokens that they become
 * EINVAL. */
apus_err ap_audio_tower_check(const ap_audio_tower *t, const ap_patches *p, const char *name,
                              int *n, apus_diag *diag);

/* Run the tower over rows that were checked. Takes memory for the time of the call.
 *   out     f32 [n, text hidden], host memory
 *   cancel  polled between layers; may be NULL
 * ENOMEM, ECANCELLED, EDEVICE. */
apus_err ap_audio_tower_encode(const ap_audio_tower *t, const ap_exec *ex, const ap_patches *p,
                               float *out, const volatile int *cancel, apus_diag *diag);

#endif
