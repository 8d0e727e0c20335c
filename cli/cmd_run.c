/* cmd_run.c - apus run: one prompt, one answer. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "fetching.h"
#include "input.h"
#include "models.h"
#include "progress.h"
#include "prompt.h"
#include "recall.h"
#include "report.h"

#define LONG_TEXT 2048 /* bytes; a chat template adds few hundred */

static prompt_opts from;

static struct {
    const char *cache, *schema, *grammar;
    string_list stop;
    int max_tokens;
    bool json, print_ids, ignore_eos;
} o;

#define FORM_OPTION(name, at)                                                                      \
    {                                                                                              \
        name, 0, OPT_STRING, &o.at, NULL, 0, 0, "FILE", NULL                                       \
    }
#define SYSTEM_OPTION(name)                                                                        \
    {                                                                                              \
        name, 0, OPT_STRING, &from.system, NULL, 0, 0, "TEXT", NULL                                \
    }
#define COUNT_OPTION(name)                                                                         \
    {                                                                                              \
        name, 0, OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N", NULL                              \
    }

/* What the answer must be. */
typedef struct form {
    char *schema, *grammar;
} form;

static const opt run_table[] = {
    {"prompt", 'p', OPT_STRING, &from.text, NULL, 0, 0, "TEXT",
     "what to say to the model; the same as TEXT after MODEL"},
    {"file", 'f', OPT_STRING, &from.file, NULL, 0, 0, "FILE",
     "read it from FILE ('-' = standard input, which is also read when there is no other prompt)"},
    {"system", 0, OPT_STRING, &from.system, NULL, 0, 0, "TEXT", "system message"},
    SYSTEM_OPTION("-sys"),
    SYSTEM_OPTION("system-prompt"),
    {"messages", 0, OPT_STRING, &from.messages, NULL, 0, 0, "FILE",
     "answer a conversation: a JSON array of {\"role\", \"content\", ...}"},
    {"tools", 0, OPT_STRING, &from.tools, NULL, 0, 0, "FILE",
     "a JSON array of tools that the model may call"},
    {"image", 'i', OPT_LIST, &from.pictures, &from.seen, 0, 0, "FILE",
     "a picture or video to ask about, or a folder of its frames; may be given several times"},
    {"audio", 0, OPT_LIST, &from.pictures, &from.heard, 0, 0, "FILE",
     "a sound to ask about: WAV, FLAC or AIFF; may be given several times, and among pictures"},
    {"image-tokens", 0, OPT_INT, &from.image_tokens, NULL, 1, 1 << 20, "N",
     "at most this many tokens for a picture; Gemma: 70, 140, 280, 560 or 1120"},
    {"max-tokens", 'n', OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N",
     "stop after N tokens (default -1: when the model ends its turn)"},
    COUNT_OPTION("predict"),
    COUNT_OPTION("n-predict"),
    COUNT_OPTION("max-new-tokens"),
    {"stop", 0, OPT_LIST, &o.stop, NULL, 0, 0, "TEXT",
     "end the answer before TEXT; may be given several times"},
    {"-r", 0, OPT_LIST, &o.stop, NULL, 0, 0, "TEXT", NULL},
    {"reverse-prompt", 0, OPT_LIST, &o.stop, NULL, 0, 0, "TEXT", NULL},
    {"json-schema", 0, OPT_STRING, &o.schema, NULL, 0, 0, "FILE",
     "the answer is JSON that is valid under the schema in FILE (or given in its place)"},
    {"grammar", 0, OPT_STRING, &o.grammar, NULL, 0, 0, "FILE",
     "the answer is a text of the grammar in FILE (or given in its place), in llama.cpp's "
     "notation"},
    FORM_OPTION("-j", schema),
    FORM_OPTION("-jf", schema),
    FORM_OPTION("json-schema-file", schema),
    FORM_OPTION("grammar-file", grammar),
    {"raw", 0, OPT_FLAG, &from.raw, NULL, 0, 0, NULL,
     "continue the text as it is, without the chat template"},
    {"json", 0, OPT_FLAG, &o.json, NULL, 0, 0, NULL, "print one JSON object at the end"},
    {"prompt-cache", 0, OPT_STRING, &o.cache, NULL, 0, 0, "FILE",
     "keep what was read in FILE, and do not read again what it holds"},
    {"ids", 0, OPT_STRING, &from.ids, NULL, 0, 0, "FILE",
     "the prompt is token ids, whitespace-separated; '-' = standard input"},
    {"print-ids", 0, OPT_FLAG, &o.print_ids, NULL, 0, 0, NULL,
     "print the new token ids instead of text"},
    {"ignore-eos", 0, OPT_FLAG, &o.ignore_eos, NULL, 0, 0, NULL,
     "go on when the model ends its turn"},
    {0}};

static const opt *const tables[] = {run_table,      model_table,     think_table,   template_table,
                                    sampling_table, tower_table,     threads_table, engine_table,
                                    recall_table,   speculate_table, NULL};

static int run(int argc, char **argv);
const command cmd_run = {
    "run",
    "[MODEL] [TEXT | -p TEXT | -f FILE] [options]",
    "answer one prompt",
    "What is piped to standard input comes before TEXT. Sampling defaults come from the model's "
    "generation_config.json. The answer goes to standard output, everything else to standard "
    "error. Thinking is shown dimmed on a terminal and left out of pipes; --json has it as "
    "reasoning_content.\n\n"
    "  apus run MODEL \"Why is the sky blue?\" --temp 0\n  git diff | apus "
    "run MODEL -p \"Review this change.\"\n  apus run MODEL --ids prompt.txt --print-ids -n 32 "
    "--temp 0 --ignore-eos",
    tables,
    run};

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
              a->n_calls && !strcmp(stop_name(r->stop), "stop") ? "tool_calls"
                                                                : stop_name(r->stop));
    if (o.print_ids) {
        json_array(j, "ids");
        for (size_t i = 0; i < a->n_ids; i++) json_int(j, NULL, a->ids[i]);
        json_end_array(j);
    }
    json_map(j, "usage");
    json_int(j, "prompt_tokens", r->n_prompt);
    json_int(j, "completion_tokens", r->n_generated);
    json_int(j, "drafted_tokens", r->n_drafted);
    json_int(j, "accepted_tokens", r->n_accepted);
    json_end_map(j);
    json_map(j, "timings");
    json_real(j, "prompt_ms", r->prefill_us / 1e3);
    json_real(j, "predicted_ms", r->decode_us / 1e3);
    json_end_map(j);
    json_end_map(j);
    json_print(j);
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

/* ---------------------------------------------------------------- what was kept */

/* The session of --prompt-cache with what it shares with the prompt, or a new one. */
static apus_err open_session(apus_engine *e, const apus_model *m, const prompt *p, apus_session **s,
                             int *first, apus_diag *d)
{
    if (!o.cache || access(o.cache, F_OK) != 0) return apus_session_create(e, s, d);
    apus_err err = apus_session_load(e, o.cache, s, d);
    int same = err ? 0 : pictures_held(*s, m, p->ids, p->n, &p->pics, first, d);
    if (same < 0) return d->code;
    if (err) return err;
    fprintf(stderr, "%s%d of %zu prompt tokens were kept%s\n", dim(stderr), same, p->n,
            plain(stderr));
    return apus_session_rewind(*s, same, d);
}

/* ---------------------------------------------------------------- the answer */

/* Say on stderr what an answer lacks. */
static void tell_cut(const answer *a, const apus_info *info, int ctx)
{
    const apus_generate_result *r = &a->result;
    bool silent = !o.print_ids && !answer_says_something(a);
    if (r->stop == APUS_STOP_LENGTH && r->n_generated > 0 && !o.ignore_eos)
        fprintf(stderr, "apus run: the answer was cut after %d tokens%s; -n N allows more%s\n",
                r->n_generated, silent && a->thinking.len ? ", all of them spent on thinking" : "",
                silent && a->thinking.len ? ", --no-think answers at once" : "");
    else if (r->stop == APUS_STOP_CONTEXT)
        fprintf(stderr, "apus run: the answer was cut: the context of %d tokens is full%s\n", ctx,
                larger_context(ctx, info->context));
    else if (r->stop == APUS_STOP_TOKEN && silent)
        fputs("apus run: the model ended its turn without an answer\n", stderr);
}

/* The prompt does not fit. */
static int no_room(const prompt *p, const apus_info *info, int ctx)
{
    return fail(&cmd_run, "the prompt has %zu tokens and the context room for %d%s", p->n, ctx,
                larger_context(ctx, info->context));
}

/* The text of --json-schema or --grammar, a file's or given in its place; free() it. -1: go on. */
static int read_form(const char *given, const char *mark, char **out)
{
    size_t len;
    *out = strstr(given, mark) ? strdup(given) : read_input(&cmd_run, given, &len);
    return *out ? -1 : EXIT_FAILED;
}

static int read_forms(form *f)
{
    *f = (form){0};
    if (o.schema && o.grammar)
        return usage_error(&cmd_run, "choose one of --json-schema and --grammar");
    int rc = -1;
    if (o.schema) rc = read_form(o.schema, "{", &f->schema);
    if (o.grammar) rc = read_form(o.grammar, "::=", &f->grammar);
    return rc;
}

/* The constraint of an answer; NULL: it may be anything. */
static const apus_constraint *constraint_of(const form *f, apus_constraint *out)
{
    apus_constraint_default(out);
    out->json_schema = f->schema;
    out->grammar = f->grammar;
    out->think = from.raw ? APUS_THINK_OFF : think_setting();
    return f->schema || f->grammar ? out : NULL;
}

static int answer_prompt(const question *q, const prompt *p)
{
    apus_diag d;
    answer a;
    apus_info info = {.size = sizeof info};
    int ctx = apus_session_pos(q->session) + apus_session_room(q->session);
    int rc = EXIT_FAILED;
    if (apus_model_info(q->model, &info, &d)) return report(&cmd_run, &d);
    if (p->n > (size_t)ctx) return no_room(p, &info, ctx);
    if (answer_generate(q, &a, &d)) {
        report(&cmd_run, &d);
    } else {
        print_answer(q->model, &a, q->mode);
        rc = finish_output(&cmd_run, a.result.stop == APUS_STOP_CALLER ? 130 : 0);
        tell_cut(&a, &info, ctx);
        print_speed(stderr, &a.result);
        print_experts(stderr, q->model);
        if (o.cache && apus_session_pos(q->session) > 0 &&
            apus_session_save(q->session, o.cache, &d))
            rc = report(&cmd_run, &d);
    }
    answer_free(&a);
    return rc;
}

static int generate(const apus_model *m, prompt *p, const form *f)
{
    int rc = prompt_tokenize(&cmd_run, &from, m, p);
    if (rc >= 0) return rc;
    if (o.print_ids && p->mode == ANSWER_RAW) p->mode = ANSWER_IDS;
    if (p->n > INT_MAX)
        return fail(&cmd_run, "the prompt has %zu tokens, more than any context", p->n);

    apus_diag d;
    apus_engine *e = NULL;
    apus_session *s = NULL;
    apus_engine_settings es;
    apus_sampling way;
    apus_generate_settings g;
    apus_constraint constraint;
    int first = 0; /* picture that the session does not hold */
    rc = engine_settings(&cmd_run, m, wanted_ctx(p), &es);
    if (rc >= 0) return rc;
    if (p->pics.n) make_room_for_pictures(m, &es);
    if (apus_engine_create(m, &es, &e, &d) || open_session(e, m, p, &s, &first, &d)) {
        rc = report(&cmd_run, &d);
    } else {
        int held = apus_session_pos(s);
        apus_generate_settings_default(&g);
        sampling_settings(m, &way);
        g.sampling = &way;
        g.max_tokens = o.max_tokens;
        g.ignore_eos = o.ignore_eos;
        g.constraint = constraint_of(f, &constraint);
        question q = {.model = m,
                      .engine = e,
                      .session = s,
                      .ids = p->ids + held,
                      .n = (int)p->n - held,
                      .media = pictures_list(&p->pics) + first,
                      .n_media = p->pics.n - first,
                      .chunk = chunk_of(m, &es),
                      .mode = p->mode,
                      .prompt = p->text,
                      .prompt_len = p->text_len,
                      .tools = p->tools,
                      .stop = &o.stop,
                      .quiet = o.json || o.print_ids,
                      .set = &g};
        rc = answer_prompt(&q, p);
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
    size_t len = p->len + (from.system ? strlen(from.system) : 0);
    if (p->messages) len += strlen(p->messages);
    if (p->tools) len += strlen(p->tools);
    common.towers = pictures_towers(from.seen, from.heard);
    if (!p->ids && !common.ctx && (len > LONG_TEXT || from.pictures.n)) {
        int rc = open_model(&cmd_run, name, APUS_LOAD_TEXT, &m);
        if (rc >= 0) return rc;
        rc = prompt_tokenize(&cmd_run, &from, m, p);
        apus_model_close(m);
        if (rc >= 0) return rc;
    }
    return open_for_engine(&cmd_run, name, wanted_ctx(p), out);
}

static int check_stop(void)
{
    for (int i = 0; i < o.stop.n; i++)
        if (!*o.stop.item[i]) return usage_error(&cmd_run, "--stop: expected a text");
    return -1;
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    o.max_tokens = -1;
    int rc = options_parse(&cmd_run, argc, argv, 2, &n);
    if (rc < 0) rc = take_model(&cmd_run, argv, &n, 1, &name);
    if (rc < 0) rc = check_stop();
    if (rc < 0 && n && from.text)
        rc = usage_error(&cmd_run, "choose one of --prompt and the text '%s'", argv[1]);
    if (rc >= 0) return rc;
    if (n && !strcmp(argv[1], "-"))
        from.file = "-";
    else if (n)
        from.text = argv[1];
    rc = prompt_check(&cmd_run, &from);
    if (rc < 0 && !n && name && name[strcspn(name, " \n")] && access(name, F_OK) != 0)
        rc = usage_error(&cmd_run,
                         "'%s' is no model; without a MODEL the text is given with --prompt", name);
    if (rc >= 0) return rc;

    apus_model *m = NULL;
    prompt p = {0};
    form f = {0};
    rc = read_forms(&f);
    if (rc < 0) rc = fetch_if_missing(&cmd_run, name);
    if (rc < 0) rc = prompt_read(&cmd_run, &from, name, &p);
    if (rc < 0) rc = open_for_prompt(name, &p, &m);
    if (rc < 0) {
        recall_experts(m);
        rc = generate(m, &p, &f);
        remember_experts(m);
    }
    prompt_free(&p);
    free(f.schema);
    free(f.grammar);
    apus_model_close(m);
    return rc;
}
