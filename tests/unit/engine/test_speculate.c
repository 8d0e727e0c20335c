/* Guesses: what they make, what they are worth, and above all that nobody can tell that there were any - texts, states
 * and snapshots are those of decoding one by one, whatever was guessed, wherever a guess was wrong, and wherever
 * the text ended. */
#include <math.h>
#include <stdio.h>

#include "help.h"

#include "base/rng.h"
#include "engine/draft.h"

enum { MOST = 400, SESSIONS = 5 };

/* ---------------------------------------------------------------- look-ups */

static void check_look_up(const char *text, int most, const char *want)
{
    int32_t tok[64], out[32];
    int n = (int)strlen(text);
    char got[33] = "";
    for (int i = 0; i < n; i++) tok[i] = text[i] == '#' ? -7 : text[i];
    int k = ap_draft_look_up(tok, n, most, out);
    for (int i = 0; i < k; i++) got[i] = (char)out[i];
    assert_string_equal(got, want);
}

static void what_followed_last_time_is_guessed(void **state)
{
    (void)state;
    check_look_up("", 5, "");
    check_look_up("abc", 5, "");
    check_look_up("abcdefabc", 3, "def");
    check_look_up("abcdefabc", 0, "");
    check_look_up("abcdefbc", 3, "");             /* two that agree are too few */
    check_look_up("abcdXabceYabc", 2, "eY");      /* the latest */
    check_look_up("zzabcdXqabceYzzabc", 2, "dX"); /* but the longest first */
    check_look_up("abab"
                  "abab",
                  5, "ababa"); /* into itself */
    check_look_up("xaaaa", 6, "aaaaaa");
    check_look_up("abcd#fabc", 5, "d");  /* never a picture */
    check_look_up("a##cdea##", 2, "cd"); /* which agrees with itself */
}

static void look_ups_agree_with_a_search(void **state)
{
    (void)state;
    ap_rng rng;
    ap_rng_seed(&rng, 5);
    for (int round = 0; round < 3000; round++) {
        int32_t tok[80], out[AP_MOST_DRAFTS];
        int n = random_int(&rng, 1, 60), most = random_int(&rng, 1, AP_MOST_DRAFTS), best = 0,
            len = 0;
        for (int i = 0; i < n; i++) tok[i] = random_int(&rng, 0, round % 4 + 1);
        for (int at = 1; at < n; at++) {
            int k = 0;
            while (k < AP_DRAFT_MATCH && k < at && tok[at - 1 - k] == tok[n - 1 - k]) k++;
            if (k >= AP_DRAFT_LEAST && k >= len) len = k, best = at;
        }
        int got = ap_draft_look_up(tok, n, most, out);
        assert_int_equal(got, best ? most : 0);
        for (int i = 0; i < got; i++) {
            tok[n + i] = tok[best + i];
            assert_int_equal(out[i], tok[best + i]);
        }
    }
}

/* ---------------------------------------------------------------- what guesses are worth */

/* Rounds of a sequence whose guesses come true with a chance, on a machine where a row more costs `each` of a step. */
static double speed(double chance, double each, int *last)
{
    ap_tempo t = {0};
    ap_odds o = {0}, *one = &o;
    ap_rng rng;
    double us = 0;
    int tokens = 0;
    ap_rng_seed(&rng, 11);
    while (tokens < 4000) {
        int found = AP_MOST_DRAFTS, use, hits = 0;
        ap_odds_share(&t, &one, &found, 1, 1 + AP_MOST_DRAFTS, &use);
        while (hits < use && (double)(ap_rng_next(&rng) >> 11) * 0x1p-53 < chance) hits++;
        if (use) ap_odds_learn(&o, use, hits, true);
        double step = 1000 * (1 + each * use);
        ap_tempo_learn(&t, 1 + use, step);
        us += step;
        tokens += 1 + hits;
        *last = use;
    }
    return tokens * 1000.0 / us;
}

/* Never slower than 0.98 of decoding one by one; close to the best length there is. */
static void guesses_are_taken_as_far_as_they_pay(void **state)
{
    (void)state;
    static const double chances[] = {0, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1};
    static const double costs[] = {0, 0.05, 0.15, 0.33, 0.6, 1, 1.2};
    for (size_t c = 0; c < sizeof costs / sizeof *costs; c++)
        for (size_t p = 0; p < sizeof chances / sizeof *chances; p++) {
            double best = 1, tokens = 1, chance = 1;
            int last;
            for (int k = 1; k <= AP_MOST_DRAFTS; k++) {
                chance *= chances[p];
                tokens += chance;
                best = fmax(best, tokens / (1 + costs[c] * k));
            }
            double got = speed(chances[p], costs[c], &last);
            if (got < 0.98 || got < 0.85 * best)
                fail_msg("chance %g, cost %g: %g of %g", chances[p], costs[c], got, best);
            if (chances[p] == 1 && costs[c] < 0.2) assert_int_equal(last, AP_MOST_DRAFTS);
        }
}

static void rows_go_to_the_likeliest_guesses(void **state)
{
    (void)state;
    ap_tempo t = {0};
    ap_odds good = {0}, bad = {0}, *odds[3] = {&bad, &good, &good};
    int found[3] = {14, 3, 0}, use[3];
    for (int i = 0; i < 20; i++) {
        ap_tempo_learn(&t, 3, 1000);
        ap_tempo_learn(&t, 8, 1100);
        ap_odds_learn(&good, 3, 3, true);
        ap_odds_learn(&bad, 3, 0, true);
    }
    ap_odds_share(&t, odds, found, 3, 6, use);
    assert_int_equal(use[0], 0);
    assert_int_equal(use[1], 3);
    assert_int_equal(use[2], 0);
    ap_odds_share(&t, odds, found, 3, 5, use);
    assert_int_equal(use[1], 2);
}

/* ---------------------------------------------------------------- texts */

typedef struct heard {
    int32_t id[MOST];
    int n, pos[MOST]; /* of the session, in the callback */
    const apus_session *s;
} heard;

static bool on_token(void *ctx, int32_t id)
{
    heard *h = ctx;
    h->pos[h->n] = apus_session_pos(h->s);
    h->id[h->n++] = id;
    return true;
}

/* What is guessed: the text that is known to follow, with a wrong id at some place. */
typedef struct oracle_guess {
    const heard *truth[SESSIONS]; /* by number of the session */
    int begin[SESSIONS];          /* where it begins in the session */
    int most, wrong_at;           /* wrong_at < 0: at random */
    ap_rng rng;
    int rounds;
} oracle_guess;

static int guess(void *ctx, const apus_session *s, int n, int most, int32_t *out)
{
    oracle_guess *g = ctx;
    long who = s - s->engine->session;
    int at = n - g->begin[who], k = most < g->most ? most : g->most;
    int wrong = g->wrong_at;
    if (wrong < 0) {
        k = random_int(&g->rng, 0, k);
        wrong = random_int(&g->rng, 0, 14);
    }
    for (int i = 0; i < k; i++) {
        bool known = g->truth[who] && at + i < g->truth[who]->n;
        out[i] = known ? g->truth[who]->id[at + i] : random_int(&g->rng, 0, 96);
        if (i == wrong) out[i] = (out[i] + 1) % 97;
    }
    g->rounds += k > 0;
    return k;
}

static apus_engine *engine_of(const apus_model *m, int ctx, int chunk, int sessions, bool guesses)
{
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.ctx = ctx;
    s.prefill_chunk = chunk;
    s.max_sessions = sessions;
    s.threads = 2;
    s.speculate = guesses ? APUS_SPECULATE_NGRAM : APUS_SPECULATE_OFF;
    s.n_draft = guesses ? 14 : 0;
    apus_engine *e = NULL;
    assert_ok(apus_engine_create(m, &s, &e, &diag));
    return e;
}

/* A generation, and the session that it leaves. */
typedef struct text {
    heard h;
    apus_generate_result res;
    int pos;
    int32_t tok[MOST * 2];
    int n_snap, snap[AP_SNAPSHOTS];
    float state[1 + AP_SNAPSHOTS][8];         /* the live one first */
    uint64_t page[AP_KV_GROUPS][MOST * 2][2]; /* what positions hold that a query could see */
} text;

static void keep(text *t, apus_session *s)
{
    t->pos = apus_session_pos(s);
    memcpy(t->tok, apus_session_tokens(s), (size_t)t->pos * sizeof *t->tok);
    assert_true(ap_session_settled(s));
    const ap_recur *r = &s->recur;
    if (r->slab) {
        size_t bytes = r->n_float * sizeof(float);
        memcpy(t->state[0], fake_real(ap_recur_live(r)), bytes);
        t->n_snap = r->n_snap;
        for (int i = 0; i < r->n_snap; i++) {
            t->snap[i] = r->snap[i].pos;
            memcpy(t->state[1 + i], fake_real(ap_recur_snap(r, i)), bytes);
        }
    }
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        const ap_kv_table *kv = &s->kv[g];
        size_t each = g == AP_KV_FULL ? 8 : 16;
        if (!kv->slab) continue;
        assert_true(ap_kv_ready(kv, t->pos));
        for (int p = kv->window ? t->pos - kv->window + 1 : 0; p < t->pos; p++)
            if (p >= 0)
                memcpy(t->page[g][p],
                       (char *)fake_real(ap_slab_at(kv->slab, kv->page[p / AP_PAGE])) +
                           (size_t)(p % AP_PAGE) * each,
                       each);
        for (int i = ap_kv_entries(t->pos); i < kv->n_entry; i++) assert_int_equal(kv->page[i], -1);
    }
}

static void run(apus_session *s, const int32_t *prompt, int n, apus_generate_settings set, text *t)
{
    *t = (text){.h.s = s, .res.size = sizeof t->res};
    set.on_token = on_token;
    set.ctx = &t->h;
    assert_ok(apus_generate(s, prompt, n, &set, &t->res, &diag));
    keep(t, s);
}

/* snapshots: also where states were kept, which depends on how a prompt is cut into steps */
static void assert_same(const text *a, const text *b, bool snapshots)
{
    assert_int_equal(a->h.n, b->h.n);
    assert_memory_equal(a->h.id, b->h.id, (size_t)a->h.n * sizeof *a->h.id);
    assert_memory_equal(a->h.pos, b->h.pos, (size_t)a->h.n * sizeof *a->h.pos);
    assert_int_equal(a->res.stop, b->res.stop);
    assert_int_equal(a->res.stop_id, b->res.stop_id);
    assert_int_equal(a->res.n_generated, b->res.n_generated);
    assert_int_equal(a->pos, b->pos);
    assert_memory_equal(a->tok, b->tok, (size_t)a->pos * sizeof *a->tok);
    assert_memory_equal(a->state, b->state, snapshots ? sizeof a->state : sizeof a->state[0]);
    assert_int_equal(snapshots ? a->n_snap : 0, snapshots ? b->n_snap : 0);
    assert_memory_equal(a->snap, b->snap, snapshots ? sizeof a->snap : 0);
    assert_memory_equal(a->page, b->page, sizeof a->page);
}

static apus_sampling way_of(uint64_t seed)
{
    apus_sampling s;
    apus_sampling_default(&s);
    s.temperature = seed % 4 == 0 ? 0 : 1.3f;
    s.top_k = seed % 3 == 0 ? 20 : 0;
    s.top_p = seed % 5 == 0 ? 0.8f : 1;
    s.min_p = seed % 7 == 0 ? 0.05f : 0;
    s.repetition_penalty = seed % 2 ? 1.2f : 1;
    s.presence_penalty = seed % 3 == 1 ? 0.5f : 0;
    s.frequency_penalty = seed % 3 == 2 ? 0.3f : 0;
    s.penalty_last = seed % 4 == 1 ? 9 : 0;
    s.seed = seed;
    return s;
}

typedef struct kind {
    bool full, recur;
    int window;
} kind;

static const kind kinds[] = {
    {true, false, 0}, {true, true, 0}, {true, false, 30}, {true, true, 11}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static apus_model *model_of(int i)
{
    apus_model *m = fake_model(kinds[i].full, kinds[i].window, kinds[i].recur);
    m->config.n_stop = 2;
    m->config.stop[0] = 3;
    m->config.stop[1] = 50;
    return m;
}

/* Right for `wrong` ids, then not: every length, every place, and two turns of it. */
static void wrong_guesses_leave_no_trace(void **state)
{
    (void)state;
    static text plain[2], with[2];
    int32_t prompt[70];
    for (int i = 0; i < 70; i++) prompt[i] = (i * 37) % 97;
    for (int k = 0; k < KINDS; k++) {
        apus_model *m = model_of(k);
        apus_engine *e[2];
        apus_session *s;
        for (int g = 0; g < 2; g++) e[g] = engine_of(m, 300, 32, 1, g != 0);
        apus_sampling way = way_of((uint64_t)k + 1);
        apus_generate_settings set;
        apus_generate_settings_default(&set);
        set.sampling = &way;
        set.max_tokens = 50;
        set.ignore_eos = true;
        assert_ok(apus_session_create(e[0], &s, &diag));
        run(s, prompt, 70, set, &plain[0]);
        run(s, &plain[0].h.id[plain[0].h.n - 1], 1, set, &plain[1]);
        apus_session_free(s);
        for (int most = 1; most <= 14; most++)
            for (int wrong = 0; wrong <= most; wrong++) {
                oracle_guess g = {
                    .truth = {&plain[0].h}, .begin = {70}, .most = most, .wrong_at = wrong};
                e[1]->guess = guess;
                e[1]->guess_ctx = &g;
                help_poison(e[1]);
                assert_ok(apus_session_create(e[1], &s, &diag));
                run(s, prompt, 70, set, &with[0]);
                g.truth[0] = &plain[1].h;
                g.begin[0] = apus_session_pos(s) + 1;
                run(s, &with[0].h.id[with[0].h.n - 1], 1, set, &with[1]);
                for (int turn = 0; turn < 2; turn++) {
                    assert_same(&plain[turn], &with[turn], true);
                    assert_true(with[turn].res.n_accepted >= (wrong > 0 ? 20 : 0));
                }
                apus_session_free(s);
            }
        assert_int_equal(fake.faults, 0);
        for (int g = 0; g < 2; g++) apus_engine_free(e[g]);
        fake_model_free(m);
    }
}

/* The text may end anywhere inside guesses: by its length, a stop token, the context, a callback or a cancel. */
typedef struct ender {
    heard h; /* first, for on_token */
    int after;
    bool cancels;
} ender;

static bool end_after(void *ctx, int32_t id)
{
    ender *x = ctx;
    on_token(&x->h, id);
    if (x->h.n < x->after) return true;
    if (x->cancels) apus_session_cancel((apus_session *)(uintptr_t)x->h.s);
    return x->cancels;
}

static void end_somewhere(apus_engine *e, const int32_t *prompt, int way, int at, text *t)
{
    static ender x;
    apus_session *s;
    apus_sampling sampling = way_of(1);
    apus_generate_settings set;
    apus_generate_settings_default(&set);
    *t = (text){.res.size = sizeof t->res};
    assert_ok(apus_session_create(e, &s, &diag));
    x = (ender){.h.s = s, .after = way == 1 || way == 2 ? at : MOST, .cancels = way == 2};
    set.sampling = &sampling;
    set.max_tokens = way == 0 ? at : -1;
    set.ignore_eos = way != 3;
    set.on_token = end_after;
    set.ctx = &x;
    assert_ok(apus_generate(s, prompt, 40 + (way == 4 ? at : 0), &set, &t->res, &diag));
    t->h = x.h;
    keep(t, s);
    apus_session_free(s);
}

static void texts_end_where_they_end(void **state)
{
    (void)state;
    static text plain, with, whole;
    int32_t prompt[70];
    for (int i = 0; i < 70; i++) prompt[i] = (i * 37) % 97;
    for (int k = 0; k < KINDS; k++) {
        apus_model *m = model_of(k);
        apus_engine *e[2];
        for (int g = 0; g < 2; g++) e[g] = engine_of(m, 120, 64, 1, g != 0);
        for (int way = 0; way < 5; way++)
            for (int at = 1; at <= 30; at++) {
                m->config.stop[0] = at;
                m->config.n_stop = 1;
                end_somewhere(e[0], prompt, way, at, &plain);
                m->config.n_stop = 0;
                end_somewhere(e[0], prompt, way == 4 ? way : 5, at, &whole);
                m->config.n_stop = 1;
                oracle_guess g = {.truth = {&whole.h},
                                  .begin = {way == 4 ? 40 + at : 40},
                                  .most = 1 + at % 14,
                                  .wrong_at = 14};
                e[1]->guess = guess;
                e[1]->guess_ctx = &g;
                help_poison(e[1]);
                end_somewhere(e[1], prompt, way, at, &with);
                assert_same(&plain, &with, true);
            }
        assert_int_equal(fake.faults, 0);
        for (int g = 0; g < 2; g++) apus_engine_free(e[g]);
        fake_model_free(m);
    }
}

/* ---------------------------------------------------------------- batches, at random */

/* One batch of sessions with prompts, ways and lengths of their own, a few turns; each against itself alone. */
static int random_batch(const apus_model *m, int sessions, int chunk, ap_rng *rng)
{
    static text plain[SESSIONS], with[SESSIONS];
    static int32_t prompt[SESSIONS][100];
    apus_engine *e[2] = {engine_of(m, 220, 64, 1, false), engine_of(m, 220, chunk, sessions, true)};
    oracle_guess g = {.most = 14, .wrong_at = -1};
    apus_session *s[SESSIONS];
    apus_generation list[SESSIONS];
    apus_generate_settings set[SESSIONS];
    apus_sampling way[SESSIONS];
    ap_rng_seed(&g.rng, ap_rng_next(rng));
    e[1]->guess = guess;
    e[1]->guess_ctx = &g;
    help_poison(e[1]);
    for (int i = 0; i < sessions; i++) {
        int n = random_int(rng, 1, 100);
        apus_session *one;
        for (int j = 0; j < n; j++) prompt[i][j] = random_int(rng, 0, 96);
        apus_generate_settings_default(&set[i]);
        way[i] = way_of(ap_rng_next(rng) % 1000);
        set[i].sampling = &way[i];
        set[i].max_tokens = random_int(rng, 0, 3) ? random_int(rng, 0, 90) : -1;
        set[i].ignore_eos = random_int(rng, 0, 2) > 0;
        assert_ok(apus_session_create(e[0], &one, &diag));
        run(one, prompt[i], n, set[i], &plain[i]);
        apus_session_free(one);
        assert_ok(apus_session_create(e[1], &s[i], &diag));
        with[i] = (text){.h.s = s[i], .res.size = sizeof with[i].res};
        set[i].on_token = on_token;
        set[i].ctx = &with[i].h;
        g.truth[s[i] - e[1]->session] = &plain[i].h;
        g.begin[s[i] - e[1]->session] = n;
        list[i] = (apus_generation){.size = sizeof list[i],
                                    .session = s[i],
                                    .prompt = prompt[i],
                                    .n = n,
                                    .settings = &set[i],
                                    .result = &with[i].res};
    }
    assert_ok(apus_generate_batch(e[1], list, sessions, &diag));
    for (int i = 0; i < sessions; i++) {
        keep(&with[i], s[i]);
        assert_same(&plain[i], &with[i], false);
        apus_session_free(s[i]);
    }
    for (int k = 0; k < 2; k++) apus_engine_free(e[k]);
    return g.rounds;
}

/* APUS_TEST_ROUNDS: more of them. */
static void random_rounds_leave_no_trace(void **state)
{
    (void)state;
    const char *wish = getenv("APUS_TEST_ROUNDS");
    int rounds = 0, most = wish ? atoi(wish) : 3000;
    ap_rng rng;
    ap_rng_seed(&rng, 77);
    for (int k = 0; rounds < most; k = (k + 1) % KINDS) {
        apus_model *m = model_of(k);
        rounds += random_batch(m, random_int(&rng, 1, SESSIONS), random_int(&rng, 6, 64), &rng);
        assert_int_equal(fake.faults, 0);
        fake_model_free(m);
    }
}

/* ---------------------------------------------------------------- errors */

/* Logits that are no numbers end the text where they would end it without guesses, not before. */
static void bad_rows_count_when_they_are_reached(void **state)
{
    (void)state;
    for (int wrong = 0; wrong < 2; wrong++) {
        apus_model *m = model_of(1);
        apus_engine *e = engine_of(m, 200, 64, 1, true);
        apus_session *s;
        static text plain, with;
        int32_t prompt[20] = {1, 2, 3};
        apus_sampling way = way_of(1);
        apus_generate_settings set;
        apus_generate_settings_default(&set);
        set.sampling = &way;
        set.max_tokens = 12;
        set.ignore_eos = true;
        assert_ok(apus_session_create(e, &s, &diag));
        run(s, prompt, 20, set, &plain);
        apus_session_free(s);
        oracle_guess g = {.truth = {&plain.h}, .begin = {20}, .most = 4, .wrong_at = wrong ? 3 : 9};
        e->guess = guess;
        e->guess_ctx = &g;
        fake.nan = NAN;
        fake.nan_at = fake.n_forward + 2; /* the last row of the first round: the fourth guess's */
        assert_ok(apus_session_create(e, &s, &diag));
        with = (text){.h.s = s, .res.size = sizeof with.res};
        set.on_token = on_token;
        set.ctx = &with.h;
        apus_err err = apus_generate(s, prompt, 20, &set, &with.res, &diag);
        if (fake_host) {
            assert_int_equal(err, wrong ? APUS_OK : APUS_ENONFINITE);
            assert_int_equal(with.h.n, wrong ? 12 : 5);
            assert_memory_equal(with.h.id, plain.h.id, (size_t)with.h.n * sizeof *plain.h.id);
        }
        assert_int_equal(fake.faults, 0);
        apus_session_free(s);
        apus_engine_free(e);
        fake_model_free(m);
    }
}

static void wrong_settings_are_refused(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, true);
    apus_engine *e;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.speculate = (apus_speculate)9;
    assert_int_equal(apus_engine_create(m, &s, &e, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "speculate: expected 0 to 3, found 9"));
    s.speculate = APUS_SPECULATE_MTP;
    assert_int_equal(apus_engine_create(m, &s, &e, &diag), APUS_EUNSUPPORTED);
    assert_non_null(strstr(diag.text, "no head for further tokens"));
    s.speculate = APUS_SPECULATE_NGRAM;
    s.n_draft = 15;
    assert_int_equal(apus_engine_create(m, &s, &e, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "n_draft: expected 0 to 14, found 15"));
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_followed_last_time_is_guessed),
        cmocka_unit_test(look_ups_agree_with_a_search),
        cmocka_unit_test(guesses_are_taken_as_far_as_they_pay),
        cmocka_unit_test(rows_go_to_the_likeliest_guesses),
        cmocka_unit_test(wrong_guesses_leave_no_trace),
        cmocka_unit_test(texts_end_where_they_end),
        cmocka_unit_test(random_rounds_leave_no_trace),
        cmocka_unit_test(bad_rows_count_when_they_are_reached),
        cmocka_unit_test(wrong_settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
