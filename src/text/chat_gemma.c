/* chat_gemma.c - the output of Gemma 4: <|channel>thought, <|tool_call>call:NAME{...}<tool_call|>.
 *
 * Text that looked like a call and is none comes out as content without its markers. */
#include <string.h>

#include "text/chat_stream.h"
#include "text/toolcall.h"

enum { CONTENT = 0, THINK, CALL, RESPONSE };

static const char *const content_set[] = {"<|channel>",   "<channel|>",       "<|tool_call>",
                                          "<tool_call|>", "<|tool_response>", "<tool_response|>",
                                          "<turn|>",      "<|turn>",          "<eos>",
                                          "<|\"|>",       "<|think|>",        NULL};
enum {
    M_CHANNEL,
    M_END_CHANNEL,
    M_CALL,
    M_END_CALL,
    M_RESPONSE,
    M_END_RESPONSE,
    M_END,
    M_TURN,
    M_EOS,
    M_QUOTE,
    M_THINK
};
#define LABEL "thought\n"

void ap_chat_gemma_start(ap_stream *p, const char *prompt, size_t len)
{
    static const char open[] = "<|channel>", close[] = "<channel|>", turn[] = "<|turn>";
    size_t inside = 0; /* behind the channel that is open */
    for (size_t i = 0; i < len; i++) {
        if (prompt[i] != '<') continue;
        if (len - i >= 10 && !memcmp(prompt + i, open, 10))
            inside = i + 10;
        else if (len - i >= 10 && !memcmp(prompt + i, close, 10))
            inside = 0;
        else if (len - i >= 7 && !memcmp(prompt + i, turn, 7))
            inside = 0;
    }
    if (!inside) return;
    p->state = THINK;
    p->skip_nl = true;
    /* A prompt that stops inside the label leaves its rest to the model. */
    size_t rest = len - inside, n = strlen(LABEL);
    if (rest < n && !memcmp(prompt + inside, LABEL, rest)) {
        p->label = true;
        ap_buf_add(&p->in, prompt + inside, rest);
    }
}

/* <|turn>model and a newline, which some answers repeat. */
static bool skip_turn(ap_stream *p)
{
    static const char text[] = "<|turn>model\n";
    int r = ap_stream_next_is(p, p->pos, text);
    if (r < 0) return false;
    p->pos += r ? strlen(text) : strlen("<|turn>");
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
    if (which == M_TURN) return skip_turn(p);
    if (which == M_QUOTE) {
        ap_stream_quote(p);
        return true;
    }
    p->pos += strlen(content_set[which]);
    switch (which) {
    case M_CHANNEL:
        p->state = THINK;
        p->label = p->skip_nl = true;
        p->after_call = false;
        p->ws.len = 0;
        break;
    case M_CALL:
        p->state = CALL;
        p->at = p->pos;
        p->in_string = false;
        break;
    case M_RESPONSE:
        p->state = RESPONSE;
        break;
    case M_END_CHANNEL:
        if (!p->has_content) ap_stream_end_think(p);
        break;
    default:
        break;
    }
    return true;
}

static bool think_step(ap_stream *p)
{
    static const char *const set[] = {
        "<channel|>", "<|tool_call>", "<|channel>", "<|tool_response>", "<turn|>", "<|turn>",
        "<eos>",      "<|think|>",    NULL};
    int which = 0;
    if (p->label) {
        int r = ap_stream_next_is(p, p->pos, LABEL),
            bare = ap_stream_next_is(p, p->pos, "thought<channel|>");
        if (r < 0 || (!r && bare < 0)) return false;
        /* An answer may end inside the label. */
        if (r == 1)
            p->pos += strlen(LABEL);
        else if (bare == 1 || (p->final && p->in.len - p->pos <= 7 && p->in.len > p->pos &&
                               !memcmp(p->in.data + p->pos, LABEL, p->in.len - p->pos)))
            p->pos += bare == 1 ? 7 : p->in.len - p->pos;
        p->label = false;
        return true;
    }
    size_t safe, hit = ap_stream_find(p, p->pos, set, &which, &safe);
    if (hit == SIZE_MAX) {
        ap_stream_text(p, APUS_PART_THINK, safe);
        return false;
    }
    ap_stream_text(p, APUS_PART_THINK, hit);
    if (which == 5) return skip_turn(p);
    p->pos += strlen(set[which]);
    if (which == 0 || which == 1 || which == 3) ap_stream_end_think(p);
    if (which == 0) p->state = CONTENT;
    if (which == 3) p->state = RESPONSE;
    if (which == 2) p->label = p->skip_nl = true;
    if (which == 1) {
        p->state = CALL;
        p->at = p->pos;
        p->in_string = false;
    }
    return true;
}

static void broken(ap_stream *p, size_t to)
{
    p->state = CONTENT;
    ap_stream_broken(p, to, content_set);
}

/* Every call in [pos, end) */
static bool deliver(ap_stream *p, size_t end)
{
    size_t at = p->pos;
    bool any = false;
    for (;;) {
        const char *name;
        size_t len;
        while (at < end && strchr(" \t\r\n", p->in.data[at]) && p->in.data[at]) at++;
        if (at >= end) break;
        p->args.len = 0;
        if (!ap_toolcall_gemma(p->in.data, end, &at, &name, &len, &p->args)) break;
        if (!p->args.failed) ap_stream_call(p, name, len, p->args.data, p->args.len);
        p->pos = at;
        any = true;
    }
    return any && at >= end;
}

/* The end of a call is the first closer outside of its strings. */
static bool call_step(ap_stream *p)
{
    static const char *const set[] = {
        "<|\"|>", "<tool_call|>", "<|tool_call>", "<|tool_response>", "<turn|>", "<eos>", NULL};
    static const char *const quote[] = {"<|\"|>", NULL};
    int which = 0;
    size_t safe, hit;
    while ((hit = ap_stream_find(p, p->at, p->in_string ? quote : set, &which, &safe)) !=
           SIZE_MAX) {
        if (which == 0) {
            p->in_string = !p->in_string;
            p->at = hit + strlen(quote[0]);
            continue;
        }
        bool ok = deliver(p, hit);
        if (ok)
            p->pos = hit;
        else
            broken(p, hit);
        p->state = CONTENT;
        if (which == 1) p->pos = hit + strlen(set[1]); /* the others are read as content is */
        return true;
    }
    p->at = safe;
    if (p->final) {
        if (p->in_string || !deliver(p, p->in.len)) broken(p, p->in.len);
        p->pos = p->in.len;
        p->state = CONTENT;
    }
    return false;
}

static bool response_step(ap_stream *p)
{
    /* The results of tools are the caller's to give; a model that invents one is not quoted. */
    static const char *const set[] = {"<tool_response|>", "<turn|>", "<|turn>", "<eos>", NULL};
    int which = 0;
    size_t safe, hit = ap_stream_find(p, p->pos, set, &which, &safe);
    if (hit == SIZE_MAX) {
        p->pos = p->final ? p->in.len : safe;
        return false;
    }
    p->pos = which == 0 ? hit + strlen(set[0]) : hit;
    p->state = CONTENT;
    return true;
}

bool ap_chat_gemma_step(ap_stream *p)
{
    switch (p->state) {
    case THINK:
        return think_step(p);
    case CALL:
        return call_step(p);
    case RESPONSE:
        return response_step(p);
    default:
        return content_step(p);
    }
}
