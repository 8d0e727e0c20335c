#include "answer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "interrupt.h"
#include "progress.h"
#include "terminal.h"

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
    case APUS_STOP_STRING:
        return "stop";
    }
    return "unknown";
}

int shared_prefix(const apus_session *s, const int32_t *ids, size_t n)
{
    const int32_t *held = apus_session_tokens(s);
    int pos = apus_session_pos(s), i = 0;
    while (i < pos && (size_t)i + 1 < n && held[i] == ids[i]) i++;
    return i;
}

bool answer_says_something(const answer *a)
{
    for (size_t i = 0; i < a->content.len; i++)
        if (!strchr(" \t\r\n", a->content.data[i])) return true;
    return a->n_calls > 0;
}

typedef struct stream {
    const question *q;
    answer *out;
    bool in_thought, stdout_tty;
    int stop;          /* the stop text that came, or -1 */
    int fed;           /* tokens of the prompt before the last chunk */
    apus_stops *stops; /* NULL: none are looked for */
    apus_detok *detok;
    apus_chat_parser *parser;
    apus_diag *diag;
    apus_err err;
} stream;

static void show(stream *s, apus_part part, const char *t, size_t n)
{
    if (s->q->quiet || n == 0) return;
    if (part == APUS_PART_THINK && !s->stdout_tty) return;
    if ((part == APUS_PART_THINK) != s->in_thought) {
        s->in_thought = part == APUS_PART_THINK;
        if (s->in_thought)
            fputs(dim(stdout), stdout);
        else
            printf("%s\n\n", plain(stdout));
    }
    put_text(stdout, t, n);
    fflush(stdout);
}

/* ---------------------------------------------------------------- stop texts */

static void say(stream *s, const char *t, size_t n)
{
    strbuf_add(&s->out->content, t, n);
    show(s, APUS_PART_CONTENT, t, n);
}

static void on_content(stream *s, const char *t, size_t n)
{
    int hit = -1;
    if (s->stop >= 0 || s->err) return;
    if (s->stops) s->err = apus_stops_push(s->stops, t, n, &t, &n, &hit, s->diag);
    if (s->err) return;
    s->stop = hit;
    say(s, t, n);
}

/* ---------------------------------------------------------------- while it streams */

static void on_call(stream *s, const apus_event *ev)
{
    answer *a = s->out;
    a->calls = must(realloc(a->calls, (a->n_calls + 1) * sizeof *a->calls));
    a->calls[a->n_calls] = (call){0};
    strbuf_add(&a->calls[a->n_calls].name, ev->text, ev->len);
    strbuf_add(&a->calls[a->n_calls].args, ev->args, ev->args_len);
    a->n_calls++;
    if (s->q->quiet) return;
    if (s->in_thought) fputs(plain(stdout), stdout);
    s->in_thought = false;
    fputs(bold(stdout), stdout);
    put_textf(stdout, "[tool call] %.*s %.*s", (int)ev->len, ev->text, (int)ev->args_len, ev->args);
    printf("%s\n", plain(stdout));
    fflush(stdout);
}

static void on_event(void *ctx, const apus_event *ev)
{
    stream *s = ctx;
    switch (ev->part) {
    case APUS_PART_CONTENT:
        on_content(s, ev->text, ev->len);
        break;
    case APUS_PART_THINK:
        strbuf_add(&s->out->thinking, ev->text, ev->len);
        show(s, APUS_PART_THINK, ev->text, ev->len);
        break;
    case APUS_PART_CALL:
        if (s->stop < 0) on_call(s, ev);
        break;
    }
}

/* What ended in taking text apart, which gives no sentence of its own. What failed first counts. */
static void take_error(stream *s, apus_err err)
{
    if (!err || s->err) return;
    s->err = err;
    snprintf(s->diag->text, sizeof s->diag->text, "taking the answer apart failed: %s",
             apus_err_name(err));
}

static void on_text(stream *s, const char *piece, size_t n)
{
    if (s->q->mode == ANSWER_CHAT)
        take_error(s, apus_chat_parser_push(s->parser, piece, n));
    else
        on_content(s, piece, n);
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
    if (s->q->mode == ANSWER_IDS) return true;
    const char *piece;
    size_t n;
    s->err = apus_detok_push(s->detok, id, &piece, &n, s->diag);
    if (!s->err) on_text(s, piece, n);
    return !s->err && s->stop < 0 && !interrupt_came();
}

/* What is held back at the end. */
static void finish_text(stream *s)
{
    const char *piece;
    size_t len;
    if (s->q->mode == ANSWER_IDS) return;
    take_error(s, apus_detok_finish(s->detok, &piece, &len));
    if (!s->err) on_text(s, piece, len);
    if (!s->err && s->parser) take_error(s, apus_chat_parser_finish(s->parser));
    if (s->err || !s->stops || s->stop >= 0) return;
    take_error(s, apus_stops_finish(s->stops, &piece, &len));
    if (!s->err) say(s, piece, len);
}

/* Progress of one chunk is that of the whole prompt. */
static bool on_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    const stream *s = ctx;
    (void)total;
    progress_bar(NULL, stage, (uint64_t)s->fed + done, (uint64_t)s->q->n);
    return !interrupt_came();
}

/* Feed the prompt but for its last chunk; what is read stays when the rest is stopped. */
static apus_err feed_chunks(stream *s, bool *stopped, apus_diag *d)
{
    const question *q = s->q;
    enum { PAGE = 64 }; /* where states can be kept: chunks end there */
    for (;;) {
        int n = q->chunk - (apus_session_pos(q->session) + q->chunk) % PAGE;
        if (n <= 0) n = q->chunk;
        if (n < 1 || q->n - s->fed <= n) return APUS_OK;
        apus_feed f = {.size = sizeof f, .session = q->session, .tok = q->ids + s->fed, .n = n};
        apus_err err = apus_feed_batch(q->engine, &f, 1, on_progress, s, d);
        *stopped = err == APUS_ECANCELLED;
        if (*stopped) return APUS_OK;
        if (err) return err;
        s->fed += n;
    }
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Read the prompt and answer; Ctrl-C stops either. */
static apus_err read_and_answer(stream *s, apus_generate_result *r, apus_diag *d)
{
    const question *q = s->q;
    apus_generate_settings g = *q->set;
    int64_t begin = now_us();
    bool stopped = false;
    g.on_token = on_token;
    g.progress = on_progress;
    g.ctx = s;
    if (q->mode == ANSWER_IDS && q->stop) {
        g.stop_strings = q->stop->item;
        g.n_stop_strings = q->stop->n;
    }
    interrupt_target(q->engine);
    apus_err err = feed_chunks(s, &stopped, d);
    int64_t before = now_us() - begin;
    r->stop = APUS_STOP_CALLER;
    if (!err && !stopped) err = apus_generate(q->session, q->ids + s->fed, q->n - s->fed, &g, r, d);
    interrupt_target(NULL);
    progress_clear();
    r->n_prompt += s->fed;
    r->prefill_us += before;
    return err ? err : s->err;
}

apus_err answer_generate(const question *q, answer *out, apus_diag *d)
{
    stream s = {.q = q, .out = out, .diag = d, .stop = -1, .stdout_tty = isatty(STDOUT_FILENO)};
    apus_err err = APUS_OK;
    memset(out, 0, sizeof *out);
    strbuf_add(&out->content, "", 0);
    strbuf_add(&out->thinking, "", 0);
    out->result.size = sizeof out->result;
    if (q->mode != ANSWER_IDS)
        err = apus_detok_create(q->model, q->mode == ANSWER_RAW, &s.detok, d);
    if (!err && q->mode == ANSWER_CHAT)
        err = apus_chat_parser_create(q->model, q->prompt, q->prompt_len, q->tools, on_event, &s,
                                      &s.parser, d);
    if (!err && q->mode != ANSWER_IDS && q->stop && q->stop->n)
        err = apus_stops_create(q->stop->item, q->stop->n, &s.stops, d);
    if (!err) err = read_and_answer(&s, &out->result, d);
    if (!err) {
        finish_text(&s);
        err = s.err;
    }
    if (s.stop >= 0) out->result.stop = APUS_STOP_STRING;
    if (s.in_thought) fputs(plain(stdout), stdout);
    fflush(stdout);
    apus_stops_free(s.stops);
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
