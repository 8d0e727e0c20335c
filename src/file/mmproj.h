/* mmproj.h - the towers of a GGUF model: a file of its own beside it, mmproj-NAME.gguf, in the form of llama.cpp's
 * clip. It is told as a Hugging Face folder would be: vision_config and audio_config, a processor's settings, and
 * tensors under their Hugging Face names and in their shapes. Source: llama.cpp's converter, as the model
 * specifications have it. */
#ifndef AP_FILE_MMPROJ_H
#define AP_FILE_MMPROJ_H

#include "base/json.h"
#include "file/gguf.h"
#include "file/weights.h"
#include "media/media_settings.h"

typedef struct ap_mmproj {
    char *path;
    ap_media_kind kind;
    bool sees, hears;
    ap_buf config;    /* {"vision_config": {...}, "audio_config": {...}}, those that are there */
    ap_buf processor; /* as preprocessor_config.json */
    ap_weights *weights;
} ap_mmproj;

/* The mmproj file beside a GGUF model: the only one in its folder, or of several the one that is called after the
 * model: mmproj-NAME*.gguf, NAME.mmproj*.gguf or NAME-mmproj*.gguf for NAME.gguf or NAME-TYPE.gguf.
 *   out  ap_free it; NULL: there is none
 * EUNSUPPORTED: several, none of them called so; EFILE, ENOMEM. */
apus_err ap_mmproj_find(const char *model, char **out, apus_diag *diag);

/* out: ap_mmproj_close it, also after an error. EFILE, EFORMAT (a key or tensor by name), EUNSUPPORTED (a projector by
 * name), ENOMEM. */
apus_err ap_mmproj_open(const char *path, ap_mmproj *out, apus_diag *diag);
void ap_mmproj_close(ap_mmproj *m); /* a zeroed one may be closed */

/* weights_mmproj.c: the tensors alone. EFORMAT, EUNSUPPORTED, ENOMEM, EFILE. */
apus_err ap_weights_open_mmproj(const char *path, ap_weights **out, apus_diag *diag);

/* What a projector's name says; false: none that is known. */
bool ap_mmproj_kind(const ap_gguf *g, const char *tower, ap_media_kind *out);

#endif
