/* round.c - rounds of decoding: a token and guesses at what follows it are computed together, and what is chosen after
 * each of them tells whether the next one counts. Every token is chosen as it would be without guesses, after the same
 * history, so none of this shows in the text. */
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

/* Guesses behind the token to be fed, up to one that would end the text. */
static int find(const apus_engine *e, ap_gen *g, int most)
{
    apus_session *s = g->session;
    int n = s->pos + 1, found = 0;
    most = ap_min_int(most, most_guesses(g));
    if (most <= 0) return 0;
    if (e->guess)
        found = e->guess(e->guess_ctx, s, n, most, s->tok + n);
    else
        found = ap_draft_look_up(s->tok, n, most, s->tok + n);
    for (int i = 0; i < found && !g->set.ignore_eos; i++)
        if (ap_config_is_stop(&e->model->config, s->tok[n + i])) return i + 1;
    return found;
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

void ap_round_guess(apus_engine *e, ap_gen *const *gen, int n, int rows)
{
    ap_odds *odds[AT_ONCE];
    int found[AT_ONCE], use[AT_ONCE], m = ap_min_int(n, AT_ONCE), any = 0;
    rows = ap_min_int(rows, n + e->size.draft_rows);
    for (int i = 0; i < n; i++) {
        apus_session *s = gen[i]->session;
        s->tok[s->pos] = gen[i]->id;
        gen[i]->n_next = 1;
    }
    if (rows <= n) return;
    for (int i = 0; i < m; i++) {
        odds[i] = &gen[i]->odds;
        found[i] = find(e, gen[i], e->size.n_draft ? e->size.n_draft : AP_MOST_DRAFTS);
        any += found[i];
    }
    if (!any) return;
    if (e->size.n_draft)
        take_all(found, m, rows - (n - m), use);
    else
        ap_odds_share(&e->tempo, odds, found, m, rows - (n - m), use);
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
    if (n > 0) ap_odds_learn(&g->odds, n, s->counted - 1, !g->done);
}
