#include "recall.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "progress.h"

#define MOST_BYTES ((size_t)64 << 20)

/* $XDG_CACHE_HOME/apus, else ~/.cache/apus, made if it is not there. False: nowhere. */
static bool find_folder(char *path, size_t cap)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;
    if (cache && *cache == '/')
        n = snprintf(path, cap, "%s/apus", cache);
    else if (home && *home)
        n = snprintf(path, cap, "%s/.cache/apus", home);
    if (n <= 0 || (size_t)n >= cap) return false;
    char *slash = strrchr(path, '/');
    *slash = 0;
    mkdir(path, 0700); /* a failure shows with the file */
    *slash = '/';
    mkdir(path, 0700);
    return true;
}

/* The model's file. False: nowhere, or all of its experts are in memory. */
static bool find_file(const apus_model *m, char *path, size_t cap)
{
    apus_expert_stats s = {.size = sizeof s};
    apus_info info = {.size = sizeof info};
    char folder[PATH_MAX];
    if (common.no_recall || apus_model_experts(m, &s, NULL) || !s.io) return false;
    if (apus_model_info(m, &info, NULL) || !find_folder(folder, sizeof folder)) return false;
    int n = snprintf(path, cap, "%s/%016llx.experts", folder, (unsigned long long)info.fingerprint);
    return n > 0 && (size_t)n < cap;
}

/* A regular file's bytes, or NULL. */
static void *read_whole(const char *path, size_t *bytes)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    void *data = NULL;
    if (!fstat(fileno(f), &st) && S_ISREG(st.st_mode) && (size_t)st.st_size < MOST_BYTES)
        data = malloc((size_t)st.st_size + 1);
    if (data) *bytes = fread(data, 1, (size_t)st.st_size + 1, f);
    fclose(f);
    return data;
}

void recall_experts(apus_model *m)
{
    char path[PATH_MAX];
    size_t bytes;
    if (!find_file(m, path, sizeof path)) return;
    void *data = read_whole(path, &bytes);
    if (data) apus_model_recall_experts(m, data, bytes, progress_bar, NULL, NULL);
    progress_clear();
    free(data);
}

/* All bytes to a file beside `path`, which is given its name when it is complete. */
static void write_whole(const char *path, const void *data, size_t bytes)
{
    char part[PATH_MAX + 24];
    snprintf(part, sizeof part, "%s.%ld", path, (long)getpid());
    FILE *f = fopen(part, "wxb");
    if (!f) return;
    bool ok = fwrite(data, 1, bytes, f) == bytes;
    ok = !fclose(f) && ok;
    if (!ok || rename(part, path)) unlink(part);
}

void remember_experts(const apus_model *m)
{
    apus_expert_stats s = {.size = sizeof s};
    char path[PATH_MAX];
    void *data;
    size_t bytes;
    if (!m || !find_file(m, path, sizeof path) || apus_model_experts(m, &s, NULL)) return;
    if (!(s.hits + s.misses) || apus_model_save_experts(m, &data, &bytes, NULL)) return;
    write_whole(path, data, bytes);
    apus_free(data);
}
