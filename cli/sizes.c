#include "sizes.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "apus/apus.h"
#include "report.h"
#include "terminal.h"

const char *type_name(const char *given)
{
    static char out[32];
    size_t n = strlen(given);
    if (n >= sizeof out) return given;
    for (size_t i = 0; i <= n; i++) out[i] = (char)tolower((unsigned char)given[i]);
    char *tail = n > 3 && out[n - 2] == '_' ? out + n - 2 : NULL;
    if (tail && out[0] == 'q' && out[n - 3] == 'k' && strchr("sml", tail[1])) *tail = 0;
    return out;
}

const char *human_bytes(uint64_t bytes, char out[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int u = 0;
    for (; v >= 1024 && u < 4; u++) v /= 1024;
    snprintf(out, 32, u ? "%.2f %s" : "%.0f %s", v, unit[u]);
    return out;
}

/* Bytes of a file, or of the files of a folder. */
static uint64_t bytes_of(const char *path)
{
    struct stat st;
    char name[PATH_MAX];
    uint64_t sum = 0;
    if (stat(path, &st)) return 0;
    if (!S_ISDIR(st.st_mode)) return (uint64_t)st.st_size;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        int n = snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (n > 0 && (size_t)n < sizeof name && stat(name, &st) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
    }
    if (dir) closedir(dir);
    return sum;
}

int tell_written(const command *c, const char *path)
{
    apus_diag d;
    apus_model *m;
    apus_model_settings s;
    apus_info info = {.size = sizeof info};
    char size[32];
    apus_model_settings_default(&s);
    s.load = APUS_LOAD_INFO;
    apus_err err = apus_model_open(path, &s, &m, &d);
    if (err == APUS_ENOMEM) { /* the work is done all the same */
        put_textf(stderr, "apus %s: %s is written; there is no memory left to tell its size\n",
                  c->name, path);
        return 0;
    }
    if (err) return report(c, &d);
    int rc = apus_model_info(m, &info, &d) ? report(c, &d) : 0;
    if (rc == 0)
        put_textf(stdout, "%s: %s, %.2f bits a weight\n", path, human_bytes(bytes_of(path), size),
                  (double)info.weight_bytes * 8 / (double)info.params_total);
    apus_model_close(m);
    return finish_output(c, rc);
}
