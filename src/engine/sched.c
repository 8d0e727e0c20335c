/* sched.c - the scheduler: one thread that owns an engine. Between two steps it looks at its mailbox, ends what
 * was cancelled or is late, admits who is next as far as memory goes, and runs a step over all that are admitted:
 * a token for each that decodes, and with the time that is left the prompts of the others.
 *
 * Memory: what a request can need at most, prompt and answer, is set aside when it is admitted, so that no step
 * ever finds none. Nobody overtakes the one who is next: large requests do not starve. */
#include "engine/sched.h"

#include <string.h>

#include "base/file.h"
#include "base/num.h"
#include "engine/sched_store.h"

#define FULL_US     50000 /* between two looks at the store, which takes or brings */
#define GAUGE_STEPS 64    /* between two walks through the prefix cache for its bytes */
#define OLDEST_TURN                                                                                \
    4 /* of so many steps, in one the prompt that waits longest is first, in the others the shortest */

/* ---------------------------------------------------------------- memory */

ap_need ap_need_of(const ap_sizes *z, int n_prompt, int max_tokens)
{
    int room = z->ctx - n_prompt, most = max_tokens < 0 || max_tokens > room ? room : max_tokens;
    ap_need need = {.state = z->recur_block_bytes != 0};
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        int all = ap_kv_entries(n_prompt + most);
        if (z->shape.page_bytes[g]) need.page[g] = all < z->kv_cap[g] ? all : z->kv_cap[g];
    }
    return need;
}

static bool has_room(const apus_scheduler *s, const ap_need *need)
{
    const ap_sizes *z = &s->engine->size;
    bool ok = s->reserved.state + need->state <= z->n_state || !need->state;
    for (int g = 0; g < AP_KV_GROUPS; g++)
        ok = ok && s->reserved.page[g] + need->page[g] <= z->n_page[g];
    return ok && s->n_run < z->n_session;
}

static void reserve(apus_scheduler *s, const ap_need *need, int sign)
{
    s->reserved.state += sign * need->state;
    for (int g = 0; g < AP_KV_GROUPS; g++) s->reserved.page[g] += sign * need->page[g];
}

static bool is_prefilling(const apus_request *r)
{
    return r->gen.res.n_generated == 0 && ap_lane_left(&r->lane) > 0;
}

/* ---------------------------------------------------------------- the end of a request */

static void count_end(apus_scheduler *s, const apus_request *r, apus_finish why, bool was_running)
{
    apus_scheduler_stats *t = &s->stats;
    ap_mutex_lock(&s->lock);
    t->finished[why]++;
    t->running = s->n_run; /* before it is told: whoever asks then must not find it running */
    if (!s->n_run) t->prefilling = 0;
    t->generated_tokens += (uint64_t)r->usage.n_generated;
    t->prefill_us += (uint64_t)r->usage.prefill_us;
    t->decode_us += (uint64_t)r->usage.decode_us;
    ap_round_counts n = ap_round_count(&r->gen);
    t->draft_rounds += (uint64_t)n.rounds;
    t->drafted_tokens += (uint64_t)n.drafted;
    t->accepted_tokens += (uint64_t)n.accepted;
    if (why == APUS_FINISH_CANCELLED && !was_running) t->cancelled_in_queue++;
    if (why == APUS_FINISH_CANCELLED && was_running && !r->first_us) t->cancelled_in_prefill++;
    ap_mutex_unlock(&s->lock);
}

static void update_usage(apus_request *r)
{
    int64_t now = ap_time_us();
    apus_usage *u = &r->usage;
    u->n_generated = r->gen.res.n_generated;
    u->queue_us = (r->admitted_us ? r->admitted_us : now) - r->submitted_us;
    if (r->admitted_us) u->prefill_us = (r->first_us ? r->first_us : now) - r->admitted_us;
    if (r->first_us) u->decode_us = now - r->first_us;
    ap_outbox_usage(&r->out, u);
}

/* Tell the end of one that does not run (any more), and leave it. */
static void part(apus_scheduler *s, apus_request *r, apus_finish why, const apus_diag *diag,
                 bool was_running)
{
    ap_sched_store_leave(s, r);
    update_usage(r);
    count_end(s, r, why, was_running);
    ap_outbox_finish(&r->out, why, r->gen.res.stop_id, r->gen.res.stop_string, diag);
    ap_outbox_tell(&r->out);
    ap_outbox_leave(&r->out);
}

static void give_back(apus_scheduler *s, apus_request *r)
{
    ap_device *dev = s->engine->exec.dev;
    size_t words = ((size_t)s->engine->size.vocab + 31) / 32;
    if (!dev->is_host) {
        if (r->allowed_dev) dev->op->free(dev, r->allowed_dev, words * sizeof(uint32_t));
        if (r->bias_dev) dev->op->free(dev, r->bias_dev, (size_t)r->n_bias * 8);
    }
    r->allowed_dev = r->bias_dev = NULL;
    apus_session_free(r->gen.session);
    reserve(s, &r->need, -1);
}

static void learn(apus_request *r)
{
    ap_round_learn(&r->gen);
    ap_round_counts n = ap_round_count(&r->gen);
    r->usage.n_drafted = n.drafted;
    r->usage.n_accepted = n.accepted;
}

/* What was guessed right is the session's now; nothing else of it is. */
static void settle(apus_scheduler *s, apus_request *r)
{
    if (!r->gen.session || ap_session_settled(r->gen.session)) return;
    learn(r);
    ap_sessions_settle(s->engine, &r->gen.session, 1);
}

static void end_running(apus_scheduler *s, apus_request *r, apus_finish why, const apus_diag *diag)
{
    int i = 0;
    while (s->run[i] != r) i++;
    s->n_run--;
    memmove(&s->run[i], &s->run[i + 1], (size_t)(s->n_run - i) * sizeof *s->run);
    settle(s, r);
    if (why != APUS_FINISH_ERROR) ap_reuse_leave(&s->prefix, r, true);
    s->unsaved = s->prefix.disk != NULL;
    s->ungiven = s->has_store;
    ap_sched_unshow(s, r);
    give_back(s, r);
    part(s, r, why, diag, true);
}

/* ---------------------------------------------------------------- admission */

/* Bias and mask where the device sees them. */
static apus_err take_device_memory(apus_scheduler *s, apus_request *r, apus_diag *diag)
{
    ap_device *dev = s->engine->exec.dev;
    size_t words = ((size_t)s->engine->size.vocab + 31) / 32, n = (size_t)r->n_bias;
    if (dev->is_host) {
        r->allowed_dev = r->allowed;
        return APUS_OK;
    }
    if (r->allowed) r->allowed_dev = dev->op->alloc(dev, words * sizeof(uint32_t));
    if (n) r->bias_dev = dev->op->alloc(dev, n * 8);
    if ((r->allowed && !r->allowed_dev) || (n && !r->bias_dev))
        return ap_fail_nomem(diag, words * sizeof(uint32_t), "a request's mask");
    if (!n) return APUS_OK;
    dev->op->put(dev, r->bias_dev, r->bias_id, n * sizeof *r->bias_id);
    dev->op->put(dev, (int32_t *)r->bias_dev + n, r->bias, n * sizeof *r->bias);
    return APUS_OK;
}

static void count_begin(apus_scheduler *s, const apus_request *r)
{
    ap_mutex_lock(&s->lock);
    s->stats.miss[r->usage.miss]++;
    s->stats.cached_tokens += (uint64_t)r->usage.n_cached;
    s->stats.disk_tokens += (uint64_t)r->usage.n_disk;
    ap_mutex_unlock(&s->lock);
}

static void begin(apus_scheduler *s, apus_request *r)
{
    apus_diag diag;
    apus_session *session = NULL;
    r->admitted_us = ap_time_us();
    reserve(s, &r->need, 1);
    s->run[s->n_run++] = r;
    apus_err err = ap_session_take(s->engine, &session, &diag);
    r->gen.session = session;
    if (!err) err = take_device_memory(s, r, &diag);
    if (err) {
        end_running(s, r, APUS_FINISH_ERROR, &diag);
        return;
    }
    session->keeps_nothing = r->no_cache;
    memcpy(session->tok, r->prompt, (size_t)r->n_prompt * sizeof *r->prompt);
    err = ap_sched_show(r, &diag);
    if (err) {
        end_running(s, r, APUS_FINISH_ERROR, &diag);
        return;
    }
    ap_sched_store_take(s, r);
    ap_reuse_take(&s->prefix, r);
    r->lane = (ap_lane){.session = session,
                        .tok = session->tok + session->pos,
                        .n = r->n_prompt - session->pos,
                        .wants_rows = true};
    count_begin(s, r);
    update_usage(r);
    ap_outbox_started(&r->out);
    ap_outbox_tell(&r->out);
}

/* Why a request is to end without its doing; false: it is not. */
static bool is_over(const apus_scheduler *s, const apus_request *r, int64_t now, apus_finish *why)
{
    *why = APUS_FINISH_CANCELLED;
    if (ap_request_cancelled(r) || s->stop) return true;
    *why = APUS_FINISH_DEADLINE;
    return r->deadline_us >= 0 && now >= r->deadline_us;
}

/* Take one out of the queue that is over, or NULL. The lock is held. */
static apus_request *take_over(apus_scheduler *s, apus_finish *why)
{
    int64_t now = ap_time_us();
    for (apus_request *r = s->queue.first; r; r = r->next) {
        if (!is_over(s, r, now, why)) continue;
        ap_queue_remove(&s->queue, r);
        return r;
    }
    return NULL;
}

/* Take out who is next, if there is room, or NULL. The lock is held. */
static apus_request *take_next(apus_scheduler *s)
{
    apus_request *r = ap_queue_next(&s->queue);
    if (!r) return NULL;
    r->need = ap_need_of(&s->engine->size, r->n_prompt, r->set.max_tokens);
    if (!has_room(s, &r->need) || ap_sched_store_waits(s, r)) return NULL;
    ap_queue_remove(&s->queue, r);
    ap_queue_served(&s->queue, r->client);
    s->stats.prompt_tokens += (uint64_t)r->n_prompt;
    return r;
}

static uint64_t bytes_in_use(const ap_slab *s)
{
    return (uint64_t)(s->n_block - s->n_free) * s->block_bytes;
}

/* What there is just now. The lock is held. */
static void gauge(apus_scheduler *s)
{
    const apus_engine *e = s->engine;
    apus_scheduler_stats *t = &s->stats;
    t->running = s->n_run;
    t->prefilling = 0;
    for (int i = 0; i < s->n_run; i++) t->prefilling += is_prefilling(s->run[i]);
    t->kv_used_bytes = bytes_in_use(&e->states);
    for (int g = 0; g < AP_KV_GROUPS; g++) t->kv_used_bytes += bytes_in_use(&e->pages[g]);
    if (t->steps % GAUGE_STEPS == 0 || !s->n_run) t->kv_cached_bytes = ap_prefix_bytes(&s->prefix);
    t->kv_used_bytes -=
        t->kv_cached_bytes < t->kv_used_bytes ? t->kv_cached_bytes : t->kv_used_bytes;
    t->disk_bytes = s->spill.bytes;
    t->disk_written_bytes = s->spill.written;
    t->disk_read_bytes = s->spill.restored;
    t->disk_errors = s->spill.errors;
    ap_sched_store_gauge(s);
    t->media_encoded = s->encoder.encoded;
    t->media_reused = s->encoder.reused;
    t->media_us = (uint64_t)s->encoder.us;
}

/* Nothing runs or waits: write a record of what is not on the disk or in the store, or sleep. The lock is held. */
static void rest(apus_scheduler *s)
{
    bool gave = false;
    if (s->unsaved || s->ungiven) {
        ap_mutex_unlock(&s->lock);
        s->unsaved = s->prefix.disk && ap_spill_write(&s->spill, &s->prefix);
        gave = ap_sched_store_give(s);
        ap_mutex_lock(&s->lock);
        gauge(s);
    }
    if (s->unsaved || gave || s->stop || s->queue.first) return;
    /* what is left over finds no room yet */
    ap_cond_wait(&s->work, &s->lock, s->ungiven ? ap_time_us() + FULL_US : -1);
}

/* Does nothing happen before the store answers? */
static bool wait_for_store(apus_scheduler *s)
{
    const apus_request *r = ap_queue_next(&s->queue);
    if (s->n_run || s->stop || !r || !r->errand) return false;
    int64_t soon = ap_time_us() + FULL_US; /* others in the queue may be over before */
    ap_cond_wait(&s->work, &s->lock, r->errand_until < soon ? r->errand_until : soon);
    return true;
}

/* Look at the mailbox; wait if there is nothing to do. False: the end. */
static bool receive(apus_scheduler *s)
{
    for (;;) {
        apus_finish why;
        ap_mutex_lock(&s->lock);
        gauge(s);
        while (!s->stop && !s->queue.first && !s->n_run) rest(s);
        ap_sched_store_ask(s);
        apus_request *over = take_over(s, &why);
        apus_request *next = over ? NULL : take_next(s);
        bool end = s->stop && !s->n_run && !s->queue.first && !over;
        bool again = !over && !next && !end && wait_for_store(s);
        s->n_waiting = s->queue.n;
        ap_mutex_unlock(&s->lock);
        if (over)
            part(s, over, why, NULL, false);
        else if (next)
            begin(s, next);
        else if (!again)
            return !end;
    }
}

static void end_over(apus_scheduler *s)
{
    int64_t now = ap_time_us();
    for (int i = s->n_run - 1; i >= 0; i--) {
        apus_request *r = s->run[i];
        apus_finish why;
        ap_mutex_lock(&s->lock);
        bool over = is_over(s, r, now, &why);
        ap_mutex_unlock(&s->lock);
        apus_diag diag;
        if (!over) continue;
        ap_gen_end(&r->gen, APUS_STOP_CALLER, &diag); /* text that was held back */
        end_running(s, r, why, NULL);
    }
}

/* ---------------------------------------------------------------- a step */

/* After a lost device nobody is taken any more. */
static void look_at(apus_scheduler *s, apus_err err)
{
    if (err != APUS_EDEVICE) return;
    ap_mutex_lock(&s->lock);
    s->stats.lost = true;
    ap_mutex_unlock(&s->lock);
}

/* Does a come before b? Those who decode, then higher priority, then whose prompt is shorter, or older in turn. */
static bool before(const apus_scheduler *s, const apus_request *a, const apus_request *b)
{
    bool pa = is_prefilling(a), pb = is_prefilling(b);
    if (pa != pb) return pb;
    if (!pa) return false;
    if (a->priority != b->priority) return a->priority > b->priority;
    if (s->turn % OLDEST_TURN == 0) return a->admitted_us < b->admitted_us;
    return ap_lane_left(&a->lane) < ap_lane_left(&b->lane);
}

/* The lanes of all that run, in that order. */
static void line_up(apus_scheduler *s)
{
    for (int i = 0; i < s->n_run; i++) {
        int at = i;
        for (; at > 0 && before(s, s->run[i], s->who[at - 1]); at--) s->who[at] = s->who[at - 1];
        s->who[at] = s->run[i];
    }
    for (int i = 0; i < s->n_run; i++) {
        s->lane[i] = s->who[i]->lane;
        s->lane[i].stop = is_prefilling(s->who[i]) ? ap_reuse_stop(s->who[i]) : 0;
    }
}

/* Rows that the first prompt in line needs at least, beside those who decode. */
static int least_rows(const apus_scheduler *s, int decoding)
{
    for (int i = 0; i < s->n_run; i++)
        if (is_prefilling(s->who[i]) && !s->lane[i].waits)
            return decoding + ap_sched_whole(s->who[i]);
    return 0;
}

/*   spent_us  of what the others may wait, by a tower */
static int rows_of_step(const apus_scheduler *s, int decoding, int64_t spent_us)
{
    int chunk = s->engine->size.chunk;
    bool alone = s->n_run == 1 && s->n_waiting == 0;
    if (!s->step_us || alone) return chunk;
    int left = spent_us < s->step_us ? s->step_us - (int)spent_us : 1;
    int rows = ap_pace_rows(&s->pace, decoding, chunk, left), least = least_rows(s, decoding);
    return rows < least ? ap_min_int(least, chunk) : rows;
}

/* How the next token of a request is chosen, in the chooser's row i. */
static void set_row(apus_scheduler *s, apus_request *r, int i)
{
    apus_engine *e = s->engine;
    ap_device *dev = e->exec.dev;
    size_t V = (size_t)e->size.vocab, n = (size_t)r->n_bias;
    ap_sample_row *row = &e->chooser.row[i];
    ap_chooser_row(&e->chooser, i, r->gen.row, &r->gen.sampling, r->gen.session->tok,
                   r->gen.session->pos);
    r->gen.slot = i;
    if (r->row) dev->op->get(dev, r->row, e->logits + (size_t)r->gen.row * V, V * sizeof(float));
    if (n) {
        row->bias_id = dev->is_host ? r->bias_id : r->bias_dev;
        row->bias = dev->is_host ? r->bias : (const float *)((const int32_t *)r->bias_dev + n);
        row->n_bias = r->n_bias;
    }
    if (!r->masked) return;
    if (!dev->is_host) dev->op->put(dev, r->allowed_dev, r->allowed, (V + 31) / 32 * 4);
    row->mask = r->allowed_dev;
}

/* Ask the mask of a request whose row is there. */
static void ask_mask(apus_scheduler *s, apus_request *r)
{
    const apus_engine *e = s->engine;
    const ap_config *c = &e->model->config;
    size_t words = ((size_t)e->size.vocab + 31) / 32;
    int says = 0, must = 0;
    r->masked = r->no_more = false;
    if (!r->allowed) return;
    memset(r->allowed, 0xff, words * sizeof *r->allowed);
    if (r->mask) says = r->mask(r->mask_ctx, r->answer, r->gen.res.n_generated, r->allowed);
    if (says == 0) memset(r->allowed, 0xff, words * sizeof *r->allowed); /* whatever it wrote */
    if (r->gen.constraint) must = ap_constraint_mask(r->gen.constraint, r->allowed);
    r->no_more = says < 0 || must < 0;
    r->mask_failed = r->gen.constraint && !must;
    r->masked = says > 0 || must > 0;
    if (!r->masked || r->no_more) return;
    ap_config_forbid(c, r->allowed);
    bool any = false;
    for (size_t i = 0; i < words; i++) any = any || r->allowed[i];
    r->no_more = !any;
}

static apus_finish finish_of(const apus_request *r)
{
    switch (r->gen.res.stop) {
    case APUS_STOP_TOKEN:
        return APUS_FINISH_STOP;
    case APUS_STOP_STRING:
        return APUS_FINISH_STRING;
    case APUS_STOP_LENGTH:
        return APUS_FINISH_LENGTH;
    case APUS_STOP_CONTEXT:
        return APUS_FINISH_CONTEXT;
    default:
        return APUS_FINISH_ERROR; /* what it had to tell found no memory */
    }
}

/* The token chosen for a request: told. False: it has ended. */
static bool next_token(apus_scheduler *s, apus_request *r)
{
    apus_diag diag;
    apus_err err = ap_gen_choice(&r->gen, &diag);
    if (!err) err = ap_gen_token(&r->gen, r->gen.id, &diag);
    if (!r->first_us) r->first_us = ap_time_us();
    if (!err && r->gen.done && finish_of(r) == APUS_FINISH_ERROR)
        err = ap_fail_nomem(&diag, sizeof r->gen.id, "an answer");
    if (err || r->gen.done) {
        end_running(s, r, err ? APUS_FINISH_ERROR : finish_of(r), err ? &diag : NULL);
        return false;
    }
    update_usage(r);
    ap_outbox_tell(&r->out);
    return true;
}

/* What ends a request whose row is there before a token is chosen; NO_END: nothing. */
#define NO_END ((apus_finish)-1)
static apus_finish end_before(const apus_request *r)
{
    if (r->set.max_tokens == 0) return APUS_FINISH_LENGTH;
    return r->no_more ? APUS_FINISH_MASK : NO_END;
}

/* Ready a request's row to be chosen after, in the chooser's row i. False: it has ended instead. */
static bool look_at_row(apus_scheduler *s, apus_request *r, int i)
{
    if (r->gen.row == r->gen.bad_row) {
        apus_diag bad;
        ap_not_finite(s->engine, &bad);
        end_running(s, r, APUS_FINISH_ERROR, &bad);
        return false;
    }
    ap_round_look(&r->gen);
    ask_mask(s, r);
    if (r->mask_failed) {
        apus_diag none;
        ap_constraint_fail(&none);
        end_running(s, r, APUS_FINISH_ERROR, &none);
        return false;
    }
    apus_finish why = end_before(r);
    if (why != NO_END) {
        ap_gen_end(&r->gen, APUS_STOP_CALLER, NULL);
        end_running(s, r, why, NULL);
        return false;
    }
    set_row(s, r, i);
    return true;
}

/* Choose after the row that each request is at; who ends is forgotten. False: no row is left that follows from what
 * was chosen. */
static bool choose_once(apus_scheduler *s, int n_lane)
{
    apus_engine *e = s->engine;
    apus_diag diag;
    int n_slot = 0;
    bool more = false;
    for (int i = 0; i < n_lane; i++) {
        if (!s->who[i] || s->who[i]->gen.row < 0) continue;
        if (look_at_row(s, s->who[i], n_slot))
            n_slot++;
        else
            s->who[i] = NULL;
    }
    apus_err err = n_slot ? ap_chooser_run(&e->chooser, e->logits, n_slot, &diag) : APUS_OK;
    look_at(s, err);
    for (int i = 0; i < n_lane; i++) {
        apus_request *r = s->who[i];
        if (!r || r->gen.row < 0) continue;
        if (err) end_running(s, r, APUS_FINISH_ERROR, &diag);
        if (err || !next_token(s, r))
            s->who[i] = NULL;
        else if (ap_round_goes_on(&r->gen) && !ap_request_cancelled(r))
            more = true;
        else
            r->gen.row = -1;
    }
    return more;
}

/* The rows of the step that are chosen after: of each request with wanted ones the first. */
static void take_rows(apus_scheduler *s, int n_lane)
{
    for (int i = 0; i < n_lane; i++) {
        const ap_lane *l = &s->lane[i];
        ap_gen *g = &s->who[i]->gen;
        g->row = l->out ? l->kept : -1;
        g->bad_row = l->tries ? l->kept + l->bad_row : l->bad ? l->kept : -1;
        if (!l->out) s->who[i] = NULL; /* it has nothing new to run */
    }
}

/* What those who have chosen run next: their token, and guesses. */
static void next_lanes(apus_scheduler *s, int n_lane)
{
    apus_engine *e = s->engine;
    int n = 0;
    for (int i = 0; i < n_lane; i++) {
        if (!s->who[i]) continue;
        learn(s->who[i]);
        e->gen_session[n] = s->who[i]->gen.session;
        e->gen_next[n++] = &s->who[i]->gen;
    }
    ap_sessions_settle(e, e->gen_session, n);
    ap_round_guess(e, e->gen_next, n, e->size.chunk);
    for (int i = 0; i < n_lane; i++) {
        apus_request *r = s->who[i];
        if (!r) continue;
        apus_session *session = r->gen.session;
        r->lane = (ap_lane){.session = session,
                            .tok = session->tok + session->pos,
                            .n = r->gen.n_next,
                            .tries = r->gen.n_next > 1,
                            .wants_rows = true};
    }
}

/* Choose after the rows of a step, as far as guesses came true.
 *   begin  of a step that did nothing but decode, as many rows as n_row; 0 = of another one */
static void choose(apus_scheduler *s, int n_lane, int n_row, int64_t begin)
{
    take_rows(s, n_lane);
    bool more = choose_once(s, n_lane);
    int64_t chosen = ap_time_us();
    int64_t us = chosen - begin + s->settle_us - s->engine->drafting_us;
    if (begin) ap_tempo_learn(&s->engine->tempo, n_row, (double)us);
    while (more) more = choose_once(s, n_lane);
    chosen = ap_time_us();
    next_lanes(s, n_lane);
    s->settle_us = ap_time_us() - chosen;
}

/* A step failed: whoever had a share has lost its state. */
static void fail_lanes(apus_scheduler *s, int n_lane, const apus_diag *diag)
{
    for (int i = 0; i < n_lane; i++)
        if (s->lane[i].share) end_running(s, s->who[i], APUS_FINISH_ERROR, diag);
}

static void count_step(apus_scheduler *s, const ap_extent *x, int decoding, int64_t us)
{
    apus_scheduler_stats *t = &s->stats;
    ap_mutex_lock(&s->lock);
    t->steps++;
    t->step_us += (uint64_t)us;
    t->step_rows += (uint64_t)x->n_tok;
    t->step_lanes += (uint64_t)x->n_seq;
    t->prefill_tokens += (uint64_t)(x->n_tok - decoding);
    ap_mutex_unlock(&s->lock);
}

/* What a step with one lane alone looks at while it runs. */
static const volatile int *cancel_of(const apus_scheduler *s, int n_lane, const ap_extent *x)
{
    for (int i = 0; i < n_lane && x->n_seq == 1; i++)
        if (s->lane[i].share) return &s->who[i]->cancel;
    return NULL;
}

/* A slice of a tower's work before it. Who shows what cannot be seen ends; false: that was all. */
static bool encode(apus_scheduler *s, int64_t *spent_us)
{
    apus_diag diag;
    apus_err err = ap_sched_encode(s, spent_us, &diag);
    if (!err) return true;
    look_at(s, err);
    apus_request *r = s->shows;
    ap_sched_unshow(s, r);
    /* one that is cancelled ends with the next look at the mailbox */
    if (err != APUS_ECANCELLED) end_running(s, r, APUS_FINISH_ERROR, &diag);
    return false;
}

static void run_step(apus_scheduler *s)
{
    int n = s->n_run, decoding = 0, decode_rows = 0;
    int64_t spent_us;
    apus_diag diag;
    line_up(s);
    if (!encode(s, &spent_us)) return;
    for (int i = 0; i < n; i++) ap_sched_blind(s->who[i], &s->lane[i]);
    for (int i = 0; i < n; i++)
        decode_rows += is_prefilling(s->who[i]) ? 0 : ap_lane_left(&s->lane[i]);
    ap_extent x =
        ap_step_share(s->engine, s->lane, n, rows_of_step(s, decode_rows, spent_us), false);
    if (!x.n_tok) return; /* all wait for a picture */
    for (int i = 0; i < n; i++) decoding += is_prefilling(s->who[i]) ? 0 : s->lane[i].share;
    int64_t begin = ap_time_us();
    apus_err err = ap_step_run(s->engine, s->lane, n, &x, 0, cancel_of(s, n, &x), &diag);
    int64_t us = ap_time_us() - begin;
    count_step(s, &x, decoding, us);
    look_at(s, err);
    for (int i = 0; i < n && err == APUS_ECANCELLED; i++)
        s->who[i]->spoilt = s->lane[i].share > 0 &&
                            !s->lane[i].tries; /* it ends with the next look at the mailbox */
    if (err == APUS_ECANCELLED) return;
    if (err && err != APUS_ENONFINITE) {
        fail_lanes(s, n, &diag);
        return;
    }
    ap_pace_learn(&s->pace, x.n_tok, decoding, us);
    s->turn += x.n_tok > decoding;
    for (int i = 0; i < n; i++) {
        bool pre = is_prefilling(s->who[i]);
        s->who[i]->lane = s->lane[i];
        if (!pre || !s->lane[i].share) continue;
        ap_outbox_prefill(&s->who[i]->out, s->who[i]->usage.n_cached + s->lane[i].done);
        if (s->lane[i].out) ap_reuse_leave(&s->prefix, s->who[i], false);
        update_usage(s->who[i]);
        if (!s->lane[i].out) ap_outbox_tell(&s->who[i]->out);
    }
    if (x.n_out) choose(s, n, x.n_tok, decoding == x.n_tok ? begin : 0);
}

static void *run(void *arg)
{
    apus_scheduler *s = arg;
    while (receive(s)) {
        end_over(s);
        if (s->n_run) run_step(s);
        ap_sched_store_give(s);
    }
    while (s->prefix.disk && ap_spill_write(&s->spill, &s->prefix)) {}
    return NULL;
}

/* ---------------------------------------------------------------- for everybody */

void apus_scheduler_settings_default(apus_scheduler_settings *s)
{
    if (!s) return;
    *s = (apus_scheduler_settings){.size = sizeof *s,
                                   .max_queue = 512,
                                   .step_us = 100000,
                                   .cache_dir_bytes = (uint64_t)16 << 30,
                                   .store_wait_us = 1000000,
                                   .media_bytes = (uint64_t)256 << 20};
}

/* Memory for prefixes on top of what requests may need. */
static apus_err add_cache(const apus_model *m, apus_engine_settings *es, uint64_t bytes,
                          apus_diag *diag)
{
    apus_plan plan = {.size = sizeof plan};
    apus_err err = apus_engine_plan(m, es, &plan, diag);
    if (!err) es->kv_bytes = plan.kv_bytes + plan.state_bytes + bytes;
    return err;
}

static apus_err open_engine(apus_scheduler *s, const apus_model *m,
                            const apus_scheduler_settings *set, apus_diag *diag)
{
    apus_engine_settings es;
    apus_engine_settings_default(&es);
    es.max_sessions = 4;
    apus_err err = ap_settings_take(&es, sizeof es, set->engine, "apus_engine_settings", diag);
    if (!err && set->cache_bytes) err = add_cache(m, &es, set->cache_bytes, diag);
    if (!err) err = apus_engine_create(m, &es, &s->engine, diag);
    if (err) return err;
    const apus_engine *e = s->engine;
    size_t n = (size_t)e->size.n_session;
    s->run = ap_calloc(n, sizeof *s->run);
    s->who = ap_calloc(n, sizeof *s->who);
    s->lane = ap_calloc(n, sizeof *s->lane);
    s->stats.kv_bytes = (uint64_t)e->size.kv_bytes + e->size.state_bytes;
    ap_reuse_open(&s->prefix, s->engine);
    ap_encoder_open(&s->encoder, s->engine, set->media_bytes);
    if (!s->run || !s->who || !s->lane)
        return ap_fail_nomem(diag, n * sizeof *s->lane, "a scheduler");
    if (set->cache_dir)
        err = ap_spill_open(&s->spill, set->cache_dir, ap_reuse_key(e), set->cache_dir_bytes,
                            e->exec.dev, &s->prefix, diag);
    if (!err && set->store)
        err = ap_sched_store_open(s, set->store, set->store_wait_us, ap_reuse_key(e), diag);
    return err;
}

static void close(apus_scheduler *s)
{
    ap_sched_store_close(s);
    ap_encoder_close(&s->encoder);
    s->prefix.disk = NULL;
    ap_prefix_clear(&s->prefix);
    ap_spill_close(&s->spill);
    apus_engine_free(s->engine);
    ap_free(s->run);
    ap_free(s->who);
    ap_free(s->lane);
    ap_cond_destroy(&s->work);
    ap_mutex_destroy(&s->lock);
    ap_free(s);
}

apus_err apus_scheduler_create(const apus_model *m, const apus_scheduler_settings *given,
                               apus_scheduler **out, apus_diag *diag)
{
    apus_scheduler_settings set;
    apus_scheduler_settings_default(&set);
    if (!m || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_scheduler_create: model and out are needed");
    apus_err err = ap_settings_take(&set, sizeof set, given, "apus_scheduler_settings", diag);
    if (err) return err;
    if (set.max_queue < 1 || set.step_us < 0)
        return ap_fail(
            diag, APUS_EINVAL,
            "apus_scheduler_settings: expected a max_queue of 1 or more and a step_us of 0 "
            "or more, found %d and %d",
            set.max_queue, set.step_us);
    apus_scheduler *s = ap_calloc(1, sizeof *s);
    if (!s) return ap_fail_nomem(diag, sizeof *s, "a scheduler");
    s->max_queue = set.max_queue;
    s->step_us = set.step_us;
    ap_mutex_init(&s->lock);
    ap_cond_init(&s->work);
    err = open_engine(s, m, &set, diag);
    if (!err) err = ap_thread_start(&s->thread, run, s, diag);
    if (err) {
        close(s);
        return err;
    }
    *out = s;
    return APUS_OK;
}

void apus_scheduler_drain(apus_scheduler *s)
{
    if (!s) return;
    ap_mutex_lock(&s->lock);
    s->stats.draining = true;
    ap_mutex_unlock(&s->lock);
}

void apus_scheduler_free(apus_scheduler *s)
{
    if (!s) return;
    ap_mutex_lock(&s->lock);
    s->stop = s->stats.draining = true;
    ap_cond_wake(&s->work);
    ap_mutex_unlock(&s->lock);
    ap_thread_join(s->thread);
    close(s);
}

void ap_sched_wake(apus_scheduler *s)
{
    ap_mutex_lock(&s->lock);
    ap_cond_wake(&s->work);
    ap_mutex_unlock(&s->lock);
}

/* Into the queue, if it takes more. */
static apus_err enqueue(apus_scheduler *s, apus_request *r, apus_diag *diag)
{
    apus_err err = APUS_OK;
    ap_mutex_lock(&s->lock);
    if (s->stats.lost)
        err = ap_fail(diag, APUS_EDEVICE, "the device is lost: make a new scheduler");
    else if (s->stats.draining)
        err = ap_fail(diag, APUS_ECANCELLED, "the scheduler takes no more requests");
    else if (s->queue.n >= s->max_queue)
        err = ap_fail(diag, APUS_EBUSY, "%d requests wait already, as many as max_queue allows",
                      s->queue.n);
    if (err == APUS_EBUSY) s->stats.rejected++;
    if (!err) {
        r->id = ++s->n_id;
        s->stats.submitted++;
        ap_queue_push(&s->queue, r);
        ap_cond_wake(&s->work);
    }
    ap_mutex_unlock(&s->lock);
    return err;
}

apus_err apus_request_submit(apus_scheduler *s, const apus_request_settings *set,
                             apus_request **out, apus_diag *diag)
{
    if (!s || !set || !out)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_request_submit: a scheduler, settings and out are needed");
    const apus_engine *e = s->engine;
    apus_request *r;
    apus_err err = ap_request_make(s, e, set, &r, diag);
    if (err) return err;
    *out = r; /* before anybody can be woken for it */
    err = enqueue(s, r, diag);
    if (err) {
        *out = NULL;
        ap_request_drop(r);
    }
    return err;
}

void apus_scheduler_stats_get(const apus_scheduler *s, apus_scheduler_stats *out)
{
    if (!s || !out || out->size < sizeof out->size) return;
    apus_scheduler *own = (apus_scheduler *)s; /* its lock */
    size_t size = out->size < sizeof *out ? out->size : sizeof *out;
    ap_mutex_lock(&own->lock);
    apus_scheduler_stats t = s->stats;
    t.waiting = s->queue.n;
    ap_mutex_unlock(&own->lock);
    if (s->has_store) t.store_written_bytes = ap_porter_written(&own->porter);
    t.size = size;
    memcpy(out, &t, size);
}
