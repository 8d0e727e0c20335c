#include "st_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t dtype_bytes(const char *t)
{
    return !strcmp(t, "U8") || !strcmp(t, "F8_E4M3") ? 1
           : strstr(t, "16")                         ? 2
           : strstr(t, "64")                         ? 8
                                                     : 4;
}

void st_write(const char *path, const char *tensors)
{
    char header[8192] = "{", name[200], dtype[20], shape[100];
    size_t n = 1, at = 0;
    for (const char *p = tensors; p && *p; p = strchr(p, ';'), p = p ? p + 1 : p) {
        if (sscanf(p, "%199s %19s %99[^;]", name, dtype, shape) != 3) abort();
        size_t bytes = dtype_bytes(dtype);
        for (char *s = shape; *s; s++)
            if (*s >= '0' && *s <= '9') bytes *= strtoul(s, &s, 10), s--;
        n += (size_t)snprintf(header + n, sizeof header - n,
                              "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                              n > 1 ? "," : "", name, dtype, shape, at, at + bytes);
        at += bytes;
    }
    header[n++] = '}';
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    for (int i = 0; i < 8; i++) fputc((int)(n >> 8 * i & 255), f);
    fwrite(header, 1, n, f);
    for (size_t i = 0; i < at; i++) fputc(0, f);
    fclose(f);
}

void text_write(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    fputs(text, f);
    fclose(f);
}
