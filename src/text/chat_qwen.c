/* chat_qwen.c - the output of Qwen models: <think>, <tool_call> with functions in XML or JSON.
 *
 * Calls inside a thought end it. Text that looked like a call and is none comes out as content,
 * without <tool_call> and its end. */
#include <string.h>

#include "text/chat_stream.h"
#include "text/toolcall.h"

enum { CONTENT = 0, THINK, TOOL, NAME, BETWEEN, KEY, VALUE, JSON, AFTER };
enum { MAX_NAME = 256 };

static const char *const hidden[] = {"<tool_call>", "</tool_call>",  "<think>",      "</think>",
                                     "<|im_end|>",  "<|endoftext|>", "<|im_start|>", NULL};
static const char *const content_set[] = {"<tool_call>",  "</tool_call>", "<think>",
                                          "</think>",     "<|im_end|>",   "<|endoftext|>",
                                          "<|im_start|>", "<function=",   NULL};
enum { M_CALL, M_END_CALL, M_THINK, M_END_THINK, M_END, M_END2, M_START, M_FUNCTION };

void ap_chat_qwen_start(ap_stream *p, const char *prompt, size_t len)
{
    /* The part behind the last "assistant" header, or all of a prompt without headers. */
    static const char header[] = "<|im_start|>", role[] = "assistant";
    size_t from = 0;
    bool inside = false;
    for (size_t i = 0; i + sizeof header - 1 <= len; i++)
        if (!memcmp(prompt + i, header, sizeof header - 1)) from = i + sizeof header - 1;
    if (from && (len - from < sizeof role - 1 || memcmp(prompt + from, role, sizeof role - 1)))
        return;
    for (size_t i = from; i < len; i++) {
        if (prompt[i] != '<') continue;
        if (len - i >= 7 && !memcmp(prompt + i, "<think>", 7))
            inside = true;
        else if (len - i >= 8 && !memcmp(prompt + i, "</think>", 8))
            inside = false;
    }
    p->state = inside ? THINK : CONTENT;
    p->skip_nl = inside;
}

static void open_call(ap_stream *p, int state, size_t marker)
{
    p->pos += marker;
    p->at = p->pos;
    p->state = state;
}

static void broken(ap_stream *p, size_t to)
{
    p->state = CONTENT;
    ap_stream_broken(p, to, hidden);
}

/* <|im_start|>assistant and a newline, when a model goes on past its end. */
static bool skip_header(ap_stream *p)
{
    static const char text[] = "<|im_start|>assistant\n";
    int r = ap_stream_next_is(p, p->pos, text);
    if (r < 0) return false;
    p->pos += r ? strlen(text) : strlen("<|im_start|>");
    return true;
}

static bool content_step(ap_stream *p)
{
    int which = 0;
    size_t safe, hit = ap_stream_find(p, p->pos, content_set, &which, &safe);
    if (hit == SIZE_MAX) {
        ap_stream_text(p, APUS_PART_CONTENT, safe);
        return false;
    }
    ap_stream_text(p, APUS_PART_CONTENT, hit);
    size_t n = strlen(content_set[which]);
    switch (which) {
    case M_CALL:
        open_call(p, TOOL, n);
        return true;
    case M_FUNCTION:
        p->at = p->pos;
        p->state = TOOL;
        return true;
    case M_THINK:
        p->pos += n;
        p->state = THINK;
        p->ws.len = 0;
        p->skip_nl = true;
        p->after_call = false;
        return true;
    case M_END_THINK:
        if (!p->has_content) ap_stream_end_think(p);
        p->pos += n;
        return true;
    case M_START:
        return skip_header(p);
    default:
        p->pos += n;
        return true;
    }
}

static bool think_step(ap_stream *p)
{
    static const char *const set[] = {"</think>",      "<tool_call>",  "<think>", "<|im_end|>",
                                      "<|endoftext|>", "<|im_start|>", NULL};
    int which = 0;
    size_t safe, hit = ap_stream_find(p, p->pos, set, &which, &safe);
    if (hit == SIZE_MAX) {
        ap_stream_text(p, APUS_PART_THINK, safe);
        return false;
    }
    ap_stream_text(p, APUS_PART_THINK, hit);
    if (which == 5) return skip_header(p);
    if (which == 1) {
        ap_stream_end_think(p);
        open_call(p, TOOL, strlen(set[which]));
        return true;
    }
    p->pos += strlen(set[which]);
    if (which == 0) {
        ap_stream_end_think(p);
        p->state = CONTENT;
    }
    return true;
}

static bool is_ws(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Pass white space; false: the text ends there. */
static bool pass_space(ap_stream *p)
{
    while (p->at < p->in.len && is_ws(p->in.data[p->at])) p->at++;
    return p->at < p->in.len;
}

static bool tool_step(ap_stream *p)
{
    if (!pass_space(p)) {
        if (p->final) broken(p, p->in.len);
        return false;
    }
    if (p->in.data[p->at] == '{') {
        p->braces = 0;
        p->in_string = p->escaped = false;
        p->mark = p->at;
        p->state = JSON;
        return true;
    }
    int f = ap_stream_next_is(p, p->at, "<function="),
        end = ap_stream_next_is(p, p->at, "</tool_call>");
    if (f == 1) {
        p->at += strlen("<function=");
        p->mark = p->at;
        p->state = NAME;
    } else if (f < 0 || end < 0) {
        return false;
    } else if (end == 1) { /* nothing was called */
        p->pos = p->at + strlen("</tool_call>");
        p->state = CONTENT;
        p->after_call = true;
    } else {
        p->state = CONTENT; /* what follows is read as content */
    }
    return true;
}

/* NAME> or KEY> from mark on. 1: it ends at p->at; 0: it is none; -1: wait. */
static int tag_end(ap_stream *p)
{
    for (; p->at < p->in.len; p->at++) {
        char c = p->in.data[p->at];
        if (c == '>') return p->at > p->mark;
        bool starts = ((uint8_t)c & 0xC0) != 0x80; /* text is cut between characters only */
        if (c == '\n' || c == '<' || (starts && p->at - p->mark > MAX_NAME)) return 0;
    }
    return p->final ? 0 : -1;
}

static bool name_step(ap_stream *p)
{
    int r = tag_end(p);
    if (r < 0) return false;
    if (r == 0) {
        broken(p, p->at);
        return true;
    }
    p->name.len = p->args.len = 0;
    ap_buf_add(&p->name, p->in.data + p->mark, p->at - p->mark);
    ap_buf_adds(&p->args, "{");
    p->n_args = 0;
    p->at++;
    p->state = BETWEEN;
    return true;
}

static void finish_call(ap_stream *p, size_t used)
{
    ap_buf_adds(&p->args, "}");
    if (!p->args.failed && !p->name.failed)
        ap_stream_call(p, p->name.data, p->name.len, p->args.data, p->args.len);
    p->at += used;
    p->pos = p->at;
    p->state = AFTER;
}

static bool between_step(ap_stream *p)
{
    static const char *const set[] = {"<parameter=", "</function>", "</tool_call>", "<|im_end|>",
                                      NULL};
    int which = 0;
    size_t safe, hit = ap_stream_find(p, p->at, set, &which, &safe);
    if (hit == SIZE_MAX) {
        p->at = safe;
        if (p->final) broken(p, p->in.len);
        return false;
    }
    p->at = hit;
    if (which == 0) {
        p->at += strlen(set[0]);
        p->mark = p->at;
        p->state = KEY;
    } else if (which == 3) {
        broken(p, hit);
    } else {
        finish_call(p, which == 1 ? strlen(set[1]) : 0);
    }
    return true;
}

static bool key_step(ap_stream *p)
{
    int r = tag_end(p);
    if (r < 0) return false;
    if (r == 0) {
        broken(p, p->at);
        return true;
    }
    p->key.len = 0;
    ap_buf_add(&p->key, p->in.data + p->mark, p->at - p->mark);
    p->mark = ++p->at;
    p->state = VALUE;
    return true;
}

static bool value_step(ap_stream *p)
{
    static const char *const set[] = {"</parameter>", "<parameter=", "</function>", NULL};
    int which = 0;
    size_t safe, hit = ap_stream_find(p, p->at, set, &which, &safe);
    if (hit == SIZE_MAX) {
        p->at = safe;
        if (p->final) broken(p, p->in.len);
        return false;
    }
    const char *s = p->in.data + p->mark;
    size_t n = hit - p->mark;
    if (n && s[0] == '\n') s++, n--;
    if (n && s[n - 1] == '\n') n--;
    if (p->n_args++) ap_buf_adds(&p->args, ", ");
    if (!p->key.failed) {
        ap_json_quote(&p->args, p->key.data, p->key.len, false);
        ap_buf_adds(&p->args, ": ");
        ap_toolcall_put_typed(
            &p->args, s, n,
            ap_toolcall_schema(p->tools, p->name.data, p->name.len, p->key.data, p->key.len));
    }
    p->at = hit + (which == 0 ? strlen(set[0]) : 0);
    p->state = BETWEEN;
    return true;
}

/* {"name": ..., "arguments": {...}}; [mark, at) holds it. */
static bool json_call(ap_stream *p)
{
    ap_arena mem;
    ap_json *j = NULL, *inner = NULL;
    bool ok = false;
    ap_arena_init(&mem, 0);
    if (ap_json_parse(&mem, p->in.data + p->mark, p->at - p->mark, "", 0, &j, NULL)) goto done;
    const ap_json *name = ap_json_get(j, "name"), *args = ap_json_get(j, "arguments");
    if (!args) args = ap_json_get(j, "parameters");
    if (!name || name->type != AP_JSON_STRING || !name->len) goto done;
    if (args && args->type == AP_JSON_STRING &&
        !ap_json_parse(&mem, args->str, args->len, "", 0, &inner, NULL))
        args = inner;
    if (args && args->type != AP_JSON_OBJECT && args->type != AP_JSON_NULL) goto done;
    p->name.len = p->args.len = 0;
    ap_buf_add(&p->name, name->str, name->len);
    if (args && args->type == AP_JSON_OBJECT)
        ap_toolcall_put_json(&p->args, args);
    else
        ap_buf_adds(&p->args, "{}");
    ok = !p->args.failed && !p->name.failed;
    if (ok) ap_stream_call(p, p->name.data, p->name.len, p->args.data, p->args.len);
done:
    ap_arena_free(&mem);
    return ok;
}

static bool json_step(ap_stream *p)
{
    for (; p->at < p->in.len; p->at++) {
        char c = p->in.data[p->at];
        if (p->in_string) {
            if (p->escaped)
                p->escaped = false;
            else if (c == '\\')
                p->escaped = true;
            else if (c == '"')
                p->in_string = false;
            continue;
        }
        if (c == '"') p->in_string = true;
        if (c == '{' || c == '[') p->braces++;
        if ((c != '}' && c != ']') || --p->braces > 0) continue;
        p->at++;
        if (json_call(p)) {
            p->pos = p->at;
            p->state = AFTER;
        } else {
            broken(p, p->at);
        }
        return true;
    }
    if (p->final) broken(p, p->in.len);
    return false;
}

/* Behind a call: the end of <tool_call>, or one more function in it. */
static bool after_step(ap_stream *p)
{
    p->at = p->pos;
    if (!pass_space(p)) {
        if (p->final) p->pos = p->at;
        return false;
    }
    int end = ap_stream_next_is(p, p->at, "</tool_call>");
    if (end < 0) return false;
    if (end) p->pos = p->at + strlen("</tool_call>");
    p->state = CONTENT; /* which knows <function= too */
    return true;
}

bool ap_chat_qwen_step(ap_stream *p)
{
    switch (p->state) {
    case THINK:
        return think_step(p);
    case TOOL:
        return tool_step(p);
    case NAME:
        return name_step(p);
    case BETWEEN:
        return between_step(p);
    case KEY:
        return key_step(p);
    case VALUE:
        return value_step(p);
    case JSON:
        return json_step(p);
    case AFTER:
        return after_step(p);
    default:
        return content_step(p);
    }
}
