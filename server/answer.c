#include "answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "constrain.h"
#include "state.h"

enum { LOOK_US = 100000 }; /* between two looks whether the client is still there */

int64_t sv_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void random_bytes(void *out, size_t n)
{
    while (getrandom(out, n, 0) != (ssize_t)n) { /* up to 256 bytes come whole, but for signals */
    }
}

void sv_make_id(char *out, size_t cap, const char *prefix)
{
    static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    unsigned char r[24];
    random_bytes(r, sizeof r);
    int n = snprintf(out, cap, "%s", prefix);
    for (size_t i = 0; i < sizeof r && (size_t)n + 1 < cap; i++) out[n++] = letters[r[i] % 62];
    out[n] = 0;
}

/* ---------------------------------------------------------------- parts of the answer */

static void say(sv_choice *c, apus_part part, const char *s, size_t n)
{
    sv_answer *a = c->answer;
    if (!n) return;
    sv_buf_add(part == APUS_PART_THINK ? &c->think : &c->text, s, n);
    if (a->job.stream) a->form->piece(c, part, s, n);
}

static void end_early(sv_choice *c, sv_end end)
{
    c->cut = true;
    c->end = end;
    apus_request_cancel(c->request);
}

/* The answer ends with an error. */
static void fail(sv_answer *a, const apus_diag *d)
{
    sv_fail_diag(a->x, d);
    if (a->job.stream && !a->failed) a->form->fail(a, &a->x->error);
    a->failed = true;
}

static void say_content(sv_choice *c, const char *s, size_t n)
{
    apus_diag d;
    int hit = -1;
    if (c->stops && apus_stops_push(c->stops, s, n, &s, &n, &hit, &d)) {
        fail(c->answer, &d);
        end_early(c, SV_END_STOP);
        return;
    }
    say(c, APUS_PART_CONTENT, s, n);
    if (hit < 0) return;
    c->stop_string = hit;
    end_early(c, SV_END_STRING);
}

static void take_call(sv_choice *c, const apus_event *ev)
{
    sv_answer *a = c->answer;
    if (!a->job.tools.len) { /* nothing was offered: no client waits for a call */
        sv_buf text = {0};
        sv_put_map(&text, NULL);
        sv_put_strn(&text, "name", ev->text, ev->len);
        sv_put_raw(&text, "arguments", ev->args, ev->args_len);
        sv_put_end_map(&text);
        if (!a->job.tools_banned) say_content(c, sv_buf_text(&text), text.len);
        sv_buf_free(&text);
        return;
    }
    sv_tool_call *calls = realloc(c->calls, (size_t)(c->n_calls + 1) * sizeof *calls);
    if (!calls) return;
    c->calls = calls;
    sv_tool_call *t = &calls[c->n_calls++];
    *t = (sv_tool_call){0};
    sv_make_id(t->id, sizeof t->id, a->x->api == SV_ANTHROPIC ? "toolu_" : "call_");
    sv_buf_add(&t->name, ev->text, ev->len);
    sv_buf_add(&t->args, ev->args, ev->args_len);
    if (a->job.stream) a->form->call(c, t);
    if (a->job.single_call) end_early(c, SV_END_CALLS);
}

/* The newest tokens turned out to be of a part: they are counted there. Logprobs are kept of content; what came
 * before its first token was markup. */
static void count_tokens(sv_choice *c, apus_part part)
{
    int n = c->n_unsure;
    c->n_unsure = 0;
    if (part == APUS_PART_THINK) c->n_thought += n;
    if (!n || c->n_logprobs < c->n_logprobs_sent + n) return;
    sv_logprobs *first = &c->logprobs[c->n_logprobs - n];
    if (part != APUS_PART_CONTENT) {
        c->n_logprobs -= n;
    } else if (!c->text.len && n > 1) {
        *first = first[n - 1];
        c->n_logprobs -= n - 1;
    }
}

static void on_part(void *ctx, const apus_event *ev)
{
    sv_choice *c = ctx;
    if (c->cut) return;
    count_tokens(c, ev->part);
    switch (ev->part) {
    case APUS_PART_THINK:
        say(c, APUS_PART_THINK, ev->text, ev->len);
        break;
    case APUS_PART_CONTENT:
        say_content(c, ev->text, ev->len);
        break;
    case APUS_PART_CALL:
        take_call(c, ev);
        break;
    }
}

static void keep_logprobs(sv_choice *c, const apus_request_event *ev, int i)
{
    int width = 1 + c->answer->job.logprobs;
    if (!ev->logprob) return;
    sv_logprobs *list = realloc(c->logprobs, (size_t)(c->n_logprobs + 1) * sizeof *list);
    if (!list) return;
    c->logprobs = list;
    sv_logprobs *l = &list[c->n_logprobs++];
    memcpy(l->id, ev->logprob_id + i * width, (size_t)width * sizeof *l->id);
    memcpy(l->p, ev->logprob + i * width, (size_t)width * sizeof *l->p);
}

static void measure_tokens(sv_choice *c, int n)
{
    sv_answer *a = c->answer;
    sv_metrics *m = &a->x->server->metrics;
    int64_t now = sv_now_us();
    if (!c->last_token_us)
        sv_observe(&m->first_token, now - a->x->begin_us, 1);
    else
        sv_observe(&m->between_tokens, (now - c->last_token_us) / n, (uint64_t)n);
    c->last_token_us = now;
}

/* One token of a chat: its text goes through the parser, which tells what it is part of. */
static void parse_token(sv_choice *c, int32_t id)
{
    const char *piece;
    size_t n;
    if (!apus_detok_push(c->detok, id, &piece, &n, NULL) && n)
        apus_chat_parser_push(c->parser, piece, n);
}

static void on_tokens(sv_choice *c, const apus_request_event *ev)
{
    if (c->cut) return;
    if (ev->n_ids) measure_tokens(c, ev->n_ids);
    for (int i = 0; i < ev->n_ids && !c->cut; i++) {
        c->n_tokens++;
        keep_logprobs(c, ev, i);
        if (!c->parser) continue;
        c->n_unsure++;
        parse_token(c, ev->ids[i]);
    }
    if (!c->parser) say_content(c, ev->text, ev->len);
}

/* The answer is through: what was held back is what it looks like. */
static void finish_parts(sv_choice *c)
{
    const char *piece;
    size_t n;
    if (!c->parser) return;
    if (!apus_detok_finish(c->detok, &piece, &n) && n) apus_chat_parser_push(c->parser, piece, n);
    apus_chat_parser_finish(c->parser);
    if (!c->cut && c->stops && !apus_stops_finish(c->stops, &piece, &n))
        say(c, APUS_PART_CONTENT, piece, n);
}

/* ---------------------------------------------------------------- the end */

static sv_end end_of(const sv_choice *c, const apus_request_event *ev)
{
    if (c->cut) return c->end;
    if (ev->finish == APUS_FINISH_STRING) return SV_END_STRING;
    if (ev->finish == APUS_FINISH_LENGTH || ev->finish == APUS_FINISH_CONTEXT) return SV_END_LENGTH;
    return c->n_calls ? SV_END_CALLS : SV_END_STOP;
}

static const char *end_name(sv_end e)
{
    static const char *const names[] = {"stop", "stop_string", "length", "tool_calls"};
    return names[e];
}

static void fail_request(sv_answer *a, const apus_request_event *ev)
{
    apus_diag d = {.code = ev->err};
    snprintf(d.text, sizeof d.text, "%s", ev->message ? ev->message : apus_err_name(ev->err));
    if (ev->finish == APUS_FINISH_CANCELLED) d.code = APUS_ECANCELLED;
    fail(a, &d);
}

static void on_finished(sv_choice *c, const apus_request_event *ev)
{
    sv_answer *a = c->answer;
    sv_metrics *m = &a->x->server->metrics;
    c->done = true;
    a->n_done++;
    a->x->n_generated += c->n_tokens;
    a->x->n_cached = c->usage.n_cached;
    sv_observe(&m->queue, c->usage.queue_us, 1);
    sv_observe(&m->prefill, c->usage.prefill_us, 1);
    sv_observe(&m->whole, sv_now_us() - a->x->begin_us, 1);
    if (a->x->gone || a->failed) return;
    if (!c->cut && (ev->finish == APUS_FINISH_ERROR || ev->finish == APUS_FINISH_CANCELLED ||
                    ev->finish == APUS_FINISH_DEADLINE)) {
        fail_request(a, ev);
        return;
    }
    if (!c->cut) finish_parts(c);
    if (ev->finish == APUS_FINISH_STRING && !c->cut) c->stop_string = ev->stop_string;
    c->end = end_of(c, ev);
    a->x->finish = end_name(c->end);
    if (a->job.stream) a->form->end(c);
}

static void on_event(sv_choice *c, const apus_request_event *ev)
{
    sv_answer *a = c->answer;
    c->usage = *ev->usage;
    bool broken = ev->kind == APUS_REQUEST_FINISHED && ev->finish == APUS_FINISH_ERROR;
    if (!a->begun && a->job.stream && !broken) a->form->begin(a);
    a->begun = true;
    switch (ev->kind) {
    case APUS_REQUEST_TOKENS:
        on_tokens(c, ev);
        break;
    case APUS_REQUEST_FINISHED:
        on_finished(c, ev);
        break;
    default:
        break;
    }
}

/* ---------------------------------------------------------------- waiting */

static void wake(void *ctx, apus_request *r)
{
    sv_answer *a = ctx;
    (void)r;
    pthread_mutex_lock(&a->lock);
    a->woken = true;
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->lock);
}

/* Until an event comes, at most LOOK_US. */
static void wait_for_events(sv_answer *a)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_US * 1000l;
    if (until.tv_nsec >= 1000000000l) {
        until.tv_nsec -= 1000000000l;
        until.tv_sec++;
    }
    pthread_mutex_lock(&a->lock);
    while (!a->woken && !pthread_cond_timedwait(&a->cond, &a->lock, &until)) {}
    a->woken = false;
    pthread_mutex_unlock(&a->lock);
}

/* Take an event of each choice that has one. */
static bool take_events(sv_answer *a)
{
    bool any = false;
    for (int i = 0; i < a->n; i++) {
        sv_choice *c = &a->choices[i];
        apus_request_event ev = {.size = sizeof ev};
        if (c->done || !apus_request_take(c->request, 0, &ev)) continue;
        any = true;
        on_event(c, &ev);
    }
    return any;
}

static bool client_gone(sv_answer *a)
{
    int64_t now = sv_now_us();
    if (atomic_load(&a->x->server->stopping)) a->x->gone = true;
    if (now - a->last_look_us < LOOK_US) return a->x->gone;
    a->last_look_us = now;
    return sv_client_gone(a->x);
}

static void close_stream(sv_answer *a)
{
    a->closed = true;
    if (!a->failed) a->form->close(a);
}

bool sv_answer_pump(sv_answer *a)
{
    sv_exchange *x = a->x;
    int64_t silence = (int64_t)x->server->set->ping_s * 1000000;
    while (!x->out.len) {
        if (client_gone(a) || x->out.failed) {
            x->gone = true;
            return false;
        }
        if (take_events(a)) continue;
        if (a->n_done == a->n || a->failed) {
            if (a->closed) return false;
            close_stream(a);
            if (!x->out.len) return false;
            break;
        }
        if (sv_now_us() - a->last_write_us > silence) {
            a->form->ping(a);
            break;
        }
        wait_for_events(a);
    }
    a->last_write_us = sv_now_us();
    return true;
}

/* ---------------------------------------------------------------- beginning */

/* Ids that begin a call, where they are single tokens. */
static int call_tokens(const apus_model *m, int32_t *ids)
{
    static const char *const texts[] = {"<tool_call>", "<|tool_call>"};
    int n = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *t = NULL;
        size_t len = 0;
        if (!apus_tokenize(m, texts[i], strlen(texts[i]), APUS_TOK_SPECIAL, &t, &len, NULL) &&
            len == 1)
            ids[n++] = *t;
        apus_free(t);
    }
    return n;
}

/* A client that wants no calls gets none: what begins one cannot be chosen. */
static bool ban_calls(sv_exchange *x, sv_job *j)
{
    int32_t *ids = sv_arena_alloc(&x->mem, (size_t)(j->n_bias + 2) * sizeof *ids);
    float *bias = sv_arena_alloc(&x->mem, (size_t)(j->n_bias + 2) * sizeof *bias);
    if (!ids || !bias) return sv_fail(x, 503, NULL, NULL, "out of memory");
    if (j->n_bias) {
        memcpy(ids, j->bias_id, (size_t)j->n_bias * sizeof *ids);
        memcpy(bias, j->bias, (size_t)j->n_bias * sizeof *bias);
    }
    int n = call_tokens(x->served->model, ids + j->n_bias);
    for (int i = 0; i < n; i++) bias[j->n_bias + i] = -1.0f / 0.0f;
    j->bias_id = ids;
    j->bias = bias;
    j->n_bias += n;
    return true;
}

static void fill_settings(const sv_answer *a, apus_request_settings *s)
{
    const sv_job *j = &a->job;
    apus_request_settings_default(s);
    s->prompt = j->ids ? j->ids : a->prompt.ids;
    s->n_prompt = (int)a->prompt.n;
    if (a->prompt.branch > 0) {
        s->branch = &a->prompt.branch;
        s->n_branch = 1;
    }
    s->media = sv_job_media(j);
    s->n_media = j->n_media;
    s->max_tokens = j->max_tokens;
    s->ignore_eos = j->ignore_eos;
    s->no_text = !j->plain;
    if (j->plain) {
        s->stop_strings = j->stops;
        s->n_stop_strings = j->n_stops;
    }
    s->logprobs = j->logprobs;
    s->bias_id = j->bias_id;
    s->bias = j->bias;
    s->n_bias = j->n_bias;
    s->wake = wake;
    if (sv_steer_needed(&a->steer)) {
        s->mask = sv_steer_mask;
        s->mask_ctx = (void *)&a->steer;
    }
}

/* What the answer begins with already is read, so that what follows is taken for what it is, and not told. */
static void skip_prefill(sv_choice *c, const sv_buf *said)
{
    if (!said->len) return;
    c->cut = true;
    apus_chat_parser_push(c->parser, said->data, said->len);
    c->cut = false;
}

static bool make_parser(sv_answer *a, sv_choice *c)
{
    apus_diag d;
    if (a->job.plain) return true;
    if ((a->job.n_stops && apus_stops_create(a->job.stops, a->job.n_stops, &c->stops, &d)) ||
        apus_chat_parser_create(a->x->served->model, a->prompt.text, a->prompt.len,
                                a->job.tools.len ? a->job.tools.data : NULL, on_part, c, &c->parser,
                                &d) ||
        apus_detok_create(a->x->served->model, false, &c->detok, &d))
        return sv_fail_diag(a->x, &d);
    skip_prefill(c, &a->job.prefill);
    return true;
}

static bool submit(sv_answer *a, int i)
{
    sv_choice *c = &a->choices[i];
    apus_request_settings s;
    apus_sampling sampling = a->job.sampling;
    apus_diag d;
    *c = (sv_choice){.answer = a, .index = i, .stop_string = -1};
    a->n++;
    if (!make_parser(a, c)) return false;
    sampling.seed += (uint64_t)i;
    apus_constraint constraint;
    fill_settings(a, &s);
    if (sv_constrain_settings(&a->job, &constraint)) s.constraint = &constraint;
    s.sampling = &sampling;
    s.ctx = a;
    if (!apus_request_submit(a->x->served->scheduler, &s, &c->request, &d)) return true;
    return sv_fail_diag(a->x, &d);
}

static bool begin(sv_answer *a)
{
    sv_exchange *x = a->x;
    sv_job *j = &a->job;
    pthread_condattr_t monotonic;
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (j->messages.failed || j->hoisted.failed || j->tools.failed || j->extra.failed ||
        j->prefill.failed)
        return sv_fail(x, 503, NULL, NULL, "out of memory");
    if (!sv_constrain_check(x, j)) return false;
    if (!j->seeded) random_bytes(&j->sampling.seed, sizeof j->sampling.seed);
    if (j->tools_banned && !ban_calls(x, j)) return false;
    if (!sv_prompt_make(x, j, &a->prompt) || !sv_steer_init(&a->steer, x, j, &a->prompt))
        return false;
    a->choices = calloc((size_t)j->n, sizeof *a->choices);
    if (!a->choices) return sv_fail(x, 503, NULL, NULL, "out of memory");
    for (int i = 0; i < j->n; i++)
        if (!submit(a, i)) return false;
    return true;
}

static void run_whole(sv_answer *a)
{
    while (a->n_done < a->n && !a->failed) {
        if (client_gone(a)) return;
        if (!take_events(a)) wait_for_events(a);
    }
    if (a->failed) return;
    sv_json_answer(a->x, 200);
    a->form->whole(a);
}

void sv_answer_run(sv_exchange *x, sv_job *job, const sv_form *form, const char *id_prefix,
                   const void *own)
{
    sv_answer *a = calloc(1, sizeof *a);
    if (!a) {
        sv_job_free(job);
        sv_fail(x, 503, NULL, NULL, "out of memory");
        return;
    }
    *a = (sv_answer){.x = x, .job = *job, .form = form, .own = own, .created = time(NULL)};
    *job = (sv_job){0};
    sv_make_id(a->id, sizeof a->id, id_prefix);
    a->last_write_us = sv_now_us();
    bool ok = begin(a);
    if (ok && a->job.stream) {
        x->status = 200;
        x->type = form->type;
        x->stream = a;
        return;
    }
    if (ok) run_whole(a);
    sv_answer_free(a);
}

static void free_choice(sv_choice *c)
{
    apus_request_free(c->request);
    apus_chat_parser_free(c->parser);
    apus_detok_free(c->detok);
    apus_stops_free(c->stops);
    sv_buf_free(&c->text);
    sv_buf_free(&c->think);
    for (int i = 0; i < c->n_calls; i++) {
        sv_buf_free(&c->calls[i].name);
        sv_buf_free(&c->calls[i].args);
    }
    free(c->calls);
    free(c->logprobs);
}

void sv_answer_free(sv_answer *a)
{
    if (!a) return;
    for (int i = 0; i < a->n; i++) free_choice(&a->choices[i]);
    free(a->choices);
    sv_buf_free(&a->done);
    sv_prompt_free(&a->prompt);
    sv_steer_free(&a->steer);
    sv_job_free(&a->job);
    pthread_cond_destroy(&a->cond);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* ---------------------------------------------------------------- figures */

sv_usage sv_answer_usage(const sv_answer *a)
{
    sv_usage u = {.n_prompt = (int)a->prompt.n};
    for (int i = 0; i < a->n; i++) {
        const sv_choice *c = &a->choices[i];
        if (i == 0) u.n_cached = c->usage.n_cached;
        u.n_generated += c->n_tokens;
        u.n_thought += c->n_thought;
    }
    return u;
}

static void put_rate(sv_buf *b, const char *kind, int n, int64_t us)
{
    char key[64];
    snprintf(key, sizeof key, "%s_n", kind);
    sv_put_int(b, key, n);
    snprintf(key, sizeof key, "%s_ms", kind);
    sv_put_real(b, key, (double)us / 1e3);
    snprintf(key, sizeof key, "%s_per_token_ms", kind);
    sv_put_real(b, key, n ? (double)us / 1e3 / n : 0);
    snprintf(key, sizeof key, "%s_per_second", kind);
    sv_put_real(b, key, us ? n * 1e6 / (double)us : 0);
}

void sv_put_timings(sv_buf *b, const sv_answer *a)
{
    const apus_usage *u = &a->choices[0].usage;
    sv_put_map(b, "timings");
    sv_put_int(b, "cache_n", u->n_cached);
    sv_put_str(b, "cache_miss", apus_miss_name(u->miss));
    if (u->miss_pos >= 0) sv_put_int(b, "cache_miss_pos", u->miss_pos);
    sv_put_real(b, "queue_ms", (double)u->queue_us / 1e3);
    put_rate(b, "prompt", u->n_prompt - u->n_cached, u->prefill_us);
    put_rate(b, "predicted", a->choices[0].n_tokens, u->decode_us);
    sv_put_end_map(b);
}
