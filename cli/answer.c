#include "answer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *must(void *p)
{
    if (!p) {
        fputs("apus: out of memory\n", stderr);
        exit(EXIT_FAILED);
    }
    return p;
}

void strbuf_add(strbuf *t, const char *s, size_t n)
{
    if (t->len + n + 1 > t->cap) {
        t->cap = (t->len + n + 1) * 2;
        t->data = must(realloc(t->data, t->cap));
    }
    memcpy(t->data + t->len, s, n);
    t->len += n;
    t->data[t->len] = 0;
}

void strbuf_free(strbuf *t)
{
    free(t->data);
}

const char *stop_name(apus_stop s)
{
    switch (s) {
    case APUS_STOP_TOKEN:
        return "stop";
    case APUS_STOP_LENGTH:
        return "length";
    case APUS_STOP_CONTEXT:
        return "context";
    case APUS_STOP_CALLER:
        return "cancelled";
    }
    return "unknown";
}

typedef struct stream {
    answer *out;
    answer_mode mode;
    bool quiet, in_thought, stdout_tty;
    apus_detok *detok;
    apus_chat_parser *parser;
    apus_diag *diag;
    apus_err err;
} stream;

static void show(stream *s, apus_part part, const char *t, size_t n)
{
    if (s->quiet || n == 0) return;
    if (part == APUS_PART_THINK && !s->stdout_tty) return;
    if ((part == APUS_PART_THINK) != s->in_thought) {
        s->in_thought = part == APUS_PART_THINK;
        if (s->in_thought)
            fputs(dim(stdout), stdout);
        else
            printf("%s\n\n", plain(stdout));
    }
    fwrite(t, 1, n, stdout);
    fflush(stdout);
}

static void on_event(void *ctx, const apus_event *ev)
{
    stream *s = ctx;
    answer *a = s->out;
    switch (ev->part) {
    case APUS_PART_CONTENT:
        strbuf_add(&a->content, ev->text, ev->len);
        break;
    case APUS_PART_THINK:
        strbuf_add(&a->thinking, ev->text, ev->len);
        break;
    case APUS_PART_CALL:
        a->calls = must(realloc(a->calls, (a->n_calls + 1) * sizeof *a->calls));
        a->calls[a->n_calls] = (call){0};
        strbuf_add(&a->calls[a->n_calls].name, ev->text, ev->len);
        strbuf_add(&a->calls[a->n_calls].args, ev->args, ev->args_len);
        a->n_calls++;
        if (!s->quiet) {
            if (s->in_thought) fputs(plain(stdout), stdout);
            s->in_thought = false;
            printf("%s[tool call] %.*s %.*s%s\n", bold(stdout), (int)ev->len, ev->text,
                   (int)ev->args_len, ev->args, plain(stdout));
            fflush(stdout);
        }
        return;
    }
    show(s, ev->part, ev->text, ev->len);
}

/* The parser gives no sentence of its own. */
static void explain(stream *s)
{
    if (s->err)
        snprintf(s->diag->text, sizeof s->diag->text, "taking the answer apart failed: %s",
                 apus_err_name(s->err));
}

static void on_text(stream *s, const char *piece, size_t n)
{
    if (s->mode == ANSWER_CHAT) {
        s->err = apus_chat_parser_push(s->parser, piece, n);
        explain(s);
        return;
    }
    strbuf_add(&s->out->content, piece, n);
    show(s, APUS_PART_CONTENT, piece, n);
}

static bool on_token(void *ctx, int32_t id)
{
    stream *s = ctx;
    answer *a = s->out;
    progress_clear();
    if (a->n_ids == a->cap_ids) {
        a->cap_ids = a->cap_ids ? a->cap_ids * 2 : 256;
        a->ids = must(realloc(a->ids, a->cap_ids * sizeof *a->ids));
    }
    a->ids[a->n_ids++] = id;
    if (s->mode == ANSWER_IDS) return true;
    const char *piece;
    size_t n;
    s->err = apus_detok_push(s->detok, id, &piece, &n, s->diag);
    if (!s->err) on_text(s, piece, n);
    return !s->err;
}

apus_err answer_generate(const apus_model *m, apus_engine *e, apus_session *session,
                         const int32_t *ids, int n, answer_mode mode, const char *prompt,
                         size_t prompt_len, bool quiet, const apus_generate_settings *set,
                         answer *out, apus_diag *d)
{
    stream s = {.out = out, .mode = mode, .quiet = quiet, .diag = d};
    s.stdout_tty = isatty(STDOUT_FILENO);
    apus_err err = APUS_OK;
    memset(out, 0, sizeof *out);
    strbuf_add(&out->content, "", 0);
    strbuf_add(&out->thinking, "", 0);
    out->result.size = sizeof out->result;
    if (mode != ANSWER_IDS) err = apus_detok_create(m, mode == ANSWER_RAW, &s.detok, d);
    if (!err && mode == ANSWER_CHAT)
        err = apus_chat_parser_create(m, prompt, prompt_len, NULL, on_event, &s, &s.parser, d);
    if (!err) {
        apus_generate_settings g = *set;
        g.on_token = on_token;
        g.progress = progress_bar;
        g.ctx = &s;
        interrupt_target(e);
        err = apus_generate(session, ids, n, &g, &out->result, d);
        interrupt_target(NULL);
        progress_clear();
        if (!err) err = s.err;
    }
    if (!err && mode != ANSWER_IDS) {
        const char *piece;
        size_t len;
        s.err = apus_detok_finish(s.detok, &piece, &len);
        explain(&s);
        if (!s.err) on_text(&s, piece, len);
        if (!s.err && s.parser) {
            s.err = apus_chat_parser_finish(s.parser);
            explain(&s);
        }
        err = s.err;
    }
    if (s.in_thought) fputs(plain(stdout), stdout);
    apus_chat_parser_free(s.parser);
    apus_detok_free(s.detok);
    return err;
}

void answer_free(answer *a)
{
    strbuf_free(&a->content);
    strbuf_free(&a->thinking);
    for (size_t i = 0; i < a->n_calls; i++) {
        strbuf_free(&a->calls[i].name);
        strbuf_free(&a->calls[i].args);
    }
    free(a->calls);
    free(a->ids);
    memset(a, 0, sizeof *a);
}

void answer_message(const answer *a, json_out *j)
{
    json_text(j, "role", "assistant");
    json_string(j, "content", a->content.data, a->content.len);
    if (a->thinking.len) json_string(j, "reasoning_content", a->thinking.data, a->thinking.len);
    if (!a->n_calls) return;
    json_array(j, "tool_calls");
    for (size_t i = 0; i < a->n_calls; i++) {
        json_map(j, NULL);
        json_text(j, "type", "function");
        json_map(j, "function");
        json_string(j, "name", a->calls[i].name.data, a->calls[i].name.len);
        json_string(j, "arguments", a->calls[i].args.data, a->calls[i].args.len);
        json_end_map(j);
        json_end_map(j);
    }
    json_end_array(j);
}
