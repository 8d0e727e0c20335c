/* media_config.h - how a model's processor prepares pictures, videos and sound. */
#ifndef AP_FILE_MEDIA_CONFIG_H
#define AP_FILE_MEDIA_CONFIG_H

#include "base/err.h"
#include "media/media_settings.h"

/* What processor_config.json says and, in its place, preprocessor_config.json and
 * video_preprocessor_config.json, in the order in which the reference looks; the released models' settings for
 * what none of them says.
 *   dir  a model's folder
 * EFILE, EFORMAT (field, expected, found), EUNSUPPORTED: a resampling or setting by name. */
apus_err ap_media_config_read(const char *dir, ap_media_kind kind, ap_media_settings *out,
                              apus_diag *diag);

/* The same from texts in memory; text NULL = there is no such file. */
typedef struct ap_media_config_text {
    const char *name; /* for sentences */
    const char *text;
    size_t len;
} ap_media_config_text;
typedef enum ap_media_config_file {
    AP_MEDIA_CONFIG_PROCESSOR,
    AP_MEDIA_CONFIG_PREPROCESSOR,
    AP_MEDIA_CONFIG_VIDEO,
    AP_MEDIA_CONFIG_FILES
} ap_media_config_file;
apus_err ap_media_config_parse(const ap_media_config_text file[AP_MEDIA_CONFIG_FILES],
                               ap_media_kind kind, ap_media_settings *out, apus_diag *diag);

#endif
