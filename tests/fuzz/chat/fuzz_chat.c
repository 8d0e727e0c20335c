/* fuzz_chat.c - an output parser: however the text is cut, the joined events are the same.
 *
 * Input: a byte for the family and the prompt, a byte that seeds the cuts, the output. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/chat.h"

static void hear(void *ctx, const apus_event *ev)
{
    ap_buf *b = ctx;
    char kind = (char)('0' + ev->part);
    if (!ev->len && ev->part != APUS_PART_CALL) abort();
    if (!ap_utf8_valid(ev->text, ev->len)) abort();
    /* The kind of the running part is the buffer's last byte, so neighbours join. */
    if (ev->part == APUS_PART_CALL || !b->len || b->data[b->len - 1] != kind) {
        ap_buf_add(b, "\0", 1);
        ap_buf_add(b, &kind, 1);
    }
    b->len--;
    ap_buf_add(b, ev->text, ev->len);
    if (ev->part == APUS_PART_CALL) {
        ap_arena mem;
        ap_json *j = NULL;
        ap_arena_init(&mem, 0);
        /* Arguments are a JSON object. */
        if (ap_json_parse(&mem, ev->args, ev->args_len, "args", 0, &j, NULL) ||
            j->type != AP_JSON_OBJECT)
            abort();
        ap_arena_free(&mem);
        ap_buf_add(b, ev->args, ev->args_len);
        ap_buf_add(b, "\0", 1);
    }
    ap_buf_add(b, &kind, 1);
}

/* whole: one push; else cuts of 1 to 9 bytes from seed. */
static ap_buf parse(unsigned family, const char *s, size_t n, bool whole, unsigned seed)
{
    static const char *const prompts[] = {"", "<|im_start|>assistant\n<think>\n",
                                          "<|turn>model\n<|channel>thought\n",
                                          "<|turn>model\n<|channel>th"};
    static const char tools[] =
        "[{\"function\": {\"name\": \"f\", \"parameters\": {\"$defs\": {\"A\": {\"$ref\": "
        "\"#/$defs/B\"}, \"B\": {\"anyOf\": [{\"$ref\": \"#/$defs/A\"}, {\"type\": \"object\"}]}},"
        " \"properties\": {\"i\": {\"type\": \"integer\"}, \"n\": {\"type\": \"number\"},"
        " \"b\": {\"type\": \"boolean\"}, \"s\": {\"type\": \"string\"}, \"o\": {\"type\": "
        "\"object\"},"
        " \"r\": {\"$ref\": \"#/$defs/A\"}}}}}]";
    const char *prompt = prompts[family >> 2 & 3];
    ap_buf b = {0};
    ap_chat_parser *p = NULL;
    if (ap_chat_parser_create((ap_chat_syntax)(family % 3), prompt, strlen(prompt), tools, hear, &b,
                              &p, NULL))
        abort();
    for (size_t i = 0; i < n;) {
        seed = seed * 1103515245u + 12345u;
        size_t step = whole ? n : 1 + (seed >> 16) % 9;
        if (step > n - i) step = n - i;
        if (ap_chat_parser_push(p, s + i, step)) abort();
        i += step;
    }
    if (ap_chat_parser_finish(p)) abort();
    ap_chat_parser_free(p);
    return b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 16) return 0;
    const char *s = (const char *)data + 2;
    ap_buf a = parse(data[0], s, size - 2, true, 0),
           b = parse(data[0], s, size - 2, false, data[1]);
    if (a.len != b.len || (a.len && memcmp(a.data, b.data, a.len))) abort();
    ap_buf_free(&a);
    ap_buf_free(&b);
    return 0;
}
