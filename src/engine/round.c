/* round.c - rounds of decoding: a token and guesses at what follows it are computed together, and what is chosen after
 * each of them tells whether the next one counts. Every token is chosen as it would be without guesses, after the same
 * history, so none of this shows in the text. */
#include "base/file.h"
#include "base/num.h"
#include "engine/draft.h"
#include "engine/engine.h"

/* The most guesses that could all count: what is chosen after the last of them is a token, too. */
static int most_guesses(const ap_gen *g)
{
    int most = ap_min_int(AP_MOST_DRAFTS, apus_session_room(g->session) - 1);
    if (g->set.max_tokens < 0) return most;
    return ap_min_int(most, g->set.max_tokens - g->res.n_generated - 1);
}

/* Of n guesses behind the session's next token, those up to one that would end the text. */
static int up_to_stop(const apus_engine *e, const ap_gen *g, int n)
{
    const int32_t *tok = g->session->tok + g->session->pos + 1;
    for (int i = 0; i < n && !g->set.ignore_eos; i++)
        if (ap_config_is_stop(&e->model->config, tok[i])) return i + 1;
    return n;
}

/* Guesses behind the token to be fed: how many there are, or could be computed. */
static int find(const apus_engine *e, ap_gen *g, int most)
{
    apus_session *s = g->session;
    int n = s->pos + 1, found = 0;
    most = ap_min_int(most, most_guesses(g));
    g->source = AP_DRAFT_LOOK_UP;
    if (most <= 0) return 0;
    if (e->guess)
        found = e->guess(e->guess_ctx, s, n, most, s->tok + n);
    else if (e->size.looks_up)
        found = ap_draft_look_up(s->tok, n, most, s->tok + n);
    if (found || e->guess) return up_to_stop(e, g, found);
    if (!e->size.runs_head || s->headless || !s->pos) return 0;
    g->source = AP_DRAFT_HEAD;
    g->odds[AP_DRAFT_HEAD].computed = true;
    return most;
}

/* As many as are found, whether they pay or not. */
static void take_all(const int *found, int n, int rows, int *use)
{
    for (int i = 0, left = rows - n; i < n; i++) {
        use[i] = ap_min_int(found[i], left);
        left -= use[i];
    }
}

#define AT_ONCE 60 /* generations that guesses are looked for */

/* Those whose guesses are to be computed, the most guesses first. */
static int by_length(ap_gen *const *gen, int n, const int *use, int *who)
{
    int m = 0;
    for (int i = 0; i < n; i++) {
        if (gen[i]->source != AP_DRAFT_HEAD || !use[i]) continue;
        int at = m++;
        for (; at && use[who[at - 1]] < use[i]; at--) who[at] = who[at - 1];
        who[at] = i;
    }
    return m;
}

/* Compute the guesses that are to be: use[] of the first n generations becomes what there is of them. */
static void draft(apus_engine *e, ap_gen *const *gen, int n, int *use)
{
    apus_session *session[AT_ONCE];
    int who[AT_ONCE], length[AT_ONCE], m = by_length(gen, n, use, who);
    if (!m) return;
    for (int i = 0; i < m; i++) {
        session[i] = gen[who[i]]->session;
        length[i] = use[who[i]];
    }
    int64_t begin = ap_time_us();
    apus_err err = ap_head_draft(e, session, length, m, NULL);
    e->drafting_us = ap_time_us() - begin;
    ap_tempo_learn_draft(&e->tempo, length[0], (double)e->drafting_us);
    /* What is wrong with a device shows in the step as well. */
    for (int i = 0; i < m; i++) use[who[i]] = err ? 0 : up_to_stop(e, gen[who[i]], length[i]);
}

void ap_round_guess(apus_engine *e, ap_gen *const *gen, int n, int rows)
{
    ap_odds *odds[AT_ONCE];
    int found[AT_ONCE], use[AT_ONCE], m = ap_min_int(n, AT_ONCE), any = 0;
    rows = ap_min_int(rows, n + e->size.draft_rows);
    e->drafting_us = 0;
    for (int i = 0; i < n; i++) {
        apus_session *s = gen[i]->session;
        s->tok[s->pos] = gen[i]->id;
        gen[i]->n_next = 1;
    }
    if (rows <= n) return;
    for (int i = 0; i < m; i++) {
        found[i] = find(e, gen[i], e->size.n_draft ? e->size.n_draft : AP_MOST_DRAFTS);
        odds[i] = &gen[i]->odds[gen[i]->source];
        any += found[i];
    }
    if (!any) return;
    if (e->size.n_draft)
        take_all(found, m, rows - (n - m), use);
    else
        ap_odds_share(&e->tempo, odds, found, m, rows - (n - m), use);
    draft(e, gen, m, use);
    for (int i = 0; i < m; i++) gen[i]->n_next += use[i];
}

void ap_round_look(ap_gen *g)
{
    if (g->session->ahead) ap_session_count(g->session, 1);
}

bool ap_round_goes_on(ap_gen *g)
{
    const apus_session *s = g->session;
    if (g->done || !s->ahead || g->id != s->tok[s->pos]) return false;
    g->row++;
    return true;
}

void ap_round_learn(ap_gen *g)
{
    const apus_session *s = g->session;
    int n = s->ahead + s->counted - 1;
    if (n > 0) ap_odds_learn(&g->odds[g->source], n, s->counted - 1, !g->done);
}

ap_round_counts ap_round_count(const ap_gen *g)
{
    ap_round_counts n = {0};
    for (int i = 0; i < AP_DRAFT_SOURCES; i++) {
        n.rounds += g->odds[i].rounds;
        n.drafted += g->odds[i].drafted;
        n.accepted += g->odds[i].accepted;
    }
    return n;
}
