/* synth_vocab.c - vocabularies of made-up models: special tokens where the real ones have them, the units
 * of text, and words that nobody writes. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "file/family.h"
#include "file/gguf_hf.h"
#include "make/synth_text.h"

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

/* Ordinary token number i, counting from 0 over the places that no special token has; returns its length. */
static size_t qwen_token(int i, int id, char *out, size_t cap)
{
    char letter[4];
    static const char *const more[] = {"th", "in", "\xC4\xA0\141"}; /* a space, and a */
    if (i < 256) {
        size_t n = ap_utf8_encode(byte_letter(i), letter);
        return (size_t)snprintf(out, cap, "%.*s", (int)n, letter);
    }
    if (i < 259) return (size_t)snprintf(out, cap, "%s", more[i - 256]);
    return (size_t)snprintf(out, cap, "\xC4\xA0w%d", id);
}

static size_t gemma_token(int i, int id, char *out, size_t cap)
{
    static const char *const first[] = {"\n", "\n\n", "\xE2\x96\x81"};
    if (i < 256) return (size_t)snprintf(out, cap, "<0x%02X>", i);
    i -= 256;
    if (i < 3) return (size_t)snprintf(out, cap, "%s", first[i]);
    i -= 3;
    if (i < 94) return (size_t)snprintf(out, cap, "%c", '!' + i);
    if (i < 96) return (size_t)snprintf(out, cap, "%s", i == 94 ? "th" : "in");
    return (size_t)snprintf(out, cap, "\xE2\x96\x81w%d", id);
}

/* A vocabulary of real size, and how many tokens it has: ids behind the last one stand for nothing. */
typedef struct real_size {
    int vocab, tokens;
} real_size;

/* One for each kind of tokens that families have. */
static const struct vocabulary {
    const ap_family_tokens *of;
    const special *special; /* [n_special] */
    int n_special;
    int n_low; /* of those, first ones that have the same ids in small vocabularies */
    bool
        special_inside; /* they stand in the vocabulary too: BPE needs a name for the unknown one */
    real_size real, older; /* older.vocab INT_MAX: none */
    size_t (*token)(int i, int id, char *out, size_t cap);
    const char *last_merge; /* of BPE, behind "t h" and "i n"; "" = none */
    const char *config;     /* tokenizer_config.json but for its end */
    const char *chat;
} vocabularies[] = {
    {.of = &ap_qwen_tokens,
     .special = qwen_tokens,
     .n_special = sizeof qwen_tokens / sizeof *qwen_tokens,
     .real = {248320, 248077},
     .older = {151936, 151669},
     .token = qwen_token,
     .last_merge = ",\"\xC4\xA0 a\"",
     .config = "  \"tokenizer_class\": \"Qwen2Tokenizer\",\n  \"bos_token\": null,\n"
               "  \"eos_token\": \"<|im_end|>\",\n  \"pad_token\": \"<|endoftext|>\",\n"
               "  \"unk_token\": null,\n",
     .chat = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
             "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"},
    {.of = &ap_gemma_tokens,
     .special = gemma_tokens,
     .n_special = sizeof gemma_tokens / sizeof *gemma_tokens,
     .n_low = 5,
     .special_inside = true,
     .real = {248320, INT_MAX},
     .older = {INT_MAX, INT_MAX},
     .token = gemma_token,
     .last_merge = "",
     .config = "  \"tokenizer_class\": \"GemmaTokenizer\",\n  \"bos_token\": \"<bos>\",\n"
               "  \"eos_token\": \"<eos>\",\n  \"pad_token\": \"<pad>\",\n"
               "  \"unk_token\": \"<unk>\",\n",
     .chat = "{{ bos_token }}{% for m in messages %}<|turn>"
             "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<turn|>\n"
             "{% endfor %}{% if add_generation_prompt %}<|turn>model\n{% endif %}"},
};

static const struct vocabulary *vocabulary_of(const ap_config *c)
{
    const struct vocabulary *v = vocabularies;
    while (v->of != ap_family_of(c->arch)->tokens) v++;
    return v;
}

/* Where special token i stands: its own place in the real vocabularies, the last places in others. */
static int place(const struct vocabulary *v, const ap_config *c, int i)
{
    if (c->vocab >= v->real.vocab) return v->special[i].id;
    if (c->vocab >= v->older.vocab) return v->special[i].older;
    return i < v->n_low ? i : c->vocab - v->n_special + i;
}

static int tokens_of(const struct vocabulary *v, const ap_config *c)
{
    int n = c->vocab >= v->real.vocab    ? v->real.tokens
            : c->vocab >= v->older.vocab ? v->older.tokens
                                         : INT_MAX;
    return n < c->vocab ? n : c->vocab;
}

static void write_vocab(const struct vocabulary *v, const ap_config *c, ap_buf *b)
{
    int i = 0, end = tokens_of(v, c);
    char text[32];
    for (int id = 0; id < end; id++) {
        bool taken = false;
        for (int k = 0; k < v->n_special; k++) taken |= place(v, c, k) == id;
        if (taken) continue;
        size_t len = v->token(i++, id, text, sizeof text);
        if (i > 1) ap_buf_adds(b, ",");
        ap_json_quote(b, text, len, false);
        ap_buf_addf(b, ":%d", id);
    }
    for (int k = 0; k < v->n_special && v->special_inside; k++) {
        ap_buf_adds(b, ",");
        ap_json_quote(b, v->special[k].text, strlen(v->special[k].text), false);
        ap_buf_addf(b, ":%d", place(v, c, k));
    }
}

void ap_synth_tokenizer(const ap_config *c, ap_buf *b)
{
    const struct vocabulary *v = vocabulary_of(c);
    ap_buf_adds(b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (int k = 0; k < v->n_special; k++) {
        ap_buf_addf(b, "%s{\"id\":%d,\"content\":", k ? "," : "", place(v, c, k));
        ap_json_quote(b, v->special[k].text, strlen(v->special[k].text), false);
        ap_buf_addf(b,
                    ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
                    "\"special\":%s}",
                    v->special[k].visible ? "false" : "true");
    }
    ap_buf_adds(b, "]");
    ap_tokenizer_pipeline(v->of, ap_family_of(c->arch)->marks, -1, b);
    ap_buf_adds(b, ",\"vocab\":{");
    write_vocab(v, c, b);
    ap_buf_addf(b, "},\"merges\":[\"t h\",\"i n\"%s]}}\n", v->last_merge);
}

void ap_synth_tokenizer_config(const ap_config *c, ap_buf *b)
{
    ap_buf_addf(b, "{\n%s  \"model_max_length\": %d\n}\n", vocabulary_of(c)->config, c->context);
}

const char *ap_synth_template(const ap_config *c)
{
    return vocabulary_of(c)->chat;
}
