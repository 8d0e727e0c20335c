#include "prompt.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "input.h"
#include "models.h"
#include "report.h"
#include "terminal.h"

int prompt_check(const command *c, const prompt_opts *o)
{
    if ((o->text != NULL) + (o->file != NULL) + (o->ids != NULL) + (o->messages != NULL) > 1)
        return usage_error(c, "choose one of a text, --file, --ids and --messages; a file beside a "
                              "text comes through standard input: --prompt TEXT < FILE");
    if (o->ids && o->system) return usage_error(c, "--system needs a text prompt, not --ids");
    if (o->messages && o->system)
        return usage_error(c, "--system: the system message is the first of --messages");
    const char *bare = o->raw ? "--raw" : o->ids ? "--ids" : NULL;
    if (bare && (o->system || o->messages || o->tools || think.on || think.off ||
                 template_opt.kwargs || template_opt.file))
        return usage_error(c,
                           "%s goes without the chat template, which --system, --messages, "
                           "--tools, --think and --chat-template-... need",
                           bare);
    if (think.on && think.off) return usage_error(c, "choose one of --think and --no-think");
    if (o->image_tokens && !o->seen) return usage_error(c, "--image-tokens: no --image is given");
    return -1;
}

/* ---------------------------------------------------------------- reading */

static bool is_blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\f\v", s[i])) return false;
    return true;
}

/* Is standard input a pipe or a file? Terminals and /dev/null hold no part of a prompt. */
static bool stdin_is_piped(void)
{
    struct stat st;
    return fstat(STDIN_FILENO, &st) == 0 &&
           (S_ISFIFO(st.st_mode) || S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode));
}

static char *read_piped(const command *c, size_t *len)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&in, 1, 1000) == 0)
        fprintf(stderr,
                "apus %s: waiting for standard input, which is part of the prompt; "
                "'< /dev/null' leaves it out\n",
                c->name);
    return read_input(c, "-", len);
}

/* piped, a blank line, text. Takes piped. */
static void join(prompt *p, char *piped, size_t piped_len, const char *text, size_t len)
{
    strbuf all = {0};
    while (piped_len && strchr("\r\n", piped[piped_len - 1])) piped_len--;
    if (!is_blank(piped, piped_len)) {
        strbuf_add(&all, piped, piped_len);
        strbuf_add(&all, "\n\n", 2);
    }
    strbuf_add(&all, text, len);
    free(piped);
    free(p->user);
    p->user = all.data;
    p->len = all.len;
}

/* --prompt, --file, standard input. */
static int read_text(const command *c, const prompt_opts *o, const char *model, prompt *p)
{
    bool alone = !o->text && (!o->file || !strcmp(o->file, "-"));
    if (alone && isatty(STDIN_FILENO)) {
        apus_model *m;
        int rc = open_model(c, model, APUS_LOAD_INFO, &m);
        if (rc >= 0) return rc;
        apus_model_close(m);
        fputs("(type the prompt, then Ctrl-D)\n", stderr);
    }
    if (!o->text) {
        p->user = read_input(c, alone ? "-" : o->file, &p->len);
        if (!p->user) return EXIT_FAILED;
    }
    const char *text = o->text ? o->text : p->user;
    size_t len = o->text ? strlen(o->text) : p->len;
    if (o->raw ? len == 0 : is_blank(text, len))
        return usage_error(c, "the prompt is empty: give it with -p TEXT, -f FILE or on standard "
                              "input");
    size_t piped_len = 0;
    char *piped = NULL;
    if (!alone && stdin_is_piped() && !(piped = read_piped(c, &piped_len))) return EXIT_FAILED;
    if (o->text || piped) join(p, piped, piped_len, text, len);
    return -1;
}

int prompt_read(const command *c, const prompt_opts *o, const char *model, prompt *p)
{
    size_t len;
    p->mode = o->raw || o->ids ? ANSWER_RAW : ANSWER_CHAT;
    if (o->tools && !(p->tools = read_input(c, o->tools, &len))) return EXIT_FAILED;
    if (o->messages) return (p->messages = read_input(c, o->messages, &len)) ? -1 : EXIT_FAILED;
    if (!o->ids) return read_text(c, o, model, p);
    p->own_ids = true;
    p->ids = read_ints(c, o->ids, &p->n);
    return p->ids ? -1 : EXIT_FAILED;
}

/* ---------------------------------------------------------------- tokens */

/* Marks for pictures in a text become as many as they take, in p->text. Returns -1, or the exit status. */
static int expand(const command *c, const apus_model *m, prompt *p, const char *text, size_t len)
{
    apus_diag d;
    char *all;
    if (apus_media_expand(m, text, len, pictures_list(&p->pics), p->pics.n, &all, &p->text_len, &d))
        return report(c, &d);
    apus_free(p->text);
    p->text = all;
    return -1;
}

/* Conversations are JSON and so UTF-8. Returns -1, or the exit status. */
static int check_utf8(const command *c, const char *name, const char *text, size_t len)
{
    size_t good = text ? utf8_prefix(text, len) : len;
    if (good == len) return -1;
    return fail(
        c, "%s: byte %zu (%02X) is not UTF-8; 'iconv -f LATIN1 -t UTF-8', say, converts a text",
        name, good + 1, (unsigned char)text[good]);
}

/* The conversation as the template wants it. */
static char *messages_json(const char *system, const char *user, size_t len, const pictures *pics)
{
    json_out *j = json_new(false);
    json_array(j, NULL);
    if (system) {
        json_map(j, NULL);
        json_text(j, "role", "system");
        json_text(j, "content", system);
        json_end_map(j);
    }
    json_map(j, NULL);
    json_text(j, "role", "user");
    pictures_content(j, pics, user, len);
    json_end_map(j);
    json_end_array(j);
    char *copy = json_copy(j);
    json_free(j);
    return copy;
}

int prompt_tokenize(const command *c, const prompt_opts *o, const apus_model *m, prompt *p)
{
    apus_diag d;
    apus_chat_settings cs;
    int begin[PICTURES], end[PICTURES];
    int opened = p->pics.n ? -1 : pictures_open(c, m, &o->pictures, o->image_tokens, &p->pics);
    if (opened >= 0) return opened;
    if (p->ids)
        return pictures_place(m, p->ids, p->n, &p->pics, begin, end, &d) ? report(c, &d) : -1;
    if (o->raw) {
        unsigned flags = APUS_TOK_SPECIAL | APUS_TOK_BOS;
        int rc = p->pics.n ? expand(c, m, p, p->user, p->len) : -1;
        if (rc >= 0) return rc;
        apus_err err = apus_tokenize(m, p->text ? p->text : p->user, p->text ? p->text_len : p->len,
                                     flags, &p->ids, &p->n, &d);
        return err ? report(c, &d) : -1;
    }
    int rc = guarded_settings(c, &cs);
    if (rc >= 0) return rc;
    if (!p->messages) {
        const char *name = o->file && strcmp(o->file, "-") ? o->file : "the prompt";
        rc = check_utf8(c, name, p->user, p->len);
        if (rc < 0) rc = check_utf8(c, "--system", o->system, o->system ? strlen(o->system) : 0);
        if (rc >= 0) return rc;
    }
    if (!p->messages) p->messages = messages_json(o->system, p->user, p->len, &p->pics);
    if (apus_chat_render(m, p->messages, p->tools, &cs, &p->text, &p->text_len, &d))
        return report(c, &d);
    rc = p->pics.n ? expand(c, m, p, p->text, p->text_len) : -1;
    if (rc >= 0) return rc;
    if (apus_tokenize(m, p->text, p->text_len, GUARDED_TOKENS, &p->ids, &p->n, &d))
        return report(c, &d);
    if (p->n) return -1;
    return fail(
        c, "the chat template makes an empty prompt of the conversation; --raw goes without it");
}

void prompt_free(prompt *p)
{
    pictures_free(&p->pics);
    free(p->user);
    free(p->messages);
    free(p->tools);
    apus_free(p->text);
    p->own_ids ? free(p->ids) : apus_free(p->ids);
}
