/* GBNF: what is read, what is refused, and texts that can be read in very many ways. */
#include "help.h"

#include "base/mem.h"

static void yes_and_no(const char *grammar, const char *const *yes, const char *const *no)
{
    check_texts(ap_gbnf_parse, grammar, yes, no);
}

static void test_notation(void **state)
{
    (void)state;
    yes_and_no("root ::= \"a\" | \"b\" root\n", TEXTS("a", "ba", "bbba"), TEXTS("", "b", "ab"));
    yes_and_no("root ::= \"a\"{2,4} [x-z]*", TEXTS("aa", "aaaaxyz"), TEXTS("a", "aaaaa", "aax0"));
    yes_and_no("root ::= (\"ab\" | \"cd\"){3}", TEXTS("ababcd"), TEXTS("abab", "abababab"));
    yes_and_no("root ::= a b\na ::= \"a\"*\nb ::= \"b\"?", TEXTS("", "aaa", "aab", "b"),
               TEXTS("ba", "bb"));
    yes_and_no("root ::= [^a-c]+ # not these\n", TEXTS("xyz", "\xC3\xA9", "\n"),
               TEXTS("a", "\xC3", ""));
    yes_and_no("root ::= . .", TEXTS("ab", "\xC3\xA9\xF0\x9F\x98\x80"),
               TEXTS("a", "abc", "\xED\xA0\x80x"));
    yes_and_no("root ::= (\n  \"a\" |\n  \"b\"\n) \"c\"\n", TEXTS("ac", "bc"), TEXTS("c"));
    yes_and_no("root ::= \"\\x41\\u00e9\\U0001F600\\\"\\\\\\n\"",
               TEXTS("A\xC3\xA9\xF0\x9F\x98\x80\"\\\n"), TEXTS("A"));
    yes_and_no("root ::= [\\]\\-a]+ [é-ü]", TEXTS("]-aé", "-ö"), TEXTS("]-a", "bé"));
    yes_and_no("root ::= \"a\"{0} \"b\"{2,} \"c\"{,1}", TEXTS("bb", "bbbbc"),
               TEXTS("abb", "b", "bbcc"));
    yes_and_no("root ::= (a{0,2}){2,3}\na ::= \"x\"?", TEXTS("", "xxxxxx"), TEXTS("xxxxxxx"));
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *grammar, *word;
        apus_err err;
    } x[] = {{"root ::= root \"a\" | \"b\"", "left recursion", APUS_EUNSUPPORTED},
             {"root ::= a b\na ::= \"\" | \"x\"\nb ::= root \"y\" | \"z\"", "left recursion",
              APUS_EUNSUPPORTED},
             {"root ::= \"a\"{5,2}", "{5,2}", APUS_EFORMAT},
             {"root ::= \"a\"{9999999999}", "1,000,000,000", APUS_EFORMAT},
             {"root ::= a", "rule 'a'", APUS_EFORMAT},
             {"x ::= \"a\"", "rule 'root'", APUS_EFORMAT},
             {"root ::= \"a\"\nroot ::= \"b\"", "twice", APUS_EFORMAT},
             {"root ::= \"a\" root", "no text", APUS_EINVAL},
             {"root ::= \"a", "line 1", APUS_EFORMAT},
             {"\nroot ::= [a", "line 2", APUS_EFORMAT},
             {"root ::= [z-a]", "range", APUS_EFORMAT},
             {"root ::= (\"a\"", "')'", APUS_EFORMAT},
             {"root ::= \"a\")", "')'", APUS_EFORMAT},
             {"root ::= \"a\"**", "repetition", APUS_EFORMAT},
             {"root ::= \"\\q\"", "escape", APUS_EFORMAT},
             {"root ::= <think>", "tokens", APUS_EFORMAT},
             {"", "rule 'root'", APUS_EFORMAT}};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        check_refused(ap_gbnf_parse, x[i].grammar, x[i].err, x[i].word);
}

/* Bounds on what clients send: none of these takes long, or much memory. */
static void test_bounds(void **state)
{
    (void)state;
    enum { N = 200000 };
    char *text = ap_malloc(N + 100, 1);
    strcpy(text, "root ::= ");
    memset(text + 9, '(', N);
    text[N + 9] = 0;
    check_refused(ap_gbnf_parse, text, APUS_EUNSUPPORTED, "nested");
    ap_free(text);
    ap_grammar g =
        read_grammar(ap_gbnf_parse, "root ::= (((\"a\"{1000}){1000}){1000}){1000000} | \"b\"");
    assert_true(accepts(&g, "b", 1));
    assert_true(g.n_state < 1000);
    ap_grammar_free(&g);
}

static void check_deep(const char *grammar, char open, const char *end)
{
    enum { N = 3000 };
    char text[N + 3];
    ap_grammar g = read_grammar(ap_gbnf_parse, grammar);
    memset(text, open, N);
    strcpy(text + N, end);
    assert_true(accepts(&g, text, strlen(text)));
    ap_grammar_free(&g);
}

/* Each has many ways to read a text, or deep stacks that end at once. */
static void test_ambiguous(void **state)
{
    (void)state;
    check_deep("root ::= \"a\" root | \"a\" \"a\" root | \"\"", 'a', "");
    check_deep("root ::= \"a\" root ws | \"x\"\nws ::= \" \"?", 'a', "x ");
    check_deep("root ::= (\"a\" | \"a\" \"a\")*", 'a', "");
    check_deep("root ::= x x x\nx ::= \"a\" x | \"\"", 'a', "");
    yes_and_no("root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\"", TEXTS("", "ab", "aaaacbcb"),
               TEXTS("a", "abc"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notation),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_ambiguous),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
