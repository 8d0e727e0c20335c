/* tower.h - what a model sees with: patches of a picture become rows in the place of embeddings.
 *
 * A tower has weights of its own beside the text model's, in the same files and on the same device. */
#ifndef AP_MODEL_TOWER_H
#define AP_MODEL_TOWER_H

#include "file/tower_config.h"
#include "file/weights.h"
#include "kern/kern.h"
#include "media/media.h"

typedef struct ap_tower ap_tower;

/* Bind and pack the weights of a vision tower.
 *   v    copied
 *   c    the text model's configuration; c, w and dev stay as long as the tower
 * Errors name tensor and file. progress as in apus_model_settings, may be NULL. */
apus_err ap_tower_load(const ap_vision_config *v, const ap_config *c, const ap_weights *w,
                       ap_device *dev, apus_progress_fn progress, void *ctx, ap_tower **out,
                       apus_diag *diag);
void ap_tower_free(ap_tower *t);

/* Check all tensors as ap_tower_load does, and tell how many bytes it would take. */
apus_err ap_tower_measure(const ap_vision_config *v, const ap_config *c, const ap_weights *w,
                          ap_device *dev, size_t *bytes, apus_diag *diag);

const ap_vision_config *ap_tower_config(const ap_tower *t);

/* Rows that patches become, line by line. */
typedef struct ap_soft {
    int height, width;
} ap_soft;

/* Are these patches what the tower takes? name: of the picture, for sentences. EINVAL. */
apus_err ap_tower_check(const ap_tower *t, const ap_patches *p, const char *name, ap_soft *out,
                        apus_diag *diag);

/* Memory of the device and of the host while such patches are encoded; SIZE_MAX: more than can be addressed. */
size_t ap_tower_bytes(const ap_tower *t, const ap_exec *ex, const ap_patches *p);

/* A picture in work: the device is free for others between two calls of ap_tower_go. */
typedef struct ap_tower_run ap_tower_run;

/* Take the memory for patches that were checked; they, `t` and `ex` stay as they are until ap_tower_end.
 *   out     f32 [height * width, text hidden], host memory, complete when it is done
 * ENOMEM. */
apus_err ap_tower_begin(const ap_tower *t, const ap_exec *ex, const ap_patches *p, float *out,
                        ap_tower_run **run, apus_diag *diag);

/* Go on, at least by a layer, until it is done or us microseconds are over.
 *   us      < 0 = without a limit
 *   cancel  polled between layers; may be NULL
 * ECANCELLED, EDEVICE: it cannot go on. */
apus_err ap_tower_go(ap_tower_run *run, int64_t us, const volatile int *cancel, bool *done,
                     apus_diag *diag);
void ap_tower_end(ap_tower_run *run); /* NULL is fine */

/* All of that at once. */
apus_err ap_tower_encode(const ap_tower *t, const ap_exec *ex, const ap_patches *p, float *out,
                         const volatile int *cancel, apus_diag *diag);

#endif
