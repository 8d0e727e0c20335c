/* chat_stream.h - what the output parsers of the families share: the text not yet used up, and
 * delivery of content and thoughts with their white space in order. */
#ifndef AP_TEXT_CHAT_STREAM_H
#define AP_TEXT_CHAT_STREAM_H

#include <stdbool.h>

#include "base/json.h"
#include "text/chat.h"

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
    ap_buf ws;        /* white space that only comes out if more text does */
    bool skip_nl;     /* newlines are dropped until something else comes */
    bool after_call;  /* white space goes to ws until something else comes */
    bool has_content; /* some CONTENT went out */

    /* A call that is being read; it begins at pos. */
    size_t at;             /* how far it is read */
    size_t mark, mark_len; /* its name, or the parameter's value begins here */
    ap_buf name, args, key;
    size_t n_args;
    int braces;
    bool in_string, escaped;
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

/* Deliver [pos, to) and use it up. */
void ap_stream_text(ap_stream *p, apus_part part, size_t to);
void ap_stream_end_think(ap_stream *p); /* its last newlines are dropped, those after it too */
void ap_stream_call(ap_stream *p, const char *name, size_t len, const char *args, size_t args_len);
/* Gemma's string delimiter at pos, where no call wants it: deliver the quote it stands for. */
#define AP_STREAM_QUOTE "<|\"|>"
void ap_stream_quote(ap_stream *p);
/* Deliver [pos, to) as content with the `hidden` markers taken out, after a call went wrong. */
void ap_stream_broken(ap_stream *p, size_t to, const char *const *hidden);

/* One step of a machine: false: it needs more text, or, at the end, there is none left. */
bool ap_chat_qwen_step(ap_stream *p);
bool ap_chat_gemma_step(ap_stream *p);
/* Set the state that a prompt leaves. */
void ap_chat_qwen_start(ap_stream *p, const char *prompt, size_t len);
void ap_chat_gemma_start(ap_stream *p, const char *prompt, size_t len);

#endif
