/* chat_qwen_call.c - one tool call of Qwen models: functions in tags or JSON.
 *
 * Between the tags of a function there is nothing but white space. A value may hold tags of its
 * own: it ends at the closing tag that the rest of a call follows. */
#include <string.h>

#include "text/chat_qwen.h"
#include "text/schema.h"
#include "text/toolcall.h"

enum { MAX_NAME = 256, MAX_AGAIN = 16384 };

/* ---------------------------------------------------------------- tags */

/* Behind <tool_call>, or at the <function= of a call without it. */
static bool tool_step(ap_stream *p)
{
    static const char *const set[] = {FUNCTION, "{", NULL};
    switch (ap_stream_next_of(p, set)) {
    case AP_STREAM_WAIT:
        return false;
    case AP_STREAM_ENDS:
        ap_chat_qwen_cut(p);
        return true;
    case 0:
        p->at += strlen(FUNCTION);
        p->mark = p->at;
        p->state = NAME;
        return true;
    case 1:
        p->depth = 0;
        p->quote = 0;
        p->escaped = false;
        p->mark = p->at;
        p->state = JSON;
        return true;
    default:
        ap_chat_qwen_broken(p, p->at);
        return true;
    }
}

/* The place of the '>' of a tag whose name begins at `from`: *end. 1; 0: it is none, which shows at
 * *end; -1: too early. */
static int tag_end(const ap_stream *p, size_t from, size_t *end)
{
    for (size_t i = from; i < p->in.len; i++) {
        char c = p->in.data[i];
        bool starts = ((uint8_t)c & 0xC0) != 0x80; /* text is cut between characters only */
        *end = i;
        if (c == '>') return i > from;
        if (c == '\n' || c == '<' || (starts && i - from > MAX_NAME)) return 0;
    }
    *end = p->in.len;
    return p->final ? 0 : -1;
}

/* A name without the white space and the pair of quotes around it. */
static void bare_name(const char **s, size_t *n)
{
    while (*n && (**s == ' ' || **s == '\t')) (*s)++, (*n)--;
    while (*n && ((*s)[*n - 1] == ' ' || (*s)[*n - 1] == '\t')) (*n)--;
    if (*n > 2 && (**s == '"' || **s == '\'') && (*s)[*n - 1] == **s) (*s)++, *n -= 2;
}

/* Read NAME> from mark on into `out`. 1; 0: it is none and the call is broken; -1: wait. */
static int take_name(ap_stream *p, ap_buf *out)
{
    size_t end;
    int r = tag_end(p, p->mark, &end);
    if (r < 0) return r;
    if (r == 0 && end == p->in.len && p->final) {
        ap_chat_qwen_cut(p);
        return r;
    }
    if (r == 0) {
        ap_chat_qwen_broken(p, end);
        return r;
    }
    const char *s = p->in.data + p->mark;
    size_t n = end - p->mark;
    bare_name(&s, &n);
    out->len = 0;
    ap_buf_add(out, s, n);
    p->at = end + 1;
    return 1;
}

static const ap_json *function_of(const ap_stream *p)
{
    return p->name.data ? ap_schema_function(p->tools, p->name.data, p->name.len) : NULL;
}

static bool name_step(ap_stream *p)
{
    int r = take_name(p, &p->name);
    if (r != 1) return r == 0;
    if (!p->sure && !function_of(p)) {
        ap_chat_qwen_broken(p, p->at);
        return true;
    }
    p->args.len = 0;
    ap_buf_adds(&p->args, "{");
    p->n_args = 0;
    p->state = BETWEEN;
    return true;
}

static bool key_step(ap_stream *p)
{
    int r = take_name(p, &p->key);
    if (r != 1) return r == 0;
    p->mark = p->at;
    p->state = VALUE;
    p->depth = 0;
    return true;
}

/* Hand over the call in name and args and use up [pos, at). */
static void deliver(ap_stream *p)
{
    if (!p->args.failed && !p->name.failed)
        ap_stream_call(p, p->name.data, p->name.len, p->args.data, p->args.len);
    ap_stream_marker(p, p->at - p->pos);
}

/* The call is whole, p->at stands behind it. name and args hold it, unless it is a draft. */
static void finish_call(ap_stream *p)
{
    p->state = p->in_think ? DRAFT : p->within_line ? SENTENCE : AFTER;
    if (p->state == AFTER) deliver(p);
}

/* Behind a call that began within a line: a sentence that goes on behind its end speaks of it. */
static bool sentence_step(ap_stream *p)
{
    static const char *const set[] = {END_CALL, NULL};
    int which = ap_stream_next_of(p, set);
    if (which == AP_STREAM_WAIT) return false;
    size_t end = p->at + strlen(END_CALL);
    int r = which == 0 ? ap_stream_line_ends(p, end) : 1;
    if (r < 0) return false;
    if (r == 0) {
        ap_chat_qwen_broken(p, end);
        return true;
    }
    p->state = AFTER;
    deliver(p);
    return true;
}

/* The tags of the call are read up to p->at: put its arguments in order. */
static void finish_tags(ap_stream *p)
{
    ap_buf settled = {0};
    ap_buf_adds(&p->args, "}");
    if (p->in_think ||
        (!p->args.failed && ap_toolcall_put_object(&settled, p->args.data, p->args.len))) {
        ap_buf_free(&p->args);
        p->args = settled;
        finish_call(p);
    } else {
        ap_chat_qwen_broken(p, p->at); /* deeper than JSON may be */
    }
}

static bool between_step(ap_stream *p)
{
    static const char *const set[] = {PARAMETER, END_FUNCTION, END_CALL, NULL};
    switch (ap_stream_next_of(p, set)) {
    case AP_STREAM_WAIT:
        return false;
    case AP_STREAM_ENDS:
        ap_chat_qwen_cut(p);
        return true;
    case 0:
        p->at += strlen(PARAMETER);
        p->mark = p->at;
        p->state = KEY;
        return true;
    case 1:
        p->at += strlen(END_FUNCTION);
        finish_tags(p);
        return true;
    case 2:
        finish_tags(p);
        return true;
    default:
        ap_chat_qwen_broken(p, p->at);
        return true;
    }
}

/* Behind a call: the end of <tool_call>, or one more function in it. */
static bool after_step(ap_stream *p)
{
    static const char *const set[] = {END_CALL, NULL};
    int which = ap_stream_next_of(p, set);
    if (which == AP_STREAM_WAIT) return false;
    if (which == 0) ap_stream_marker(p, p->at + strlen(END_CALL) - p->pos);
    if (which == AP_STREAM_ENDS) p->pos = p->at;
    p->state = CONTENT; /* which knows <function= too */
    return true;
}

/* ---------------------------------------------------------------- values */

/* Does only white space stand between the value's last newline, or its beginning, and `at`? */
static bool begins_line(const ap_stream *p, size_t at)
{
    while (at > p->mark && (p->in.data[at - 1] == ' ' || p->in.data[at - 1] == '\t')) at--;
    return at == p->mark || p->in.data[at - 1] == '\n';
}

/* Which of `set` (NULL-terminated) stands at `at`? Its number, -1 none, -2 too early. */
static int one_of(const ap_stream *p, size_t at, const char *const *set)
{
    int none = -1;
    for (int k = 0; set[k]; k++) {
        int r = ap_stream_next_is(p, at, set[k]);
        if (r == 1) return k;
        if (r < 0) none = -2;
    }
    return none;
}

/* Do the closing tags of a whole call stand at `at`, a </parameter>? 1, 0, -1. */
static int closes_call(const ap_stream *p, size_t at)
{
    static const char *const tags[] = {END_PARAMETER, END_FUNCTION, END_CALL};
    for (int k = 0; k < 3; k++) {
        int r = ap_stream_next_is(p, at, tags[k]);
        if (r == 1 && k < 2) r = ap_stream_gap(p, at + strlen(tags[k]), &at);
        if (r != 1) return r;
    }
    return 1;
}

/* Text goes on at `from`, behind what looks like the end of a call. It is a part of the value if
 * the closing tags come a second time, with no call opened before them. 1, 0, -1. */
static int closes_again(const ap_stream *p, size_t from)
{
    static const char *const set[] = {END_PARAMETER, CALL, FUNCTION, NULL};
    for (size_t at = from;; at++) {
        int which = 0;
        size_t safe, hit = ap_stream_find(p, at, set, &which, &safe);
        if (hit == SIZE_MAX) return p->final || p->in.len - from > MAX_AGAIN ? 0 : -1;
        if (hit - from > MAX_AGAIN) return 0;
        at = hit;
        if (!begins_line(p, at)) continue;
        if (which != 0) return 0;
        int r = closes_call(p, at);
        if (r) return r;
    }
}

/* Does the call end with the </tool_call> at `at`? Behind a value on lines of its own only if it
 * does not do so again. loose as below. 1, 0, -1. */
static int call_ends(const ap_stream *p, size_t at, bool loose)
{
    size_t end = at + strlen(END_CALL), next;
    int r = loose ? 1 : ap_stream_line_ends(p, end);
    if (r != 1 || !p->block) return r;
    r = ap_stream_gap(p, end, &next);
    if (r < 0) return r;
    if (next == p->in.len || p->in.data[next] == '<') return 1;
    r = closes_again(p, next);
    return r < 0 ? r : !r;
}

/* Does the function end with the </function> at `at`? What a call may go on with follows it.
 * loose: the tag begins a line or the value does not, else nothing but tags may follow. 1, 0, -1 */
static int function_ends(const ap_stream *p, size_t at, bool loose, bool closed)
{
    static const char *const set[] = {END_CALL, CALL, FUNCTION, END, END_TEXT, NULL};
    size_t from = at + strlen(END_FUNCTION), next;
    int r = ap_stream_gap(p, from, &next);
    if (r != 1) return r;
    int which = one_of(p, next, set);
    if (which == -2) return -1;
    if (which == 0) return call_ends(p, next, loose);
    if (!closed) return 0; /* a value that never ended is cut unless the whole call ends */
    if (which > 0) return 1;
    if (next == p->in.len) return loose;
    return p->bare && memchr(p->in.data + from, '\n', next - from) != NULL;
}

/* Does the value end with the </parameter> at `at`? 1, 0, -1. */
static int parameter_ends(const ap_stream *p, size_t at)
{
    static const char *const set[] = {PARAMETER, END_FUNCTION, END_CALL, NULL};
    size_t from = at + strlen(END_PARAMETER), next, end;
    int r = ap_stream_gap(p, from, &next);
    if (r != 1) return r;
    bool newline = memchr(p->in.data + from, '\n', next - from) != NULL;
    bool loose = !p->block || begins_line(p, at);
    int which = one_of(p, next, set);
    if (which < 0) return which == -2 ? -1 : 0;
    char before = at > p->mark ? p->in.data[at - 1] : 0;
    bool spoken = before && strchr(" \t`'\"(", before) != NULL;
    if (!loose && !newline && (next > from || which == 0 || spoken)) return 0;
    switch (which) {
    case 0:
        return tag_end(p, next + strlen(PARAMETER), &end);
    case 1:
        return function_ends(p, next, loose, true);
    default:
        return call_ends(p, next, loose);
    }
}

/* Does the <parameter= at `at` begin the next parameter, the end of this one being forgotten? */
static int parameter_begins(const ap_stream *p, size_t at)
{
    size_t from = at + strlen(PARAMETER), end;
    if (!begins_line(p, at)) return 0;
    int r = tag_end(p, from, &end);
    if (r == 1 && p->block) r = ap_stream_line_ends(p, end + 1); /* as this one's did */
    const ap_json *function = function_of(p);
    if (r != 1 || !function) return r;
    const char *s = p->in.data + from;
    size_t n = end - from;
    bare_name(&s, &n);
    return ap_schema_has(function, s, n);
}

/* Does the <function= at `at` open a call that the value quotes? It begins a line or follows
 * <tool_call>, and another tag follows it. 1, 0, -1. */
static int function_begins(const ap_stream *p, size_t at)
{
    static const char *const set[] = {PARAMETER, END_FUNCTION, NULL};
    const char *s = p->in.data;
    size_t from = at, n = strlen(CALL), end;
    while (from > p->mark && s[from - 1] && strchr(" \t\r\n", s[from - 1])) from--;
    bool led = from - p->mark >= n && !memcmp(s + from - n, CALL, n);
    if (!led && !begins_line(p, at)) return 0;
    int r = tag_end(p, at + strlen(FUNCTION), &end);
    if (r == 1) r = ap_stream_gap(p, end + 1, &end);
    if (r != 1) return r;
    int which = one_of(p, end, set);
    return which == -2 ? -1 : which >= 0;
}

static void put_parameter(ap_stream *p, size_t end)
{
    const char *s = p->in.data + p->mark;
    size_t n = end - p->mark;
    if (p->in_think) return; /* it is read again if it counts */
    if (n && s[0] == '\n') s++, n--;
    if (n && s[n - 1] == '\n') n--;
    if (p->n_args++) ap_buf_adds(&p->args, ", ");
    if (p->key.failed || !p->key.data) return;
    ap_json_quote(&p->args, p->key.data, p->key.len, false);
    ap_buf_adds(&p->args, ": ");
    ap_toolcall_put_typed(&p->args, s, n, ap_schema_types(function_of(p), p->key.data, p->key.len));
}

enum { V_END, V_NEXT, V_END_FUNCTION, V_FUNCTION, V_END_THINK };

/* What the tag at p->at is to the value: 1: it ends it; 0: it is a part of it; -1: too early. */
static int value_tag(ap_stream *p, int which)
{
    int r;
    switch (which) {
    case V_FUNCTION:
        r = function_begins(p, p->at);
        p->depth += r == 1;
        return r < 0 ? -1 : 0;
    case V_END_THINK: /* no draft goes on behind its thought */
        return p->in_think && begins_line(p, p->at);
    case V_END_FUNCTION:
        if (p->depth) {
            p->depth--;
            return 0;
        }
        if (p->block && !begins_line(p, p->at)) return 0;
        return function_ends(p, p->at, false, false);
    default:
        if (p->depth) return 0;
        return which == V_END ? parameter_ends(p, p->at) : parameter_begins(p, p->at);
    }
}

static bool value_step(ap_stream *p)
{
    static const char *const set[] = {END_PARAMETER, PARAMETER, END_FUNCTION,
                                      FUNCTION,      END_THINK, NULL};
    int which = 0;
    size_t safe, hit = ap_stream_find(p, p->at, set, &which, &safe);
    if (hit == SIZE_MAX) {
        p->at = safe;
        if (p->final) ap_chat_qwen_cut(p);
        return p->final;
    }
    p->at = hit;
    p->block = p->in.data[p->mark] == '\n' || p->in.data[p->mark] == '\r';
    int r = value_tag(p, which);
    if (r < 0) return false;
    if (r == 0) {
        p->at++;
        return true;
    }
    if (which == V_END_THINK) {
        ap_chat_qwen_broken(p, hit);
        return true;
    }
    put_parameter(p, hit);
    if (which == V_END) p->at += strlen(END_PARAMETER);
    p->state = BETWEEN;
    return true;
}

/* ---------------------------------------------------------------- calls in JSON */

/* {"name": ..., "arguments": {...}} in [mark, at): to name and args. false: it is none. */
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
    if (!p->sure && !ap_schema_function(p->tools, name->str, name->len)) goto done;
    if (args && args->type == AP_JSON_STRING &&
        !ap_json_parse(&mem, args->str, args->len, "", 0, &inner, NULL))
        args = inner;
    if (args && args->type != AP_JSON_OBJECT && args->type != AP_JSON_NULL) goto done;
    ok = true;
    p->name.len = p->args.len = 0;
    ap_buf_add(&p->name, name->str, name->len);
    if (args && args->type == AP_JSON_OBJECT)
        ap_toolcall_put_json(&p->args, args);
    else
        ap_buf_adds(&p->args, "{}");
done:
    ap_arena_free(&mem);
    return ok;
}

/* Read one byte of JSON. 1: it closes the outermost brace; 0: go on; -1: JSON has no such byte
 * here. */
static int json_byte(ap_stream *p, char c)
{
    if (p->quote) {
        if ((uint8_t)c < 0x20) return -1;
        if (p->escaped)
            p->escaped = false;
        else if (c == '\\')
            p->escaped = true;
        else if (c == '"')
            p->quote = 0;
        return 0;
    }
    if (!c || !strchr(" \t\r\n{}[]:,\"+-.0123456789eEtrufalsn", c)) return -1;
    if (c == '"') p->quote = c;
    p->depth += c == '{' || c == '[';
    p->depth -= c == '}' || c == ']';
    return p->depth <= 0;
}

static bool json_step(ap_stream *p)
{
    for (; p->at < p->in.len; p->at++) {
        int r = json_byte(p, p->in.data[p->at]);
        if (r == 0) continue;
        p->at += r == 1;
        if (r < 0 || !json_call(p))
            ap_chat_qwen_broken(p, p->at);
        else
            finish_call(p);
        return true;
    }
    if (p->final) ap_chat_qwen_cut(p);
    return p->final;
}

bool ap_chat_qwen_call_step(ap_stream *p)
{
    switch (p->state) {
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
    case SENTENCE:
        return sentence_step(p);
    default:
        return after_step(p);
    }
}
