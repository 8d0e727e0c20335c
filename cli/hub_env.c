#include "hub_env.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common.h"
#include "report.h"

/* A variable that is set, and not to nothing. */
static const char *variable(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static bool is_true(const char *name)
{
    static const char *const yes[] = {"1", "ON", "YES", "TRUE"};
    const char *v = variable(name);
    for (size_t i = 0; v && i < 4; i++)
        if (!strcasecmp(v, yes[i])) return true;
    return false;
}

/* NAME in the folder of Hugging Face's things; NULL = nowhere. */
static const char *in_hf_home(const char *name, char *out, size_t cap)
{
    const char *v, *tail;
    if ((v = variable("HF_HOME")))
        tail = "";
    else if ((v = variable("XDG_CACHE_HOME")))
        tail = "/huggingface";
    else if ((v = variable("HOME")))
        tail = "/.cache/huggingface";
    else
        return NULL;
    int n = snprintf(out, cap, "%s%s/%s", v, tail, name);
    return n > 0 && (size_t)n < cap ? out : NULL;
}

const char *hub_cache(void)
{
    static char dir[PATH_MAX];
    const char *v = variable("HF_HUB_CACHE");
    return v ? v : in_hf_home("hub", dir, sizeof dir);
}

const char *hub_endpoint(void)
{
    static char text[1024];
    const char *v = variable("HF_ENDPOINT");
    snprintf(text, sizeof text, "%s", v ? v : "https://huggingface.co");
    for (size_t n = strlen(text); n && text[n - 1] == '/'; n--) text[n - 1] = 0;
    return text;
}

static const char *read_token(char *out, int cap)
{
    char path[PATH_MAX];
    const char *name = variable("HF_TOKEN_PATH");
    if (!name) name = in_hf_home("token", path, sizeof path);
    FILE *f = name ? fopen(name, "re") : NULL;
    char *line = f ? fgets(out, cap, f) : NULL;
    if (f) fclose(f);
    return line;
}

int hub_token(const command *c, const char **token)
{
    static char text[512];
    const char *v = variable("HF_TOKEN");
    *token = NULL;
    if (is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return -1;
    if (!v) v = variable("HUGGING_FACE_HUB_TOKEN");
    if (!v && !(v = read_token(text, sizeof text))) return -1;
    while (isspace((unsigned char)*v)) v++;
    size_t n = strlen(v);
    while (n && isspace((unsigned char)v[n - 1])) n--;
    if (n == 0) return -1;
    for (size_t i = 0; i < n; i++)
        if (v[i] <= ' ' || v[i] > '~' || n >= sizeof text)
            return fail(c, "the token of the hub (HF_TOKEN or its file) has characters that no "
                           "token has");
    memmove(text, v, n);
    text[n] = 0;
    *token = text;
    return -1;
}

int hub_timeout(void)
{
    const char *v = variable("HF_HUB_DOWNLOAD_TIMEOUT");
    long s = v ? strtol(v, NULL, 10) : 0;
    return s > 0 && s < 86400 ? (int)s : 30;
}

const char *hub_offline(void)
{
    if (common.offline) return "--offline";
    if (is_true("HF_HUB_OFFLINE")) return "HF_HUB_OFFLINE";
    return is_true("TRANSFORMERS_OFFLINE") ? "TRANSFORMERS_OFFLINE" : NULL;
}
