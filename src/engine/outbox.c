#include "engine/outbox.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"

void ap_outbox_open(ap_outbox *b, apus_request *r, int width,
                    void (*wake)(void *ctx, apus_request *r), void *ctx)
{
    *b = (ap_outbox){.width = width, .armed = true, .wake = wake, .ctx = ctx, .request = r};
    b->usage.size = sizeof b->usage;
    ap_mutex_init(&b->lock);
    ap_cond_init(&b->changed);
}

static void drop(ap_news *n)
{
    ap_free(n->id);
    ap_free(n->top_id);
    ap_free(n->top);
    ap_free(n->text);
}

void ap_outbox_close(ap_outbox *b)
{
    drop(&b->coming);
    drop(&b->taken);
    ap_cond_destroy(&b->changed);
    ap_mutex_destroy(&b->lock);
}

/* ---------------------------------------------------------------- the scheduler's side */

void ap_outbox_started(ap_outbox *b)
{
    ap_mutex_lock(&b->lock);
    b->started = true;
    ap_mutex_unlock(&b->lock);
}

void ap_outbox_prefill(ap_outbox *b, int done)
{
    ap_mutex_lock(&b->lock);
    b->prefill_done = done;
    ap_mutex_unlock(&b->lock);
}

/* *p has room for n elements; false: no memory, and what is there stays. */
static bool grow(void *p, size_t n, size_t size)
{
    void *old, *now;
    memcpy(&old, p, sizeof old);
    now = ap_realloc(old, n, size);
    if (now) memcpy(p, &now, sizeof now);
    return now != NULL;
}

static bool room_for_id(ap_news *n, int width)
{
    if (n->n_id < n->id_cap) return true;
    int cap = n->id_cap ? n->id_cap * 2 : 16;
    size_t tops = (size_t)cap * (size_t)width;
    if (!grow(&n->id, (size_t)cap, sizeof *n->id)) return false;
    if (width &&
        (!grow(&n->top_id, tops, sizeof *n->top_id) || !grow(&n->top, tops, sizeof *n->top)))
        return false;
    n->id_cap = cap;
    return true;
}

apus_err ap_outbox_token(ap_outbox *b, int32_t id, const int32_t *top_id, const float *top,
                         apus_diag *diag)
{
    ap_news *n = &b->coming;
    size_t w = (size_t)b->width;
    ap_mutex_lock(&b->lock);
    bool ok = room_for_id(n, b->width);
    if (ok && w) {
        memcpy(n->top_id + (size_t)n->n_id * w, top_id, w * sizeof *top_id);
        memcpy(n->top + (size_t)n->n_id * w, top, w * sizeof *top);
    }
    if (ok) n->id[n->n_id++] = id;
    ap_mutex_unlock(&b->lock);
    return ok ? APUS_OK : ap_fail_nomem(diag, sizeof id, "the tokens of an answer");
}

apus_err ap_outbox_text(ap_outbox *b, const char *text, size_t len, apus_diag *diag)
{
    ap_news *n = &b->coming;
    ap_mutex_lock(&b->lock);
    bool ok = true;
    if (n->len + len + 1 > n->text_cap) {
        size_t cap = (n->len + len + 1) * 2;
        ok = grow(&n->text, cap, 1);
        if (ok) n->text_cap = cap;
    }
    if (ok) {
        memcpy(n->text + n->len, text, len);
        n->len += len;
        n->text[n->len] = 0;
    }
    ap_mutex_unlock(&b->lock);
    return ok ? APUS_OK : ap_fail_nomem(diag, len, "the text of an answer");
}

void ap_outbox_usage(ap_outbox *b, const apus_usage *u)
{
    ap_mutex_lock(&b->lock);
    b->usage = *u;
    b->usage.size = sizeof b->usage;
    ap_mutex_unlock(&b->lock);
}

void ap_outbox_finish(ap_outbox *b, apus_finish why, int32_t stop_id, int stop_string,
                      const apus_diag *diag)
{
    ap_mutex_lock(&b->lock);
    b->finished = true;
    b->finish = why;
    b->stop_id = stop_id;
    b->stop_string = stop_string;
    if (diag) b->diag = *diag;
    ap_mutex_unlock(&b->lock);
}

/* Is there an event that was not taken? The lock is held. */
static bool has_news(const ap_outbox *b)
{
    return b->started > b->started_told || b->coming.n_id || b->coming.len ||
           b->prefill_done > b->prefill_told || b->finished > b->finished_told;
}

void ap_outbox_tell(ap_outbox *b)
{
    ap_mutex_lock(&b->lock);
    bool wake = b->armed && has_news(b);
    if (wake) {
        b->armed = false;
        b->waking++;
        ap_cond_wake(&b->changed);
    }
    ap_mutex_unlock(&b->lock);
    if (!wake) return;
    if (b->wake) b->wake(b->ctx, b->request);
    ap_mutex_lock(&b->lock);
    b->waking--;
    ap_cond_wake(&b->changed);
    ap_mutex_unlock(&b->lock);
}

void ap_outbox_leave(ap_outbox *b)
{
    ap_mutex_lock(&b->lock);
    b->left = true;
    ap_cond_wake(&b->changed);
    ap_mutex_unlock(&b->lock);
}

/* ---------------------------------------------------------------- the reader's side */

static void take_tokens(ap_outbox *b, apus_request_event *ev)
{
    ap_news last = b->taken;
    b->taken = b->coming;
    last.n_id = 0;
    last.len = 0;
    b->coming = last;
    const ap_news *n = &b->taken;
    ev->kind = APUS_REQUEST_TOKENS;
    ev->ids = n->id;
    ev->n_ids = n->n_id;
    ev->text = n->len ? n->text : "";
    ev->len = n->len;
    ev->logprob_id = b->width ? n->top_id : NULL;
    ev->logprob = b->width ? n->top : NULL;
}

static void take_finish(ap_outbox *b, apus_request_event *ev)
{
    b->finished_told = true;
    ev->kind = APUS_REQUEST_FINISHED;
    ev->finish = b->finish;
    ev->stop_id = b->stop_id;
    ev->stop_string = b->stop_string;
    ev->err = b->finish == APUS_FINISH_ERROR ? b->diag.code : APUS_OK;
    ev->message = b->diag.text;
}

static void take_one(ap_outbox *b, apus_request_event *ev)
{
    *ev = (apus_request_event){.size = ev->size, .text = "", .stop_id = -1, .stop_string = -1};
    bool tokens = b->coming.n_id || b->coming.len;
    if (b->started > b->started_told) {
        b->started_told = true;
        ev->kind = APUS_REQUEST_STARTED;
    } else if (tokens) {
        take_tokens(b, ev);
        b->prefill_told = b->prefill_done;
    } else if (b->prefill_done > b->prefill_told && !b->finished) {
        b->prefill_told = b->prefill_done;
        ev->kind = APUS_REQUEST_PREFILL;
    } else {
        b->prefill_told = b->prefill_done;
        take_finish(b, ev);
    }
    ev->prefill_done = b->prefill_done;
    b->usage_told = b->usage;
    ev->usage = &b->usage_told;
}

bool ap_outbox_take(ap_outbox *b, int64_t timeout_us, apus_request_event *out)
{
    apus_request_event ev = {.size = sizeof ev};
    int64_t until = timeout_us < 0 ? -1 : ap_time_us() + timeout_us;
    ap_mutex_lock(&b->lock);
    while (!has_news(b) && !b->finished_told) {
        b->armed = true;
        if (timeout_us == 0 || !ap_cond_wait(&b->changed, &b->lock, until)) break;
    }
    bool any = has_news(b);
    if (any)
        take_one(b, &ev);
    else
        b->armed = true;
    ap_mutex_unlock(&b->lock);
    if (!any) return false;
    size_t size = out->size < sizeof ev ? out->size : sizeof ev;
    ev.size = size;
    memcpy(out, &ev, size);
    return true;
}

void ap_outbox_wait(ap_outbox *b)
{
    ap_mutex_lock(&b->lock);
    while (!b->left || b->waking) ap_cond_wait(&b->changed, &b->lock, -1);
    ap_mutex_unlock(&b->lock);
}
