/* patches_file.h - patches of one picture in a safetensors file, as the reference's processor makes them. */
#ifndef AP_ENGINE_PATCHES_FILE_H
#define AP_ENGINE_PATCHES_FILE_H

#include "base/err.h"
#include "media/media.h"

/* pixel_values, and image_grid_thw (Qwen) or image_position_ids (Gemma). *out is to be cleared in any case.
 * EFILE, EFORMAT, ENOMEM. */
apus_err ap_patches_read(const char *path, ap_patches *out, apus_diag *diag);

#endif
