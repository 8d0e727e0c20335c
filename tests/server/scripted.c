/* scripted.c - stands in for the scheduler in tests of protocols: no model computes, the prompt says what the
 * answer is. From the last "say:" of the prompt to the end of its turn is what comes, markers included.
 *
 *   say:TEXT        as it is
 *   say(MS):TEXT    with so many milliseconds before each token
 *   hold(MS):TEXT   and before the first one
 *   fail:TEXT       an error after the text */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apus/apus.h"

struct apus_scheduler {
    const apus_model *model;
    int ctx, max_queue;
    pthread_mutex_t lock;
    bool draining;
    int running;
    uint64_t n;
    apus_scheduler_stats stats;
};

struct apus_request {
    apus_scheduler *s;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint64_t id;
    int32_t *prompt, *answer;
    int n_prompt, n_answer, max_tokens, logprobs;
    int hold_ms, token_ms;
    bool fails, keep_special;
    char **stops;
    int n_stops;
    void (*wake)(void *, apus_request *);
    void *ctx;

    bool cancelled, started, finished, finish_taken; /* what there is to be taken */
    int made, taken;
    apus_finish finish;
    int stop_string;
    char *text; /* of what was taken last */
    int32_t *ids, *lp_ids;
    float *lp;
    apus_usage usage;
};

void apus_scheduler_settings_default(apus_scheduler_settings *s)
{
    *s = (apus_scheduler_settings){.size = sizeof *s, .max_queue = 512, .step_us = 100000};
}

apus_err apus_scheduler_create(const apus_model *m, const apus_scheduler_settings *set,
                               apus_scheduler **out, apus_diag *diag)
{
    apus_plan plan = {.size = sizeof plan};
    apus_err err = apus_engine_plan(m, set->engine, &plan, diag);
    if (err) return err;
    apus_scheduler *s = calloc(1, sizeof *s);
    s->model = m;
    s->ctx = plan.ctx;
    s->max_queue = set->max_queue;
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return APUS_OK;
}

void apus_scheduler_drain(apus_scheduler *s)
{
    s->draining = true;
}

void apus_scheduler_free(apus_scheduler *s)
{
    free(s);
}

void apus_scheduler_stats_get(const apus_scheduler *s, apus_scheduler_stats *out)
{
    size_t size = out->size;
    *out = s->stats;
    out->size = size;
    out->running = s->running;
}

void apus_request_settings_default(apus_request_settings *s)
{
    *s = (apus_request_settings){.size = sizeof *s, .max_tokens = -1, .logprobs = -1};
}

/* ---------------------------------------------------------------- the script */

static int number(const char *s, const char *word)
{
    size_t n = strlen(word);
    return !strncmp(s, word, n) && s[n] == '(' ? atoi(s + n + 1) : 0;
}

static void read_script(apus_request *r, const apus_model *m)
{
    char *text = NULL, *at = NULL;
    size_t n = 0;
    static const char *const words[] = {"say:", "say(", "hold(", "fail:"}, *const ends[] = {
                                                                               "<|im_end|>",
                                                                               "<turn|>"};
    apus_detokenize(m, r->prompt, (size_t)r->n_prompt, false, &text, &n, NULL);
    for (char *p = text; p && *p; p++)
        for (int i = 0; i < 4; i++)
            if (!strncmp(p, words[i], strlen(words[i]))) at = p;
    const char *script = at ? strchr(at, ':') + 1 : "<think>\n\n</think>\n\nok";
    char *end = at ? strstr(at, "<|im_end|>\n<|im_start|>") : NULL;
    if (!end && at) end = strstr(at, "<turn|>\n<|turn>");
    for (int i = 0; i < 2 && at && !end; i++) end = strstr(at, ends[i]);
    if (end) *end = 0;
    if (at) {
        r->hold_ms = number(at, "hold");
        r->token_ms = number(at, "say");
        r->fails = !strncmp(at, "fail", 4);
    }
    int32_t *ids = NULL;
    apus_tokenize(m, script, strlen(script), APUS_TOK_SPECIAL, &ids, &n, NULL);
    r->answer = malloc((n + 1) * sizeof *ids);
    memcpy(r->answer, ids, n * sizeof *ids);
    r->n_answer = (int)n;
    apus_free(ids);
    apus_free(text);
}

/* ---------------------------------------------------------------- making it come */

static void tell(apus_request *r, bool was_empty)
{
    pthread_cond_signal(&r->cond);
    pthread_mutex_unlock(&r->lock);
    if (was_empty && r->wake) r->wake(r->ctx, r);
}

static bool nothing_there(const apus_request *r)
{
    return !r->started && r->made == r->taken && !r->finished;
}

/* Sleep, unless it is cancelled. */
static bool nap(apus_request *r, int ms)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000l;
    if (t.tv_nsec >= 1000000000l) t.tv_nsec -= 1000000000l, t.tv_sec++;
    pthread_mutex_lock(&r->lock);
    while (ms && !r->cancelled && !pthread_cond_timedwait(&r->cond, &r->lock, &t)) {}
    bool go = !r->cancelled;
    pthread_mutex_unlock(&r->lock);
    return go;
}

static void *work(void *ctx)
{
    apus_request *r = ctx;
    bool go = nap(r, r->hold_ms), empty;
    int most = r->max_tokens < 0 || r->max_tokens > r->n_answer ? r->n_answer : r->max_tokens;
    pthread_mutex_lock(&r->lock);
    empty = nothing_there(r);
    r->started = true;
    tell(r, empty);
    for (int i = 0; i < most && go; i++) {
        go = nap(r, r->token_ms);
        if (!go) break;
        pthread_mutex_lock(&r->lock);
        empty = nothing_there(r);
        r->made++;
        tell(r, empty);
    }
    pthread_mutex_lock(&r->s->lock);
    r->s->running--;
    r->s->stats.generated_tokens += (uint64_t)r->made;
    pthread_mutex_unlock(&r->s->lock);
    pthread_mutex_lock(&r->lock);
    empty = nothing_there(r);
    r->finished = true;
    r->finish = !go                  ? APUS_FINISH_CANCELLED
                : r->fails           ? APUS_FINISH_ERROR
                : most < r->n_answer ? APUS_FINISH_LENGTH
                                     : APUS_FINISH_STOP;
    __atomic_add_fetch(&r->s->stats.finished[r->finish], 1, __ATOMIC_RELAXED);
    tell(r, empty);
    return NULL;
}

/* What a bias forbids does not come. */
static void drop_banned(apus_request *r, const apus_request_settings *set)
{
    int n = 0;
    for (int i = 0; i < r->n_answer; i++) {
        bool banned = false;
        for (int k = 0; k < set->n_bias; k++)
            banned |= set->bias_id[k] == r->answer[i] && isinf(set->bias[k]);
        if (!banned) r->answer[n++] = r->answer[i];
    }
    r->n_answer = n;
}

/* Where the mask does not let the script through, the first token that may come does. */
static void obey_mask(apus_request *r, const apus_request_settings *set)
{
    apus_info info = {.size = sizeof info};
    if (!set->mask || apus_model_info(r->s->model, &info, NULL)) return;
    size_t words = ((size_t)info.vocab + 31) / 32;
    uint32_t *allowed = malloc(words * sizeof *allowed);
    for (int i = 0; i < r->n_answer; i++) {
        memset(allowed, 0xFF, words * sizeof *allowed);
        int32_t id = 0;
        if (!set->mask(set->mask_ctx, r->answer, i, allowed) ||
            allowed[r->answer[i] / 32] >> r->answer[i] % 32 & 1)
            continue;
        while (id < info.vocab - 1 && !(allowed[id / 32] >> id % 32 & 1)) id++;
        r->answer = realloc(r->answer, (size_t)(r->n_answer + 2) * sizeof *r->answer);
        memmove(r->answer + i + 1, r->answer + i, (size_t)(r->n_answer - i) * sizeof *r->answer);
        r->answer[i] = id;
        r->n_answer++;
    }
    free(allowed);
}

apus_err apus_request_submit(apus_scheduler *s, const apus_request_settings *set,
                             apus_request **out, apus_diag *diag)
{
    apus_diag none;
    if (!diag) diag = &none;
    pthread_mutex_lock(&s->lock);
    diag->code = s->draining ? APUS_ECANCELLED : s->running > s->max_queue ? APUS_EBUSY : APUS_OK;
    snprintf(diag->text, sizeof diag->text, "the queue is full");
    if (!diag->code) s->running++;
    s->stats.submitted++;
    uint64_t id = ++s->n;
    pthread_mutex_unlock(&s->lock);
    if (diag->code) return diag->code;
    apus_request *r = calloc(1, sizeof *r);
    r->s = s;
    r->id = id;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->cond, NULL);
    r->n_prompt = set->n_prompt;
    r->prompt = malloc((size_t)set->n_prompt * sizeof *r->prompt);
    memcpy(r->prompt, set->prompt, (size_t)set->n_prompt * sizeof *r->prompt);
    r->max_tokens = set->max_tokens;
    r->logprobs = set->logprobs;
    r->keep_special = set->keep_special;
    r->wake = set->wake;
    r->ctx = set->ctx;
    r->stop_string = -1;
    read_script(r, s->model);
    drop_banned(r, set);
    obey_mask(r, set);
    r->usage = (apus_usage){.size = sizeof r->usage, .n_prompt = set->n_prompt, .miss_pos = -1};
    *out = r;
    pthread_create(&r->thread, NULL, work, r);
    return APUS_OK;
}

/* ---------------------------------------------------------------- taking */

static void take_tokens(apus_request *r, apus_request_event *ev)
{
    int n = r->made - r->taken, width = 1 + (r->logprobs > 0 ? r->logprobs : 0);
    size_t len = 0;
    apus_free(r->text);
    r->text = NULL;
    r->ids = r->answer + r->taken;
    apus_detokenize(r->s->model, r->ids, (size_t)n, !r->keep_special, &r->text, &len, NULL);
    free(r->lp_ids);
    free(r->lp);
    r->lp_ids = calloc((size_t)(n * width), sizeof *r->lp_ids);
    r->lp = calloc((size_t)(n * width), sizeof *r->lp);
    for (int i = 0; i < n * width; i++) {
        r->lp_ids[i] = r->ids[i / width] + (i % width ? i % width - 1 : 0);
        r->lp[i] = -0.25f * (float)(i % width ? i % width : 1);
    }
    r->taken += n;
    r->usage.n_generated += n;
    ev->kind = APUS_REQUEST_TOKENS;
    ev->ids = r->ids;
    ev->n_ids = n;
    ev->text = r->text;
    ev->len = len;
    if (r->logprobs >= 0) ev->logprob_id = r->lp_ids, ev->logprob = r->lp;
}

bool apus_request_take(apus_request *r, int64_t timeout_us, apus_request_event *ev)
{
    bool any = true;
    *ev = (apus_request_event){.size = sizeof *ev, .stop_id = -1, .stop_string = -1};
    ev->usage = &r->usage;
    pthread_mutex_lock(&r->lock);
    while (timeout_us && nothing_there(r)) pthread_cond_wait(&r->cond, &r->lock);
    if (r->started) {
        r->started = false;
        ev->kind = APUS_REQUEST_STARTED;
    } else if (r->made > r->taken) {
        take_tokens(r, ev);
    } else if (r->finished && !r->finish_taken) {
        r->finish_taken = true;
        ev->kind = APUS_REQUEST_FINISHED;
        ev->finish = r->finish;
        ev->err = r->finish == APUS_FINISH_ERROR ? APUS_EDEVICE : APUS_OK;
        ev->message = "the script says so";
    } else {
        any = false;
    }
    pthread_mutex_unlock(&r->lock);
    return any;
}

void apus_request_cancel(apus_request *r)
{
    pthread_mutex_lock(&r->lock);
    r->cancelled = true;
    pthread_cond_broadcast(&r->cond);
    pthread_mutex_unlock(&r->lock);
}

void apus_request_free(apus_request *r)
{
    if (!r) return;
    apus_request_cancel(r);
    pthread_join(r->thread, NULL);
    free(r->prompt);
    free(r->answer);
    apus_free(r->text);
    free(r->lp_ids);
    free(r->lp);
    free(r);
}

uint64_t apus_request_id(const apus_request *r)
{
    return r->id;
}

const char *apus_finish_name(apus_finish f)
{
    static const char *const names[] = {"stop", "stop_string", "length",   "context",
                                        "mask", "cancelled",   "deadline", "error"};
    return names[f];
}

const char *apus_miss_name(apus_miss m)
{
    static const char *const names[] = {"none", "empty", "diverged", "evicted", "no_state"};
    return names[m];
}
