/* chat_stream.h - what the output parsers of the families share: the text not yet used up, and
 * delivery of content and thoughts with their white space in order. */
#ifndef AP_TEXT_CHAT_STREAM_H
#define AP_TEXT_CHAT_STREAM_H

#include <stdbool.h>

#include "base/json.h"
#include "text/chat.h"

/* A line of content: AP_LINE_BLANK and n up to 2 are n backticks and white space. */
typedef enum ap_stream_line { AP_LINE_BLANK = 0, AP_LINE_TEXT = 3, AP_LINE_FENCE } ap_stream_line;

struct ap_chat_parser {
    ap_chat_syntax syntax;
    apus_event_fn fn;
    void *ctx;
    ap_arena mem;
    const ap_json *tools; /* NULL: none */
    ap_buf in;            /* whole characters; [pos, len) is not used up */
    size_t pos;
    char tail[4]; /* the bytes of a character that has not ended */
    size_t n_tail;
    bool final; /* no more text will come */
    int state;  /* of the family's machine */

    /* Delivery. */
    ap_buf ws;           /* white space that only comes out if more text does */
    size_t gap, skipped; /* newlines of the content before a thought, and of that behind it */
    bool skip_nl;        /* newlines are dropped until something else comes */
    bool after_call;     /* white space goes to ws until something else comes */
    bool has_content;    /* some CONTENT went out */
    bool had_think;      /* a thought was opened */
    bool fresh;          /* nothing of the thought that is open went out */
    ap_stream_line line; /* what the running line holds so far */
    bool fenced;         /* it stands in a fenced block of code */
    char last;           /* the byte before pos; 0: a marker ended there */

    /* A call that is being read; it begins at pos. */
    size_t at;   /* how far it is read */
    size_t mark; /* its name, or the parameter's value begins here */
    ap_buf name, args, key;
    size_t n_args;
    bool in_think;    /* it stands in a thought, and is a draft if that goes on */
    bool sure;        /* it is a call even if its name is not declared */
    bool within_line; /* it begins behind words */
    bool bare;        /* Qwen: no <tool_call> led it in */
    bool block;       /* Qwen: the value begins on a line of its own */
    int depth;        /* Qwen: functions open in a value; brackets open in JSON */
    char quote;       /* of the string that is open; 0: none */
    bool escaped, value_next;
    bool deaf; /* no calls are looked for in this thought any more */
    int n_deaf;
    bool label; /* Gemma: the thought's "thought\n" may still come */
};
typedef struct ap_chat_parser ap_stream;

/* The first of `set` (ended by NULL) in the text at or behind `from`: its place, *which it is.
 * SIZE_MAX: none; then *safe is where the first one that could still become one begins, or the end.
 * Every marker begins with '<' and none is the beginning of another. */
size_t ap_stream_find(const ap_stream *p, size_t from, const char *const *set, int *which,
                      size_t *safe);
/* Does the text at `at` go on with `word`? 1: yes; 0: no; -1: too early to tell. */
int ap_stream_next_is(const ap_stream *p, size_t at, const char *word);
/* Where white space that begins at `at` ends: *end. 1; 0: it is longer than a gap between tags may
 * be; -1: too early to tell. */
int ap_stream_gap(const ap_stream *p, size_t at, size_t *end);
/* Does the line end at `at`, or another marker begin there? 1, 0, -1: too early to tell. */
int ap_stream_line_ends(const ap_stream *p, size_t at);
/* The one of `set` at p->at, behind white space that p->at passes; one of these if it is none. */
enum { AP_STREAM_WAIT = -1, AP_STREAM_OTHER = -2, AP_STREAM_ENDS = -3 };
int ap_stream_next_of(ap_stream *p, const char *const *set);

/* A marker at pos is spoken of, not used: it stands in code. */
static inline bool ap_stream_quoted(const ap_stream *p)
{
    return p->fenced || p->last == '`';
}
/* The marker of `len` bytes at pos stands between quotes of one kind. 1, 0, -1: too early. */
int ap_stream_between_quotes(const ap_stream *p, size_t len);

/* Does the marker of `len` bytes at pos end the answer, or a turn? Not in the middle of a line, nor
 * in code. 1, 0, -1: too early to tell. */
int ap_stream_ends_turn(const ap_stream *p, size_t len);

/* Deliver [pos, to) and use it up. */
void ap_stream_text(ap_stream *p, apus_part part, size_t to);
/* Use up the `len` bytes of a marker, which ends a line as far as what follows is concerned. */
void ap_stream_marker(ap_stream *p, size_t len);
void ap_stream_begin_think(ap_stream *p);
/* Its last newlines are dropped; those after it are kept where content stands on both sides. */
void ap_stream_end_think(ap_stream *p);
void ap_stream_call(ap_stream *p, const char *name, size_t len, const char *args, size_t args_len);
/* Begin to read a call at pos, whose marker has `marker` bytes. */
void ap_stream_open_call(ap_stream *p, bool in_think, size_t marker);
/* Gemma's string delimiter at pos, where no call wants it: deliver the quote it stands for. */
#define AP_STREAM_QUOTE "<|\"|>"
void ap_stream_quote(ap_stream *p);
/* Deliver [pos, to), which looked like a call, as the text it is, without the markers `ends` that
 * only end an answer. */
void ap_stream_broken(ap_stream *p, size_t to, const char *const *ends);

/* One step of a machine: false: it needs more text, or, at the end, there is none left. */
bool ap_chat_qwen_step(ap_stream *p);
bool ap_chat_gemma_step(ap_stream *p);
/* Set the state that a prompt leaves. */
void ap_chat_qwen_start(ap_stream *p, const char *prompt, size_t len);
void ap_chat_gemma_start(ap_stream *p, const char *prompt, size_t len);

#endif
