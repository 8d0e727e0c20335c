/* head.c - guesses of the draft head: it goes on from the last token of each session by itself, a row at a time, and its
 * rows lie behind the session's position, where a step puts the same tokens' own. */
#include "base/num.h"
#include "engine/engine.h"
#include "engine/media_model.h"

/* Pages for n more tokens; true: they are there. Short of memory, nothing is said: guesses can be left out. */
static bool take_pages(apus_session *s, int n)
{
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (ap_kv_prepare(&s->kv[g], s->pos, n)) return false;
    return true;
}

/* The rows of a step behind `depth` guesses. */
static void fill(apus_engine *e, apus_session *const *session, int n, int depth)
{
    int unused = 0;
    ap_rows_begin(&e->rows, n, n, 0);
    for (int i = 0; i < n; i++) {
        apus_session *s = session[i];
        int pos = s->pos + depth;
        ap_step_put_pages(e, s);
        ap_rows_fill(&e->rows, i, i, s->tok + pos, 1, pos);
        ap_spans_fill(&s->spans, &e->rows, i, 1, pos, ap_media_pad(e->model), e->embed, &unused);
        e->rows.seq[i].table = (int32_t)(s - e->session);
        e->rows.seq[i].state = s->recur.live;
    }
    ap_rows_put(&e->rows);
    e->rows.batch.embed = NULL;
    e->rows.batch.embed_row = NULL;
}

/* The likeliest token after each row. */
static apus_err choose(apus_engine *e, int n, apus_diag *diag)
{
    ap_sample_state likeliest = {.set = {.repetition_penalty = 1, .top_p = 1}};
    for (int i = 0; i < n; i++) ap_chooser_row(&e->chooser, i, i, &likeliest, NULL, 0);
    return ap_chooser_run(&e->chooser, e->logits, n, diag);
}

/* Those that want more than `depth` guesses, which come first. */
static int go_on(const int *n_guess, int n, int depth)
{
    while (n && n_guess[n - 1] <= depth) n--;
    return n;
}

apus_err ap_head_draft(apus_engine *e, apus_session *const *session, int *n_guess, int n,
                       apus_diag *diag)
{
    int ready = 0;
    while (ready < n && take_pages(session[ready], n_guess[ready])) ready++;
    for (int i = ready; i < n; i++) n_guess[i] = 0;
    for (int depth = 0; (n = go_on(n_guess, n, depth)); depth++) {
        fill(e, session, n, depth);
        ap_step st = ap_step_of_rows(e);
        ap_guard_enter();
        ap_model_draft(e->model->impl, &e->exec, &st, e->hidden, depth == 0);
        ap_guard_leave();
        apus_err err = choose(e, n, diag);
        if (err) return err;
        for (int i = 0; i < n; i++) {
            int32_t id = e->chooser.id[i];
            session[i]->tok[session[i]->pos + depth + 1] = id;
            /* No numbers to go on from, which the model itself will tell if it has none either. */
            if (id < 0)
                for (int k = i; k < n; k++) n_guess[k] = ap_min_int(n_guess[k], depth);
        }
    }
    return APUS_OK;
}
