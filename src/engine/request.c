/* request.c - requests on the side of those who submit: settings checked and copied, events taken. */
#include "engine/request.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "engine/engine.h"

#define MOST_LOGPROBS 20
#define MOST_PRIORITY 100
#define MOST_STOPS    64
#define MOST_BIAS     4096

void apus_request_settings_default(apus_request_settings *s)
{
    if (s) *s = (apus_request_settings){.size = sizeof *s, .max_tokens = -1, .logprobs = -1};
}

/* ---------------------------------------------------------------- checks */

static apus_err wrong(apus_diag *diag, const char *field, const char *expected, long long found)
{
    return ap_fail(diag, APUS_EINVAL, "apus_request_settings.%s: expected %s, found %lld", field,
                   expected, found);
}

static apus_err check_numbers(const apus_request_settings *s, apus_diag *diag)
{
    if (s->max_tokens < -1) return wrong(diag, "max_tokens", "-1 or more", s->max_tokens);
    if (s->logprobs < -1 || s->logprobs > MOST_LOGPROBS)
        return wrong(diag, "logprobs", "-1 to 20", s->logprobs);
    if (s->priority < -MOST_PRIORITY || s->priority > MOST_PRIORITY)
        return wrong(diag, "priority", "-100 to 100", s->priority);
    if (s->deadline_us < 0) return wrong(diag, "deadline_us", "0 or more", s->deadline_us);
    if (s->n_stop_strings < 0 || s->n_stop_strings > MOST_STOPS ||
        (s->n_stop_strings && !s->stop_strings))
        return wrong(diag, "n_stop_strings", "0 to 64 strings", s->n_stop_strings);
    return APUS_OK;
}

static apus_err check_arrays(const apus_request_settings *s, int vocab, apus_diag *diag)
{
    if (s->n_bias < 0 || s->n_bias > MOST_BIAS || (s->n_bias && (!s->bias_id || !s->bias)))
        return wrong(diag, "n_bias", "0 to 4096 ids with their bias", s->n_bias);
    for (int i = 0; i < s->n_bias; i++) {
        if (s->bias_id[i] < 0 || s->bias_id[i] >= vocab)
            return wrong(diag, "bias_id", "ids of the vocabulary", s->bias_id[i]);
        for (int j = 0; j < i; j++)
            if (s->bias_id[j] == s->bias_id[i])
                return wrong(diag, "bias_id", "each id once", s->bias_id[i]);
        if (!(s->bias[i] < 1e30f)) return wrong(diag, "bias", "numbers below 1e30", i);
    }
    if (s->n_media < 0 || (s->n_media && !s->media))
        return wrong(diag, "n_media", "0 or more media", s->n_media);
    for (int i = 0; i < s->n_media; i++)
        if (!s->media[i]) return wrong(diag, "media", "a picture or video, not NULL", i);
    if (s->n_branch < 0 || (s->n_branch && !s->branch))
        return wrong(diag, "n_branch", "0 or more positions", s->n_branch);
    for (int i = 0; i < s->n_branch; i++)
        if (s->branch[i] < (i ? s->branch[i - 1] + 1 : 0) || s->branch[i] > s->n_prompt)
            return wrong(diag, "branch", "ascending positions in the prompt", s->branch[i]);
    return APUS_OK;
}

static apus_err check_prompt(const apus_request *r, const apus_engine *e, bool has_media,
                             apus_diag *diag)
{
    int vocab = e->size.vocab, ctx = e->size.ctx;
    if (r->n_prompt < 1) return wrong(diag, "n_prompt", "at least 1 token", r->n_prompt);
    for (int i = 0; i < r->n_prompt; i++)
        if ((r->prompt[i] < 0 || r->prompt[i] >= vocab) &&
            !(has_media && ap_media_is_place(e->model, r->prompt[i])))
            return ap_fail(diag, APUS_EINVAL,
                           "apus_request_settings.prompt[%d]: expected an id of 0 to %d, found %d",
                           i, vocab - 1, (int)r->prompt[i]);
    if (r->n_prompt > ctx)
        return ap_fail(
            diag, APUS_EFULL,
            "the prompt has %d tokens, the context of a request is %d; send less, or serve "
            "with a larger ctx",
            r->n_prompt, ctx);
    return APUS_OK;
}

/* ---------------------------------------------------------------- copies */

static void *copy_of(const void *p, size_t n, size_t size)
{
    void *c = ap_malloc(n, size);
    if (c && n) memcpy(c, p, n * size);
    return c;
}

/* Marks of media in a rendered text become as many as they take. */
static apus_err expand(const apus_model *m, const apus_request_settings *set, char **text,
                       size_t *len, apus_diag *diag)
{
    char *whole;
    if (!set->n_media) return APUS_OK;
    apus_err err = apus_media_expand(m, *text, *len, set->media, set->n_media, &whole, len, diag);
    if (err) return err;
    apus_free(*text);
    *text = whole;
    return APUS_OK;
}

/* A conversation as text and tokens, in which only the template writes markers: what people say stays text. */
static apus_err render(const apus_model *m, const apus_request_settings *set,
                       const apus_chat_settings *chat, char **text, size_t *len, int32_t **ids,
                       size_t *n, apus_diag *diag)
{
    apus_err err = apus_chat_render(m, set->messages_json, set->tools_json, chat, text, len, diag);
    if (!err) err = expand(m, set, text, len, diag);
    return err ? err
               : apus_tokenize(m, *text, *len, APUS_TOK_SPECIAL | APUS_TOK_GUARDED, ids, n, diag);
}

/* Where the generation prompt begins: the ids that the prompt without one has in common with it. */
static apus_err find_branch(apus_request *r, const apus_model *m, const apus_request_settings *set,
                            apus_chat_settings chat, apus_diag *diag)
{
    if (chat.no_generation_prompt) return APUS_OK;
    chat.no_generation_prompt = true;
    char *text = NULL;
    int32_t *ids = NULL;
    size_t len, n = 0, same = 0;
    apus_err err = render(m, set, &chat, &text, &len, &ids, &n, diag);
    while (same < n && same < (size_t)r->n_prompt && ids[same] == r->prompt[same]) same++;
    apus_free(text);
    apus_free(ids);
    if (err || !same) return err;
    int32_t at = (int32_t)same;
    r->branch = copy_of(&at, 1, sizeof at);
    r->n_branch = r->branch != NULL;
    return r->branch ? APUS_OK : ap_fail_nomem(diag, sizeof at, "a request");
}

static apus_err take_chat(apus_request *r, const apus_model *m, const apus_request_settings *set,
                          apus_diag *diag)
{
    apus_chat_settings chat;
    size_t n = 0;
    if (set->prompt || set->n_prompt || set->n_branch)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_request_settings: prompt and messages_json exclude each other");
    apus_chat_settings_default(&chat);
    apus_err err = ap_settings_take(&chat, sizeof chat, set->chat, "apus_chat_settings", diag);
    chat.guarded = true;
    if (!err) err = render(m, set, &chat, &r->prompt_text, &r->prompt_len, &r->prompt, &n, diag);
    if (err) return err;
    r->n_prompt = n < INT32_MAX ? (int)n : INT32_MAX;
    return find_branch(r, m, set, chat, diag);
}

static apus_err take_prompt(apus_request *r, const apus_model *m, const apus_request_settings *set,
                            apus_diag *diag)
{
    if (set->messages_json) return take_chat(r, m, set, diag);
    if (!set->prompt || set->n_prompt < 1)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_request_settings: expected a prompt or messages_json, found neither");
    r->n_prompt = set->n_prompt;
    r->n_branch = set->n_branch;
    r->prompt = copy_of(set->prompt, (size_t)set->n_prompt, sizeof *r->prompt);
    r->branch = copy_of(set->branch, (size_t)set->n_branch, sizeof *r->branch);
    return r->prompt && r->branch ? APUS_OK : ap_fail_nomem(diag, sizeof *r, "a request");
}

/* Another place that requests are likely to branch off at. */
static apus_err add_branch(apus_request *r, int pos, apus_diag *diag)
{
    int i = r->n_branch;
    int32_t *b = ap_realloc(r->branch, (size_t)i + 1, sizeof *b);
    if (!b) return ap_fail_nomem(diag, sizeof *b, "a request");
    r->branch = b;
    for (int k = 0; k < r->n_branch; k++)
        if (b[k] == pos) return APUS_OK;
    for (; i > 0 && b[i - 1] > pos; i--) b[i] = b[i - 1];
    b[i] = pos;
    r->n_branch++;
    return APUS_OK;
}

/* Media in their places. What is asked about the same ones next begins behind the last one. */
static apus_err take_media(apus_request *r, const apus_engine *e, const apus_request_settings *set,
                           apus_diag *diag)
{
    if (!set->n_media) return APUS_OK;
    apus_err err = ap_media_place(e, r->prompt, r->n_prompt, set->media, set->n_media,
                                  e->size.n_session - 1, &r->sight, &r->n_sight, diag);
    if (err) return err;
    const ap_span *last = &r->sight[r->n_sight - 1].span;
    return add_branch(r, last->pos + last->n, diag);
}

static apus_err take_stops(apus_request *r, const apus_request_settings *set, apus_diag *diag)
{
    r->stop = ap_calloc((size_t)set->n_stop_strings, sizeof *r->stop);
    if (!r->stop) return ap_fail_nomem(diag, sizeof *r, "a request");
    r->set.stop_strings = (const char *const *)r->stop;
    r->set.n_stop_strings = set->n_stop_strings;
    for (int i = 0; i < set->n_stop_strings; i++) {
        if (!set->stop_strings[i])
            return ap_fail(diag, APUS_EINVAL, "apus_request_settings.stop_strings[%d] is NULL", i);
        r->stop[i] = ap_strdup(set->stop_strings[i]);
        if (!r->stop[i]) return ap_fail_nomem(diag, sizeof *r, "a request");
    }
    return APUS_OK;
}

static bool tell_token(void *ctx, int32_t id);
static bool tell_text(void *ctx, const char *text, size_t len);

static apus_err take_answer(apus_request *r, const apus_model *m, const apus_request_settings *set,
                            apus_diag *diag)
{
    apus_generate_settings_default(&r->set);
    apus_sampling_from_model(m, &r->sampling);
    apus_err err =
        ap_settings_take(&r->sampling, sizeof r->sampling, set->sampling, "apus_sampling", diag);
    if (!err) err = take_stops(r, set, diag);
    r->set.sampling = &r->sampling;
    r->set.max_tokens = set->max_tokens;
    r->set.ignore_eos = set->ignore_eos;
    r->set.keep_special = set->keep_special;
    r->set.on_token = tell_token;
    r->set.on_text = set->no_text ? NULL : tell_text;
    r->set.ctx = r;
    r->bias_id = copy_of(set->bias_id, (size_t)set->n_bias, sizeof *r->bias_id);
    r->bias = copy_of(set->bias, (size_t)set->n_bias, sizeof *r->bias);
    r->n_bias = set->n_bias;
    if (!err && (!r->bias_id || !r->bias)) err = ap_fail_nomem(diag, sizeof *r, "a request");
    /* with the stop strings, text and sampling checked; the session follows when it is admitted */
    if (!err) err = ap_gen_start(&r->gen, m, NULL, &r->set, diag);
    r->gen.set.constraint = set->constraint;
    if (!err) err = ap_gen_constrain(&r->gen, m, r->prompt, r->n_prompt, diag);
    r->gen.set.constraint = NULL; /* the caller's */
    return err;
}

static apus_err take_rest(apus_request *r, int vocab, const apus_request_settings *set,
                          apus_diag *diag)
{
    size_t V = (size_t)vocab;
    r->client = set->client;
    r->priority = set->priority;
    r->no_cache = set->no_cache;
    r->logprobs = set->logprobs;
    r->mask = set->mask;
    r->mask_ctx = set->mask_ctx;
    r->submitted_us = ap_time_us();
    r->deadline_us = set->deadline_us ? r->submitted_us + set->deadline_us : -1;
    bool masked = r->mask || r->gen.constraint;
    if (masked) r->allowed = ap_malloc((V + 31) / 32, sizeof *r->allowed);
    if (r->logprobs >= 0) r->row = ap_malloc(V, sizeof *r->row);
    bool ok = (!masked || r->allowed) && (r->logprobs < 0 || r->row);
    return ok ? APUS_OK : ap_fail_nomem(diag, V * sizeof(float), "a request");
}

apus_err ap_request_make(apus_scheduler *s, const apus_engine *e,
                         const apus_request_settings *given, apus_request **out, apus_diag *diag)
{
    apus_request_settings set;
    const apus_model *m = e->model;
    int vocab = m->config.vocab;
    apus_request_settings_default(&set);
    apus_err err = ap_settings_take(&set, sizeof set, given, "apus_request_settings", diag);
    if (!err) err = check_numbers(&set, diag);
    if (!err) err = check_arrays(&set, vocab, diag);
    if (err) return err;
    apus_request *r = ap_calloc(1, sizeof *r);
    if (!r) return ap_fail_nomem(diag, sizeof *r, "a request");
    r->sched = s;
    ap_outbox_open(&r->out, r, set.logprobs + 1, set.wake, set.ctx);
    err = take_prompt(r, m, &set, diag);
    if (!err) err = check_prompt(r, e, set.n_media > 0, diag);
    if (!err) err = take_media(r, e, &set, diag);
    if (!err) err = take_answer(r, m, &set, diag);
    if (!err) err = take_rest(r, vocab, &set, diag);
    if (err) {
        ap_request_drop(r);
        return err;
    }
    r->usage = (apus_usage){
        .size = sizeof r->usage, .n_prompt = r->n_prompt, .miss = APUS_MISS_EMPTY, .miss_pos = 0};
    ap_outbox_usage(&r->out, &r->usage);
    *out = r;
    return APUS_OK;
}

void ap_request_drop(apus_request *r)
{
    if (!r) return;
    ap_gen_close(&r->gen);
    for (int i = 0; r->stop && i < r->set.n_stop_strings; i++) ap_free(r->stop[i]);
    ap_free(r->stop);
    ap_free(r->prompt);
    ap_free(r->prompt_text);
    ap_free(r->branch);
    ap_free(r->sight);
    ap_free(r->bias_id);
    ap_free(r->bias);
    ap_free(r->answer);
    ap_free(r->allowed);
    ap_free(r->row);
    ap_outbox_close(&r->out);
    ap_free(r);
}

/* ---------------------------------------------------------------- what the answer comes to */

/* The chosen token's log probability and the best ones, of the unchanged logits. */
static void find_logprobs(const apus_request *r, int vocab, int32_t id, int32_t *top_id, float *top)
{
    const float *x = r->row;
    double most = (double)x[0], sum = 0;
    for (int v = 1; v < vocab; v++) most = (double)x[v] > most ? (double)x[v] : most;
    for (int v = 0; v < vocab; v++) sum += exp((double)x[v] - most);
    double norm = most + log(sum);
    top_id[0] = id;
    top[0] = (float)((double)x[id] - norm);
    int n = 0;
    for (int v = 0; v < vocab && r->logprobs; v++) {
        if (n == r->logprobs && !(x[v] > x[top_id[n]])) continue;
        int at = n < r->logprobs ? ++n : n;
        for (; at > 1 && x[v] > x[top_id[at - 1]]; at--) top_id[at] = top_id[at - 1];
        top_id[at] = v;
    }
    for (int i = 1; i <= n; i++) top[i] = (float)((double)x[top_id[i]] - norm);
}

static bool keep_answer(apus_request *r, int32_t id)
{
    int n = r->gen.res.n_generated - 1;
    if (!r->mask) return true;
    if (n >= r->answer_cap) {
        int cap = r->answer_cap ? r->answer_cap * 2 : 64;
        int32_t *p = ap_realloc(r->answer, (size_t)cap, sizeof *p);
        if (!p) return false;
        r->answer = p;
        r->answer_cap = cap;
    }
    r->answer[n] = id;
    return true;
}

static bool tell_token(void *ctx, int32_t id)
{
    apus_request *r = ctx;
    int32_t top_id[1 + MOST_LOGPROBS];
    float top[1 + MOST_LOGPROBS];
    if (r->row) find_logprobs(r, r->gen.session->engine->size.vocab, id, top_id, top);
    return keep_answer(r, id) && !ap_outbox_token(&r->out, id, top_id, top, NULL);
}

static bool tell_text(void *ctx, const char *text, size_t len)
{
    apus_request *r = ctx;
    return !ap_outbox_text(&r->out, text, len, NULL);
}

/* ---------------------------------------------------------------- for everybody */

void apus_request_cancel(apus_request *r)
{
    if (!r) return;
    ap_mutex_lock(&r->out.lock);
    bool running = !r->out.left;
    if (running) {
        __atomic_store_n(&r->cancel, 1, __ATOMIC_RELAXED);
        ap_sched_wake(r->sched); /* it is there as long as the request has not left it */
    }
    ap_mutex_unlock(&r->out.lock);
}

void apus_request_free(apus_request *r)
{
    if (!r) return;
    apus_request_cancel(r);
    ap_outbox_wait(&r->out);
    ap_request_drop(r);
}

bool apus_request_take(apus_request *r, int64_t timeout_us, apus_request_event *ev)
{
    return r && ev && ev->size >= sizeof ev->size && ap_outbox_take(&r->out, timeout_us, ev);
}

uint64_t apus_request_id(const apus_request *r)
{
    return r ? r->id : 0;
}

const int32_t *apus_request_prompt(const apus_request *r, int *n)
{
    if (n) *n = r ? r->n_prompt : 0;
    return r ? r->prompt : NULL;
}

const char *apus_request_prompt_text(const apus_request *r, size_t *len)
{
    if (len) *len = r ? r->prompt_len : 0;
    return r ? r->prompt_text : NULL;
}

const char *apus_finish_name(apus_finish f)
{
    static const char *const name[] = {"stop", "string",    "length",   "context",
                                       "mask", "cancelled", "deadline", "error"};
    return (unsigned)f < sizeof name / sizeof *name ? name[f] : "unknown";
}

const char *apus_miss_name(apus_miss m)
{
    static const char *const name[] = {"none", "empty", "diverged", "evicted", "no_state"};
    return (unsigned)m < sizeof name / sizeof *name ? name[m] : "unknown";
}
