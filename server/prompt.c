#include "prompt.h"

#include <string.h>

#include "state.h"

static apus_chat_settings chat_settings(const sv_job *j)
{
    apus_chat_settings s;
    apus_chat_settings_default(&s);
    s.think = j->think;
    s.guarded = true;
    if (j->extra.len) s.extra_json = j->extra.data;
    return s;
}

static const char *tools_of(const sv_job *j)
{
    return j->tools.len ? j->tools.data : NULL;
}

/* Templates differ in where they take system messages; those that raise get them at the front. */
static apus_err render(const apus_model *m, const sv_job *j, const apus_chat_settings *s,
                       char **text, size_t *len, apus_diag *d)
{
    apus_err err = apus_chat_render(m, sv_buf_text(&j->messages), tools_of(j), s, text, len, d);
    if (err != APUS_EFORMAT || !j->hoisted.len) return err;
    return apus_chat_render(m, j->hoisted.data, tools_of(j), s, text, len, d);
}

static bool render_prompt(sv_exchange *x, const sv_job *j, sv_prompt *p)
{
    apus_diag d;
    apus_chat_settings s = chat_settings(j);
    return !render(x->served->model, j, &s, &p->text, &p->len, &d) || sv_fail_diag(x, &d);
}

/* Marks of pictures become as many as they take. */
static bool expand(sv_exchange *x, const sv_job *j, sv_prompt *p)
{
    apus_diag d;
    char *whole;
    if (!j->n_media) return true;
    if (apus_media_expand(x->served->model, p->text, p->len, sv_job_media(j), j->n_media, &whole,
                          &p->len, &d))
        return sv_fail(x, 400, NULL, "messages", "%s", d.text);
    apus_free(p->text);
    p->text = whole;
    return true;
}

/* How long the generation prompt is, which the text ends with; 0: it has none. */
static size_t generation_prompt(sv_exchange *x, const sv_job *j, const sv_prompt *p)
{
    char *before = NULL;
    size_t len;
    apus_chat_settings s = chat_settings(j);
    s.no_generation_prompt = true;
    if (render(x->served->model, j, &s, &before, &len, NULL)) return 0;
    bool has = len < p->len && !memcmp(before, p->text, len);
    apus_free(before);
    return has ? p->len - len : 0;
}

/* Of so many bytes: it begins with a marker, so its tokens are the same alone. */
static void find_branch(sv_exchange *x, sv_prompt *p, size_t len)
{
    size_t n;
    int32_t *ids = NULL;
    if (len &&
        !apus_tokenize(x->served->model, p->text + p->len - len, len, APUS_TOK_SPECIAL, &ids, &n,
                       NULL) &&
        n < p->n && !memcmp(ids, p->ids + p->n - n, n * sizeof *ids))
        p->branch = (int)(p->n - n);
    apus_free(ids);
}

static bool tokenize(sv_exchange *x, const sv_job *j, sv_prompt *p)
{
    apus_diag d;
    const char *text = j->plain ? j->text : p->text;
    size_t len = j->plain ? j->text_len : p->len;
    /* a plain prompt is the client's own and may hold markers, as with the model's own tools */
    unsigned flags = APUS_TOK_SPECIAL | (j->plain ? APUS_TOK_BOS : APUS_TOK_GUARDED);
    if (!apus_tokenize(x->served->model, text, len, flags, &p->ids, &p->n, &d)) return true;
    return sv_fail_diag(x, &d);
}

/* The answer goes on from what the client wrote, in which nothing is a marker. The join is between two tokens. */
static bool append_prefill(sv_exchange *x, const sv_job *j, sv_prompt *p)
{
    int32_t *more = NULL;
    size_t n = 0;
    apus_diag d;
    const sv_buf *said = &j->prefill;
    if (!said->len) return true;
    if (apus_tokenize(x->served->model, said->data, said->len, APUS_TOK_PLAIN, &more, &n, &d))
        return sv_fail_diag(x, &d);
    int32_t *ids = sv_arena_alloc(&x->mem, (p->n + n) * sizeof *ids);
    if (ids) {
        memcpy(ids, p->ids, p->n * sizeof *ids);
        memcpy(ids + p->n, more, n * sizeof *ids);
        apus_free(p->ids);
        p->ids = ids;
        p->n += n;
        p->joined = true;
    }
    apus_free(more);
    return ids || sv_fail(x, 503, NULL, NULL, "out of memory");
}

/* A conversation as text and ids. */
static bool make_chat(sv_exchange *x, const sv_job *j, sv_prompt *p)
{
    if (!render_prompt(x, j, p)) return false;
    size_t end = generation_prompt(x, j, p);
    if (!expand(x, j, p) || !tokenize(x, j, p)) return false;
    find_branch(x, p, end);
    return append_prefill(x, j, p);
}

static bool check_size(sv_exchange *x, const sv_job *j, const sv_prompt *p)
{
    const char *field = j->plain ? "prompt" : "messages";
    if (!p->n) return sv_fail(x, 400, NULL, field, "the prompt is empty");
    x->n_prompt = (int)p->n;
    if (p->n < (size_t)x->served->ctx) return true;
    return sv_fail(x, 400, "context_length_exceeded", field,
                   "the prompt has %zu tokens and leaves no room for an answer in the context of "
                   "%d tokens; nothing was cut off",
                   p->n, x->served->ctx);
}

bool sv_prompt_make(sv_exchange *x, const sv_job *j, sv_prompt *p)
{
    *p = (sv_prompt){.branch = -1};
    bool ok = true;
    if (j->ids)
        p->n = (size_t)j->n_ids;
    else
        ok = j->plain ? tokenize(x, j, p) : make_chat(x, j, p);
    if (ok && check_size(x, j, p)) return true;
    sv_prompt_free(p);
    return false;
}

void sv_prompt_free(sv_prompt *p)
{
    apus_free(p->text);
    if (!p->joined) apus_free(p->ids);
    *p = (sv_prompt){.branch = -1};
}
