/* patches_file.h - patches of a picture or video, or rows of a sound, in a safetensors file, as the reference's
 * processor makes them. */
#ifndef AP_ENGINE_PATCHES_FILE_H
#define AP_ENGINE_PATCHES_FILE_H

#include "apus/apus.h"
#include "media/media.h"

/* pixel_values and image_grid_thw (Qwen) or image_position_ids (Gemma) of one picture, pixel_values_videos and
 * video_grid_thw or video_position_ids of one video, or input_features and input_features_mask of one sound. Soft
 * tokens are left 0. *out is to be cleared in any case. EFILE, EFORMAT, ENOMEM. */
apus_err ap_patches_read(const char *path, ap_clip *out, apus_media_type *type, apus_diag *diag);

#endif
