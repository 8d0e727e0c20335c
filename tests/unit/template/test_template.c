/* test_template.c - templates against Jinja2's output, and their bounds.
 *
 * Arguments: the folder of the golden files (made by tools/goldens/make_template_goldens.py) and
 * the folder of the official templates or "none". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/jinja/template.h"

static const char *data_dir, *official_dir;

static char *slurp(const char *dir, const char *name, size_t *n)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *s = malloc(*n + 1);
    if (s && fread(s, 1, *n, f) != *n) *n = 0;
    if (s) s[*n] = 0;
    fclose(f);
    return s;
}

/* Parse and render; EFORMAT is what a template's own faults give. */
static apus_err render(const char *text, size_t len, const ap_json *vars, char **out,
                       size_t *out_len, apus_diag *diag)
{
    ap_template *t = NULL;
    apus_err err = ap_template_parse(text, len, "t.jinja", &t, diag);
    if (!err) err = ap_template_render(t, vars, out, out_len, diag);
    ap_template_free(t);
    return err;
}

static ap_json *parse_line(ap_arena *mem, const char *s, size_t n)
{
    ap_json *j = NULL;
    apus_diag diag;
    if (ap_json_parse(mem, s, n, "golden", 0, &j, &diag)) fail_msg("%s", diag.text);
    return j;
}

/* Call fn with each line of a file. */
static int each_line(char *text, size_t n, void (*fn)(const ap_json *line, void *ctx), void *ctx)
{
    int count = 0;
    for (char *s = text; s < text + n;) {
        char *end = memchr(s, '\n', (size_t)(text + n - s));
        if (!end) end = text + n;
        ap_arena mem;
        ap_arena_init(&mem, 0);
        fn(parse_line(&mem, s, (size_t)(end - s)), ctx);
        ap_arena_free(&mem);
        s = end + 1;
        count++;
    }
    return count;
}

typedef struct snippets {
    ap_arena mem;
    ap_json *vars;
    int n, n_errors;
} snippets;

static void one_snippet(const ap_json *line, void *ctx)
{
    snippets *s = ctx;
    const ap_json *t = ap_json_get(line, "t"), *want = ap_json_get(line, "ok");
    if (!t) return; /* the first line, with the variables */
    char *out = NULL;
    size_t len = 0;
    apus_diag diag = {0};
    apus_err err = render(t->str, t->len, s->vars, &out, &len, &diag);
    s->n++;
    s->n_errors += !want;
    if (!want && !err) fail_msg("%s\n  should fail, gave %s", t->str, out);
    if (!want) {
        assert_int_equal(err, APUS_EFORMAT);
        if (strncmp(diag.text, "t.jinja: line ", 14))
            fail_msg("%s\n  has no line: %s", t->str, diag.text);
        return;
    }
    if (err) fail_msg("%s\n  %s", t->str, diag.text);
    if (len != want->len || memcmp(out, want->str, len))
        fail_msg("%s\n  want %s\n  got  %s", t->str, want->str, out);
    apus_free(out);
}

static void test_snippets(void **state)
{
    (void)state;
    size_t n = 0;
    snippets s = {0};
    char *text = slurp(data_dir, "snippets.jsonl", &n);
    assert_non_null(text);
    ap_arena_init(&s.mem, 0);
    s.vars = (ap_json *)ap_json_get(parse_line(&s.mem, text, strcspn(text, "\n")), "vars");
    each_line(text, n, one_snippet, &s);
    assert_true(s.n > 800 && s.n_errors > 100);
    ap_arena_free(&s.mem);
    free(text);
}

/* ---------------------------------------------------------------- official templates */

static uint64_t fnv(const char *s, size_t n)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001B3u;
    return h;
}

typedef struct official {
    int n, n_errors, n_missing;
    char *text[16]; /* templates in the order of the first line's hashes */
    size_t len[16];
    bool looked[16];
} official;

static void one_rendering(official *o, int which, const ap_json *vars, const ap_json *want)
{
    char *out = NULL, hash[20] = "";
    size_t len = 0;
    apus_diag diag = {0};
    if (!o->looked[which]) o->text[which] = slurp(official_dir, want->key, &o->len[which]);
    o->looked[which] = true;
    if (!o->text[which]) {
        o->n_missing++;
        return;
    }
    apus_err err = render(o->text[which], o->len[which], vars, &out, &len, &diag);
    o->n++;
    o->n_errors += want->type == AP_JSON_NULL;
    if (!err) snprintf(hash, sizeof hash, "%016llx", (unsigned long long)fnv(out, len));
    if (want->type == AP_JSON_NULL ? !err : strcmp(hash, want->str) != 0)
        fail_msg("%s, rendering %d: %s", want->key, o->n, err ? diag.text : out);
    apus_free(out);
}

static void one_conversation(const ap_json *line, void *ctx)
{
    int which = 0;
    for (const ap_json *w = ap_json_get(line, "fnv")->first; w && which < 16; w = w->next, which++)
        one_rendering(ctx, which, ap_json_get(line, "vars"), w);
}

static void test_official(void **state)
{
    (void)state;
    size_t n = 0;
    official o = {0};
    char *text = slurp(data_dir, "official.jsonl", &n);
    assert_non_null(text);
    if (!strcmp(official_dir, "none")) {
        free(text);
        skip();
    }
    each_line(text, n, one_conversation, &o);
    for (int i = 0; i < 16; i++) free(o.text[i]);
    free(text);
    if (o.n_missing) print_message("%d renderings whose template is not there\n", o.n_missing);
    if (!o.n) skip();
}

/* ---------------------------------------------------------------- bounds */

static void bounded(const char *t, ap_template_limits limits, const char *says)
{
    ap_template *c = NULL;
    apus_diag diag = {0};
    char *out = NULL;
    size_t len = 0;
    if (ap_template_parse(t, strlen(t), "t.jinja", &c, &diag)) fail_msg("%s: %s", t, diag.text);
    if (ap_template_render_limited(c, NULL, &limits, &out, &len, &diag) != APUS_EFORMAT)
        fail_msg("%s: should fail", t);
    if (!strstr(diag.text, says) || strncmp(diag.text, "t.jinja: line ", 14))
        fail_msg("%.60s: %s", t, diag.text);
    ap_template_free(c);
}

static void test_limits(void **state)
{
    (void)state;
    ap_template_limits l;
    ap_template_limits_default(&l);
    l.output_bytes = 1000;
    bounded("{% for i in range(1000) %}xx{% endfor %}", l, "output limit of 1000 bytes");
    bounded("\n{{ 'x' * 100000000 }}", l, "line 2");
    ap_template_limits_default(&l);
    l.steps = 10000;
    bounded("{% for i in range(10000) %}{% for i in range(10000) %}{% endfor %}{% endfor %}", l,
            "limit of 10000 steps");
    bounded("{{ 'a' * 2000000 in 'b' }}{{ ('a' * 1000000) | replace('', 'a') }}", l,
            "limit of 10000 steps");
    ap_template_limits_default(&l);
    l.memory_bytes = 100000;
    bounded("{% for i in range(100000) %}{% set x = [i, i, i] %}{% endfor %}", l,
            "memory limit of 100000 bytes");
    l.memory_bytes = 1 << 20;
    bounded("{% set n = namespace(s='ab') %}{% for i in range(100) %}{% set n.s = n.s + n.s %}{% "
            "endfor %}",
            l, "memory limit");
    ap_template_limits_default(&l);
    bounded("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", l, "depth limit of 1000 levels");
    bounded("{% set n = namespace(x=[]) %}{% for i in range(5000) %}{% set n.x = [n.x] %}{% endfor "
            "%}{{ n.x }}",
            l, "depth limit");
    bounded("{% set n = namespace(x=[]) %}{% for i in range(5000) %}{% set n.x = [n.x] %}{% endfor "
            "%}{{ n.x | tojson }}",
            l, "depth limit");
    bounded("{% set n = namespace() %}{% set n.n = n %}{{ n }}", l, "depth limit");
    bounded("{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}", l, "depth limit");
    bounded("{% for i in range(200000) %}{% endfor %}", l, "range is larger");
    bounded("{{ 9223372036854775807 + 1 }}", l, "beyond 64 bits");
}

/* Work on long lists and texts counts, whatever does it: each of these is ten times the limit. */
static void test_steps(void **state)
{
    (void)state;
    static const char *const work[] = {
        "a == b",
        "a < b",
        "a <= b and a >= b",
        "(a,) == (b,)",
        "a in [1, [2], b]",
        "{'k': a} == {'k': b}",
        "-1 in a",
        "a|sort",
        "a|sort(reverse=true)",
        "a|unique|list",
        "a|map('string')|list",
        "a|map('abs')|list",
        "a|join",
        "a|join(',')",
        "a|tojson",
        "d|tojson(sort_keys=true)",
        "d == e",
        "f|tojson",
        "a|string",
        "a|max",
        "a|min",
        "a|sum",
        "a|reverse|list",
        "a|select('odd')|list",
        "a|batch(2)|list",
        "a|list",
        "a + b",
        "a[1:]",
        "a.count(-1)",
        "w|sort",
        "w|groupby(0)",
        "w|unique|list",
        "t in k",
        "s.startswith(p)",
        "s|upper",
        "s|wordcount",
        "s|replace('a', 'b')",
        "s is lower",
        "s|escape",
        "s[::-1]",
        "s.split('a')",
        "'%s' % a",
        "'{}'.format(a)",
    };
    for (size_t i = 0; i < sizeof work / sizeof *work; i++) {
        char t[1024];
        ap_template_limits l;
        ap_template_limits_default(&l);
        l.steps = 200000;
        snprintf(t, sizeof t,
                 "{%% set a = range(2000)|list %%}{%% set b = range(2000)|list %%}"
                 "{%% set f = a|map('float')|list %%}{%% set w = a|map('string')|list %%}"
                 "{%% set n = namespace(p=('x', 'y'), t=(1, 2)) %%}"
                 "{%% for i in range(10) %%}{%% set n.p = n.p + n.p %%}{%% set n.t = n.t + n.t %%}"
                 "{%% endfor %%}{%% set p = n.p %%}{%% set t = n.t %%}{%% set k = {t: 1} %%}"
                 "{%% set s = 'word a ' * 2000 %%}{%% set d = {'a': a} %%}{%% set e = {'a': b} %%}"
                 "{%% for i in range(2000) %%}{%% if %s %%}{%% endif %%}{%% endfor %%}",
                 work[i]);
        bounded(t, l, "limit of 200000 steps");
    }
}

/* What is slow counts as what it is: few passes over a text, character by character, are over the limit. */
static void test_heavy_steps(void **state)
{
    (void)state;
    static const char *const work[] = {"s|upper",    "s|title",   "[s]|tojson",
                                       "[s]|string", "'ab' in s", "s.find('ab')"};
    for (size_t i = 0; i < sizeof work / sizeof *work; i++) {
        char t[256];
        ap_template_limits l;
        ap_template_limits_default(&l);
        l.steps = 200000;
        snprintf(t, sizeof t,
                 "{%% set s = 'a' * 16000 %%}{%% for i in range(40) %%}{%% if %s %%}{%% endif %%}"
                 "{%% endfor %%}",
                 work[i]);
        bounded(t, l, "limit of 200000 steps");
    }
}

/* A loop knows its neighbours however long it is, also where it drops what is behind it. */
static void test_long_loops(void **state)
{
    (void)state;
    static const char *const loops[] = {
        "{% for x in range(1000) %}{% if loop.index0 and loop.previtem != x - 1 %}bad {{ x }}"
        "{% endif %}{% if not loop.last and loop.nextitem != x + 1 %}bad {{ x }}{% endif %}"
        "{% endfor %}ok",
        "{% for x in range(1000) if x % 3 == 0 %}{% if loop.index0 and loop.previtem != x - 3 %}"
        "bad {{ x }}{% endif %}{% endfor %}ok",
        "{% for x in range(300) %}{% if loop.index == 200 %}{{ loop.previtem }} {{ loop.length }} "
        "{{ loop.nextitem }} {% endif %}{% endfor %}ok",
    };
    static const char *const want[] = {"ok", "ok", "198 300 200 ok"};
    for (int i = 0; i < 3; i++) {
        char *out = NULL;
        size_t len = 0;
        apus_diag diag = {0};
        if (render(loops[i], strlen(loops[i]), NULL, &out, &len, &diag)) fail_msg("%s", diag.text);
        assert_string_equal(out, want[i]);
        apus_free(out);
    }
}

/* Halves of surrogate pairs are no characters: what a template makes is UTF-8 whatever it spells.
 * Python keeps them and fails when the text is encoded. */
static void test_surrogates(void **state)
{
    (void)state;
    static const char *const t[][2] = {
        {"{{ '\\ud800' }}", "\xEF\xBF\xBD"},
        {"{{ '\\ud83d\\ude00' }}", "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"{{ 'a\\udfffb' | tojson }}", "\"a\xEF\xBF\xBD"
                                       "b\""},
        {"{{ '\\ud800' | length }}", "1"},
        {"{{ '%c' % 56320 }}", "\xEF\xBF\xBD"},
        {"{{ '\\U0001F600' }}", "\xF0\x9F\x98\x80"},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char *out = NULL;
        size_t len = 0;
        apus_diag diag = {0};
        if (render(t[i][0], strlen(t[i][0]), NULL, &out, &len, &diag)) fail_msg("%s", diag.text);
        assert_string_equal(out, t[i][1]);
        apus_free(out);
    }
}

static void test_parse_limits(void **state)
{
    (void)state;
    static const struct {
        const char *begin, *unit, *end;
    } deep[] = {{"{{ ", "(", ""},        {"{{ ", "[", ""},         {"{{ ", "-", "1 }}"},
                {"{{ ", "not ", "1 }}"}, {"", "{% if 1 %}", ""},   {"{{ 1", "+1", " }}"},
                {"{{ a", ".a", " }}"},   {"{{ 1", "|abs", " }}"},  {"{{ 1", " if 1 else 1", " }}"},
                {"{{ a", "(", ""},       {"{{ {1:", "{1:", ""},    {"", "{% for x in y %}", ""},
                {"{% set ", "(", ""},    {"{{ 1", " or 1", " }}"}, {"{{ a", " is a", " }}"}};
    for (size_t d = 0; d < sizeof deep / sizeof *deep; d++) {
        size_t n = 0, unit = strlen(deep[d].unit);
        char *s = malloc(100 + 3000 * unit);
        apus_diag diag = {0};
        ap_template *t = NULL;
        n += (size_t)sprintf(s, "%s", deep[d].begin);
        for (int i = 0; i < 3000; i++, n += unit) memcpy(s + n, deep[d].unit, unit);
        n += (size_t)sprintf(s + n, "%s", deep[d].end);
        assert_int_equal(ap_template_parse(s, n, "t.jinja", &t, &diag), APUS_EFORMAT);
        free(s);
    }
    /* Long is not deep. */
    char *s = malloc(1 << 20);
    size_t n = 0;
    for (int i = 0; i < 20000; i++)
        n += (size_t)sprintf(s + n, "%s", i ? "{% elif 0 %}" : "{% if 0 %}");
    n += (size_t)sprintf(s + n, "{%% else %%}x{%% endif %%}");
    char *out = NULL;
    size_t len = 0;
    apus_diag diag = {0};
    assert_int_equal(render(s, n, NULL, &out, &len, &diag), APUS_OK);
    assert_string_equal(out, "x");
    apus_free(out);
    apus_diag bad = {0};
    ap_template *t = NULL;
    assert_int_equal(ap_template_parse("a\xFF", 2, "t.jinja", &t, &bad), APUS_EFORMAT);
    memset(s, 'x', 1 << 20);
    assert_int_equal(ap_template_parse(s, 1 << 20, "t.jinja", &t, &bad), APUS_OK);
    ap_template_free(t);
    assert_int_equal(ap_template_parse(s, (1 << 20) + 1, "t.jinja", &t, &bad), APUS_EFORMAT);
    free(s);
}

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        const char *t, *says;
    } e[] = {
        {"a\n{{ raise_exception('Roles must alternate!') }}",
         "line 2: the template raised an exception: Roles must alternate!"},
        {"\n\n{{ nothing.here }}", "line 3: 'nothing' is undefined"},
        {"{% set d = {} %}\n{{ d.x.y }}", "line 2: 'dict' has no attribute 'x'"},
        {"{{ 'a' + 1 }}", "unsupported operand types for +: 'str' and 'int'"},
        {"{% if true %}\nx", "endif"},
        {"{{ x | nosuch }}", "there is no filter 'nosuch'"},
        {"{% nosuch %}", "the tag 'nosuch' is unknown or not supported"},
    };
    for (size_t i = 0; i < sizeof e / sizeof *e; i++) {
        char *out = NULL;
        size_t len = 0;
        apus_diag diag = {0};
        assert_int_equal(render(e[i].t, strlen(e[i].t), NULL, &out, &len, &diag), APUS_EFORMAT);
        if (!strstr(diag.text, e[i].says)) fail_msg("%s: %s", e[i].t, diag.text);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    data_dir = argv[1];
    official_dir = argv[2];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snippets),     cmocka_unit_test(test_official),
        cmocka_unit_test(test_limits),       cmocka_unit_test(test_errors),
        cmocka_unit_test(test_parse_limits), cmocka_unit_test(test_steps),
        cmocka_unit_test(test_heavy_steps),  cmocka_unit_test(test_long_loops),
        cmocka_unit_test(test_surrogates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
