/* gguf_hf_text.c - the texts of a GGUF file's metadata as those of a Hugging Face folder: tokenizer,
 * chat templates, advice on sampling. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "file/family.h"
#include "file/gguf_hf.h"
#include "file/gguf_merges.h"
#include "file/gguf_vocab.h"

static bool string_of(const ap_gguf_value *v, const char **s, size_t *n)
{
    const uint8_t *at = v ? v->data : NULL;
    return v && v->type == AP_GGUF_STRING && !v->is_array && ap_gguf_next_string(v, &at, s, n);
}

static bool string_is(const ap_gguf *g, const char *key, const char *want)
{
    const char *s;
    size_t n;
    return string_of(ap_gguf_find(g, key), &s, &n) && n == strlen(want) && !memcmp(s, want, n);
}

/* ---------------------------------------------------------------- tokenizer.json */

static const char spm_before[] = ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
                                 "\"},\"content\":\"\xE2\x96\x81\"},\"pre_tokenizer\":null";

static const char spm_after[] =
    ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
    "\"String\":\"\xE2\x96\x81\"},"
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true";

/* %s twice: what joins letters, and what joins the excluded classes. */
static const char bytes_before[] =
    ",\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":"
    "[{\"type\":\"Split\","
    "\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?%s+|\\\\p{"
    "N}|"
    " ?[^\\\\s\\\\p{L}%s\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
    "\"behavior\":\"Isolated\","
    "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,"
    "\"use_regex\":false}]}";

static const char bytes_after[] =
    ",\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":false,"
    "\"use_regex\":false},\"model\":{\"type\":\"BPE\",\"byte_fallback\":false";

static void post_processor(int64_t bos, ap_buf *b)
{
    if (bos < 0) {
        ap_buf_adds(b, ",\"post_processor\":null");
        return;
    }
    ap_buf_addf(
        b,
        ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
        "{\"id\":\"bos\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
        "\"pair\":[],\"special_tokens\":{\"bos\":{\"id\":\"bos\",\"ids\":[%" PRId64
        "],\"tokens\":[\"bos\"]}}}",
        bos);
}

void ap_tokenizer_pipeline(const ap_family_tokens *f, bool marks, int64_t bos, ap_buf *b)
{
    if (f->sentencepiece)
        ap_buf_adds(b, spm_before);
    else
        ap_buf_addf(b, bytes_before, marks ? "[\\\\p{L}\\\\p{M}]" : "\\\\p{L}",
                    marks ? "\\\\p{M}" : "");
    post_processor(bos, b);
    ap_buf_adds(b, f->sentencepiece ? spm_after : bytes_after);
}

static void added_tokens(const ap_gguf_vocab *v, ap_buf *b)
{
    bool first = true;
    ap_buf_adds(b, ",\"added_tokens\":[");
    for (size_t i = 0; i < v->n; i++) {
        const ap_vocab_entry *e = &v->token[i];
        if (e->kind == AP_TOKEN_PLAIN || e->twice) continue;
        ap_buf_addf(b, "%s{\"id\":%zu,\"content\":", first ? "" : ",", i);
        ap_json_quote(b, e->s, e->n, false);
        ap_buf_addf(b,
                    ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                    "\"special\":%s}",
                    e->kind == AP_TOKEN_SPECIAL ? "true" : "false");
        first = false;
    }
    ap_buf_adds(b, "]");
}

/* Of texts that stand twice the last id counts, as in any JSON object. */
static void vocabulary(const ap_gguf_vocab *v, ap_buf *b)
{
    ap_buf_adds(b, ",\"vocab\":{");
    for (size_t i = 0; i < v->n; i++) {
        if (i) ap_buf_adds(b, ",");
        ap_json_quote(b, v->token[i].s, v->token[i].n, false);
        ap_buf_addf(b, ":%zu", i);
    }
    ap_buf_adds(b, "}");
}

static void merge_list(const ap_gguf_value *merges, const ap_gguf_vocab *v, ap_buf *b)
{
    const uint8_t *at = merges->data;
    const char *s;
    size_t n;
    bool first = true;
    ap_buf_adds(b, "[");
    for (size_t i = 0; ap_gguf_next_string(merges, &at, &s, &n); i++) {
        if (v->merge_lost && v->merge_lost[i]) continue;
        if (!first) ap_buf_adds(b, ",");
        first = false;
        ap_json_quote(b, s, n, false);
    }
    ap_buf_adds(b, "]");
}

/* May the file call this tokenizer "llama", which is another? */
static bool may_be_llama(const ap_gguf *g)
{
    const char *s;
    size_t n;
    if (string_is(g, "tokenizer.ggml.pre", ap_gemma_tokens.gguf_model)) return true;
    if (!string_of(ap_gguf_find(g, "general.architecture"), &s, &n)) return false;
    const ap_family *f = ap_family_of_gguf(s, n);
    return f && f->gguf_llama;
}

/* The kind of tokenizer. Ollama calls Gemma's "llama", and gives its merges. */
static apus_err find_kind(const ap_gguf *g, const ap_family_tokens **kind, bool *marks,
                          apus_diag *diag)
{
    bool gemma = string_is(g, "tokenizer.ggml.model", ap_gemma_tokens.gguf_model) ||
                 (string_is(g, "tokenizer.ggml.model", "llama") && may_be_llama(g));
    bool bytes = string_is(g, "tokenizer.ggml.model", ap_qwen_tokens.gguf_model);
    *kind = gemma ? &ap_gemma_tokens : &ap_qwen_tokens;
    *marks = string_is(g, "tokenizer.ggml.pre", "qwen35");
    if (gemma || (bytes && (*marks || string_is(g, "tokenizer.ggml.pre", "qwen2")))) return APUS_OK;
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "%s: tokenizer.ggml.model and .pre: expected gemma4, llama with gemma4, or gpt2 "
                   "with qwen2 or qwen35",
                   g->name);
}

/* The token that stands before every text, -1: none. Gemma is lost without it, whatever the file says:
 * converters write that none is to be added because the chat template brings it. */
static int64_t first_token(const ap_gguf *g, const ap_family_tokens *f, const ap_gguf_vocab *v)
{
    const ap_gguf_value *id = ap_gguf_find(g, "tokenizer.ggml.bos_token_id"),
                        *add = ap_gguf_find(g, "tokenizer.ggml.add_bos_token");
    int64_t bos = -1, wanted = 0;
    if (add) ap_gguf_int(add, 0, &wanted);
    if (!f->first && !wanted) return -1;
    if (id) ap_gguf_int(id, 0, &bos);
    size_t len = f->first ? strlen(f->first) : 0;
    for (size_t i = 0; bos < 0 && len && i < v->n; i++)
        if (v->token[i].n == len && !memcmp(v->token[i].s, f->first, len)) bos = (int64_t)i;
    return bos >= 0 && (uint64_t)bos < v->n ? bos : -1;
}

apus_err ap_gguf_tokenizer_json(const ap_gguf *g, ap_buf *b, ap_notes *notes, apus_diag *diag)
{
    const ap_gguf_value *tokens = ap_gguf_find(g, "tokenizer.ggml.tokens"),
                        *merges = ap_gguf_find(g, "tokenizer.ggml.merges"),
                        *scores = ap_gguf_find(g, "tokenizer.ggml.scores");
    const ap_family_tokens *kind;
    bool marks;
    ap_gguf_vocab v;
    if (!ap_gguf_find(g, "tokenizer.ggml.model") || !tokens) return APUS_OK;
    apus_err err = find_kind(g, &kind, &marks, diag);
    if (err) return err;
    bool by_scores = !merges && kind->sentencepiece && scores;
    if (tokens->type != AP_GGUF_STRING ||
        (!by_scores && (!merges || merges->type != AP_GGUF_STRING)))
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: tokenizer.ggml.tokens and .merges: expected lists of strings", g->name);
    err = ap_gguf_vocab_read(g, kind, &v, notes, diag);
    if (err) return err;
    ap_buf_adds(b, "{\"version\":\"1.0\"");
    added_tokens(&v, b);
    ap_tokenizer_pipeline(kind, marks, first_token(g, kind, &v), b);
    vocabulary(&v, b);
    ap_buf_adds(b, ",\"merges\":");
    if (by_scores)
        err = ap_gguf_merges_from_scores(&v, scores, b, diag);
    else
        merge_list(merges, &v, b);
    ap_buf_adds(b, "}}");
    ap_gguf_vocab_free(&v);
    if (err) return err;
    return b->failed ? ap_fail_nomem(diag, b->cap, "the tokenizer") : APUS_OK;
}

/* ---------------------------------------------------------------- tokenizer_config.json */

/* The text of the token that `key` names, as a member. */
static void token_text(const ap_gguf *g, const char *key, const char *member, ap_buf *b)
{
    const ap_gguf_value *v = ap_gguf_find(g, key),
                        *tokens = ap_gguf_find(g, "tokenizer.ggml.tokens");
    int64_t want;
    if (!v || !tokens || !ap_gguf_int(v, 0, &want)) return;
    const uint8_t *at = tokens->data;
    const char *s;
    size_t n;
    for (int64_t id = 0; ap_gguf_next_string(tokens, &at, &s, &n); id++) {
        if (id != want) continue;
        ap_buf_addf(b, ",\"%s\":", member);
        ap_json_quote(b, s, n, false);
        return;
    }
}

static void named_template(const char *name, size_t name_len, const char *s, size_t n, ap_buf *b)
{
    ap_buf_adds(b, b->len && b->data[b->len - 1] == '[' ? "{\"name\":" : ",{\"name\":");
    ap_json_quote(b, name, name_len, false);
    ap_buf_adds(b, ",\"template\":");
    ap_json_quote(b, s, n, false);
    ap_buf_adds(b, "}");
}

/* tokenizer.chat_template is the default one, tokenizer.chat_template.NAME are others. */
static bool templates(const ap_gguf *g, ap_buf *b)
{
    static const char base[] = "tokenizer.chat_template";
    const size_t len = sizeof base - 1;
    const char *s;
    size_t n;
    bool any = false;
    ap_buf_adds(b, "[");
    for (size_t i = 0; i < g->n_values; i++) {
        const char *key = g->value[i].key;
        if (strncmp(key, base, len) || !string_of(&g->value[i], &s, &n)) continue;
        if (key[len] && (key[len] != '.' || !key[len + 1])) continue;
        const char *name = key[len] ? key + len + 1 : "default";
        named_template(name, strlen(name), s, n, b);
        any = true;
    }
    ap_buf_adds(b, "]");
    return any;
}

apus_err ap_gguf_tokenizer_config_json(const ap_gguf *g, const char *given, size_t given_len,
                                       ap_buf *b, apus_diag *diag)
{
    ap_buf list = {0};
    bool any = given != NULL || templates(g, &list);
    if (any) {
        ap_buf_adds(b, "{\"chat_template\":");
        if (given)
            ap_json_quote(b, given, given_len, false);
        else
            ap_buf_add(b, list.data, list.len);
        token_text(g, "tokenizer.ggml.bos_token_id", "bos_token", b);
        token_text(g, "tokenizer.ggml.eos_token_id", "eos_token", b);
        token_text(g, "tokenizer.ggml.padding_token_id", "pad_token", b);
        token_text(g, "tokenizer.ggml.unknown_token_id", "unk_token", b);
        ap_buf_adds(b, "}");
    }
    bool failed = b->failed || list.failed;
    ap_buf_free(&list);
    return failed ? ap_fail_nomem(diag, b->cap, "the chat template") : APUS_OK;
}

/* ---------------------------------------------------------------- generation_config.json */

/* Of a number that JSON can hold; others are told. */
static void advice(const ap_gguf *g, const char *key, const char *member, ap_buf *b,
                   ap_notes *notes)
{
    const ap_gguf_value *v = ap_gguf_find(g, key);
    double x;
    if (!v) return;
    if (v->is_array || !ap_gguf_num(v, 0, &x) || !isfinite(x)) {
        ap_note(notes, "%s: %s: expected a finite number; it is left out", g->name, key);
        return;
    }
    ap_buf_addf(b, ",\"%s\":%.9g", member, x);
}

/* Ways of sampling that apus does not have. */
static void tell_unknown_sampling(const ap_gguf *g, ap_notes *notes)
{
    static const char *const keys[] = {"general.sampling.mirostat",
                                       "general.sampling.xtc_probability"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const ap_gguf_value *v = ap_gguf_find(g, keys[i]);
        double x = 0;
        if (v && ap_gguf_num(v, 0, &x) && x > 0)
            ap_note(notes, "%s: %s: apus does not sample that way; it is left out", g->name,
                    keys[i]);
    }
}

static void suppressed(const ap_gguf *g, ap_buf *b)
{
    const ap_gguf_value *v = ap_gguf_find(g, "tokenizer.ggml.suppress_tokens");
    int64_t id;
    ap_buf_adds(b, "\"suppress_tokens\":[");
    for (uint64_t i = 0; v && i < v->count && ap_gguf_int(v, i, &id); i++)
        ap_buf_addf(b, "%s%" PRId64, i ? "," : "", id);
    ap_buf_adds(b, "]");
}

apus_err ap_gguf_generation_json(const ap_gguf *g, ap_buf *b, ap_notes *notes, apus_diag *diag)
{
    static const char *const pairs[][2] = {{"temp", "temperature"},
                                           {"top_k", "top_k"},
                                           {"top_p", "top_p"},
                                           {"min_p", "min_p"},
                                           {"penalty_repeat", "repetition_penalty"},
                                           {"penalty_last_n", "penalty_last_n"}};
    char key[64];
    /* A penalty over the last 0 tokens is none. */
    const ap_gguf_value *last = ap_gguf_find(g, "general.sampling.penalty_last_n");
    int64_t reach = -1;
    size_t n = sizeof pairs / sizeof *pairs;
    if (last && ap_gguf_int(last, 0, &reach) && reach == 0) n -= 2;
    ap_buf_adds(b, "{");
    suppressed(g, b);
    for (size_t i = 0; i < n; i++) {
        snprintf(key, sizeof key, "general.sampling.%s", pairs[i][0]);
        advice(g, key, pairs[i][1], b, notes);
    }
    ap_buf_adds(b, "}");
    tell_unknown_sampling(g, notes);
    return b->failed ? ap_fail_nomem(diag, b->cap, "the advice on sampling") : APUS_OK;
}
