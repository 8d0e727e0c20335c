/* Masks against trying every token, at each step of random answers; tokens taken back. */
#include "help.h"

#include <stdlib.h>

#include "base/rng.h"
#include "text/grammar/matcher.h"

enum { N_TOKEN = 900, STEPS = 60 };

static const char list_grammar[] =
    "root ::= list\nlist ::= \"[\" (item (\",\" item){0,7})? \"]\"\n"
    "item ::= list | [0-9]{1,3} | str\nstr ::= \"\\\"\" [^\"]* \"\\\"\"";
static const char *const grammars[] = {
    "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\"",
    "root ::= [a-c]{2,9} (\"-\" [a-c]{3}){0,4}",
    "root ::= (word \" \"?)+\nword ::= [a-z]+ | \"\\\"\" word \"\\\"\"",
    list_grammar,
};
static const char object_schema[] =
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"maxLength\":6},"
    "\"ab\":{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":3,\"maximum\":117},"
    "\"minItems\":1,\"maxItems\":3}},\"required\":[\"ab\"]}";
static const char list_schema[] =
    "{\"type\":\"array\",\"items\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"},"
    "{\"$ref\":\"#\"}]}}";
static const char *const schemas[] = {object_schema, list_schema, "true"};

/* Random bytes of those that these grammars speak of, and some characters in halves. */
static int make_tokens(ap_rng *rng, char text[][8], const char **at, size_t *len)
{
    static const char letters[] = "abcab0123456789\"\"\",,::[]{} \n-\\nul\xC3\xA9\xF0\x9F\x98\x80";
    for (int i = 0; i < N_TOKEN; i++) {
        at[i] = text[i];
        len[i] = i < 256 ? 1 : 1 + (size_t)(ap_rng_next(rng) % 5);
        for (size_t k = 0; k < len[i]; k++)
            text[i][k] = i < 256 ? (char)i : letters[ap_rng_next(rng) % (sizeof letters - 1)];
    }
    return N_TOKEN;
}

static bool try_token(ap_matcher *m, const ap_token_trie *t, int id)
{
    int32_t set = m->set[m->n];
    for (uint32_t i = t->off[id]; i < t->off[id + 1] && set >= 0; i++)
        set = ap_machine_step(&m->machine, set, (uint8_t)t->text[i]);
    return set >= 0;
}

static void compare(ap_matcher *m, const ap_token_trie *t, const char *what, int *allowed, int *n)
{
    uint32_t mask[(N_TOKEN + 31) / 32];
    *n = 0;
    assert_true(ap_matcher_mask(m, mask));
    for (int id = 0; id < t->vocab; id++) {
        bool may = mask[id / 32] >> id % 32 & 1;
        if (may != try_token(m, t, id)) fail_msg("%.60s: token %d: mask says %d", what, id, may);
        if (may) allowed[(*n)++] = id;
    }
}

static void random_answer(ap_token_masks *masks, const ap_token_trie *t, ap_rng *rng,
                          const char *what)
{
    ap_matcher m;
    int allowed[N_TOKEN], n;
    assert_int_equal(ap_matcher_open(&m, masks, NULL), APUS_OK);
    for (int i = 0; i < STEPS; i++) {
        compare(&m, t, what, allowed, &n);
        if (!n) break;
        if (i % 7 == 6) { /* what was taken back counts no more */
            size_t before = m.n;
            int32_t set = m.set[m.n];
            assert_true(ap_matcher_push(&m, allowed[0]));
            ap_matcher_back(&m, 1);
            assert_true(m.n == before && m.set[m.n] == set);
        }
        assert_true(ap_matcher_push(&m, allowed[ap_rng_next(rng) % (uint64_t)n]));
    }
    assert_true(n || ap_matcher_ends(&m));
    ap_matcher_close(&m);
}

static void check_grammar(reader read, const char *text, const ap_token_trie *t, ap_rng *rng)
{
    ap_grammar g = read_grammar(read, text);
    ap_token_masks masks;
    assert_int_equal(ap_token_masks_open(&masks, &g, t, NULL), APUS_OK);
    for (int i = 0; i < 20; i++) random_answer(&masks, t, rng, text);
    ap_token_masks_close(&masks);
    ap_grammar_free(&g);
}

static void test_masks(void **state)
{
    (void)state;
    static char text[N_TOKEN][8];
    static const char *at[N_TOKEN];
    static size_t len[N_TOKEN];
    ap_rng rng;
    ap_rng_seed(&rng, 5);
    for (int round = 0; round < 3; round++) {
        ap_token_trie t;
        int n = make_tokens(&rng, text, at, len);
        assert_int_equal(ap_token_trie_of(at, len, n, &t, NULL), APUS_OK);
        for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++)
            check_grammar(ap_gbnf_parse, grammars[i], &t, &rng);
        for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
            check_grammar(ap_json_schema_parse, schemas[i], &t, &rng);
        ap_token_trie_free(&t);
    }
}

/* A long answer: what is too far back to be taken back is forgotten, and nothing else changes. */
static void test_long(void **state)
{
    (void)state;
    const char *at[] = {"[", "]", ",", "[]"};
    size_t len[] = {1, 1, 1, 2};
    ap_token_trie t;
    ap_token_masks masks;
    ap_matcher m;
    ap_grammar g = read_grammar(ap_json_schema_parse, "true");
    assert_int_equal(ap_token_trie_of(at, len, 4, &t, NULL), APUS_OK);
    assert_int_equal(ap_token_masks_open(&masks, &g, &t, NULL), APUS_OK);
    assert_int_equal(ap_matcher_open(&m, &masks, NULL), APUS_OK);
    for (int i = 0; i < 60000; i++) assert_true(ap_matcher_push(&m, 0));
    ap_matcher_back(&m, AP_MATCHER_BACK);
    for (int i = 0; i < 60000 - AP_MATCHER_BACK; i++) {
        assert_false(ap_matcher_ends(&m));
        assert_true(ap_matcher_push(&m, 1));
    }
    assert_true(ap_matcher_ends(&m));
    assert_false(ap_matcher_push(&m, 1));
    ap_matcher_close(&m);
    ap_token_masks_close(&masks);
    ap_token_trie_free(&t);
    ap_grammar_free(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_masks), cmocka_unit_test(test_long)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
