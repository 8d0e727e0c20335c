/* test_chat.c - finding templates in a model's folder and rendering conversations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "text/chat.h"

static char dir[] = "/tmp/apus_test_chat_XXXXXX";

static void path_of(const char *name, char out[512])
{
    snprintf(out, 512, "%s/%s", dir, name);
}

static void put_file(const char *name, const char *text)
{
    char path[512];
    path_of(name, path);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int clean(void **state)
{
    (void)state;
    static const char *const names[] = {"chat_template.jinja", "tokenizer_config.json",
                                        "chat_template.json"};
    for (int i = 0; i < 3; i++) {
        char path[512];
        path_of(names[i], path);
        remove(path);
    }
    return 0;
}

static ap_chat *load(void)
{
    ap_chat *c = NULL;
    apus_diag diag = {0};
    if (ap_chat_load(dir, AP_CHAT_QWEN, &c, &diag)) fail_msg("%s", diag.text);
    return c;
}

static void renders(const ap_chat *c, const char *messages, const char *tools,
                    const apus_chat_settings *s, const char *want)
{
    char *text = NULL;
    size_t len = 0;
    apus_diag diag = {0};
    if (ap_chat_render(c, messages, tools, s, NULL, &text, &len, &diag)) fail_msg("%s", diag.text);
    assert_string_equal(text, want);
    assert_int_equal(len, strlen(want));
    apus_free(text);
}

static void refuses(const ap_chat *c, const char *messages, const char *tools, const char *extra,
                    apus_err code, const char *says)
{
    char *text = NULL;
    size_t len = 0;
    apus_diag diag = {0};
    apus_chat_settings s = {.size = sizeof s, .extra_json = extra};
    assert_int_equal(ap_chat_render(c, messages, tools, &s, NULL, &text, &len, &diag), code);
    if (!strstr(diag.text, says)) fail_msg("expected %s in: %s", says, diag.text);
}

static const char hi[] = "[{\"role\": \"user\", \"content\": \"hi\"}]";

static void test_nothing(void **state)
{
    (void)state;
    assert_null(load());
    refuses(NULL, hi, NULL, NULL, APUS_EUNSUPPORTED, "no chat template");
    put_file("tokenizer_config.json", "{\"bos_token\": \"<s>\", \"chat_template\": null}");
    assert_null(load());
}

static void test_file_first(void **state)
{
    (void)state;
    put_file("tokenizer_config.json",
             "{\"bos_token\": {\"content\": \"<s>\", \"special\": true}, \"eos_token\": \"</s>\","
             " \"pad_token\": null, \"add_bos_token\": true, \"chat_template\": \"config\"}");
    put_file("chat_template.jinja",
             "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token is defined }}\n");
    ap_chat *c = load();
    renders(c, hi, NULL, NULL, "<s>hi</s>False");
    ap_chat_free(c);
    clean(NULL);
    put_file("tokenizer_config.json", "{\"chat_template\": \"config {{ messages|length }}\"}");
    c = load();
    renders(c, hi, NULL, NULL, "config 1");
    ap_chat_free(c);
    clean(NULL);
    put_file("chat_template.json", "{\"chat_template\": \"processor\"}");
    c = load();
    renders(c, hi, NULL, NULL, "processor");
    ap_chat_free(c);
}

static void test_named(void **state)
{
    (void)state;
    put_file("tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"default\", \"template\": \"D{{ tools is none }}\"},"
             " {\"name\": \"tool_use\", \"template\": \"T{{ tools|length }}\"},"
             " {\"name\": \"rag\", \"template\": \"{{\"}]}");
    ap_chat *c = load();
    renders(c, hi, NULL, NULL, "DTrue");
    renders(c, hi, "[{}]", NULL, "T1");
    renders(c, hi, "[]", NULL, "T0");
    ap_chat_free(c);
    put_file("tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"T\"}]}");
    c = load();
    renders(c, hi, "[]", NULL, "T");
    refuses(c, hi, NULL, NULL, APUS_EUNSUPPORTED, "default");
    ap_chat_free(c);
}

static void test_settings(void **state)
{
    (void)state;
    put_file("chat_template.jinja", "{{ add_generation_prompt }} {{ enable_thinking }} {{ "
                                    "documents }} {{ x }} {{ bos_token }}");
    put_file("tokenizer_config.json", "{\"bos_token\": \"<s>\"}");
    ap_chat *c = load();
    apus_chat_settings s = {.size = sizeof s};
    renders(c, hi, NULL, NULL, "True  None  <s>");
    renders(c, hi, NULL, &s, "True  None  <s>");
    s.think = APUS_THINK_OFF;
    s.no_generation_prompt = true;
    renders(c, hi, NULL, &s, "False False None  <s>");
    s.think = APUS_THINK_ON;
    s.extra_json = "{\"x\": [1.0, \"a\"], \"documents\": [], \"bos_token\": \"B\"}";
    renders(c, hi, NULL, &s, "False True [] [1.0, 'a'] B");
    ap_chat_free(c);
}

static void test_arguments(void **state)
{
    (void)state;
    put_file("chat_template.jinja",
             "{% for c in messages[0].tool_calls %}{{ (c.function or c).arguments }};{% endfor %}");
    ap_chat *c = load();
    renders(c,
            "[{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"arguments\": "
            "\"{\\\"a\\\": [1.0, true]}\"}},"
            " {\"function\": {\"arguments\": {\"b\": null}}}, {\"function\": {\"arguments\": "
            "\"oops {\"}},"
            " {\"function\": {\"arguments\": \"[1]\"}}, {\"arguments\": \"{}\"}, {\"function\": "
            "{\"arguments\": \" \"}}]}]",
            NULL, NULL, "{\"a\": [1.0, true]};{'b': None};oops {;[1];{}; ;");
    ap_chat_free(c);
}

/* What templates do with arguments, given as a string and as an object. */
static void test_arguments_either_way(void **state)
{
    (void)state;
    static const char as_text[] =
        "[{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"f\", "
        "\"arguments\": \"{\\\"b\\\":1,  \\\"a\\\": [true]}\"}}]}]";
    static const char as_object[] =
        "[{\"role\": \"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"f\", "
        "\"arguments\": {\"b\":1,  \"a\": [true]}}}]}]";
    static const struct {
        const char *expr, *text, *object; /* object NULL: fails there, as in Jinja */
    } uses[] = {
        {"{{ x }}", "{\"b\":1,  \"a\": [true]}", "{'b': 1, 'a': [True]}"},
        {"{{ 'a' + x + 'b' }}", "a{\"b\":1,  \"a\": [true]}b", NULL},
        {"{{ 'a' ~ x ~ 'b' }}", "a{\"b\":1,  \"a\": [true]}b", "a{'b': 1, 'a': [True]}b"},
        {"{{ '%s' | format(x) }}", "{\"b\":1,  \"a\": [true]}", "{'b': 1, 'a': [True]}"},
        {"{{ x | string | trim }}", "{\"b\":1,  \"a\": [true]}", "{'b': 1, 'a': [True]}"},
        {"{{ x | replace('b', 'c') }}", "{\"c\":1,  \"a\": [true]}", "{'c': 1, 'a': [True]}"},
        {"{{ [x, 'y'] | join('-') }}", "{\"b\":1,  \"a\": [true]}-y", "{'b': 1, 'a': [True]}-y"},
        {"{{ x.startswith('{') }}", "True", NULL},
        {"{% if x is string %}{{ x }}{% else %}{{ x | tojson }}{% endif %}",
         "{\"b\":1,  \"a\": [true]}", "{\"b\": 1, \"a\": [true]}"},
        {"{{ x | tojson }}", "{\"b\": 1, \"a\": [true]}", "{\"b\": 1, \"a\": [true]}"},
        {"{% for k, v in x | items %}{{ k }}={{ v | tojson }};{% endfor %}", "b=1;a=[true];",
         "b=1;a=[true];"},
        {"{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}", "b=1;a=[True];",
         "b=1;a=[True];"},
        {"{% for k in x %}{{ k }}{{ x[k] }}{% endfor %}{{ x.b }}", "b1a[True]1", "b1a[True]1"},
        {"{{ x | dictsort | first | first }}{{ x is mapping }}{{ 'a' in x }}", "aTrueTrue",
         "aTrueTrue"},
        {"{{ messages[0].tool_calls[0].function | tojson }}",
         "{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": [true]}}",
         "{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": [true]}}"},
    };
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        char t[512];
        snprintf(t, sizeof t, "{%% set x = messages[0].tool_calls[0].function.arguments %%}%s",
                 uses[i].expr);
        put_file("chat_template.jinja", t);
        ap_chat *c = load();
        renders(c, as_text, NULL, NULL, uses[i].text);
        if (uses[i].object)
            renders(c, as_object, NULL, NULL, uses[i].object);
        else
            refuses(c, as_object, NULL, NULL, APUS_EFORMAT, "line 1");
        ap_chat_free(c);
    }
}

/* The families' templates iterate over arguments: it does not matter how they are given. */
static void test_families_arguments(void **state)
{
    (void)state;
    static const char *const models[] = {"models/tiny-qwen", "models/tiny-gemma"};
    static const char *const arguments[] = {
        "{\"path\": \"a\", \"n\": [1, {\"b\": null}], \"f\": 1.5}",
        "\"{\\\"path\\\": \\\"a\\\", \\\"n\\\": [1, {\\\"b\\\": null}], \\\"f\\\": 1.5}\""};
    for (int m = 0; m < 2; m++) {
        ap_chat *c = NULL;
        apus_diag diag = {0};
        char *text[2];
        size_t len;
        if (ap_chat_load(models[m], m ? AP_CHAT_GEMMA : AP_CHAT_QWEN, &c, &diag))
            fail_msg("%s", diag.text);
        for (int k = 0; k < 2; k++) {
            char messages[1024];
            snprintf(messages, sizeof messages,
                     "[{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", "
                     "\"content\": null, \"tool_calls\": [{\"type\": \"function\", \"function\": "
                     "{\"name\": \"f\", \"arguments\": %s}}]}]",
                     arguments[k]);
            if (ap_chat_render(c, messages, NULL, NULL, NULL, &text[k], &len, &diag))
                fail_msg("%s", diag.text);
        }
        assert_string_equal(text[0], text[1]);
        assert_non_null(strstr(text[0], "path"));
        apus_free(text[0]);
        apus_free(text[1]);
        ap_chat_free(c);
    }
}

/* As transformers does: null members of messages are as if they were not there. */
static void test_null_keys(void **state)
{
    (void)state;
    put_file("chat_template.jinja",
             "{% for m in messages %}{{ m | tojson }}{{ m.content is defined }}"
             "{% if m.tool_calls %}!{% endif %}{{ 'name' in m }}\n{% endfor %}");
    ap_chat *c = load();
    renders(c,
            "[{\"role\": \"user\", \"content\": null, \"name\": null},"
            " {\"content\": \"x\", \"tool_calls\": null, \"role\": \"user\"},"
            " {\"role\": \"user\", \"tool_calls\": [{\"id\": null}], \"refusal\": null}]",
            NULL, NULL,
            "{\"role\": \"user\"}FalseFalse\n{\"content\": \"x\", \"role\": \"user\"}TrueFalse\n"
            "{\"role\": \"user\", \"tool_calls\": [{\"id\": null}]}False!False\n");
    refuses(c, "[{\"role\": null}]", NULL, NULL, APUS_EINVAL, "messages[0]: expected a role");
    ap_chat_free(c);
}

static void test_reasoning(void **state)
{
    (void)state;
    put_file("chat_template.jinja", "{% for m in messages %}{{ m|tojson }}\n{% endfor %}");
    ap_chat *c = load();
    /* What transformers 5 makes of the three names, order included. */
    renders(
        c,
        "[{\"role\": \"a\", \"reasoning\": \"r\"}, {\"role\": \"b\", \"reasoning_content\": \"c\", "
        "\"thinking\": \"t\"},"
        " {\"role\": \"c\", \"thinking\": \"t\"}, {\"role\": \"d\", \"reasoning_content\": null, "
        "\"reasoning\": \"\"},"
        " {\"role\": \"e\", \"reasoning\": null}]",
        NULL, NULL,
        "{\"thinking\": \"r\", \"role\": \"a\", \"reasoning\": \"r\", \"reasoning_content\": "
        "\"r\"}\n"
        "{\"thinking\": \"t\", \"role\": \"b\", \"reasoning_content\": \"c\"}\n"
        "{\"thinking\": \"t\", \"role\": \"c\", \"reasoning_content\": \"t\"}\n"
        "{\"thinking\": \"\", \"role\": \"d\", \"reasoning\": \"\", \"reasoning_content\": \"\"}\n"
        "{\"role\": \"e\"}\n");
    ap_chat_free(c);
}

static void test_refusals(void **state)
{
    (void)state;
    put_file("chat_template.jinja", "{{ messages[0].content.x }}");
    ap_chat *c = load();
    refuses(c, NULL, NULL, NULL, APUS_EINVAL, "messages");
    refuses(c, "[", NULL, NULL, APUS_EINVAL, "messages");
    refuses(c, "[{\"role\": \"user\", \"content\": \"\\ud800\"}]", NULL, NULL, APUS_EINVAL,
            "unpaired surrogate");
    refuses(c, "{}", NULL, NULL, APUS_EINVAL, "messages: expected a JSON array");
    refuses(c, "[{\"role\": \"user\"}, 5]", NULL, NULL, APUS_EINVAL,
            "messages[1]: expected an object");
    refuses(c, "[{\"role\": 5}]", NULL, NULL, APUS_EINVAL, "messages[0]: expected a role");
    refuses(c, hi, "{}", NULL, APUS_EINVAL, "tools: expected a JSON array");
    refuses(c, hi, "[1]", NULL, APUS_EINVAL, "tools[0]: expected an object");
    refuses(c, hi, NULL, "[]", APUS_EINVAL, "expected a JSON object");
    refuses(c, hi, NULL, "{\"messages\": []}", APUS_EINVAL, "given apart");
    refuses(c, "[{\"role\": \"user\"}]", NULL, NULL, APUS_EFORMAT, "chat_template.jinja: line 1");
    ap_chat_free(c);
    put_file("chat_template.jinja", "{% if %}");
    c = load(); /* a broken template fails where it is used */
    refuses(c, hi, NULL, NULL, APUS_EFORMAT, "chat_template.jinja: line 1");
    ap_chat_free(c);
    clean(NULL);
    apus_diag diag = {0};
    put_file("tokenizer_config.json", "{\"chat_template\": 5}");
    assert_int_equal(ap_chat_load(dir, AP_CHAT_QWEN, &c, &diag), APUS_EFORMAT);
    put_file("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"x\"}]}");
    assert_int_equal(ap_chat_load(dir, AP_CHAT_QWEN, &c, &diag), APUS_EFORMAT);
    put_file("tokenizer_config.json", "{");
    assert_int_equal(ap_chat_load(dir, AP_CHAT_QWEN, &c, &diag), APUS_EFORMAT);
}

int main(void)
{
    if (!mkdtemp(dir)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_nothing, clean),
        cmocka_unit_test_teardown(test_file_first, clean),
        cmocka_unit_test_teardown(test_named, clean),
        cmocka_unit_test_teardown(test_settings, clean),
        cmocka_unit_test_teardown(test_arguments, clean),
        cmocka_unit_test_teardown(test_arguments_either_way, clean),
        cmocka_unit_test_teardown(test_families_arguments, clean),
        cmocka_unit_test_teardown(test_null_keys, clean),
        cmocka_unit_test_teardown(test_reasoning, clean),
        cmocka_unit_test_teardown(test_refusals, clean),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(dir);
    return rc;
}
