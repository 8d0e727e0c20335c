#include "media/source.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"

ap_media_limits ap_media_limits_default(void)
{
    return (ap_media_limits){.bytes = (size_t)256 << 20,
                             .pixels = 100000000,
                             .film_pixels = 4000000000,
                             .frames = 20000,
                             .samples = 200000000};
}

apus_err ap_source_open(const char *path, const ap_media_limits *limits, ap_source *out,
                        apus_diag *diag)
{
    char *data;
    /* read, not mapped: a file that shrinks meanwhile must not end the program */
    apus_err err = ap_file_read(path, limits->bytes, &data, &out->len, diag);
    if (err) return err;
    *out = (ap_source){path, (const uint8_t *)data, out->len, *limits};
    return APUS_OK;
}

void ap_source_close(ap_source *s)
{
    ap_free((void *)(uintptr_t)s->data);
    memset(s, 0, sizeof *s);
}
