/* chat_util.h - collecting the events of an output parser. */
#ifndef CHAT_UTIL_H
#define CHAT_UTIL_H

#include "text/chat.h"

/* What the events of one output say, neighbours of one kind joined:
 * "C:text|" content, "T:text|" thought, "F:name(args)|" call. */
typedef struct heard {
    char text[1 << 16];
    size_t len;
    char last; /* kind of the last event */
    size_t n_events;
    bool empty, broken; /* an event without text, or not UTF-8, came */
} heard;

void hear(void *ctx, const apus_event *ev);

/* Parse `out` cut after every `step` bytes (0: one push). */
void parse_cut(ap_chat_syntax syntax, const char *prompt, const char *tools, const char *out,
               size_t len, size_t step, heard *h);
/* The same, with one cut at `cut`. */
void parse_two(ap_chat_syntax syntax, const char *prompt, const char *tools, const char *out,
               size_t len, size_t cut, heard *h);

#endif
