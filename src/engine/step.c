#include "engine/step.h"

#include <string.h>

#include "engine/engine.h"

/* ---------------------------------------------------------------- shares */

/* Tokens of a lane for a step with `budget` rows left. States can be kept for going back only at
 * page multiples, so steps of models with states end there where they can; the last page of a long
 * feed becomes a step of its own, for chats go back to a little before the end of their prompt. */
static int share_of(const ap_lane *l, int budget)
{
    int left = ap_lane_left(l), n = left < budget ? left : budget;
    if (l->stop > l->session->pos && n > l->stop - l->session->pos)
        return l->stop - l->session->pos;
    if (!l->session->recur.slab || (n == left && left <= AP_PAGE)) return n;
    int over = (l->session->pos + n) % AP_PAGE;
    return over < n ? n - over : n;
}

/* The same, but that it ends before what cannot be run yet, and that pictures which see themselves whole stay in one
 * step. */
static int whole(const ap_lane *l, int n, int budget)
{
    if (l->blind && n > l->blind - l->session->pos) n = l->blind - l->session->pos;
    return ap_spans_share(&l->session->spans, l->session->pos, n, budget);
}

/* Rows of a lane whose logits are wanted among its next n tokens. */
static int rows_in(const ap_lane *l, int n)
{
    if (!l->wants_rows) return 0;
    if (l->tries) return n;
    if (!l->row) return l->done + n == l->n;
    int k = l->row_done;
    while (k < l->n_row && l->row[k] < l->done + n) k++;
    return k - l->row_done;
}

/* One that tries has all its rows in a step or none. */
static void deal_whole(const apus_engine *e, ap_lane *l, int rows, ap_extent *x)
{
    int n = ap_lane_left(l);
    if (x->n_tok + n > rows || x->n_out + n > e->size.logit_rows ||
        x->n_keep + n > e->size.kept_rows)
        return;
    l->share = l->out = n;
    x->direct = NULL;
    x->n_tok += n;
    x->n_out += n;
    x->n_keep += n;
    x->n_seq++;
}

/* A lane's share, out of what x leaves. The step's logits go straight to the caller if that can be and one
 * lane alone wants any. Else they pass through the engine's, and shares are cut to what those hold. */
static void deal(const apus_engine *e, ap_lane *l, int rows, ap_extent *x)
{
    int n = whole(l, share_of(l, rows - x->n_tok), rows - x->n_tok);
    bool may_pass = x->n_out == 0 && l->logits && e->exec.dev->is_host;
    while (!may_pass && n && rows_in(l, n) && x->n_out + rows_in(l, n) > e->size.logit_rows) n--;
    n = whole(l, n, n);
    if (n == 0) return;
    l->share = n;
    l->out = rows_in(l, n);
    if (l->out) x->direct = may_pass ? l : NULL;
    x->n_tok += n;
    x->n_seq++;
    x->n_out += l->out;
}

ap_extent ap_step_share(const apus_engine *e, ap_lane *lane, int n, int rows, bool few_only)
{
    ap_extent x = {0};
    for (int i = 0; i < n; i++) lane[i].share = lane[i].out = 0;
    for (int few = 1; few >= (few_only ? 1 : 0); few--) {
        for (int i = 0; i < n; i++) {
            ap_lane *l = &lane[i];
            int left = ap_lane_left(l);
            if (l->waits || left == 0 || x.n_tok == rows) continue;
            if ((l->tries || left <= AP_FEW_TOKENS) != (few != 0)) continue;
            if (l->tries)
                deal_whole(e, l, rows, &x);
            else
                deal(e, l, rows, &x);
        }
    }
    return x;
}

/* ---------------------------------------------------------------- filling a step */

void ap_step_put_pages(apus_engine *e, apus_session *s)
{
    ap_device *dev = e->exec.dev;
    size_t row = (size_t)(s - e->session) * (size_t)ap_kv_entries(e->size.ctx);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        ap_kv_range r = ap_kv_changed(&s->kv[g]);
        size_t at = row + (size_t)r.begin, n = (size_t)(r.end - r.begin);
        if (n && !dev->is_host)
            dev->op->put(dev, e->page[g] + at, e->session_page[g] + at, n * sizeof(int32_t));
    }
}

/* The pages of all shares. What was taken before they ran out stays with its session, for the next try. */
static apus_err take_pages(ap_lane *lane, int n, apus_diag *diag)
{
    for (int i = 0; i < n; i++) {
        apus_session *s = lane[i].session;
        for (int g = 0; g < AP_KV_GROUPS && lane[i].share; g++) {
            int missing = ap_kv_prepare(&s->kv[g], s->pos, lane[i].share);
            if (missing) return ap_slab_short(s->kv[g].slab, missing, diag);
        }
    }
    return APUS_OK;
}

/* A lane's share: sequence `seq` of the step, rows from `begin` on; `out` rows before it are wanted, and `keep` kept. */
static void add_lane(apus_engine *e, const ap_lane *l, int seq, int begin, int out, int keep,
                     int *embeds)
{
    apus_session *s = l->session;
    ap_step_put_pages(e, s);
    ap_rows_fill(&e->rows, seq, begin, l->tok + l->done, l->share, s->pos);
    ap_spans_fill(&s->spans, &e->rows, begin, l->share, s->pos, ap_media_pad(e->model), e->embed,
                  embeds);
    e->rows.seq[seq].table = (int32_t)(s - e->session);
    e->rows.seq[seq].state = s->recur.live;
    e->rows.seq[seq].keep = l->tries ? keep : -1;
    for (int j = 0; j < l->out; j++) {
        int row = l->tries ? j : l->row ? l->row[l->row_done + j] : l->n - 1;
        e->rows.out_row[out + j] = (int32_t)(begin + row - l->done);
    }
}

static void fill(apus_engine *e, ap_lane *lane, int n, const ap_extent *x)
{
    ap_rows_begin(&e->rows, x->n_tok, x->n_seq, x->n_out);
    int seq = 0, begin = 0, out = 0, keep = 0, embeds = 0;
    for (int i = 0; i < n; i++) {
        if (!lane[i].share) continue;
        lane[i].touched = true;
        add_lane(e, &lane[i], seq++, begin, out, keep, &embeds);
        if (lane[i].tries) lane[i].session->kept = keep, keep += lane[i].share;
        begin += lane[i].share;
        out += lane[i].out;
    }
    ap_rows_put(&e->rows);
    e->rows.batch.embed = embeds ? e->embed : NULL;
    if (!embeds) e->rows.batch.embed_row = NULL;
}

ap_step ap_step_of_rows(apus_engine *e)
{
    ap_batch *b = &e->rows.batch;
    b->page_ld = ap_kv_entries(e->size.ctx);
    ap_step st = {.batch = b,
                  .shape = &e->size.shape,
                  .recur = (float *)(void *)e->states.base,
                  .recur_block_floats = e->size.recur_block_bytes / sizeof(float),
                  .logits = e->logits,
                  .scratch = e->scratch,
                  .delta_form = e->delta_form,
                  .kv = e->size.kv};
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        b->page[g] = e->page[g];
        st.kv_base[g] = e->pages[g].base;
    }
    return st;
}

static ap_step step_of(apus_engine *e, const ap_extent *x, int first)
{
    size_t V = (size_t)e->size.vocab;
    ap_step st = ap_step_of_rows(e);
    st.logits += (size_t)first * V;
    st.experts = e->model->experts;
    if (x->n_keep) st.kept = e->kept, st.kept_rows = (size_t)e->size.kept_rows;
    if (x->direct) st.logits = x->direct->logits + (size_t)x->direct->row_done * V;
    return st;
}

/* ---------------------------------------------------------------- what came of it */

/* Hand out gathered rows, move the sessions on. */
static void finish(apus_engine *e, ap_lane *lane, int n, const ap_extent *x, const ap_step *st,
                   int first)
{
    ap_device *dev = e->exec.dev;
    size_t V = (size_t)e->size.vocab;
    int row = 0;
    for (int i = 0; i < n; i++) {
        ap_lane *l = &lane[i];
        apus_session *s = l->session;
        if (!l->share) continue;
        if (l->out && l->logits && !x->direct)
            dev->op->get(dev, l->logits + (size_t)l->row_done * V, st->logits + (size_t)row * V,
                         (size_t)l->out * V * sizeof(float));
        row += l->out;
        if (l->out) l->kept = first + row - (l->tries ? l->out : 1);
        l->row_done += l->out;
        l->done += l->share;
        if (l->tries) {
            s->ahead = l->share;
            continue;
        }
        s->pos += l->share;
        bool place = s->pos % AP_PAGE == 0 || s->pos == l->stop;
        if (place && !s->keeps_nothing) ap_recur_snapshot(&s->recur, s->pos, s->turn);
    }
}

/* The exponents of NaN and infinity are all ones: adding one to them reaches the sign bit. Only integers,
 * so that compilers use vectors: a thousandth of the time that making the row takes. */
static bool all_finite(const float *x, size_t n)
{
    uint32_t seen = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        seen |= (bits & 0x7fffffff) + 0x00800000;
    }
    return !(seen >> 31);
}

/* The first of n rows that is not finite, n if all are. */
static int first_bad(const float *x, int n, size_t vocab)
{
    int i = 0;
    while (i < n && all_finite(x + (size_t)i * vocab, vocab)) i++;
    return i;
}

/* Mark the lanes with wanted logits that are not finite; false if there are any. Those that stay on another
 * device are looked at by what chooses after them. */
static bool find_bad(const apus_engine *e, ap_lane *lane, int n, const ap_step *st)
{
    size_t V = (size_t)e->size.vocab;
    bool host = e->exec.dev->is_host, good = true;
    const float *row = st->logits;
    for (int i = 0; i < n; i++) {
        ap_lane *l = &lane[i];
        if (!l->share || !l->out) continue;
        const float *x = host        ? row
                         : l->logits ? l->logits + (size_t)(l->row_done - l->out) * V
                                     : NULL;
        row += (size_t)l->out * V;
        l->bad_row = x ? first_bad(x, l->out, V) : l->out;
        l->bad = l->bad_row < l->out && !l->tries;
        good = good && !l->bad;
    }
    return good;
}

apus_err ap_not_finite(const apus_engine *e, apus_diag *diag)
{
    const char *dir = e->model->dir;
    return ap_fail(
        diag, APUS_ENONFINITE,
        "%s: the logits are not finite: a weight is NaN or infinite, or a sum overflows; "
        "'apus info --check' names the tensor",
        dir ? dir : "the model");
}

apus_err ap_step_run(apus_engine *e, ap_lane *lane, int n, const ap_extent *x, int first,
                     const volatile int *cancel, apus_diag *diag)
{
    ap_guard_enter();
    bool finite = true;
    apus_err err = take_pages(lane, n, diag);
    if (!err) {
        fill(e, lane, n, x);
        ap_step st = step_of(e, x, first);
        err = ap_model_forward(e->model->impl, &e->exec, &st, cancel, diag);
        if (!err) {
            finish(e, lane, n, x, &st, first);
            finite = find_bad(e, lane, n, &st);
        }
    }
    ap_guard_leave();
    return finite ? err : ap_not_finite(e, diag);
}
