/* The sampler: choices, filters, penalties, frequencies, strange logits. */
#include <math.h>

#include "help.h"

static apus_sampler *sampler_of(apus_sampling s, int vocab)
{
    apus_sampler *p = NULL;
    assert_ok(apus_sampler_create(&s, vocab, &p, &diag));
    return p;
}

static apus_sampling neutral(void)
{
    apus_sampling s;
    apus_sampling_default(&s);
    return s;
}

static void random_logits(float *x, int n, uint64_t seed, double spread)
{
    ap_rng rng;
    ap_rng_seed(&rng, seed);
    for (int i = 0; i < n; i++) x[i] = (float)(ap_rng_normal(&rng) * spread);
}

static void greedy_takes_the_first_best(void **state)
{
    (void)state;
    apus_sampling s = neutral();
    s.temperature = 0;
    apus_sampler *p = sampler_of(s, 6);
    assert_int_equal(apus_sampler_next(p, (float[]){0, 3, 1, 3, -1, 2}, NULL, 0), 1);
    assert_int_equal(apus_sampler_next(p, (float[]){5, 3, 1, 3, -1, 2}, NULL, 0), 0);
    assert_int_equal(apus_sampler_next(p, (float[]){0, 3, 1, 3, -1, 9}, NULL, 0), 5);
    apus_sampler_free(p);
    apus_sampler_free(NULL);
}

/* What the documentation of HF's processors says, straight: sort, cut, renormalise. */
static int compare_x(const void *a, const void *b)
{
    const double *p = a, *q = b;
    if (p[0] != q[0]) return p[0] > q[0] ? -1 : 1;
    return p[1] < q[1] ? -1 : 1;
}

static void expected(const float *x, int n, const apus_sampling *s, double *prob)
{
    double(*c)[2] = calloc((size_t)n, sizeof *c), sum = 0, before = 0;
    for (int i = 0; i < n; i++) c[i][0] = (double)x[i], c[i][1] = i;
    qsort(c, (size_t)n, sizeof *c, compare_x);
    int kept = s->top_k && s->top_k < n ? s->top_k : n;
    double max = c[0][0];
    for (int i = 0; i < n; i++) {
        c[i][0] = i < kept ? exp((c[i][0] - max) / (double)s->temperature) : 0;
        sum += c[i][0];
    }
    for (int i = 0; i < n; i++) { /* top-p keeps what is needed to reach p */
        double w = c[i][0] / sum;
        if (i && before >= (double)s->top_p) c[i][0] = 0;
        before += w;
    }
    sum = 0;
    for (int i = 0; i < n; i++) {
        if (c[i][0] < (double)s->min_p) c[i][0] = 0; /* relative to the best, which is 1 */
        sum += c[i][0];
    }
    for (int i = 0; i < n; i++) prob[(int)c[i][1]] = c[i][0] / sum;
    free(c);
}

/* Frequencies of many draws against the probabilities: Pearson's chi square. */
static void check_frequencies(const float *x, int n, apus_sampling s)
{
    enum { DRAWS = 5000 };
    double *prob = calloc((size_t)n, sizeof *prob), chi = 0;
    int *count = calloc((size_t)n, sizeof *count), cells = 0, rest = 0;
    double rest_prob = 0;
    expected(x, n, &s, prob);
    s.seed = 12345;
    apus_sampler *p = sampler_of(s, n);
    for (int i = 0; i < DRAWS; i++) count[apus_sampler_next(p, x, NULL, 0)]++;
    for (int i = 0; i < n; i++) {
        double want = prob[i] * DRAWS;
        if (prob[i] == 0) assert_int_equal(count[i], 0);
        if (want < 5) { /* rare ones share a cell */
            rest += count[i];
            rest_prob += prob[i];
            continue;
        }
        chi += (count[i] - want) * (count[i] - want) / want;
        cells++;
    }
    if (rest_prob * DRAWS >= 5) {
        double want = rest_prob * DRAWS;
        chi += (rest - want) * (rest - want) / want;
        cells++;
    }
    /* Mean cells-1, deviation sqrt(2 cells): four deviations above is a defect. */
    if (chi > cells - 1 + 4 * sqrt(2.0 * cells) + 4)
        fail_msg("chi square %g in %d cells (T %g k %d p %g min %g)", chi, cells,
                 (double)s.temperature, s.top_k, (double)s.top_p, (double)s.min_p);
    apus_sampler_free(p);
    free(prob);
    free(count);
}

static void frequencies_are_the_probabilities(void **state)
{
    (void)state;
    float x[80];
    random_logits(x, 80, 7, 2.0);
    x[17] = x[44]; /* ties */
    static const float temperature[] = {0.5f, 1, 1.7f}, top_p[] = {1, 0.9f, 0.35f, 0.01f};
    static const float min_p[] = {0, 0.05f, 0.6f};
    static const int top_k[] = {0, 1, 20, 79, 80, 5000};
    for (int t = 0; t < 3; t++)
        for (int k = 0; k < 6; k++)
            for (int q = 0; q < 4; q++)
                for (int r = 0; r < 3; r++) {
                    if ((t + k + q + r) % 3) continue; /* a third of the grid is enough */
                    apus_sampling s = neutral();
                    s.temperature = temperature[t];
                    s.top_k = top_k[k];
                    s.top_p = top_p[q];
                    s.min_p = min_p[r];
                    check_frequencies(x, 80, s);
                }
}

/* The set that may be drawn, exactly, by thousands of random logits of all shapes. */
static void filters_keep_the_right_ids(void **state)
{
    (void)state;
    enum { V = 50 };
    ap_rng rng;
    ap_rng_seed(&rng, 99);
    for (int round = 0; round < 1500; round++) {
        float x[V];
        double prob[V];
        random_logits(x, V, (uint64_t)round, round % 2 ? 1.0 : 6.0);
        if (round % 5 == 0) /* few different values */
            for (int i = 0; i < V; i++) x[i] = floorf(x[i]);
        apus_sampling s = neutral();
        s.temperature = (float)(0.3 + ap_rng_uniform(&rng) * 2);
        s.top_k = round % 3 ? random_int(&rng, 1, 60) : 0;
        s.top_p = round % 4 ? (float)(0.05 + 0.9 * ap_rng_uniform(&rng)) : 1;
        s.min_p = round % 7 ? 0 : (float)(0.5 * ap_rng_uniform(&rng));
        s.seed = (uint64_t)round;
        expected(x, V, &s, prob);
        apus_sampler *p = sampler_of(s, V);
        for (int i = 0; i < 20; i++) {
            int32_t id = apus_sampler_next(p, x, NULL, 0);
            assert_in_range(id, 0, V - 1);
            assert_true(prob[id] > 0);
        }
        apus_sampler_free(p);
    }
}

static void seeds_repeat(void **state)
{
    (void)state;
    enum { V = 1000 };
    float x[V];
    random_logits(x, V, 1, 1);
    apus_sampling s = neutral();
    for (int mode = 0; mode < 3; mode++) {
        s.top_k = mode == 1 ? 50 : 0;
        s.top_p = mode == 2 ? 0.9f : 1;
        s.seed = 4;
        apus_sampler *a = sampler_of(s, V), *b = sampler_of(s, V);
        s.seed = 5;
        apus_sampler *c = sampler_of(s, V);
        int differ = 0;
        for (int i = 0; i < 100; i++) {
            int32_t id = apus_sampler_next(a, x, NULL, 0);
            assert_int_equal(id, apus_sampler_next(b, x, NULL, 0));
            differ += id != apus_sampler_next(c, x, NULL, 0);
        }
        assert_true(differ > 50);
        apus_sampler_free(a);
        apus_sampler_free(b);
        apus_sampler_free(c);
    }
}

/* The same on every machine. The numbers come from a separate computation in Python (xoshiro256**,
 * math.exp, sorting). */
static void draws_are_pinned(void **state)
{
    (void)state;
    float x[64];
    for (int i = 0; i < 64; i++) x[i] = (float)((i * 37) % 64) / 16;
    static const int32_t want[3][8] = {{5, 50, 5, 12, 50, 17, 24, 18},
                                       {19, 55, 19, 38, 55, 57, 31, 57},
                                       {19, 17, 19, 38, 17, 57, 31, 57}};
    for (int mode = 0; mode < 3; mode++) {
        apus_sampling s = neutral();
        s.temperature = 0.8f;
        s.top_k = mode == 1 ? 20 : 0;
        s.top_p = mode == 2 ? 0.7f : 1;
        s.seed = 2024;
        apus_sampler *p = sampler_of(s, 64);
        for (int i = 0; i < 8; i++)
            assert_int_equal(apus_sampler_next(p, x, NULL, 0), want[mode][i]);
        apus_sampler_free(p);
    }
}

static void penalties_push_down_what_was_seen(void **state)
{
    (void)state;
    apus_sampling s = neutral();
    s.temperature = 0;
    s.repetition_penalty = 2;
    apus_sampler *p = sampler_of(s, 4);
    const int32_t history[] = {0, 0, 1, -5, 99}; /* strange ids are nothing */
    /* 4/2 = 2 < 3; negative ones are multiplied */
    assert_int_equal(apus_sampler_next(p, (float[]){4, 1, 3, 0}, history, 5), 2);
    assert_int_equal(apus_sampler_next(p, (float[]){4, 1, 3, 0}, NULL, 0), 0);
    assert_int_equal(apus_sampler_next(p, (float[]){4, 1, 3, 0}, history, 0), 0);
    assert_int_equal(apus_sampler_next(p, (float[]){-1, -1.5f, -1.9f, -9}, history, 5), 2);
    /* once, however often seen: 7/2 > 3, 7/4 < 3 */
    assert_int_equal(apus_sampler_next(p, (float[]){7, 1, 3, 0}, history, 5), 0);
    apus_sampler_free(p);

    s.repetition_penalty = 1;
    s.presence_penalty = 1.5f;
    p = sampler_of(s, 4);
    assert_int_equal(apus_sampler_next(p, (float[]){4, 1, 3, 0}, history, 3), 2);
    assert_int_equal(apus_sampler_next(p, (float[]){5, 1, 3, 0}, history, 3), 0);
    apus_sampler_free(p);

    s.presence_penalty = 0;
    s.frequency_penalty = 1;
    p = sampler_of(s, 4);
    assert_int_equal(apus_sampler_next(p, (float[]){4.5f, 1, 3, 0}, history, 3), 2);
    assert_int_equal(apus_sampler_next(p, (float[]){5.5f, 1, 3, 0}, history, 3), 0);
    apus_sampler_free(p);

    s.penalty_last = 2; /* only {0, 1} of the history */
    p = sampler_of(s, 4);
    assert_int_equal(apus_sampler_next(p, (float[]){4.5f, 1, 3, 0}, history, 3), 0);
    apus_sampler_free(p);

    s.frequency_penalty = -3; /* a reward */
    s.penalty_last = 0;
    p = sampler_of(s, 4);
    assert_int_equal(apus_sampler_next(p, (float[]){0, 1, 5, 0}, history, 3), 0);
    apus_sampler_free(p);
}

static void strange_logits_are_told_or_do_no_harm(void **state)
{
    (void)state;
    const float inf = INFINITY, nan = NAN;
    const float refused[][4] = {{nan, nan, nan, nan}, {-inf, -inf, -inf, -inf},
                                {nan, -inf, -3, 1},   {1, inf, 3, 2},
                                {1, 2, 3, nan},       {inf, inf, inf, inf}};
    const float one[4] = {-inf, -inf, -3, -inf}, wide[4] = {3e38f, -3e38f, 3e38f, -inf};
    for (int mode = 0; mode < 5; mode++) {
        apus_sampling s = neutral();
        s.temperature = mode == 0 ? 0 : mode == 4 ? 1e-30f : 1;
        s.top_k = mode == 1 ? 2 : 0;
        s.top_p = mode == 2 ? 0.5f : 1;
        s.repetition_penalty = 1e-30f;
        s.frequency_penalty = 1e30f;
        apus_sampler *p = sampler_of(s, 4);
        const int32_t history[] = {0, 3, 3};
        for (int i = 0; i < 20; i++) {
            for (size_t k = 0; k < sizeof refused / sizeof *refused; k++)
                assert_int_equal(apus_sampler_next(p, refused[k], history, i % 4), -1);
            assert_int_equal(apus_sampler_next(p, one, NULL, 0), 2);
            int32_t id = apus_sampler_next(p, wide, NULL, 0);
            assert_true(id == 0 || id == 2);
            assert_in_range(apus_sampler_next(p, wide, history, 3), 0, 3);
        }
        apus_sampler_free(p);
    }
}

static void settings_are_checked(void **state)
{
    (void)state;
    apus_sampler *p = NULL;
    apus_sampling s;
#define REFUSED(change)                                                                            \
    s = neutral();                                                                                 \
    change;                                                                                        \
    assert_int_equal(apus_sampler_create(&s, 10, &p, &diag), APUS_EINVAL)
    REFUSED(s.temperature = -1);
    assert_non_null(strstr(diag.text, "temperature"));
    REFUSED(s.temperature = NAN);
    REFUSED(s.temperature = INFINITY);
    REFUSED(s.top_k = -1);
    REFUSED(s.top_p = 0);
    REFUSED(s.top_p = 1.01f);
    REFUSED(s.top_p = NAN);
    REFUSED(s.min_p = 1);
    REFUSED(s.min_p = -0.1f);
    REFUSED(s.repetition_penalty = 0);
    REFUSED(s.repetition_penalty = NAN);
    REFUSED(s.presence_penalty = INFINITY);
    REFUSED(s.frequency_penalty = NAN);
    REFUSED(s.penalty_last = -1);
    REFUSED(s.size = 0);
    REFUSED(s.size = sizeof s + 1);
    assert_int_equal(apus_sampler_create(NULL, 0, &p, &diag), APUS_EINVAL);
    assert_null(p);
    s = neutral(); /* a caller built when top_k was the last field */
    s.size = offsetof(apus_sampling, top_p);
    s.top_p = -77;
    assert_ok(apus_sampler_create(&s, 10, &p, &diag));
    apus_sampler_free(p);
    assert_ok(apus_sampler_create(NULL, 10, &p, &diag));
    apus_sampler_free(p);
}

static void models_bring_their_sampling(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 0, false);
    apus_sampling s;
    apus_sampling_from_model(NULL, &s);
    assert_true(s.temperature == 1 && s.top_k == 0 && s.top_p == 1 && s.min_p == 0);
    apus_sampling_from_model(m, &s);
    assert_true(s.temperature == 1 && s.top_k == 0 && s.top_p == 1 && s.repetition_penalty == 1);
    m->config.temperature = 0.6f;
    m->config.top_k = 20;
    m->config.top_p = 0.95f;
    m->config.min_p = 0.1f;
    m->config.repetition_penalty = 1.1f;
    apus_sampling_from_model(m, &s);
    assert_true(s.temperature == 0.6f && s.top_k == 20 && s.top_p == 0.95f && s.min_p == 0.1f);
    assert_true(s.repetition_penalty == 1.1f);
    apus_generate_settings g;
    apus_generate_settings_default(&g);
    assert_true(g.sampling == NULL && g.max_tokens == -1);
    m->config.do_sample = false;
    apus_sampling_from_model(m, &s);
    assert_true(s.temperature == 0);
    fake_model_free(m);
}

int main(void)
{
    fake_host = true; /* a sampler by itself is on the CPU */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_best),
        cmocka_unit_test(frequencies_are_the_probabilities),
        cmocka_unit_test(filters_keep_the_right_ids),
        cmocka_unit_test(seeds_repeat),
        cmocka_unit_test(draws_are_pinned),
        cmocka_unit_test(penalties_push_down_what_was_seen),
        cmocka_unit_test(strange_logits_are_told_or_do_no_harm),
        cmocka_unit_test(settings_are_checked),
        cmocka_unit_test(models_bring_their_sampling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
