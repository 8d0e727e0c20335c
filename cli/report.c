#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "progress.h"
#include "terminal.h"

/* What the library calls fields of its settings, and what the command line does. */
typedef struct wording {
    const char *field, *option;
} wording;

static const wording wordings[] = {
    {"extra template variables:", "--chat-template-kwargs:"},
    {"apus_generate_settings.max_tokens", "--max-tokens"},
    {"apus_sampling.temperature", "--temp"},
    {"apus_engine_settings.", "--"},
    {"apus_generate_settings.", "--"},
    {"apus_model_settings.", "--"},
    {"apus_sampling.", "--"},
    {"max_sessions 1, ", ""},
    {"prefill_chunk", "--prefill-chunk"},
    {"q8 KV pages", "--kv q8"},
};

/* The entry that text begins with, or NULL. */
static const wording *wording_at(const char *text)
{
    for (size_t i = 0; i < sizeof wordings / sizeof *wordings; i++)
        if (!strncmp(text, wordings[i].field, strlen(wordings[i].field))) return &wordings[i];
    return NULL;
}

/* A sentence of the library in the terms of the command line. */
static void in_options(const char *text, char *out, size_t cap)
{
    size_t at = 0;
    bool name = false; /* of an option: written with dashes */
    while (*text && at + 1 < cap) {
        const wording *w = wording_at(text);
        if (w) {
            int n = snprintf(out + at, cap - at, "%s", w->option);
            at += (size_t)n < cap - at ? (size_t)n : cap - at - 1;
            text += strlen(w->field);
            name = !strcmp(w->option, "--");
            continue;
        }
        name = name && (*text == '_' || (*text >= 'a' && *text <= 'z'));
        out[at++] = name && *text == '_' ? '-' : *text;
        text++;
    }
    out[at] = 0;
}

int report(const command *c, const apus_diag *d)
{
    progress_clear();
    char text[sizeof d->text + 64];
    in_options(d->text, text, sizeof text);
    put_textf(stderr, "apus %s: %s\n", c->name, text);
    return EXIT_FAILED;
}

int fail(const command *c, const char *fmt, ...)
{
    va_list ap;
    progress_clear();
    fprintf(stderr, "apus %s: ", c->name);
    va_start(ap, fmt);
    put_textv(stderr, fmt, ap);
    va_end(ap);
    putc('\n', stderr);
    return EXIT_FAILED;
}

int finish_output(const command *c, int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    fprintf(stderr, "apus%s%s: writing to standard output failed: %s\n", c ? " " : "",
            c ? c->name : "", strerror(errno));
    return status ? status : EXIT_FAILED;
}
