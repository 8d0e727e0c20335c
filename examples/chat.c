/* chat.c - a conversation on the terminal.
 *
 *   chat MODEL < questions.txt      one question a line
 *
 * The whole conversation is rendered anew for each answer. The session keeps what it has read, so that
 * only the new end of it is computed. */
#include <apus/apus.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct chat {
    apus_model *model;
    apus_engine *engine;
    apus_session *session;
    apus_chat_parser *parser; /* of the running answer */
    char messages[1 << 20];   /* JSON array of the conversation, without its closing bracket */
    char answer[1 << 14];     /* what the user saw of the last answer */
    apus_diag why;
} chat;

/* Append {"role": ..., "content": ...}, the text quoted as JSON wants it. */
static void add_message(chat *c, const char *role, const char *text)
{
    char *to = c->messages + strlen(c->messages), *end = c->messages + sizeof c->messages - 16;
    to += snprintf(to, (size_t)(end - to), "%c{\"role\":\"%s\",\"content\":\"",
                   to == c->messages ? '[' : ',', role);
    for (; *text && to < end; text++) {
        if (*text == '"' || *text == '\\')
            *to++ = '\\', *to++ = *text;
        else if ((unsigned char)*text < 0x20)
            to += sprintf(to, "\\u%04x", *text);
        else
            *to++ = *text;
    }
    strcpy(to, "\"}");
}

/* A part of the answer: text for the user, a thought or a tool call. */
static void on_event(void *ctx, const apus_event *ev)
{
    chat *c = ctx;
    if (ev->part != APUS_PART_CONTENT) return;
    fwrite(ev->text, 1, ev->len, stdout);
    fflush(stdout);
    strncat(c->answer, ev->text, sizeof c->answer - strlen(c->answer) - 1);
}

static bool on_text(void *ctx, const char *text, size_t len)
{
    chat *c = ctx;
    return apus_chat_parser_push(c->parser, text, len) == APUS_OK;
}

/* Go back to where the rendered conversation differs from what the session holds. At least one token
 * must be left to feed. Returns how many of ids the session holds then. */
static apus_err rewind_to_shared(chat *c, const int32_t *ids, size_t n, int *shared)
{
    const int32_t *held = apus_session_tokens(c->session);
    int pos = apus_session_pos(c->session), same = 0;
    while (same < pos && (size_t)same + 1 < n && held[same] == ids[same]) same++;
    *shared = same;
    return apus_session_rewind(c->session, same, &c->why);
}

static apus_err answer(chat *c)
{
    apus_chat_settings chat_settings;
    apus_chat_settings_default(&chat_settings);
    chat_settings.think = APUS_THINK_OFF;
    static char json[sizeof c->messages + 2];
    char *prompt = NULL;
    size_t len = 0, n = 0;
    int32_t *ids = NULL;
    int shared = 0;
    snprintf(json, sizeof json, "%s]", c->messages);
    apus_err err = apus_chat_render(c->model, json, NULL, &chat_settings, &prompt, &len, &c->why);
    if (!err) err = apus_tokenize(c->model, prompt, len, APUS_TOK_SPECIAL, &ids, &n, &c->why);
    if (!err) err = rewind_to_shared(c, ids, n, &shared);
    if (!err)
        err =
            apus_chat_parser_create(c->model, prompt, len, NULL, on_event, c, &c->parser, &c->why);
    if (!err) {
        apus_generate_settings set;
        apus_generate_settings_default(&set);
        set.on_text = on_text;
        set.keep_special = true; /* the parser reads them */
        set.ctx = c;
        c->answer[0] = 0;
        err = apus_generate(c->session, ids + shared, (int)n - shared, &set, NULL, &c->why);
    }
    if (!err) err = apus_chat_parser_finish(c->parser);
    if (!err) putchar('\n');
    apus_chat_parser_free(c->parser);
    c->parser = NULL;
    apus_free(prompt);
    apus_free(ids);
    return err;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    static chat c;
    static char question[1 << 12];
    apus_err err = apus_model_open(argv[1], NULL, &c.model, &c.why);
    if (!err) err = apus_engine_create(c.model, NULL, &c.engine, &c.why);
    if (!err) err = apus_session_create(c.engine, &c.session, &c.why);
    while (!err && fgets(question, sizeof question, stdin)) {
        question[strcspn(question, "\n")] = 0;
        if (strlen(c.messages) + 6 * (sizeof question + sizeof c.answer) > sizeof c.messages) {
            fputs("the conversation is too long for this example\n", stderr);
            break;
        }
        add_message(&c, "user", question);
        err = answer(&c);
        add_message(&c, "assistant", c.answer);
    }
    if (err) fprintf(stderr, "%s: %s\n", apus_err_name(err), c.why.text);
    apus_engine_free(c.engine); /* its sessions with it */
    apus_model_close(c.model);
    return err ? 1 : 0;
}
