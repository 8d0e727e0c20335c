/* test_chat_parser.c - outputs of models to events, at every cut. Sources: the families' formats of
 * output (Qwen 3.5 section 7.5, Gemma 4 section 6.4). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chat_util.h"

#define NELEM(a) (sizeof(a) / sizeof *(a))

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": "
    "\"object\","
    " \"properties\": {\"s\": {\"type\": \"string\"}, \"i\": {\"type\": \"integer\"},"
    " \"n\": {\"type\": \"number\"}, \"b\": {\"type\": \"boolean\"}, \"o\": {\"type\": \"object\"},"
    " \"a\": {\"type\": \"array\"}, \"u\": {\"type\": [\"integer\", \"null\"]},"
    " \"any\": {\"anyOf\": [{\"type\": \"array\"}, {\"type\": \"null\"}]}}}}},"
    " {\"name\": \"bare\", \"parameters\": {\"properties\": {\"i\": {\"type\": \"int\"}}}}]";

typedef struct example {
    const char *prompt, *out, *want;
} example;

#define IN_THOUGHT    "<|im_start|>assistant\n<think>\n"
#define PAST_THOUGHT  "<|im_start|>assistant\n<think>\n\n</think>\n\n"
#define F(params)     "<tool_call>\n<function=f>\n" params "</function>\n</tool_call>"
#define P(key, value) "<parameter=" key ">\n" value "\n</parameter>\n"

static const example qwen[] = {
    {NULL, "Hello", "C:Hello"},
    {NULL, "", ""},
    {IN_THOUGHT, "why\n</think>\n\nbecause", "T:why|C:because"},
    {IN_THOUGHT, "\n\n</think>\n\nbecause", "C:because"},
    {IN_THOUGHT, "a\n\nb\n\n</think>\n\n\n  because\n", "T:a\n\nb|C:  because\n"},
    {IN_THOUGHT, "unfinished\n", "T:unfinished"},
    {IN_THOUGHT, "<think>\nwhy</think>x", "T:why|C:x"},
    {IN_THOUGHT, "no end", "T:no end"},
    {IN_THOUGHT, "a</thi", "T:a</thi"},
    {IN_THOUGHT "half a tho", "ught</think>x", "T:ught|C:x"},
    {PAST_THOUGHT, "\nplain\n", "C:\nplain\n"},
    {PAST_THOUGHT, "stray</think>x", "C:stray</think>x"},
    {"<|im_start|>user\n<think><|im_end|>\n", "x", "C:x"},
    {NULL, "<think>\nwhy\n</think>\n\nbecause", "T:why|C:because"},
    {NULL, "\n<think>\n\n</think>\n\nbecause", "C:because"},
    {NULL, "</think>\n\nx", "C:x"},
    {NULL, "a<b<thin<think", "C:a<b<thin<think"},
    {NULL, "x<|im_end|>", "C:x"},
    {NULL, "x\n<|im_end|>\n<|endoftext|>", "C:x\n\n"},
    {NULL, "x<|im_end|>\n<|im_start|>assistant\ny", "C:x\ny"},
    {NULL, F(P("s", "Paris")), "F:f({\"s\": \"Paris\"})"},
    {NULL, "Let me look.\n\n" F(P("s", "Z\xC3\xBCrich")),
     "C:Let me look.|F:f({\"s\": \"Z\xC3\xBCrich\"})"},
    {NULL, F(P("s", "1")) "\n" F(P("i", "2")), "F:f({\"s\": \"1\"})|F:f({\"i\": 2})"},
    {NULL, F("") "\n\nDone.", "F:f({})|C:Done."},
    {NULL, "A\n" F("") "\nB", "C:A|F:f({})|C:\n\nB"},
    {NULL, F("") "\n\n", "F:f({})"},
    {IN_THOUGHT, "hm\n" F(P("s", "x")), "T:hm|F:f({\"s\": \"x\"})"},
    {IN_THOUGHT, "hm\n</think>\n\n" F(P("s", "x")), "T:hm|F:f({\"s\": \"x\"})"},
    {NULL,
     F(P("i", "-05") P("n", "1.50") P("b", "True") P("o", "{\"k\": [1, null]}")
           P("a", "['x', True, (1,)]")),
     "F:f({\"i\": -5, \"n\": 1.50, \"b\": true, \"o\": {\"k\": [1, null]}, \"a\": [\"x\", true, "
     "[1]]})"},
    {NULL, F(P("i", "five") P("n", "x") P("b", "maybe") P("o", "{oops") P("zz", "5")),
     "F:f({\"i\": \"five\", \"n\": \"x\", \"b\": \"maybe\", \"o\": \"{oops\", \"zz\": \"5\"})"},
    {NULL, F(P("s", "null") P("u", "7") P("any", "[]") P("s", "5")),
     "F:f({\"s\": \"5\", \"u\": 7, \"any\": []})"},
    {NULL, F(P("s", "\nline\n\n") P("i", "12345678901234567890123")),
     "F:f({\"s\": \"\\nline\\n\\n\", \"i\": 12345678901234567890123})"},
    {NULL, F("<parameter=s>inline</parameter><parameter=i>3</parameter>"),
     "F:f({\"s\": \"inline\", \"i\": 3})"},
    {NULL, F("<parameter=s>\nno end\n<parameter=i>\n3\n"), "F:f({\"s\": \"no end\", \"i\": 3})"},
    {NULL, "<function=f>\n" P("s", "x") "</function>", "F:f({\"s\": \"x\"})"},
    {NULL, "<function=f></function>text", "F:f({})|C:text"},
    {NULL,
     "<tool_call><function=f></function><function=bare>" P("i", "4") "</function></tool_call>",
     "F:f({})|F:bare({\"i\": 4})"},
    {NULL, "<tool_call><function=f>" P("s", "x") "</tool_call>", "F:f({\"s\": \"x\"})"},
    {NULL,
     "<tool_call>\n{\"name\": \"g\", \"arguments\": {\"a\": [1.0, \"</tool_call>\"], \"b\": "
     "{}}}\n</tool_call>",
     "F:g({\"a\": [1.0, \"</tool_call>\"], \"b\": {}})"},
    {NULL, "<tool_call>{\"name\": \"g\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>",
     "F:g({\"x\": 1})"},
    {NULL,
     "<tool_call>{\"name\": \"g\"}</tool_call>\n<tool_call>{\"name\": \"h\", \"parameters\": "
     "{}}</tool_call>",
     "F:g({})|F:h({})"},
    {NULL, "<tool_call>{\"nome\": 1}</tool_call>x", "C:<tool_call>{\"nome\": 1}</tool_call>x"},
    {NULL, "<tool_call>{\"name\": \"g\", \"arg", "C:<tool_call>{\"name\": \"g\", \"arg"},
    {NULL, "<tool_call>what</tool_call>!", "C:<tool_call>what</tool_call>!"},
    {NULL, "<tool_call></tool_call>!", "C:<tool_call></tool_call>!"},
    {NULL, "<tool_call>\n<function=f>\n<parameter=s>\nval",
     "C:<tool_call>\n<function=f>\n<parameter=s>\nval"},
    {NULL, "<tool_call><function=f\n>x", "C:<tool_call><function=f\n>x"},
    {NULL, "use <function= like this", "C:use <function= like this"},
    {NULL, "<tool_ca", "C:<tool_ca"},
    {NULL, "<tool_call>", "C:<tool_call>"},
};

#define CH "<|channel>thought\n"
static const example gemma[] = {
    {NULL, "Hello<turn|>", "C:Hello"},
    {NULL, CH "why\n<channel|>because<turn|>", "T:why|C:because"},
    {NULL, CH "<channel|>because", "C:because"},
    {NULL, "<|channel>thought<channel|>because", "C:because"},
    {NULL, CH "<channel|>" CH "again\n<channel|>x" CH "<channel|>y", "T:again|C:xy"},
    {NULL, CH "open end\n", "T:open end"},
    {NULL, "<|channel>thou", ""},
    {NULL, "<|channel>other <channel|>x", "T:other |C:x"},
    {"<|turn>model\n" CH, "why<channel|>x", "T:why|C:x"},
    {"<|turn>model\n<|channel>", "thought\nwhy<channel|>x", "T:why|C:x"},
    {"<|turn>model\n" CH "<channel|>", "x<channel|>y", "C:x<channel|>y"},
    {"<|channel>"
     "<|turn>model\n",
     "x", "C:x"},
    {NULL, "<|turn>model\nx<|turn>", "C:x"},
    {NULL, "a<|tool", "C:a<|tool"},
    {NULL, "say <|\"|>hi<|\"|>", "C:say \"hi\""},
    {NULL,
     "<|tool_call>call:get_weather{city:<|\"|>Z\xC3\xBCrich<|\"|>,unit:<|\"|>c<|\"|>}<tool_call|>"
     "<|tool_call>call:search{filters:{max:3,tags:[<|\"|>a<|\"|>,<|\"|>b<|\"|>]},query:<|\"|>"
     "caf\xC3\xA9 \"best\"<|\"|>}<tool_call|><|tool_response>",
     "F:get_weather({\"city\": \"Z\xC3\xBCrich\", \"unit\": \"c\"})|F:search({\"filters\": "
     "{\"max\": 3, \"tags\": [\"a\", \"b\"]}, \"query\": \"caf\xC3\xA9 \\\"best\\\"\"})"},
    {NULL, "<|tool_call>call:f-1.x{}<tool_call|>", "F:f-1.x({})"},
    {NULL, "<|tool_call> call: f { a b : 1.5e-05 , c : true,d:null , e:[ ] ,} <tool_call|>",
     "F:f({\"a b\": 1.5e-05, \"c\": true, \"d\": null, \"e\": []})"},
    {NULL, "<|tool_call>call:f{s:<|\"|>}<tool_call|>{,<turn|>\n<|\"|>}<tool_call|>x",
     "F:f({\"s\": \"}<tool_call|>{,<turn|>\\n\"})|C:x"},
    {NULL, "<|tool_call>call:f{s:bare words,t:-1,u:True}<tool_call|>",
     "F:f({\"s\": \"bare words\", \"t\": -1, \"u\": true})"},
    {NULL, "<|tool_call>call:f{<|\"|>k<|\"|>:\"q\\\"\"}<tool_call|>", "F:f({\"k\": \"q\\\"\"})"},
    {NULL, "text\n\n<|tool_call>call:f{}<tool_call|>\n<|tool_call>call:g{}<tool_call|>",
     "C:text|F:f({})|F:g({})"},
    {NULL, CH "hm<|tool_call>call:f{}<tool_call|>", "T:hm|F:f({})"},
    {NULL, "<|tool_call>call:f{a:1}<turn|>", "F:f({\"a\": 1})"},
    {NULL, "<|tool_call>call:f{a:1}", "F:f({\"a\": 1})"},
    {NULL, "<|tool_call>call:f{a:1", "C:<|tool_call>call:f{a:1"},
    {NULL, "<|tool_call>call:f{s:<|\"|>x<tool_call|>",
     "C:<|tool_call>call:f{s:<|\"|>x<tool_call|>"},
    {NULL, "<|tool_call>nonsense<tool_call|>x", "C:<|tool_call>nonsense<tool_call|>x"},
    {NULL, "<|tool_call>call:f{a 1}<tool_call|>x", "C:<|tool_call>call:f{a 1}<tool_call|>x"},
    {NULL, "<|tool_call>call:f{}<tool_call|><|tool_response>response:f{value:1}<tool_response|>so",
     "F:f({})|C:so"},
    {NULL, "x<tool_call|>y<eos>", "C:x<tool_call|>y"},
};

static void check(ap_chat_syntax syntax, const example *e, size_t n)
{
    static heard whole, cut;
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(e[i].out);
        parse_cut(syntax, e[i].prompt, tools, e[i].out, len, 0, &whole);
        if (strcmp(whole.text, e[i].want))
            fail_msg("%s\n  want %s\n  got  %s", e[i].out, e[i].want, whole.text);
        assert_false(whole.empty || whole.broken);
        for (size_t step = 1; step < 8; step++) {
            parse_cut(syntax, e[i].prompt, tools, e[i].out, len, step, &cut);
            if (strcmp(whole.text, cut.text))
                fail_msg("%s in steps of %zu\n  want %s\n  got  %s", e[i].out, step, whole.text,
                         cut.text);
            assert_false(cut.empty || cut.broken);
        }
        for (size_t at = 0; at <= len; at++) {
            parse_two(syntax, e[i].prompt, tools, e[i].out, len, at, &cut);
            if (strcmp(whole.text, cut.text))
                fail_msg("%s cut at %zu\n  want %s\n  got  %s", e[i].out, at, whole.text, cut.text);
        }
    }
}

static void test_qwen(void **state)
{
    (void)state;
    check(AP_CHAT_QWEN, qwen, NELEM(qwen));
}

static void test_gemma(void **state)
{
    (void)state;
    check(AP_CHAT_GEMMA, gemma, NELEM(gemma));
}

static void test_plain(void **state)
{
    (void)state;
    static const example plain[] = {
        {NULL, "<think>x</think><tool_call>", "C:<think>x</think><tool_call>"},
        {NULL, "\xF0\x9F\x98\x80\n\n", "C:\xF0\x9F\x98\x80\n\n"},
        {NULL, "a\xFF\xE2\x82z\xE2\x82", "C:a\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD"},
        {NULL, "\xF0\x80\xED\xA0\x80",
         "C:\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
    };
    check(AP_CHAT_PLAIN, plain, NELEM(plain));
}

/* Random outputs out of the families' pieces: every cut says the same, and nothing but an end of
 * output that was cut off shows a marker. */
static void random_outputs(ap_chat_syntax syntax, const char *const *pieces, uint32_t n_pieces)
{
    static heard whole, cut;
    uint32_t seed = 12345;
    for (int round = 0; round < 1500; round++) {
        char out[2048] = "";
        size_t len = 0;
        uint32_t n = 1 + (seed = seed * 1664525u + 1013904223u, seed >> 16) % 12;
        for (uint32_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            const char *piece = pieces[(seed >> 16) % n_pieces];
            memcpy(out + len, piece, strlen(piece) + 1);
            len += strlen(piece);
        }
        parse_cut(syntax, NULL, tools, out, len, 0, &whole);
        assert_false(whole.empty || whole.broken);
        for (size_t step = 1; step < 12; step += step < 4 ? 1 : 3) {
            parse_cut(syntax, NULL, tools, out, len, step, &cut);
            if (strcmp(whole.text, cut.text))
                fail_msg("%s in steps of %zu\n  want %s\n  got  %s", out, step, whole.text,
                         cut.text);
        }
        parse_two(syntax, NULL, tools, out, len, (seed >> 8) % (len + 1), &cut);
        assert_string_equal(whole.text, cut.text);
    }
}

static void test_random(void **state)
{
    (void)state;
    static const char *const q[] = {"<think>",
                                    "</think>",
                                    "\n",
                                    "\n\n",
                                    " ",
                                    "text",
                                    "\xF0\x9F\x98\x80",
                                    "<tool_call>",
                                    "</tool_call>",
                                    "<function=f>",
                                    "</function>",
                                    "<parameter=s>",
                                    "</parameter>",
                                    "5",
                                    "{\"name\": \"f\", ",
                                    "\"arguments\": {}}",
                                    "<",
                                    "<|im_end|>",
                                    "<|im_start|>",
                                    "assistant\n",
                                    "<tool",
                                    "}",
                                    "\xC3",
                                    "<function=",
                                    ">"};
    static const char *const g[] = {"<|channel>",
                                    "thought",
                                    "\n",
                                    "<channel|>",
                                    "text",
                                    " ",
                                    "<|tool_call>",
                                    "call:f{",
                                    "a:1",
                                    ",",
                                    "b:",
                                    "<|\"|>",
                                    "}",
                                    "<tool_call|>",
                                    "<|tool_response>",
                                    "<tool_response|>",
                                    "<turn|>",
                                    "<|turn>",
                                    "model\n",
                                    "<",
                                    "<|",
                                    "\xE2\x82\xAC",
                                    "[",
                                    "]",
                                    "{"};
    random_outputs(AP_CHAT_QWEN, q, NELEM(q));
    random_outputs(AP_CHAT_GEMMA, g, NELEM(g));
}

/* Text goes out as soon as it cannot be a marker any more. */
static void test_early(void **state)
{
    (void)state;
    static heard h;
    ap_chat_parser *p = NULL;
    memset(&h, 0, sizeof h);
    assert_int_equal(ap_chat_parser_create(AP_CHAT_QWEN, NULL, 0, NULL, hear, &h, &p, NULL),
                     APUS_OK);
    ap_chat_parser_push(p, "Hello", 5);
    assert_string_equal(h.text, "C:Hello");
    ap_chat_parser_push(p, " wor<t", 6);
    assert_string_equal(h.text, "C:Hello wor");
    ap_chat_parser_push(p, "d>", 2);
    assert_string_equal(h.text, "C:Hello wor<td>");
    ap_chat_parser_push(p, "\xE2\x82", 2);
    assert_string_equal(h.text, "C:Hello wor<td>");
    ap_chat_parser_push(p, "\xAC", 1);
    assert_string_equal(h.text, "C:Hello wor<td>\xE2\x82\xAC");
    assert_int_equal(ap_chat_parser_finish(p), APUS_OK);
    assert_int_equal(ap_chat_parser_push(p, "x", 1), APUS_EINVAL);
    ap_chat_parser_free(p);
}

/* Schemas that refer to themselves many times over are walked a bounded way. */
static void test_hostile_schema(void **state)
{
    (void)state;
    static heard h;
    static char schema[1 << 16], out[1 << 16];
    size_t n = (size_t)sprintf(schema, "[{\"name\": \"f\", \"parameters\": {\"$defs\": {\"A\": {"
                                       "\"anyOf\": [{\"type\": \"integer\"}");
    for (int i = 0; i < 500; i++)
        n += (size_t)sprintf(schema + n, ", {\"%s\": [{\"$ref\": \"#/$defs/A\"}]}",
                             i % 2 ? "allOf" : "oneOf");
    sprintf(schema + n, "]}}, \"$ref\": \"#/$defs/A\", \"properties\": {\"x\": {\"$ref\": "
                        "\"#/$defs/A\"}}}}]");
    n = (size_t)sprintf(out, "<tool_call>\n<function=f>\n");
    for (int i = 0; i < 500; i++)
        n += (size_t)sprintf(out + n, "<parameter=%c>\n7\n</parameter>\n", i % 2 ? 'x' : 'y');
    sprintf(out + n, "</function>\n</tool_call>");
    parse_cut(AP_CHAT_QWEN, NULL, schema, out, strlen(out), 0, &h);
    assert_string_equal(h.text, "F:f({\"y\": \"7\", \"x\": 7})");
}

/* What is used up is dropped while a call is being read: nothing of the call is lost, wherever that
 * happens. */
static void test_dropping(void **state)
{
    (void)state;
    static heard h;
    static char out[16384], want[16384];
    static const struct {
        ap_chat_syntax syntax;
        const char *call, *want;
    } calls[] = {
        {AP_CHAT_QWEN,
         "\n<tool_call>\n<function=f>\n<parameter=s>\nA value </parameter> of words.\n"
         "</parameter>\n<parameter=i>\n12\n</parameter>\n</function>\n</tool_call>",
         "F:f({\"s\": \"A value </parameter> of words.\", \"i\": 12})"},
        {AP_CHAT_QWEN,
         "\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"s\": \"words\"}}\n</tool_call>",
         "F:f({\"s\": \"words\"})"},
        {AP_CHAT_GEMMA, "\n<|tool_call>call:f{s:<|\"|>A value } of words.<|\"|>,i:12}<tool_call|>",
         "F:f({\"s\": \"A value } of words.\", \"i\": 12})"}};
    for (size_t c = 0; c < NELEM(calls); c++)
        for (size_t n = 4080; n < 4130; n++) {
            memset(out, 'x', n);
            strcpy(out + n, calls[c].call);
            snprintf(want, sizeof want, "C:%.*s|%s", (int)n, out, calls[c].want);
            for (size_t step = 1; step < 64; step += 9) {
                parse_cut(calls[c].syntax, NULL, tools, out, strlen(out), step, &h);
                if (strcmp(h.text, want))
                    fail_msg("%zu bytes in steps of %zu: %s", n, step, h.text + n);
            }
        }
}

/* Long answers cost time in proportion: this takes under a second. */
static void test_linear(void **state)
{
    (void)state;
    static heard h;
    size_t n = 1 << 19;
    char *s = malloc(n);
    static const char *const q[] = {"<function=<tool_call>{",
                                    "<tool_call><function=f><parameter=s>",
                                    "\n\n\xFF<",
                                    "<tool_call>{\"a\":{",
                                    "\n<tool_call>\n<function=f>\n<parameter=s>\n</parameter>\n",
                                    "\n<tool_call>{}\n",
                                    "</parameter>          ",
                                    "\n<think> a",
                                    "\n<function=f></function></tool_call>",
                                    "```\n<tool_call>"};
    static const char *const g[] = {"<|tool_call>call:f{a:<|\"|>", "<|tool_call>call:f{a:'b' ",
                                    "<|tool_call>call:f{a:1}<tool_call|>", "<|channel>thought\n",
                                    "\n<|channel>a"};
    for (size_t u = 0; u < NELEM(q) + NELEM(g); u++) {
        bool is_gemma = u >= NELEM(q);
        const char *unit = is_gemma ? g[u - NELEM(q)] : q[u];
        const char *thought = is_gemma ? CH : IN_THOUGHT;
        ap_chat_syntax syntax = is_gemma ? AP_CHAT_GEMMA : AP_CHAT_QWEN;
        for (size_t i = 0; i < n; i++) s[i] = unit[i % strlen(unit)];
        parse_cut(syntax, NULL, tools, s, n, 0, &h);
        parse_cut(syntax, NULL, tools, s, n, 5, &h);
        parse_cut(syntax, thought, tools, s, n, 5, &h);
    }
    /* One value after another. */
    static const char head[] = "<tool_call><function=f>";
    memcpy(s, head, sizeof head - 1);
    for (size_t i = sizeof head - 1; i < n; i++)
        s[i] = "<parameter=s>\nx\n</parameter>\n"[(i - sizeof head + 1) % 29];
    parse_cut(AP_CHAT_QWEN, NULL, tools, s, n, 5, &h);
    free(s);
}

static void test_bad_input(void **state)
{
    (void)state;
    static heard h;
    ap_chat_parser *p = NULL;
    apus_diag diag = {0};
    assert_int_equal(ap_chat_parser_create(AP_CHAT_QWEN, NULL, 0, "[", hear, &h, &p, &diag),
                     APUS_EINVAL);
    assert_non_null(strstr(diag.text, "tools"));
    assert_int_equal(ap_chat_parser_create(AP_CHAT_QWEN, NULL, 0, NULL, NULL, &h, &p, &diag),
                     APUS_EINVAL);
    ap_chat_parser_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen),      cmocka_unit_test(test_gemma),
        cmocka_unit_test(test_plain),     cmocka_unit_test(test_random),
        cmocka_unit_test(test_early),     cmocka_unit_test(test_linear),
        cmocka_unit_test(test_dropping),  cmocka_unit_test(test_hostile_schema),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
