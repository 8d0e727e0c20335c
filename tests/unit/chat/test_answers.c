/* test_answers.c - whole answers and the parts that must come out of them, wherever the stream is
 * cut, and what comes out of their beginnings.
 *
 * Argument: the folder of *.jsonl, one answer a line: name, syntax, starts_in_thought, tools, text;
 * content, thinking and calls are what is expected. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "text/chat.h"
#include "text/toolcall.h"

static const char *data_dir;

/* ---------------------------------------------------------------- the parts of an answer */

typedef struct parts {
    ap_buf content, thinking;
    ap_buf calls; /* a JSON array */
    size_t n_calls;
} parts;

static void collect(void *ctx, const apus_event *ev)
{
    parts *got = ctx;
    if (ev->part == APUS_PART_CONTENT) ap_buf_add(&got->content, ev->text, ev->len);
    if (ev->part == APUS_PART_THINK) ap_buf_add(&got->thinking, ev->text, ev->len);
    if (ev->part != APUS_PART_CALL) return;
    ap_buf_adds(&got->calls, got->n_calls++ ? ", {\"name\": " : "{\"name\": ");
    ap_json_quote(&got->calls, ev->text, ev->len, false);
    ap_buf_adds(&got->calls, ", \"arguments\": ");
    ap_buf_add(&got->calls, ev->args, ev->args_len);
    ap_buf_adds(&got->calls, "}");
}

static void free_parts(parts *p)
{
    ap_buf_free(&p->content);
    ap_buf_free(&p->thinking);
    ap_buf_free(&p->calls);
}

typedef struct answer {
    const char *name, *text;
    size_t len;
    ap_chat_syntax syntax;
    const char *prompt;
    char *tools; /* JSON, or NULL */
    const ap_json *want;
} answer;

/* The first `len` bytes, in pieces: [0, cut), then `step` bytes each (0: all). */
static parts parse(const answer *a, size_t len, size_t cut, size_t step)
{
    parts got = {0};
    ap_chat_parser *p = NULL;
    apus_diag diag = {0};
    if (ap_chat_parser_create(a->syntax, a->prompt, strlen(a->prompt), a->tools, collect, &got, &p,
                              &diag))
        fail_msg("%s", diag.text);
    ap_buf_adds(&got.calls, "[");
    for (size_t i = 0, n; i < len; i += n) {
        n = i == 0 && cut ? cut : step ? step : len - i;
        if (n > len - i) n = len - i;
        char *own = malloc(n); /* of exactly its size, for sanitizers */
        memcpy(own, a->text + i, n);
        assert_int_equal(ap_chat_parser_push(p, own, n), APUS_OK);
        free(own);
    }
    assert_int_equal(ap_chat_parser_finish(p), APUS_OK);
    ap_buf_adds(&got.calls, "]");
    ap_chat_parser_free(p);
    return got;
}

/* ---------------------------------------------------------------- comparing */

static const char *text_of(const ap_buf *b)
{
    return b->data ? b->data : "";
}

static bool equal(const ap_json *a, const ap_json *b)
{
    if (a->type != b->type || (a->len != b->len && a->type != AP_JSON_NULL)) return false;
    switch (a->type) {
    case AP_JSON_NULL:
        return true;
    case AP_JSON_BOOL:
        return a->boolean == b->boolean;
    case AP_JSON_ARRAY:
        for (a = a->first, b = b->first; a; a = a->next, b = b->next)
            if (!equal(a, b)) return false;
        return true;
    case AP_JSON_OBJECT:
        for (const ap_json *m = a->first; m; m = m->next) {
            const ap_json *other = ap_json_get(b, m->key);
            if (!other || !equal(m, other)) return false;
        }
        return true;
    default:
        return !memcmp(a->str, b->str, a->len);
    }
}

static ap_json *read_json(ap_arena *mem, const ap_buf *b)
{
    ap_json *j = NULL;
    apus_diag diag = {0};
    if (ap_json_parse(mem, b->data, b->len, "calls", 0, &j, &diag))
        fail_msg("%s: %s", diag.text, b->data);
    return j;
}

static void check_text(const answer *a, const char *what, const ap_buf *got, const char *how,
                       size_t at)
{
    const ap_json *want = ap_json_get(a->want, what);
    if (want->len != got->len || memcmp(want->str, text_of(got), got->len))
        fail_msg("%s, %s %zu: %s\n  want \"%s\"\n  got  \"%s\"", a->name, how, at, what, want->str,
                 text_of(got));
}

static void check(const answer *a, size_t cut, size_t step, const char *how, size_t at)
{
    parts got = parse(a, a->len, cut, step);
    ap_arena mem;
    ap_arena_init(&mem, 0);
    check_text(a, "content", &got.content, how, at);
    check_text(a, "thinking", &got.thinking, how, at);
    const ap_json *want = ap_json_get(a->want, "calls");
    if (!equal(want, read_json(&mem, &got.calls))) {
        ap_buf b = {0};
        ap_toolcall_put_json(&b, want);
        fail_msg("%s, %s %zu: calls\n  want %s\n  got  %s", a->name, how, at, b.data,
                 got.calls.data);
    }
    ap_arena_free(&mem);
    free_parts(&got);
}

/* ---------------------------------------------------------------- the tests of one answer */

static void every_cut(const answer *a)
{
    check(a, 0, 0, "whole", 0);
    for (size_t cut = 1; cut < a->len; cut++) check(a, cut, 0, "cut at", cut);
    for (size_t step = 1; step < 10; step++) check(a, 0, step, "in steps of", step);
}

static size_t without_space(char *s, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n", s[i])) s[k++] = s[i];
    s[k] = 0;
    return k;
}

/* Every beginning of the answer: its calls are some of the whole answer's, none with an argument
 * that was cut; where there are neither calls nor markers that may be dropped, all of it comes out. */
static void every_beginning(const answer *a)
{
    const ap_json *all = ap_json_get(a->want, "calls");
    /* Markers that may be dropped: of thoughts, of the end of a turn. */
    bool marked = *a->prompt || strstr(a->text, "think>") || strstr(a->text, "channel") ||
                  strstr(a->text, "<|im_end|>") || strstr(a->text, "<turn|>");
    if (ap_json_get(a->want, "closes_twice")) return; /* its first end is one until the second */
    /* A whole call is one as long as neither its thought nor its sentence goes on. */
    const char *thinking = ap_json_get(a->want, "thinking")->str;
    const char *content = ap_json_get(a->want, "content")->str;
    if (strstr(thinking, "tool_call>") || strstr(thinking, "<function=") ||
        strstr(content, "</tool_call>") || strstr(content, "<tool_call|>"))
        return;
    for (size_t len = 0; len < a->len; len++) {
        parts got = parse(a, len, 0, 0);
        ap_arena mem;
        ap_arena_init(&mem, 0);
        const ap_json *calls = read_json(&mem, &got.calls), *want = all->first;
        for (const ap_json *c = calls->first; c; c = c->next, want = want->next)
            if (!want || !equal(c, want))
                fail_msg("%s, first %zu bytes: %s", a->name, len, got.calls.data);
        if (!calls->first && !marked) {
            char *whole = strndup(a->text, len);
            size_t n = without_space(whole, len);
            if (got.content.data)
                got.content.len = without_space(got.content.data, got.content.len);
            if (n != got.content.len || memcmp(whole, text_of(&got.content), n))
                fail_msg("%s, first %zu bytes: lost\n  \"%s\"\n  \"%s\"", a->name, len, whole,
                         text_of(&got.content));
            free(whole);
        }
        ap_arena_free(&mem);
        free_parts(&got);
    }
}

/* ---------------------------------------------------------------- files */

static void one_line(const char *line, size_t n, void (*fn)(const answer *))
{
    ap_arena mem;
    ap_json *j = NULL;
    apus_diag diag = {0};
    ap_buf tools = {0};
    ap_arena_init(&mem, 0);
    if (ap_json_parse(&mem, line, n, "answers", 0, &j, &diag)) fail_msg("%s", diag.text);
    bool gemma = !strcmp(ap_json_get(j, "syntax")->str, "gemma");
    bool thought = ap_json_get(j, "starts_in_thought")->boolean;
    const ap_json *text = ap_json_get(j, "text"), *list = ap_json_get(j, "tools");
    if (list) ap_toolcall_put_json(&tools, list);
    answer a = {.name = ap_json_get(j, "name")->str,
                .text = text->str,
                .len = text->len,
                .syntax = gemma ? AP_CHAT_GEMMA : AP_CHAT_QWEN,
                .prompt = !thought ? ""
                          : gemma  ? "<|turn>model\n<|channel>thought\n"
                                   : "<|im_start|>assistant\n<think>\n",
                .tools = tools.data,
                .want = j};
    fn(&a);
    ap_buf_free(&tools);
    ap_arena_free(&mem);
}

static void each_answer(const char *file, void (*fn)(const answer *))
{
    char path[1024];
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int count = 0;
    snprintf(path, sizeof path, "%s/%s", data_dir, file);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    for (; (n = getline(&line, &cap, f)) > 0; count++) one_line(line, (size_t)n, fn);
    assert_true(count > 0);
    free(line);
    fclose(f);
}

static void test_answers(void **state)
{
    (void)state;
    each_answer("answers.jsonl", every_cut);
    each_answer("answers.jsonl", every_beginning);
}

static void test_more_answers(void **state)
{
    (void)state;
    each_answer("more_answers.jsonl", every_cut);
    each_answer("more_answers.jsonl", every_beginning);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    data_dir = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_more_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
