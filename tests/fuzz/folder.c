#include "folder.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILES = 8, MAX_NAME = 64, MAX_DATA = 1 << 20, MAX_HEADER = 1 << 20 };

static char path[32];
static bool made;
static char files[MAX_FILES][MAX_NAME];
static int n_files;

void require(bool ok)
{
    if (!ok) abort();
}

static void file_path(const char *name, char out[128])
{
    require(snprintf(out, 128, "%s/%s", path, name) < 128);
}

static void clean_up(void)
{
    char at[128];
    for (int i = 0; i < n_files; i++) {
        file_path(files[i], at);
        unlink(at);
    }
    rmdir(path);
}

const char *folder(void)
{
    /* in memory where that can be: a disk takes milliseconds for each input */
    static const char *const places[] = {"/dev/shm", "/tmp"};
    for (int i = 0; i < 2 && !made; i++) {
        snprintf(path, sizeof path, "%s/apus-fuzz-XXXXXX", places[i]);
        if (!mkdtemp(path)) continue;
        atexit(clean_up);
        made = true;
    }
    require(made);
    return path;
}

static void remember(const char *name)
{
    for (int i = 0; i < n_files; i++)
        if (!strcmp(files[i], name)) return;
    require(n_files < MAX_FILES && strlen(name) < MAX_NAME);
    strcpy(files[n_files++], name);
}

static FILE *open_file(const char *name)
{
    char at[128];
    folder();
    remember(name);
    file_path(name, at);
    FILE *f = fopen(at, "wb");
    require(f != NULL);
    return f;
}

void folder_write(const char *name, const void *data, size_t n)
{
    FILE *f = open_file(name);
    require(n == 0 || fwrite(data, 1, n, f) == n);
    require(fclose(f) == 0);
}

/* ------------------------------------------------------------------ tensors */

static int bytes_of(const char *dtype)
{
    static const struct {
        const char *name;
        int bytes;
    } types[] = {{"BF16", 2}, {"F16", 2}, {"F32", 4},     {"U32", 4},     {"U8", 1},
                 {"F64", 8},  {"I32", 4}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"BOOL", 1}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, dtype)) return types[i].bytes;
    return 0;
}

/* Bytes of the tensor, or -1: not a line, or more than MAX_DATA. */
static int64_t size_of(const char *line, char dtype[16], char shape[64], char name[256])
{
    if (sscanf(line, "%15s %63[0-9,] %255[^\"\\\n]", dtype, shape, name) != 3) return -1;
    int64_t n = bytes_of(dtype);
    for (char *at = shape, *end; n > 0 && *at; at = *end ? end + 1 : end) {
        long long d = strtoll(at, &end, 10);
        if (end == at || d > MAX_DATA || (n *= d) > MAX_DATA) return -1;
    }
    return n > 0 ? n : -1;
}

/* Bytes that are finite numbers of every type, none of them large. */
static void put_data(FILE *f, int64_t n)
{
    for (int64_t i = 0; i < n; i++) putc(0x30 | (int)(i * 7 % 13), f);
}

void folder_write_tensors(const char *name, const char *list, size_t len)
{
    static char header[MAX_HEADER];
    char line[512], dtype[16], shape[64], tensor[256];
    size_t n = 0;
    int64_t data = 0;
    for (const char *at = list, *end = list + len; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        size_t k = (size_t)(stop - at) < sizeof line - 1 ? (size_t)(stop - at) : sizeof line - 1;
        memcpy(line, at, k);
        line[k] = 0;
        at = stop + 1;
        int64_t size = size_of(line, dtype, shape, tensor);
        if (size < 0 || size > MAX_DATA - data || n + 512 > MAX_HEADER) continue;
        n += (size_t)snprintf(
            header + n, MAX_HEADER - n,
            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%lld,%lld]}",
            n ? "," : "{", tensor, dtype, shape, (long long)data, (long long)(data + size));
        data += size;
    }
    n += (size_t)snprintf(header + n, MAX_HEADER - n, n ? "}" : "{}");
    FILE *f = open_file(name);
    for (int i = 0; i < 8; i++) putc((int)(n >> 8 * i & 255), f);
    require(fwrite(header, 1, n, f) == n);
    put_data(f, data);
    require(fclose(f) == 0);
}
