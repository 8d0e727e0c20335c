/* chat_gemma.c - the output of Gemma 4: <|channel>thought, <|tool_call>call:NAME{...}<tool_call|>.
 *
 * Markers count where a model uses them, and are text where it speaks of them: the name of a
 * channel ends with its line, a call begins with a name and a bracket. A call inside a thought is a
 * draft if the thought goes on behind it. What looked like a call and is none comes out as it was
 * written. */
#include <string.h>

#include "text/chat_stream.h"
#include "text/schema.h"
#include "text/toolcall.h"

enum { CONTENT = 0, THINK, HEAD, CALL, DRAFT, RESPONSE };
enum { MAX_DEAF = 8, MAX_CHANNEL = 64 };

#define LABEL        "thought\n"
#define CHANNEL      "<|channel>"
#define END_CHANNEL  "<channel|>"
#define OPEN         "<|tool_call>"
#define END_CALL     "<tool_call|>"
#define RESPONSE_TAG "<|tool_response>"
#define TURN         "<|turn>"
#define END_TURN     "<turn|>"
#define EOS          "<eos>"

static const char *const ends[] = {END_TURN, TURN, EOS, NULL};

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
    ap_stream_begin_think(p);
    /* A prompt that stops inside the label leaves its rest to the model. */
    size_t rest = len - inside, n = strlen(LABEL);
    if (rest < n && !memcmp(prompt + inside, LABEL, rest)) {
        p->label = true;
        ap_buf_add(&p->in, prompt + inside, rest);
    }
}

/* ---------------------------------------------------------------- calls that are none, drafts */

/* [pos, to) was no call. */
static void broken(ap_stream *p, size_t to)
{
    p->state = p->in_think ? THINK : CONTENT;
    ap_stream_broken(p, to, ends);
}

/* The answer ends inside a call. In a thought the call may have swallowed the thought's end: it is
 * read again without looking for calls, a bounded number of times. */
static void cut(ap_stream *p)
{
    if (p->in_think) {
        p->state = THINK;
        p->deaf = true;
        p->n_deaf++;
    } else {
        broken(p, p->in.len);
    }
}

static void open_call(ap_stream *p, bool in_think)
{
    ap_stream_open_call(p, in_think, strlen(OPEN));
    p->mark = p->at;
    p->state = HEAD;
}

/* Behind a whole call in a thought, at p->at: only another call or the end of the answer makes it
 * one; then it is read again as content. Anything else makes it a draft, a part of the thought. */
static bool draft_step(ap_stream *p)
{
    static const char *const set[] = {OPEN, END_TURN, TURN, EOS, RESPONSE_TAG, NULL};
    int which = ap_stream_next_of(p, set);
    if (which == AP_STREAM_WAIT) return false;
    if (which == AP_STREAM_OTHER) {
        broken(p, p->at);
    } else if (which == 0) {
        p->at += strlen(OPEN);
        p->mark = p->at;
        p->state = HEAD;
    } else {
        ap_stream_end_think(p);
        ap_stream_marker(p, 0);
        p->state = CONTENT;
    }
    return true;
}

/* ---------------------------------------------------------------- content and thoughts */

/* <|turn>model and a newline, which some answers repeat. 1, 0: it is spoken of; -1: too early. */
static int skip_turn(ap_stream *p)
{
    static const char text[] = TURN "model\n";
    int r = ap_stream_next_is(p, p->pos, text);
    size_t n = r == 1 ? strlen(text) : strlen(TURN);
    if (r == 0) r = ap_stream_ends_turn(p, n);
    if (r == 1) ap_stream_marker(p, n);
    return r;
}

/* <turn|>, n bytes, is dropped where it ends a turn. As above. */
static int skip_end(ap_stream *p, size_t n)
{
    int r = ap_stream_ends_turn(p, n);
    if (r == 1) p->pos += n;
    return r;
}

/* Does "NAME newline" or "NAME <channel|>" stand at `at`? 1, 0, -1: too early. */
static int names_channel(const ap_stream *p, size_t at)
{
    for (size_t i = at; i < p->in.len && i - at < MAX_CHANNEL; i++) {
        char c = p->in.data[i];
        if (c == '\n') return 1;
        if (c == '<') return ap_stream_next_is(p, i, END_CHANNEL);
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c == ' ' && i > at)) return 0;
    }
    if (p->in.len - at >= MAX_CHANNEL) return 0;
    return p->final ? 1 : -1; /* cut inside the name */
}

/* Does the <|channel> at pos open a thought? Within a line only with the name it always has. */
static int opens_channel(const ap_stream *p)
{
    size_t at = p->pos + strlen(CHANNEL);
    if (ap_stream_quoted(p)) return 0;
    if (p->line == AP_LINE_BLANK) return names_channel(p, at);
    int label = ap_stream_next_is(p, at, LABEL),
        bare = ap_stream_next_is(p, at, "thought" END_CHANNEL);
    return label == 1 || bare == 1 ? 1 : label < 0 || bare < 0 ? -1 : 0;
}

static bool content_step(ap_stream *p)
{
    static const char *const set[] = {CHANNEL, END_CHANNEL,     OPEN, RESPONSE_TAG, END_TURN, EOS,
                                      TURN,    AP_STREAM_QUOTE, NULL};
    int which = 0, used = 0;
    size_t safe, hit = ap_stream_find(p, p->pos, set, &which, &safe);
    if (hit == SIZE_MAX) {
        ap_stream_text(p, APUS_PART_CONTENT, safe);
        return false;
    }
    ap_stream_text(p, APUS_PART_CONTENT, hit);
    size_t n = strlen(set[which]);
    switch (which) {
    case 0:
        used = opens_channel(p);
        if (used < 0) return false;
        if (!used) break;
        ap_stream_marker(p, n);
        ap_stream_begin_think(p);
        p->label = true;
        p->state = THINK;
        break;
    case 1: /* the end of a thought whose beginning nobody saw */
        used = !p->has_content && !ap_stream_quoted(p);
        if (!used) break;
        ap_stream_marker(p, n);
        ap_stream_end_think(p);
        break;
    case 2:
        used = !ap_stream_quoted(p);
        if (used) open_call(p, false);
        break;
    case 3: /* a model that goes on past its call */
        used = p->after_call;
        if (!used) break;
        ap_stream_marker(p, n);
        p->state = RESPONSE;
        break;
    case 6:
        used = skip_turn(p);
        break;
    case 7:
        ap_stream_quote(p);
        return true;
    default:
        used = skip_end(p, n);
    }
    if (used < 0) return false;
    if (!used) ap_stream_text(p, APUS_PART_CONTENT, hit + n);
    return true;
}

/* At the beginning of a thought: its name, which the answer may end in. false: wait. */
static bool label_step(ap_stream *p)
{
    int r = ap_stream_next_is(p, p->pos, LABEL),
        bare = ap_stream_next_is(p, p->pos, "thought" END_CHANNEL);
    size_t left = p->in.len - p->pos;
    if (r < 0 || (!r && bare < 0)) return false;
    if (r == 1)
        ap_stream_marker(p, strlen(LABEL));
    else if (bare == 1)
        ap_stream_marker(p, strlen(LABEL) - 1);
    else if (p->final && left && left < strlen(LABEL) && !memcmp(p->in.data + p->pos, LABEL, left))
        ap_stream_marker(p, left);
    p->label = false;
    return true;
}

static bool think_step(ap_stream *p)
{
    static const char *const set[] = {END_CHANNEL, OPEN, CHANNEL, RESPONSE_TAG,
                                      END_TURN,    EOS,  TURN,    NULL};
    int which = 0, used = 0;
    if (p->label) return label_step(p);
    size_t safe, hit = ap_stream_find(p, p->pos, set, &which, &safe);
    if (hit == SIZE_MAX) {
        ap_stream_text(p, APUS_PART_THINK, safe);
        return false;
    }
    ap_stream_text(p, APUS_PART_THINK, hit);
    size_t n = strlen(set[which]);
    switch (which) {
    case 0:
        used = ap_stream_between_quotes(p, n);
        if (used < 0) return false;
        used = !used;
        if (!used) break;
        ap_stream_marker(p, n);
        ap_stream_end_think(p);
        p->state = CONTENT;
        break;
    case 1:
        used = !p->deaf && p->n_deaf < MAX_DEAF && !ap_stream_quoted(p);
        if (used) open_call(p, true);
        break;
    case 2: /* some models repeat what the prompt ends with */
        used = p->fresh;
        if (!used) break;
        ap_stream_marker(p, n);
        p->label = true;
        break;
    case 6:
        used = skip_turn(p);
        break;
    case 3:
        break;
    default:
        used = skip_end(p, n);
    }
    if (used < 0) return false;
    if (!used) ap_stream_text(p, APUS_PART_THINK, hit + n);
    return true;
}

/* ---------------------------------------------------------------- calls */

/* Behind <|tool_call>: a name and a bracket, or the marker is text. */
static bool head_step(ap_stream *p)
{
    const char *name;
    size_t len, args;
    bool bare;
    int r = ap_toolcall_gemma_head(p->in.data + p->mark, p->in.len - p->mark, p->final, &name, &len,
                                   &args, &bare);
    if (r < 0) return false;
    if (r == 1) {
        ap_toolcall_gemma_name(p->tools, &name, &len);
        bool sure = p->sure && !(bare && p->tools);
        r = sure || ap_schema_function(p->tools, name, len);
    }
    if (!r) {
        broken(p, p->mark);
        return true;
    }
    p->at = p->mark + args;
    p->quote = 0;
    p->escaped = false;
    p->value_next = true;
    p->state = CALL;
    return true;
}

/* Every call in [pos, end): delivered, or, in a thought, only looked at. Used up to where they are
 * whole. false: there is something else. */
static bool deliver(ap_stream *p, size_t end)
{
    size_t at = p->mark;
    bool any = false;
    for (;;) {
        const char *name;
        size_t len;
        while (at < end && strchr(" \t\r\n", p->in.data[at]) && p->in.data[at]) at++;
        if (at >= end) break;
        p->args.len = 0;
        if (!ap_toolcall_gemma(p->tools, p->in.data, end, &at, &name, &len, &p->args)) return false;
        any = true;
        if (p->in_think || p->args.failed) continue;
        ap_stream_call(p, name, len, p->args.data, p->args.len);
        ap_stream_marker(p, at - p->pos);
    }
    return any;
}

/* The call ends at `end`, before `marker` bytes that belong to it. */
static void end_call(ap_stream *p, size_t end, size_t marker)
{
    if (!deliver(p, end)) {
        if (p->final && end == p->in.len)
            cut(p);
        else
            broken(p, end + marker);
    } else if (p->in_think) {
        p->at = end + marker;
        p->state = DRAFT;
    } else {
        ap_stream_marker(p, end + marker - p->pos);
        p->state = CONTENT;
    }
}

/* The call ends with its marker at `end`. In the middle of a sentence, one that goes on behind it,
 * the call is spoken of. 1; -1: wait. */
static int end_marker(ap_stream *p, size_t end)
{
    size_t n = strlen(END_CALL);
    int r = p->within_line && !p->in_think ? ap_stream_line_ends(p, end + n) : 1;
    if (r < 0) return r;
    if (r)
        end_call(p, end, n);
    else
        broken(p, end + n);
    return 1;
}

/* Read on inside a string. 1: it goes on; 0: it is over; -1: wait. */
static int pass_string(ap_stream *p)
{
    char c = p->in.data[p->at];
    int r = 0;
    if (p->quote == '<') {
        if (c == '<') r = ap_stream_next_is(p, p->at, AP_STREAM_QUOTE);
        if (r < 0) return r;
        if (r) p->at += strlen(AP_STREAM_QUOTE) - 1;
        return !r;
    }
    if (p->escaped || c != p->quote) {
        p->escaped = !p->escaped && c == '\\';
        return 1;
    }
    r = ap_toolcall_quote_ends(p->in.data + p->at + 1, p->in.len - p->at - 1, p->final);
    return r < 0 ? r : !r;
}

/* A '<' outside of strings at p->at: a string, the end of the call, or text. -1: wait; 1: the call
 * is over; 0: go on behind p->at. */
static int pass_marker(ap_stream *p)
{
    static const char *const set[] = {AP_STREAM_QUOTE, END_CALL, OPEN,        RESPONSE_TAG,
                                      END_TURN,        EOS,      END_CHANNEL, NULL};
    int which = -1;
    for (int k = 0; set[k] && which < 0; k++) {
        int r = ap_stream_next_is(p, p->at, set[k]);
        if (r < 0) return r;
        if (r) which = k;
    }
    if (which < 0) return 0;
    if (which == 0) {
        p->quote = '<';
        p->at += strlen(AP_STREAM_QUOTE) - 1;
        return 0;
    }
    if (which == 6)
        broken(p, p->at); /* no draft goes on behind its thought */
    else if (which != 1)
        end_call(p, p->at, 0);
    else
        return end_marker(p, p->at);
    return 1;
}

/* The end of a call is the first closer outside of its strings. */
static bool call_step(ap_stream *p)
{
    for (; p->at < p->in.len; p->at++) {
        char c = p->in.data[p->at];
        if (p->quote) {
            int r = pass_string(p);
            if (r < 0) return false;
            if (r == 0) p->quote = 0;
            p->value_next = false;
        } else if (c == '<') {
            int r = pass_marker(p);
            if (r) return r > 0;
            p->value_next = false;
        } else if (c && strchr(" \t\r\n", c)) {
            continue;
        } else if ((c == '"' || c == '\'') && p->value_next) {
            p->quote = c;
            p->escaped = false;
        } else {
            p->value_next = c && strchr("{[(,:=", c) != NULL;
        }
    }
    if (!p->final) return false;
    if (p->quote)
        cut(p);
    else
        end_call(p, p->in.len, 0);
    return true;
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
    p->pos = hit;
    if (which == 0) ap_stream_marker(p, strlen(set[0]));
    p->state = CONTENT;
    return true;
}

bool ap_chat_gemma_step(ap_stream *p)
{
    switch (p->state) {
    case THINK:
        return think_step(p);
    case HEAD:
        return head_step(p);
    case CALL:
        return call_step(p);
    case DRAFT:
        return draft_step(p);
    case RESPONSE:
        return response_step(p);
    default:
        return content_step(p);
    }
}
