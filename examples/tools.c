/* tools.c - the model calls a function of this program and answers with its result.
 *
 *   tools MODEL ["Use the tool to add 1234 and 8765."]
 *
 * A real program reads and writes JSON with a library; this one looks for two numbers. */
#include <apus/apus.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"add_numbers\","
                            "\"description\":\"Adds two numbers.\","
                            "\"parameters\":{\"type\":\"object\",\"properties\":{"
                            "\"a\":{\"type\":\"integer\",\"description\":\"First number.\"},"
                            "\"b\":{\"type\":\"integer\",\"description\":\"Second "
                            "number.\"}},\"required\":[\"a\",\"b\"]}}}]";

typedef struct turn {
    apus_model *model;
    apus_session *session;
    apus_chat_parser *parser;
    char name[64], args[512]; /* of the call, if there was one */
    apus_diag why;
} turn;

static void on_event(void *ctx, const apus_event *ev)
{
    turn *t = ctx;
    if (ev->part == APUS_PART_CONTENT) fwrite(ev->text, 1, ev->len, stdout);
    if (ev->part != APUS_PART_CALL) return;
    snprintf(t->name, sizeof t->name, "%.*s", (int)ev->len, ev->text);
    snprintf(t->args, sizeof t->args, "%.*s", (int)ev->args_len, ev->args);
}

static bool on_text(void *ctx, const char *text, size_t len)
{
    turn *t = ctx;
    return apus_chat_parser_push(t->parser, text, len) == APUS_OK;
}

/* Let the model answer the conversation: text to the terminal, a call to t. */
static apus_err answer(turn *t, const char *messages)
{
    char *prompt = NULL;
    size_t len = 0, n = 0;
    int32_t *ids = NULL;
    apus_chat_settings chat;
    apus_sampling greedy;
    apus_generate_settings set;
    apus_chat_settings_default(&chat);
    chat.think = APUS_THINK_OFF;
    apus_sampling_default(&greedy);
    greedy.temperature = 0;
    apus_generate_settings_default(&set);
    set.sampling = &greedy;
    set.on_text = on_text;
    set.keep_special = true; /* the parser reads them */
    set.ctx = t;
    t->name[0] = 0;
    apus_err err = apus_chat_render(t->model, messages, tools, &chat, &prompt, &len, &t->why);
    if (!err) err = apus_tokenize(t->model, prompt, len, APUS_TOK_SPECIAL, &ids, &n, &t->why);
    if (!err) err = apus_session_rewind(t->session, 0, &t->why);
    if (!err)
        err =
            apus_chat_parser_create(t->model, prompt, len, tools, on_event, t, &t->parser, &t->why);
    if (!err) err = apus_generate(t->session, ids, (int)n, &set, NULL, &t->why);
    if (!err) err = apus_chat_parser_finish(t->parser);
    apus_chat_parser_free(t->parser);
    t->parser = NULL;
    apus_free(prompt);
    apus_free(ids);
    return err;
}

/* The number that follows "key": in a JSON object. */
static long number_of(const char *json, const char *key)
{
    char quoted[16];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *at = strstr(json, quoted);
    return at ? strtol(at + strlen(quoted) + strspn(at + strlen(quoted), ": "), NULL, 10) : 0;
}

static apus_err run(turn *t, const char *question)
{
    static char first[1024], second[4096];
    snprintf(first, sizeof first, "[{\"role\":\"user\",\"content\":\"%s\"}]", question);
    apus_err err = answer(t, first);
    if (err || strcmp(t->name, "add_numbers")) return err;
    long sum = number_of(t->args, "a") + number_of(t->args, "b");
    printf("[%s %s gives %ld]\n", t->name, t->args, sum);
    snprintf(second, sizeof second,
             "[{\"role\":\"user\",\"content\":\"%s\"},"
             "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"call_1\","
             "\"type\":\"function\",\"function\":{\"name\":\"%s\",\"arguments\":%s}}]},"
             "{\"role\":\"tool\",\"tool_call_id\":\"call_1\",\"name\":\"%s\","
             "\"content\":\"{\\\"sum\\\": %ld}\"}]",
             question, t->name, t->args, t->name, sum);
    return answer(t, second);
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: %s MODEL [QUESTION]\n", argv[0]);
        return 2;
    }
    turn t = {0};
    apus_engine *e = NULL;
    apus_err err = apus_model_open(argv[1], NULL, &t.model, &t.why);
    if (!err) err = apus_engine_create(t.model, NULL, &e, &t.why);
    if (!err) err = apus_session_create(e, &t.session, &t.why);
    if (!err) err = run(&t, argc == 3 ? argv[2] : "Use the tool to add 1234 and 8765.");
    if (!err) putchar('\n');
    if (err) fprintf(stderr, "%s: %s\n", apus_err_name(err), t.why.text);
    apus_engine_free(e);
    apus_model_close(t.model);
    return err ? 1 : 0;
}
