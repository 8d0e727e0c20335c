/* cmd_run.c - apus run: one prompt, one answer. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"

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
    char *copy = strdup(json_str(j, NULL));
    json_free(j);
    return copy;
}

/* The prompt's ids; *text (to be freed) is set when it came from the chat template. */
static int make_prompt(const apus_model *m, answer_mode *mode, char **text, size_t *text_len,
                       int32_t **ids, size_t *n)
{
    apus_diag d;
    if (o.ids) {
        *ids = read_ints(&cmd_run, o.ids, n);
        return *ids ? -1 : EXIT_FAILED;
    }
    size_t len = o.prompt ? strlen(o.prompt) : 0;
    char *input = NULL;
    if (!o.prompt) {
        const char *path = o.file ? o.file : "-";
        if (!strcmp(path, "-") && isatty(STDIN_FILENO))
            fputs("(type the prompt, then Ctrl-D)\n", stderr);
        input = read_input(&cmd_run, path, &len);
        if (!input) return EXIT_FAILED;
    }
    const char *user = o.prompt ? o.prompt : input;
    apus_err err;
    if (o.raw) {
        err = apus_tokenize(m, user, len, APUS_TOK_SPECIAL | APUS_TOK_BOS, ids, n, &d);
    } else {
        char *messages = messages_json(user, len);
        apus_chat_settings cs;
        apus_chat_settings_default(&cs);
        cs.think = think_setting();
        err = apus_chat_render(m, messages, NULL, &cs, text, text_len, &d);
        free(messages);
        if (!err) err = apus_tokenize(m, *text, *text_len, APUS_TOK_SPECIAL, ids, n, &d);
        *mode = ANSWER_CHAT;
    }
    free(input);
    return err ? report(&cmd_run, &d) : -1;
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

static int generate(const apus_model *m)
{
    answer_mode mode = ANSWER_RAW;
    char *text = NULL;
    size_t text_len = 0, n = 0;
    int32_t *ids = NULL;
    int rc = make_prompt(m, &mode, &text, &text_len, &ids, &n);
    if (rc >= 0) goto done;
    if (o.print_ids && mode == ANSWER_RAW) mode = ANSWER_IDS;

    apus_diag d;
    apus_engine *e = NULL;
    apus_session *s = NULL;
    apus_engine_settings es;
    apus_generate_settings g;
    size_t want = n + (o.max_tokens > 0 ? (size_t)o.max_tokens : 4096);
    rc = engine_settings(&cmd_run, m, want > INT_MAX ? INT_MAX : (int)want, &es);
    if (rc >= 0) goto done;
    rc = EXIT_FAILED;
    if (n > INT_MAX) {
        fprintf(stderr, "apus run: the prompt has %zu tokens, more than any context\n", n);
        goto done;
    }
    if (apus_engine_create(m, &es, &e, &d) || apus_session_create(e, &s, &d)) {
        report(&cmd_run, &d);
    } else {
        answer a;
        apus_generate_settings_default(m, &g);
        sampling_settings(m, &g.sampling);
        g.max_tokens = o.max_tokens;
        g.ignore_eos = o.ignore_eos;
        if (answer_generate(m, e, s, ids, (int)n, mode, text, text_len, o.json || o.print_ids, &g,
                            &a, &d)) {
            report(&cmd_run, &d);
        } else {
            print_answer(m, &a, mode);
            print_speed(stderr, &a.result);
            rc = finish_output(&cmd_run, a.result.stop == APUS_STOP_CALLER ? 130 : 0);
        }
        answer_free(&a);
    }
    apus_session_free(s);
    apus_engine_free(e);
done:
    apus_free(text);
    o.ids ? free(ids) : apus_free(ids);
    return rc;
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

    apus_model *m;
    rc = open_model(&cmd_run, n ? argv[1] : NULL, APUS_LOAD_ALL, &m);
    if (rc >= 0) return rc;
    rc = generate(m);
    apus_model_close(m);
    return rc;
}
