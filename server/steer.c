#include "steer.h"

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

/* ---------------------------------------------------------------- making it */

bool sv_steer_init(sv_steer *s, sv_exchange *x, const sv_job *j, const sv_prompt *p)
{
    static const char *const begins[] = {"<think>", "<|channel>", NULL}, *const ends[] = {
                                                                             "</think>",
                                                                             "<channel|>", NULL};
    const apus_model *m = x->served->model;
    *s = (sv_steer){.begin = -1, .end = -1, .budget = j->think_budget};
    if (j->plain || j->think_budget < 0) return true;
    s->vocab_words = (x->served->info.vocab + 31) / 32;
    s->begin = token_of(m, begins);
    s->end = token_of(m, ends);
    s->thinking = s->end >= 0 && in_thought(m, p);
    s->may_think = s->end >= 0 && j->think != APUS_THINK_OFF;
    return true;
}

bool sv_steer_needed(const sv_steer *s)
{
    return s->budget >= 0;
}

void sv_steer_free(sv_steer *s)
{
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

int sv_steer_mask(void *ctx, const int32_t *ids, int n, uint32_t *allowed)
{
    const sv_steer *s = ctx;
    int from = behind_thought(s, ids, n);
    size_t bytes = (size_t)s->vocab_words * sizeof *allowed;
    if (from >= 0 || n < s->budget) return 0;
    memset(allowed, 0, bytes);
    allow(allowed, s->end);
    return 1;
}
