/* patches_file.h - patches of a picture or video in a safetensors file, as the reference's processor makes them. */
#ifndef AP_ENGINE_PATCHES_FILE_H
#define AP_ENGINE_PATCHES_FILE_H

#include "base/err.h"
#include "media/media.h"

/* pixel_values and image_grid_thw (Qwen) or image_position_ids (Gemma) of one picture, or pixel_values_videos and
 * video_grid_thw or video_position_ids of one video. Soft tokens are left 0. *out is to be cleared in any case.
 * EFILE, EFORMAT, ENOMEM. */
apus_err ap_patches_read(const char *path, ap_clip *out, bool *video, apus_diag *diag);

#endif
