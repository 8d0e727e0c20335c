/* cmd_run.c - apus run: one prompt, one answer. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"

#define LONG_TEXT 2048 /* bytes; a chat template adds few hundred */

static struct {
    const char *prompt, *file, *system, *ids;
    int max_tokens;
    bool raw, json, print_ids, ignore_eos;
} o;

static const opt run_table[] = {
    {"prompt", 'p', OPT_STRING, &o.prompt, NULL, 0, 0, "TEXT", "what to say to the model"},
    {"file", 'f', OPT_STRING, &o.file, NULL, 0, 0, "FILE",
     "read it from FILE ('-' = standard input, which is\nalso read when neither -p nor -f is "
     "given)"},
    {"system", 0, OPT_STRING, &o.system, NULL, 0, 0, "TEXT", "system message"},
    {"max-tokens", 'n', OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N",
     "stop after N tokens (default -1: when the model\nends its turn)"},
    {"raw", 0, OPT_FLAG, &o.raw, NULL, 0, 0, NULL,
     "continue the text as it is, without the chat template"},
    {"json", 0, OPT_FLAG, &o.json, NULL, 0, 0, NULL, "print one JSON object at the end"},
    {"ids", 0, OPT_STRING, &o.ids, NULL, 0, 0, "FILE",
     "the prompt is token ids, whitespace-separated;\n'-' = standard input"},
    {"print-ids", 0, OPT_FLAG, &o.print_ids, NULL, 0, 0, NULL,
     "print the new token ids instead of text"},
    {"ignore-eos", 0, OPT_FLAG, &o.ignore_eos, NULL, 0, 0, NULL,
     "go on when the model ends its turn"},
    {0}};

static int run(int argc, char **argv);
const command cmd_run = {
    "run", "[MODEL] [-p TEXT | -f FILE] [options]", "answer one prompt",
    "Sampling defaults come from the model's generation_config.json. The answer goes to standard\n"
    "output, everything else to standard error. Thinking is shown dimmed on a terminal and left "
    "out\n"
    "of pipes; --json has it as reasoning_content.\n\n"
    "  apus run MODEL -p \"Why is the sky blue?\" --temp 0\n"
    "  git diff | apus run MODEL --system \"Review this change.\"\n"
    "  apus run MODEL --ids prompt.txt --print-ids -n 32 --temp 0 --ignore-eos",
    run};

/* The conversation as the template wants it. */
static char *messages_json(const char *user, size_t len)
{
    json_out *j = json_new(false);
    json_array(j, NULL);
    if (o.system) {
        json_map(j, NULL);
        json_text(j, "role", "system");
        json_text(j, "content", o.system);
        json_end_map(j);
    }
    json_map(j, NULL);
    json_text(j, "role", "user");
    json_string(j, "content", user, len);
    json_end_map(j);
    json_end_array(j);
    char *copy = json_copy(j);
    json_free(j);
    return copy;
}

/* What is to be answered. */
typedef struct prompt {
    char *input; /* as it was given, unless with -p or --ids */
    const char *user;
    size_t len;
    answer_mode mode;
    char *text; /* from the chat template, or NULL */
    size_t text_len;
    int32_t *ids; /* NULL until it is tokenized */
    size_t n;
} prompt;

static void prompt_free(prompt *p)
{
    free(p->input);
    apus_free(p->text);
    o.ids ? free(p->ids) : apus_free(p->ids);
}

/* name: checked before somebody is asked to type. */
static int read_prompt(const char *name, prompt *p)
{
    if (o.ids) {
        p->ids = read_ints(&cmd_run, o.ids, &p->n);
        return p->ids ? -1 : EXIT_FAILED;
    }
    p->user = o.prompt;
    p->len = o.prompt ? strlen(o.prompt) : 0;
    if (o.prompt) return -1;
    const char *path = o.file ? o.file : "-";
    if (!strcmp(path, "-") && isatty(STDIN_FILENO)) {
        apus_model *m;
        int rc = open_model(&cmd_run, name, APUS_LOAD_INFO, &m);
        if (rc >= 0) return rc;
        apus_model_close(m);
        fputs("(type the prompt, then Ctrl-D)\n", stderr);
    }
    p->user = p->input = read_input(&cmd_run, path, &p->len);
    return p->input ? -1 : EXIT_FAILED;
}

static int tokenize_prompt(const apus_model *m, prompt *p)
{
    apus_diag d;
    apus_err err;
    if (p->ids) return -1;
    if (o.raw) {
        err = apus_tokenize(m, p->user, p->len, APUS_TOK_SPECIAL | APUS_TOK_BOS, &p->ids, &p->n, &d);
    } else {
        char *messages = messages_json(p->user, p->len);
        apus_chat_settings cs;
        apus_chat_settings_default(&cs);
        cs.think = think_setting();
        err = apus_chat_render(m, messages, NULL, &cs, &p->text, &p->text_len, &d);
        free(messages);
        if (!err) err = apus_tokenize(m, p->text, p->text_len, APUS_TOK_SPECIAL, &p->ids, &p->n, &d);
        p->mode = ANSWER_CHAT;
    }
    return err ? report(&cmd_run, &d) : -1;
}

/* Tokens that the context should hold, as far as they are known. */
static int wanted_ctx(const prompt *p)
{
    size_t want = p->n + (o.max_tokens > 0 ? (size_t)o.max_tokens : 4096);
    return want > INT_MAX ? INT_MAX : (int)want;
}

static void print_json(const apus_model *m, const answer *a)
{
    apus_info info = {.size = sizeof info};
    apus_model_info(m, &info, NULL);
    const apus_generate_result *r = &a->result;
    json_out *j = json_new(true);
    json_map(j, NULL);
    json_text(j, "model", info.path);
    json_map(j, "message");
    answer_message(a, j);
    json_end_map(j);
    json_text(j, "finish_reason",
              a->n_calls && r->stop == APUS_STOP_TOKEN ? "tool_calls" : stop_name(r->stop));
    if (o.print_ids) {
        json_array(j, "ids");
        for (size_t i = 0; i < a->n_ids; i++) json_int(j, NULL, a->ids[i]);
        json_end_array(j);
    }
    json_map(j, "usage");
    json_int(j, "prompt_tokens", r->n_prompt);
    json_int(j, "completion_tokens", r->n_generated);
    json_end_map(j);
    json_map(j, "timings");
    json_real(j, "prompt_ms", r->prefill_us / 1e3);
    json_real(j, "predicted_ms", r->decode_us / 1e3);
    json_end_map(j);
    json_end_map(j);
    puts(json_str(j, NULL));
    json_free(j);
}

static void print_answer(const apus_model *m, const answer *a, answer_mode mode)
{
    if (o.json)
        print_json(m, a);
    else if (o.print_ids) {
        for (size_t i = 0; i < a->n_ids; i++) printf("%s%d", i ? " " : "", a->ids[i]);
        putchar('\n');
    } else if (mode == ANSWER_CHAT || isatty(STDOUT_FILENO)) {
        putchar('\n');
    }
}

static int generate(const apus_model *m, prompt *p)
{
    int rc = tokenize_prompt(m, p);
    if (rc >= 0) return rc;
    if (o.print_ids && p->mode == ANSWER_RAW) p->mode = ANSWER_IDS;

    apus_diag d;
    apus_engine *e = NULL;
    apus_session *s = NULL;
    apus_engine_settings es;
    apus_generate_settings g;
    rc = engine_settings(&cmd_run, m, wanted_ctx(p), &es);
    if (rc >= 0) return rc;
    rc = EXIT_FAILED;
    if (p->n > INT_MAX) {
        fprintf(stderr, "apus run: the prompt has %zu tokens, more than any context\n", p->n);
        return rc;
    }
    if (apus_engine_create(m, &es, &e, &d) || apus_session_create(e, &s, &d)) {
        report(&cmd_run, &d);
    } else {
        answer a;
        apus_generate_settings_default(m, &g);
        sampling_settings(m, &g.sampling);
        g.max_tokens = o.max_tokens;
        g.ignore_eos = o.ignore_eos;
        if (answer_generate(m, e, s, p->ids, (int)p->n, p->mode, p->text, p->text_len,
                            o.json || o.print_ids, &g, &a, &d)) {
            report(&cmd_run, &d);
        } else {
            print_answer(m, &a, p->mode);
            print_speed(stderr, &a.result);
            rc = finish_output(&cmd_run, a.result.stop == APUS_STOP_CALLER ? 130 : 0);
        }
        answer_free(&a);
    }
    apus_session_free(s);
    apus_engine_free(e);
    return rc;
}

/* A long text may need a larger context than the default: its tokens are counted before the weights are
 * loaded. A token has at least one byte, so a short one need not be. */
static int open_for_prompt(const char *name, prompt *p, apus_model **out)
{
    apus_model *m;
    size_t len = p->len + (o.system ? strlen(o.system) : 0);
    if (!p->ids && !common.ctx && len > LONG_TEXT) {
        int rc = open_model(&cmd_run, name, APUS_LOAD_TEXT, &m);
        if (rc >= 0) return rc;
        rc = tokenize_prompt(m, p);
        apus_model_close(m);
        if (rc >= 0) return rc;
    }
    return open_for_engine(&cmd_run, name, wanted_ctx(p), out);
}

static int run(int argc, char **argv)
{
    const opt *tables[] = {run_table, think_table, sampling_table, common_table, NULL};
    int n;
    o.max_tokens = -1;
    int rc = options_parse(&cmd_run, tables, argc, argv, 1, &n);
    if (rc >= 0) return rc;
    if ((o.prompt != NULL) + (o.file != NULL) + (o.ids != NULL) > 1)
        return usage_error(&cmd_run, "choose one of --prompt, --file and --ids");
    if (o.ids && o.system) return usage_error(&cmd_run, "--system needs a text prompt, not --ids");
    if (think.on && think.off) return usage_error(&cmd_run, "choose one of --think and --no-think");

    apus_model *m = NULL;
    prompt p = {.mode = ANSWER_RAW};
    const char *name = n ? argv[1] : NULL;
    rc = read_prompt(name, &p);
    if (rc < 0) rc = open_for_prompt(name, &p, &m);
    if (rc < 0) rc = generate(m, &p);
    prompt_free(&p);
    apus_model_close(m);
    return rc;
}
