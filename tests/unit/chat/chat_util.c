#include "chat_util.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static void put(heard *h, const char *s, size_t n)
{
    if (n > sizeof h->text - 1 - h->len) n = sizeof h->text - 1 - h->len;
    memcpy(h->text + h->len, s, n);
    h->len += n;
    h->text[h->len] = 0;
}

void hear(void *ctx, const apus_event *ev)
{
    heard *h = ctx;
    char kind = ev->part == APUS_PART_CONTENT ? 'C' : ev->part == APUS_PART_THINK ? 'T' : 'F';
    h->n_events++;
    if (!ev->len) h->empty = true;
    if (!ap_utf8_valid(ev->text, ev->len)) h->broken = true;
    if (kind != h->last || kind == 'F') {
        if (h->last) put(h, "|", 1);
        put(h, &kind, 1);
        put(h, ":", 1);
    }
    h->last = kind;
    put(h, ev->text, ev->len);
    if (kind != 'F') return;
    put(h, "(", 1);
    put(h, ev->args, ev->args_len);
    put(h, ")", 1);
}

static ap_chat_parser *open_parser(ap_chat_syntax syntax, const char *prompt, const char *tools,
                                   heard *h)
{
    ap_chat_parser *p = NULL;
    memset(h, 0, sizeof *h);
    if (ap_chat_parser_create(syntax, prompt, prompt ? strlen(prompt) : 0, tools, hear, h, &p,
                              NULL))
        abort();
    return p;
}

/* From a buffer of exactly its size, so that a sanitizer sees reads beyond it. */
static void push(ap_chat_parser *p, const char *s, size_t n)
{
    char *own = malloc(n ? n : 1);
    memcpy(own, s, n);
    if (ap_chat_parser_push(p, own, n)) abort();
    free(own);
}

void parse_cut(ap_chat_syntax syntax, const char *prompt, const char *tools, const char *out,
               size_t len, size_t step, heard *h)
{
    ap_chat_parser *p = open_parser(syntax, prompt, tools, h);
    for (size_t i = 0; i < len; i += step ? step : len)
        push(p, out + i, step && step < len - i ? step : len - i);
    if (ap_chat_parser_finish(p)) abort();
    ap_chat_parser_free(p);
}

void parse_two(ap_chat_syntax syntax, const char *prompt, const char *tools, const char *out,
               size_t len, size_t cut, heard *h)
{
    ap_chat_parser *p = open_parser(syntax, prompt, tools, h);
    push(p, out, cut);
    push(p, out + cut, len - cut);
    if (ap_chat_parser_finish(p)) abort();
    ap_chat_parser_free(p);
}
