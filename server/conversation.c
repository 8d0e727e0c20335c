#include "conversation.h"

#include <string.h>

/* ---------------------------------------------------------------- contents */

void sv_content_text(sv_content *c, const char *s, size_t n)
{
    sv_buf_add(&c->text, s, n);
}

/* The text so far becomes a part. */
static void end_text(sv_content *c)
{
    if (!c->text.len) return;
    sv_put_map(&c->parts, NULL);
    sv_put_str(&c->parts, "type", "text");
    sv_put_strn(&c->parts, "text", c->text.data, c->text.len);
    sv_put_end_map(&c->parts);
    if (c->text.failed) c->parts.failed = true;
    sv_buf_free(&c->text);
}

void sv_content_media(sv_content *c, apus_media_type kind)
{
    static const char *const types[] = {"image", "video", "audio"};
    end_text(c);
    sv_put_map(&c->parts, NULL);
    sv_put_str(&c->parts, "type", types[kind]);
    sv_put_end_map(&c->parts);
}

void sv_content_free(sv_content *c)
{
    sv_buf_free(&c->text);
    sv_buf_free(&c->parts);
}

/* "content": a string, or a list where there is more than text. */
static void put_content(sv_buf *b, sv_content *c)
{
    if (!c->parts.len) {
        sv_put_strn(b, "content", sv_buf_text(&c->text), c->text.len);
    } else {
        end_text(c);
        sv_put_array(b, "content");
        sv_buf_add(b, c->parts.data, c->parts.len);
        sv_put_end_array(b);
    }
    if (c->text.failed || c->parts.failed) b->failed = true;
}

/* ---------------------------------------------------------------- turns */

static void put_text(sv_buf *b, const char *role, const sv_buf *text)
{
    sv_put_map(b, NULL);
    sv_put_str(b, "role", role);
    sv_put_strn(b, "content", sv_buf_text(text), text->len);
    sv_put_end_map(b);
}

static void both(sv_conversation *c, const sv_buf *turn)
{
    sv_put_raw(&c->turns, NULL, sv_buf_text(turn), turn->len);
    sv_put_raw(&c->plain, NULL, sv_buf_text(turn), turn->len);
    if (turn->failed) c->turns.failed = true;
    c->n++;
}

void sv_conversation_flush(sv_conversation *c)
{
    sv_buf turn = {0};
    if (!c->open) return;
    sv_put_map(&turn, NULL);
    sv_put_str(&turn, "role", "assistant");
    sv_put_strn(&turn, "content", sv_buf_text(&c->said), c->said.len);
    if (c->thought.len) sv_put_strn(&turn, "reasoning_content", c->thought.data, c->thought.len);
    if (c->calls.len) {
        sv_put_array(&turn, "tool_calls");
        sv_buf_add(&turn, c->calls.data, c->calls.len);
        sv_put_end_array(&turn);
    }
    sv_put_end_map(&turn);
    both(c, &turn);
    sv_buf_free(&turn);
    sv_buf_free(&c->said);
    sv_buf_free(&c->thought);
    sv_buf_free(&c->calls);
    c->open = false;
}

static void add_paragraph(sv_buf *b, const char *s, size_t n)
{
    if (b->len) sv_buf_adds(b, "\n\n");
    sv_buf_add(b, s, n);
}

void sv_conversation_system(sv_conversation *c, const char *s, size_t n)
{
    sv_buf text = {0};
    sv_conversation_flush(c);
    add_paragraph(&c->all, s, n);
    if (!c->n && !c->late) {
        add_paragraph(&c->front, s, n);
        return;
    }
    c->late = true;
    sv_buf_add(&text, s, n);
    put_text(&c->turns, "system", &text);
    sv_buf_free(&text);
}

void sv_conversation_show(sv_conversation *c, sv_content *content)
{
    sv_buf turn = {0};
    sv_conversation_flush(c);
    sv_put_map(&turn, NULL);
    sv_put_str(&turn, "role", "user");
    put_content(&turn, content);
    sv_put_end_map(&turn);
    both(c, &turn);
    sv_buf_free(&turn);
    sv_content_free(content);
}

void sv_conversation_user(sv_conversation *c, const char *s, size_t n)
{
    sv_content content = {0};
    sv_content_text(&content, s, n);
    sv_conversation_show(c, &content);
}

void sv_conversation_say(sv_conversation *c, const char *s, size_t n)
{
    c->open = true;
    sv_buf_add(&c->said, s, n);
}

void sv_conversation_think(sv_conversation *c, const char *s, size_t n)
{
    c->open = true;
    sv_buf_add(&c->thought, s, n);
}

void sv_conversation_call(sv_conversation *c, const char *id, const char *name, const char *args,
                          size_t n)
{
    sv_buf *b = &c->calls;
    c->open = true;
    sv_put_map(b, NULL);
    if (id) sv_put_str(b, "id", id);
    sv_put_str(b, "type", "function");
    sv_put_map(b, "function");
    sv_put_str(b, "name", name);
    sv_put_strn(b, "arguments", args, n);
    sv_put_end_map(b);
    sv_put_end_map(b);
}

void sv_conversation_result(sv_conversation *c, const char *id, const char *name,
                            sv_content *content)
{
    sv_buf turn = {0};
    sv_conversation_flush(c);
    sv_put_map(&turn, NULL);
    sv_put_str(&turn, "role", "tool");
    if (id) sv_put_str(&turn, "tool_call_id", id);
    if (name) sv_put_str(&turn, "name", name);
    put_content(&turn, content);
    sv_put_end_map(&turn);
    both(c, &turn);
    sv_buf_free(&turn);
    sv_content_free(content);
}

static void put_messages(sv_buf *b, const sv_buf *system, const sv_buf *turns)
{
    sv_put_array(b, NULL);
    if (system->len) put_text(b, "system", system);
    if (turns->len) sv_put_raw(b, NULL, turns->data, turns->len);
    sv_put_end_array(b);
    if (system->failed || turns->failed) b->failed = true;
}

bool sv_conversation_finish(sv_exchange *x, sv_conversation *c, sv_job *j, const char *param)
{
    sv_conversation_flush(c);
    bool some = c->n || c->all.len;
    if (some) {
        put_messages(&j->messages, &c->front, &c->turns);
        if (c->late) put_messages(&j->hoisted, &c->all, &c->plain);
    }
    sv_conversation_free(c);
    return some || sv_fail(x, 400, NULL, param, "%s: there is no message", param);
}

void sv_conversation_free(sv_conversation *c)
{
    sv_buf *const all[] = {&c->front, &c->all,     &c->turns, &c->plain,
                           &c->said,  &c->thought, &c->calls};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) sv_buf_free(all[i]);
    *c = (sv_conversation){0};
}
