/* text.c - the public text functions over a model's tokenizer and chat template. */
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"

struct apus_detok {
    const apus_model *model;
    ap_detok *impl;
};

struct apus_chat_parser {
    ap_chat_parser *impl;
};

static apus_err need_tokenizer(const apus_model *m, apus_diag *diag)
{
    if (m->tokenizer) return APUS_OK;
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "%s: no tokenizer.json here; work with token ids, or add the file", m->dir);
}

apus_err apus_tokenize(const apus_model *m, const char *text, size_t len, unsigned flags,
                       int32_t **ids, size_t *n, apus_diag *diag)
{
    if (!m || (!text && len) || !ids || !n)
        return ap_fail(diag, APUS_EINVAL, "apus_tokenize: model, text, ids and n are needed");
    apus_err err = need_tokenizer(m, diag);
    return err ? err
               : ap_tokenizer_encode(m->tokenizer, text ? text : "", len, flags, ids, n, diag);
}

/* Heads are padded: ids between the tokenizer's vocabulary and the model's stand for nothing. */
static bool is_padding(const apus_model *m, int32_t id)
{
    return id >= ap_tokenizer_vocab(m->tokenizer) && id < m->config.vocab;
}

apus_err apus_detokenize(const apus_model *m, const int32_t *ids, size_t n, bool skip_special,
                         char **text, size_t *len, apus_diag *diag)
{
    if (!m || (!ids && n) || !text || !len)
        return ap_fail(diag, APUS_EINVAL, "apus_detokenize: model, ids, text and len are needed");
    apus_err err = need_tokenizer(m, diag);
    if (err) return err;
    int32_t *kept = ap_malloc(n, sizeof *kept);
    size_t n_kept = 0;
    if (!kept) return ap_fail_nomem(diag, n * sizeof *kept, "token ids");
    for (size_t i = 0; i < n; i++)
        if (!is_padding(m, ids[i])) kept[n_kept++] = ids[i];
    err = ap_tokenizer_decode(m->tokenizer, kept, n_kept, skip_special, text, len, diag);
    ap_free(kept);
    return err;
}

apus_err apus_detok_create(const apus_model *m, bool skip_special, apus_detok **out,
                           apus_diag *diag)
{
    if (!m || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_detok_create: model and out are needed");
    apus_err err = need_tokenizer(m, diag);
    if (err) return err;
    apus_detok *t = ap_calloc(1, sizeof *t);
    if (!t) return ap_fail_nomem(diag, sizeof *t, "a detokenizer");
    t->model = m;
    err = ap_detok_create(m->tokenizer, skip_special, &t->impl, diag);
    if (err)
        apus_detok_free(t);
    else
        *out = t;
    return err;
}

apus_err apus_detok_push(apus_detok *t, int32_t id, const char **piece, size_t *len,
                         apus_diag *diag)
{
    if (!t || !piece || !len)
        return ap_fail(diag, APUS_EINVAL, "apus_detok_push: detokenizer, piece and len are needed");
    if (!is_padding(t->model, id)) return ap_detok_push(t->impl, id, piece, len, diag);
    *piece = "";
    *len = 0;
    return APUS_OK;
}

apus_err apus_detok_finish(apus_detok *t, const char **piece, size_t *len)
{
    if (!t || !piece || !len) return APUS_EINVAL;
    return ap_detok_finish(t->impl, piece, len);
}

void apus_detok_free(apus_detok *t)
{
    if (!t) return;
    ap_detok_free(t->impl);
    ap_free(t);
}

bool apus_is_stop_token(const apus_model *m, int32_t id)
{
    return m && ap_config_is_stop(&m->config, id);
}

void apus_chat_settings_default(apus_chat_settings *s)
{
    if (s) *s = (apus_chat_settings){.size = sizeof *s};
}

apus_err apus_chat_render(const apus_model *m, const char *messages_json, const char *tools_json,
                          const apus_chat_settings *settings, char **text, size_t *len,
                          apus_diag *diag)
{
    apus_chat_settings s;
    apus_chat_settings_default(&s);
    if (!m || !messages_json || !text || !len)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_chat_render: model, messages_json, text and len are needed");
    apus_err err = ap_settings_take(&s, sizeof s, settings, "apus_chat_settings", diag);
    if (err) return err;
    if (s.think < APUS_THINK_DEFAULT || s.think > APUS_THINK_OFF)
        return ap_fail(diag, APUS_EINVAL, "apus_chat_settings.think: expected 0 to %d, found %d",
                       APUS_THINK_OFF, (int)s.think);
    if (!m->chat && !s.template_text)
        return ap_fail(diag, APUS_EUNSUPPORTED,
                       "%s: no chat template here; add chat_template.jinja, or use raw text",
                       m->dir);
    if (s.guarded && (err = need_tokenizer(m, diag))) return err;
    return ap_chat_render(m->chat, messages_json, tools_json, &s, s.guarded ? m->tokenizer : NULL,
                          text, len, diag);
}

apus_err apus_chat_parser_create(const apus_model *m, const char *prompt, size_t prompt_len,
                                 const char *tools_json, apus_event_fn fn, void *ctx,
                                 apus_chat_parser **out, apus_diag *diag)
{
    if (!m || (!prompt && prompt_len) || !fn || !out)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_chat_parser_create: model, fn and out are needed, "
                       "and a prompt of a length");
    apus_chat_parser *p = ap_calloc(1, sizeof *p);
    if (!p) return ap_fail_nomem(diag, sizeof *p, "an output parser");
    /* A rendered prompt came through a template, be it the caller's. */
    ap_chat_syntax syntax = m->chat || prompt ? m->syntax : AP_CHAT_PLAIN;
    apus_err err =
        ap_chat_parser_create(syntax, prompt, prompt_len, tools_json, fn, ctx, &p->impl, diag);
    if (err)
        apus_chat_parser_free(p);
    else
        *out = p;
    return err;
}

apus_err apus_chat_parser_push(apus_chat_parser *p, const char *text, size_t len)
{
    if (!p || (!text && len)) return APUS_EINVAL;
    return ap_chat_parser_push(p->impl, text ? text : "", len);
}

apus_err apus_chat_parser_finish(apus_chat_parser *p)
{
    return p ? ap_chat_parser_finish(p->impl) : APUS_EINVAL;
}

void apus_chat_parser_free(apus_chat_parser *p)
{
    if (!p) return;
    ap_chat_parser_free(p->impl);
    ap_free(p);
}
