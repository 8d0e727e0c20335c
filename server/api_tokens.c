/* api_tokens.c - /tokenize and /detokenize, as llama.cpp's server has them. */
#include "apis.h"
#include "fields.h"
#include "openai.h"
#include "state.h"

typedef struct tokens_request {
    const sv_json *content, *tokens;
    bool add_special, parse_special, with_pieces;
} tokens_request;

#define AT(member) offsetof(tokens_request, member)

static const sv_field tokenize_table[] = {
    {"model", sv_read_any, 0, 0, 0, NULL},
    {"content", sv_read_json, AT(content), 0, 0, NULL},
    {"add_special", sv_read_bool, AT(add_special), 0, 0, NULL},
    {"parse_special", sv_read_bool, AT(parse_special), 0, 0, NULL},
    {"with_pieces", sv_read_bool, AT(with_pieces), 0, 0, NULL},
    {0}};

static const sv_field detokenize_table[] = {
    {"model", sv_read_any, 0, 0, 0, NULL}, {"tokens", sv_read_array, AT(tokens), 0, 0, NULL}, {0}};

static void put_id(sv_buf *b, const apus_model *m, int32_t id, bool piece)
{
    if (!piece) {
        sv_put_int(b, NULL, id);
        return;
    }
    sv_put_map(b, NULL);
    sv_put_int(b, "id", id);
    sv_put_token(b, "piece", m, id);
    sv_put_end_map(b);
}

void sv_tokenize(sv_exchange *x)
{
    tokens_request r = {.parse_special = true};
    const apus_model *m = x->served->model;
    apus_diag d;
    int32_t *ids = NULL;
    size_t n;
    if (!sv_fields_read(x, tokenize_table, x->json, "", &r)) return;
    if (!r.content || r.content->type != SV_JSON_STRING) {
        sv_fail(x, 400, NULL, "content", "content: expected a string");
        return;
    }
    unsigned flags =
        (r.parse_special ? APUS_TOK_SPECIAL : APUS_TOK_PLAIN) | (r.add_special ? APUS_TOK_BOS : 0);
    if (apus_tokenize(m, r.content->str, r.content->len, flags, &ids, &n, &d)) {
        sv_fail_diag(x, &d);
        return;
    }
    sv_json_answer(x, 200);
    sv_put_map(&x->out, NULL);
    sv_put_array(&x->out, "tokens");
    for (size_t i = 0; i < n; i++) put_id(&x->out, m, ids[i], r.with_pieces);
    sv_put_end_array(&x->out);
    sv_put_end_map(&x->out);
    apus_free(ids);
}

void sv_detokenize(sv_exchange *x)
{
    tokens_request r = {0};
    apus_diag d;
    char *text = NULL;
    size_t len;
    int32_t *ids;
    int n;
    if (!sv_fields_read(x, detokenize_table, x->json, "", &r)) return;
    if (!r.tokens) {
        sv_fail(x, 400, NULL, "tokens", "tokens: expected an array of token ids");
        return;
    }
    if (!sv_job_ids(x, r.tokens, "tokens", &ids, &n)) return;
    if (apus_detokenize(x->served->model, ids, (size_t)n, false, &text, &len, &d)) {
        sv_fail_diag(x, &d);
        return;
    }
    sv_json_answer(x, 200);
    sv_put_map(&x->out, NULL);
    sv_put_strn(&x->out, "content", text, len);
    sv_put_end_map(&x->out);
    apus_free(text);
}
