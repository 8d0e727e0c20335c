/* Stop strings against a search that looks at the whole text, however the text is cut. */
#include "help.h"

#include "base/rng.h"
#include "engine/stops.h"

enum { MAX_TEXT = 60, MAX_STOPS = 4 };

/* The string that is complete first, the longest of several; *begin: where it begins. */
static int naive(const char *text, size_t n, const char *const *stop, int n_stop, size_t *begin)
{
    for (size_t end = 1; end <= n; end++) {
        int hit = -1;
        for (int i = 0; i < n_stop; i++) {
            size_t len = strlen(stop[i]);
            if (len <= end && !memcmp(text + end - len, stop[i], len) &&
                (hit < 0 || len > strlen(stop[hit])))
                hit = i;
        }
        if (hit < 0) continue;
        *begin = end - strlen(stop[hit]);
        return hit;
    }
    *begin = n;
    return -1;
}

static void random_text(ap_rng *rng, char *out, int n)
{
    for (int i = 0; i < n; i++) out[i] = (char)('a' + random_int(rng, 0, 1));
    out[n] = 0;
}

/* Push in pieces of random length; got holds what came out. Returns the hit. */
static int stream(ap_stops *s, ap_rng *rng, const char *text, size_t n, char *got, size_t *n_got)
{
    const char *out;
    size_t len;
    int hit = -1;
    *n_got = 0;
    for (size_t at = 0, piece; at < n && hit < 0; at += piece) {
        piece = (size_t)random_int(rng, 0, 4);
        if (piece > n - at) piece = n - at;
        assert_ok(ap_stops_push(s, text + at, piece, &out, &len, &hit, &diag));
        memcpy(got + *n_got, out, len);
        *n_got += len;
    }
    if (hit >= 0) return hit;
    ap_stops_finish(s, &out, &len);
    memcpy(got + *n_got, out, len);
    *n_got += len;
    return -1;
}

static void agree_with_a_naive_search(void **state)
{
    (void)state;
    ap_rng rng;
    ap_rng_seed(&rng, 1);
    int hits = 0;
    for (int round = 0; round < 20000; round++) {
        char text[MAX_TEXT + 1], stop[MAX_STOPS][16], got[MAX_TEXT];
        const char *list[MAX_STOPS];
        int n = random_int(&rng, 0, MAX_TEXT), n_stop = random_int(&rng, 0, MAX_STOPS);
        random_text(&rng, text, n);
        for (int i = 0; i < n_stop; i++) {
            random_text(&rng, stop[i], random_int(&rng, 1, 10));
            list[i] = stop[i];
        }
        size_t begin, n_got;
        int want = naive(text, (size_t)n, list, n_stop, &begin);
        ap_stops *s = NULL;
        assert_ok(ap_stops_create(list, n_stop, &s, &diag));
        int hit = stream(s, &rng, text, (size_t)n, got, &n_got);
        ap_stops_free(s);
        assert_int_equal(hit < 0 ? -1 : (int)strlen(list[hit]),
                         want < 0 ? -1 : (int)strlen(list[want]));
        assert_int_equal(n_got, begin);
        assert_memory_equal(got, text, begin);
        hits += hit >= 0;
    }
    assert_true(hits > 5000 && hits < 19000);
}

static void hold_back_no_more_than_needed(void **state)
{
    (void)state;
    const char *out, *const stop[] = {"<end>", "\n\n"};
    size_t len;
    int hit;
    ap_stops *s = NULL;
    assert_ok(ap_stops_create(stop, 2, &s, &diag));
    assert_ok(ap_stops_push(s, "a <e", 4, &out, &len, &hit, &diag));
    assert_int_equal(len, 2);
    assert_ok(ap_stops_push(s, "x\n", 2, &out, &len, &hit, &diag));
    assert_int_equal(len, 3);
    assert_memory_equal(out, "<ex", 3);
    assert_ok(ap_stops_push(s, "", 0, &out, &len, &hit, &diag));
    assert_int_equal(len, 0);
    assert_ok(ap_stops_push(s, "\nmore", 5, &out, &len, &hit, &diag));
    assert_int_equal(len, 0);
    assert_int_equal(hit, 1);
    ap_stops_finish(s, &out, &len);
    assert_int_equal(len, 0);
    ap_stops_free(s);
}

static void bad_strings(void **state)
{
    (void)state;
    ap_stops *s = NULL;
    assert_int_equal(ap_stops_create((const char *[]){"a", ""}, 2, &s, &diag), APUS_EINVAL);
    assert_non_null(strstr(diag.text, "stop string 1"));
    assert_int_equal(ap_stops_create((const char *[]){NULL}, 1, &s, &diag), APUS_EINVAL);
    assert_int_equal(ap_stops_create((const char *[]){"\xff"}, 1, &s, &diag), APUS_EINVAL);
    ap_stops_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agree_with_a_naive_search),
        cmocka_unit_test(hold_back_no_more_than_needed),
        cmocka_unit_test(bad_strings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
