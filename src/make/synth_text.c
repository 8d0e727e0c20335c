#include "make/synth_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "base/utf8.h"
#include "file/gguf_hf.h"

#define MAX_TREE_BYTES ((size_t)64 << 20)

/* ---------------------------------------------------------------- config.json */

/* A value as JSON text. The parser bounds the depth. */
static void write_json(ap_buf *b, const ap_json *v)
{
    const char *comma = "";
    switch (v->type) {
    case AP_JSON_NULL:
        ap_buf_adds(b, "null");
        break;
    case AP_JSON_BOOL:
        ap_buf_adds(b, v->boolean ? "true" : "false");
        break;
    case AP_JSON_INT:
    case AP_JSON_DOUBLE:
        ap_buf_add(b, v->str, v->len);
        break;
    case AP_JSON_STRING:
        ap_json_quote(b, v->str, v->len, false);
        break;
    case AP_JSON_ARRAY:
    case AP_JSON_OBJECT:
        ap_buf_adds(b, v->type == AP_JSON_ARRAY ? "[" : "{");
        for (const ap_json *e = v->first; e; e = e->next, comma = ", ") {
            ap_buf_adds(b, comma);
            if (v->type == AP_JSON_OBJECT) {
                ap_json_quote(b, e->key, e->key_len, false);
                ap_buf_adds(b, ": ");
            }
            write_json(b, e);
        }
        ap_buf_adds(b, v->type == AP_JSON_ARRAY ? "]" : "}");
    }
}

static void member(ap_buf *b, const char *key)
{
    ap_buf_addf(b, "%s\n  \"%s\": ", b->len > 1 ? "," : "", key);
}

static int64_t number(const ap_json *o, const char *key)
{
    const ap_json *v = ap_json_get(o, key);
    return v && v->type == AP_JSON_INT ? v->integer : 0;
}

/* The first n elements. */
static void write_first(ap_buf *b, const ap_json *list, int64_t n)
{
    const char *comma = "";
    ap_buf_adds(b, "[");
    for (const ap_json *e = list->first; e && n > 0; e = e->next, n--, comma = ", ") {
        ap_buf_adds(b, comma);
        write_json(b, e);
    }
    ap_buf_adds(b, "]");
}

/* Entries of layers below n. */
static void write_layers_below(ap_buf *b, const ap_json *map, int64_t n)
{
    const char *comma = "";
    int64_t l;
    ap_buf_adds(b, "{");
    for (const ap_json *e = map->first; e; e = e->next) {
        if (!ap_json_int(e->key, e->key_len, &l) || l >= n) continue;
        ap_buf_adds(b, comma);
        ap_json_quote(b, e->key, e->key_len, false);
        ap_buf_adds(b, ": ");
        write_json(b, e);
        comma = ", ";
    }
    ap_buf_adds(b, "}");
}

static bool is(const ap_json *e, const char *key)
{
    return !strcmp(e->key, key);
}

/* A member of the text configuration in a model of n of its `all` layers. */
static void write_member(ap_buf *b, const ap_json *e, int64_t n, int64_t all)
{
    int64_t shared = e->type == AP_JSON_INT ? e->integer - (all - n) : 0;
    member(b, e->key);
    if (is(e, "num_hidden_layers"))
        ap_buf_addf(b, "%" PRId64, n);
    else if (is(e, "layer_types") && e->type == AP_JSON_ARRAY)
        write_first(b, e, n);
    else if (is(e, "per_layer_config") && e->type == AP_JSON_OBJECT)
        write_layers_below(b, e, n);
    else if (is(e, "num_kv_shared_layers"))
        ap_buf_addf(b, "%" PRId64, shared > 0 ? shared : 0);
    else
        write_json(b, e);
}

/* Type and class of the text model of a family. */
static void write_family(ap_buf *b, const ap_json *root, const ap_json *text)
{
    static const char *const classes[][2] = {
        {"gemma4_text", "Gemma4ForCausalLM"},   {"gemma4_unified_text", "Gemma4UnifiedForCausalLM"},
        {"qwen3_5_text", "Qwen3_5ForCausalLM"}, {"qwen3_5_moe_text", "Qwen3_5MoeForCausalLM"},
        {"qwen3_next", "Qwen3NextForCausalLM"}, {"qwen3_moe", "Qwen3MoeForCausalLM"},
        {"qwen3", "Qwen3ForCausalLM"},          {"gemma3_text", "Gemma3ForCausalLM"}};
    const ap_json *type = ap_json_get(text, "model_type"), *outer = ap_json_get(root, "model_type");
    char name[80] = "";
    if (type && type->type == AP_JSON_STRING)
        snprintf(name, sizeof name, "%.70s", type->str);
    else if (outer && outer->type == AP_JSON_STRING)
        snprintf(name, sizeof name, "%.70s%s", outer->str, root != text ? "_text" : "");
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (!strcmp(classes[i][0], name)) {
            member(b, "architectures");
            ap_buf_addf(b, "[\"%s\"]", classes[i][1]);
        }
    member(b, "model_type");
    ap_json_quote(b, name, strlen(name), false);
}

/* Members that the outer level decides, or that are written already. */
static bool is_outer(const ap_json *root, const ap_json *text, const ap_json *e)
{
    if (is(e, "model_type") || is(e, "architectures") || is(e, "quantization") ||
        is(e, "quantization_config"))
        return true;
    return root != text && (is(e, "eos_token_id") || is(e, "tie_word_embeddings")) &&
           ap_json_get(root, e->key);
}

apus_err ap_synth_config(const ap_config_text *config, int layers, ap_buf *out, apus_diag *diag)
{
    static const char *const outer[] = {"eos_token_id", "tie_word_embeddings"};
    ap_arena arena;
    ap_json *root = NULL;
    ap_arena_init(&arena, MAX_TREE_BYTES);
    apus_err err = ap_json_parse(&arena, config->text, config->len, config->name, 0, &root, diag);
    const ap_json *inner = err ? NULL : ap_json_get(root, "text_config"),
                  *text = inner ? inner : root;
    int64_t all = err ? 0 : number(text, "num_hidden_layers"), n = layers ? layers : all;
    if (!err && n > all)
        err = ap_fail(diag, APUS_EINVAL, "%s: has %" PRId64 " layers, expected at least %d",
                      config->name, all, layers);
    if (!err) {
        ap_buf_adds(out, "{");
        write_family(out, root, text);
        for (const ap_json *e = text->first; e; e = e->next)
            if (!is_outer(root, text, e)) write_member(out, e, n, all);
        for (size_t i = 0; i < sizeof outer / sizeof *outer && inner; i++)
            if (ap_json_get(root, outer[i])) write_member(out, ap_json_get(root, outer[i]), n, all);
        ap_buf_adds(out, "\n}\n");
        if (out->failed) err = ap_fail_nomem(diag, out->cap, "config.json");
    }
    ap_arena_free(&arena);
    return err;
}

/* ---------------------------------------------------------------- tokenizer */

typedef struct special {
    const char *text;
    int id; /* in the real vocabulary; older: of the smaller one of Qwen 3 */
    int older;
    bool visible; /* not "special" */
} special;

static const special qwen_tokens[] = {
    {"<|endoftext|>", 248044, 151643, false},   {"<|im_start|>", 248045, 151644, false},
    {"<|im_end|>", 248046, 151645, false},      {"<|vision_start|>", 248053, 151652, false},
    {"<|vision_end|>", 248054, 151653, false},  {"<|image_pad|>", 248056, 151655, false},
    {"<|video_pad|>", 248057, 151656, false},   {"<tool_call>", 248058, 151657, true},
    {"</tool_call>", 248059, 151658, true},     {"<tool_response>", 248066, 151665, true},
    {"</tool_response>", 248067, 151666, true}, {"<think>", 248068, 151667, true},
    {"</think>", 248069, 151668, true}};

static const special gemma_tokens[] = {{"<pad>", 0, 0, false},
                                       {"<eos>", 1, 1, false},
                                       {"<bos>", 2, 2, false},
                                       {"<unk>", 3, 3, false},
                                       {"<mask>", 4, 4, false},
                                       {"<|tool>", 46, 0, false},
                                       {"<tool|>", 47, 0, false},
                                       {"<|tool_call>", 48, 0, false},
                                       {"<tool_call|>", 49, 0, false},
                                       {"<|tool_response>", 50, 0, false},
                                       {"<tool_response|>", 51, 0, false},
                                       {"<|\"|>", 52, 0, false},
                                       {"<|think|>", 98, 0, false},
                                       {"<|channel>", 100, 0, false},
                                       {"<channel|>", 101, 0, false},
                                       {"<|turn>", 105, 0, false},
                                       {"<turn|>", 106, 0, false},
                                       {"<|image|>", 258880, 0, false}};

enum {
    QWEN_TOKENS = sizeof qwen_tokens / sizeof *qwen_tokens,
    GEMMA_TOKENS = sizeof gemma_tokens / sizeof *gemma_tokens
};

static bool is_gemma(const ap_config *c)
{
    return ap_arch_is_gemma(c->arch);
}

static const special *list_of(const ap_config *c, int *n)
{
    *n = is_gemma(c) ? GEMMA_TOKENS : QWEN_TOKENS;
    return is_gemma(c) ? gemma_tokens : qwen_tokens;
}

/* Where special token i stands: its own place in the real vocabularies, the last places in others. */
static int place(const ap_config *c, int i)
{
    int n;
    const special *s = list_of(c, &n);
    if (c->vocab >= 248320) return s[i].id;
    if (!is_gemma(c) && c->vocab >= 151936) return s[i].older;
    return is_gemma(c) && i < 5 ? i : c->vocab - n + i;
}

/* The printable stand-ins that byte-level BPE uses for the 256 bytes. */
static uint32_t byte_letter(int byte)
{
    uint32_t extra = 256;
    for (int b = 0; b <= byte; b++) {
        bool keep = (b >= 33 && b < 127) || (b >= 161 && b < 173) || b >= 174;
        if (b == byte) return keep ? (uint32_t)b : extra;
        extra += !keep;
    }
    return 0;
}

/* Ordinary token number i, counting from 0 over the places that no special token has. */
static size_t ordinary(const ap_config *c, int i, int id, char *out, size_t cap)
{
    char letter[4];
    if (!is_gemma(c)) {
        if (i < 256) {
            size_t n = ap_utf8_encode(byte_letter(i), letter);
            return (size_t)snprintf(out, cap, "%.*s", (int)n, letter);
        }
        if (i < 259)
            return (size_t)snprintf(out, cap, "%s",
                                    i == 256   ? "th"
                                    : i == 257 ? "in"
                                               : "\xC4\xA0"
                                                 "a");
        return (size_t)snprintf(out, cap, "\xC4\xA0w%d", id);
    }
    if (i < 256) return (size_t)snprintf(out, cap, "<0x%02X>", i);
    i -= 256;
    if (i < 3)
        return (size_t)snprintf(out, cap, "%s", i == 0 ? "\n" : i == 1 ? "\n\n" : "\xE2\x96\x81");
    i -= 3;
    if (i < 94) return (size_t)snprintf(out, cap, "%c", '!' + i);
    if (i < 96) return (size_t)snprintf(out, cap, "%s", i == 94 ? "th" : "in");
    return (size_t)snprintf(out, cap, "\xE2\x96\x81w%d", id);
}

/* Ids behind the real vocabulary's last one have no token. */
static int tokens_of(const ap_config *c)
{
    return c->vocab >= 248320 && !is_gemma(c)   ? 248077
           : c->vocab >= 151936 && !is_gemma(c) ? 151669
                                                : c->vocab;
}

static void write_vocab(const ap_config *c, ap_buf *b)
{
    int n, i = 0, end = tokens_of(c);
    char text[32];
    list_of(c, &n);
    for (int id = 0; id < end; id++) {
        bool taken = false;
        for (int k = 0; k < n; k++) taken |= place(c, k) == id;
        /* BPE needs a name for the unknown token, so Gemma's special ones stand here too. */
        if (taken) continue;
        size_t len = ordinary(c, i++, id, text, sizeof text);
        if (i > 1) ap_buf_adds(b, ",");
        ap_json_quote(b, text, len, false);
        ap_buf_addf(b, ":%d", id);
    }
    const special *s = list_of(c, &n);
    for (int k = 0; k < n && is_gemma(c); k++) {
        ap_buf_adds(b, ",");
        ap_json_quote(b, s[k].text, strlen(s[k].text), false);
        ap_buf_addf(b, ":%d", place(c, k));
    }
}

void ap_synth_tokenizer(const ap_config *c, ap_buf *b)
{
    int n;
    const special *s = list_of(c, &n);
    ap_buf_adds(b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (int k = 0; k < n; k++) {
        ap_buf_addf(b, "%s{\"id\":%d,\"content\":", k ? "," : "", place(c, k));
        ap_json_quote(b, s[k].text, strlen(s[k].text), false);
        ap_buf_addf(b,
                    ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                    "\"special\":%s}",
                    s[k].visible ? "false" : "true");
    }
    ap_buf_adds(b, "]");
    ap_tokenizer_pipeline(is_gemma(c), c->arch == AP_ARCH_QWEN3_5 || c->arch == AP_ARCH_QWEN3_5_MOE,
                          -1, b);
    ap_buf_adds(b, ",\"vocab\":{");
    write_vocab(c, b);
    ap_buf_adds(b, "},\"merges\":[\"t h\",\"i n\"");
    ap_buf_adds(b, is_gemma(c) ? "]}}\n" : ",\"\xC4\xA0 a\"]}}\n");
}

void ap_synth_tokenizer_config(const ap_config *c, ap_buf *b)
{
    ap_buf_addf(b,
                is_gemma(c)
                    ? "{\n  \"tokenizer_class\": \"GemmaTokenizer\",\n  \"bos_token\": \"<bos>\",\n"
                      "  \"eos_token\": \"<eos>\",\n  \"pad_token\": \"<pad>\",\n"
                      "  \"unk_token\": \"<unk>\",\n  \"model_max_length\": %d\n}\n"
                    : "{\n  \"tokenizer_class\": \"Qwen2Tokenizer\",\n  \"bos_token\": null,\n"
                      "  \"eos_token\": \"<|im_end|>\",\n  \"pad_token\": \"<|endoftext|>\",\n"
                      "  \"unk_token\": null,\n  \"model_max_length\": %d\n}\n",
                c->context);
}

const char *ap_synth_template(const ap_config *c)
{
    return is_gemma(c)
               ? "{{ bos_token }}{% for m in messages %}<|turn>"
                 "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<turn|>\n"
                 "{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"
               : "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
                 "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
}
