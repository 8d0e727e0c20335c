#include "steer.h"

#include <stdlib.h>
#include <string.h>

#include "state.h"

/* ---------------------------------------------------------------- what a family's answers look like */

/* The first of these texts that is one token; -1: none. */
static int32_t token_of(const apus_model *m, const char *const *texts)
{
    int32_t id = -1;
    for (; *texts && id < 0; texts++) {
        int32_t *ids = NULL;
        size_t n = 0;
        if (!apus_tokenize(m, *texts, strlen(*texts), APUS_TOK_SPECIAL, &ids, &n, NULL) && n == 1)
            id = *ids;
        apus_free(ids);
    }
    return id;
}

static void on_part(void *ctx, const apus_event *ev)
{
    *(bool *)ctx |= ev->part == APUS_PART_THINK;
}

/* Would a word that comes now be part of a thought? */
static bool in_thought(const apus_model *m, const sv_prompt *p)
{
    bool think = false;
    apus_chat_parser *parser = NULL;
    if (apus_chat_parser_create(m, p->text, p->len, NULL, on_part, &think, &parser, NULL))
        return false;
    apus_chat_parser_push(parser, "x", 1);
    apus_chat_parser_finish(parser);
    apus_chat_parser_free(parser);
    return think;
}

static const char NAME[] = "name_of_a_tool", ARG[] = "name_of_an_argument";

/* How a template writes calls. */
typedef struct call_form {
    char *text;                      /* apus_free it */
    const char *head;                /* from the first marker on */
    const char *name, *behind, *arg; /* NAME in it, what follows it, and ARG */
} call_form;

/* false: the template writes no calls. */
static bool learn_form(const apus_model *m, call_form *f)
{
    static const char messages[] =
        "[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"\","
        "\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"name_of_a_tool\","
        "\"arguments\":{\"name_of_an_argument\":\"x\"}}}]}]";
    static const char *const marks[] = {"<tool_call>", "<|tool_call>"};
    apus_chat_settings s;
    size_t len;
    *f = (call_form){0};
    apus_chat_settings_default(&s);
    s.no_generation_prompt = true;
    if (apus_chat_render(m, messages, NULL, &s, &f->text, &len, NULL)) return false;
    for (size_t i = 0; i < sizeof marks / sizeof *marks && !f->head; i++)
        f->head = strstr(f->text, marks[i]);
    f->name = f->head ? strstr(f->head, NAME) : NULL;
    if (!f->name) return false;
    f->behind = f->name + strlen(NAME);
    f->arg = strstr(f->behind, ARG);
    return f->arg && f->arg > f->behind;
}

/* ---------------------------------------------------------------- making it */

/* Up to the first argument's name where the tool needs arguments, else to the character behind its own. */
static bool force_call(sv_steer *s, const apus_model *m, const call_form *f, const char *tool,
                       bool needs)
{
    sv_buf text = {0};
    if (s->thinking) sv_buf_adds(&text, "\n\n");
    sv_buf_add(&text, f->head, (size_t)(f->name - f->head));
    sv_buf_adds(&text, tool);
    sv_buf_add(&text, f->behind, needs ? (size_t)(f->arg - f->behind) : 1);
    struct sv_ids *ids = &s->forced[s->n_forced];
    bool ok = !text.failed &&
              !apus_tokenize(m, text.data, text.len, APUS_TOK_SPECIAL, &ids->v, &ids->n, NULL);
    s->n_forced += ok;
    sv_buf_free(&text);
    return ok;
}

static bool force_calls(sv_steer *s, sv_exchange *x, const sv_job *j)
{
    const apus_model *m = x->served->model;
    call_form f;
    bool ok = learn_form(m, &f);
    s->forced = calloc((size_t)j->n_tools, sizeof *s->forced);
    for (int i = 0; i < j->n_tools && ok && s->forced; i++)
        if (!j->must_call || !strcmp(j->must_call, j->tools_offered[i].name))
            ok = force_call(s, m, &f, j->tools_offered[i].name, j->tools_offered[i].needs_args);
    apus_free(f.text);
    if (ok && s->forced) return true;
    return sv_fail(x, 400, "unsupported_value", "tool_choice",
                   "tool_choice: the model's template does not tell how a call is written");
}

bool sv_steer_init(sv_steer *s, sv_exchange *x, const sv_job *j, const sv_prompt *p)
{
    static const char *const begins[] = {"<think>", "<|channel>", NULL}, *const ends[] = {
                                                                             "</think>",
                                                                             "<channel|>", NULL};
    const apus_model *m = x->served->model;
    *s = (sv_steer){.begin = -1, .end = -1, .budget = j->think_budget};
    if (j->plain || (j->think_budget < 0 && !j->must)) return true;
    s->vocab_words = (x->served->info.vocab + 31) / 32;
    s->begin = token_of(m, begins);
    s->end = token_of(m, ends);
    s->thinking = s->end >= 0 && in_thought(m, p);
    s->may_think = s->end >= 0 && j->think != APUS_THINK_OFF;
    return !j->must || force_calls(s, x, j);
}

bool sv_steer_needed(const sv_steer *s)
{
    return s->budget >= 0 || s->n_forced;
}

void sv_steer_free(sv_steer *s)
{
    for (int i = 0; i < s->n_forced; i++) apus_free(s->forced[i].v);
    free(s->forced);
    *s = (sv_steer){0};
}

/* ---------------------------------------------------------------- before each token */

/* Where the answer proper begins; -1: the thought goes on. */
static int behind_thought(const sv_steer *s, const int32_t *ids, int n)
{
    bool open = s->thinking || (n && s->may_think && ids[0] == s->begin);
    if (!open) return 0;
    for (int i = 0; i < n; i++)
        if (ids[i] == s->end) return i + 1;
    return -1;
}

static void allow(uint32_t *allowed, int32_t id)
{
    allowed[id / 32] |= 1u << id % 32;
}

/* Do n ids agree? Before the first one there may be none at all. */
static bool agree(const int32_t *a, const int32_t *b, size_t n)
{
    return !n || !memcmp(a, b, n * sizeof *a);
}

/* Is one of what is forced complete? */
static bool forced_done(const sv_steer *s, const int32_t *ids, size_t n)
{
    for (int i = 0; i < s->n_forced; i++)
        if (n >= s->forced[i].n && agree(ids, s->forced[i].v, s->forced[i].n)) return true;
    return !s->n_forced;
}

/* The next ids of what is forced and still can come. */
static void allow_forced(const sv_steer *s, const int32_t *ids, size_t n, uint32_t *allowed)
{
    for (int i = 0; i < s->n_forced; i++)
        if (n < s->forced[i].n && agree(ids, s->forced[i].v, n)) allow(allowed, s->forced[i].v[n]);
}

int sv_steer_mask(void *ctx, const int32_t *ids, int n, uint32_t *allowed)
{
    const sv_steer *s = ctx;
    int from = behind_thought(s, ids, n);
    size_t bytes = (size_t)s->vocab_words * sizeof *allowed;
    if (from < 0) {
        if (s->budget < 0 || n < s->budget) return 0;
        memset(allowed, 0, bytes);
        allow(allowed, s->end);
        return 1;
    }
    if (forced_done(s, ids + from, (size_t)(n - from))) return 0;
    memset(allowed, 0, bytes);
    allow_forced(s, ids + from, (size_t)(n - from), allowed);
    if (!n && s->may_think && s->begin >= 0) allow(allowed, s->begin);
    return 1;
}
