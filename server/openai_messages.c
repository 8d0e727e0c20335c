/* openai_messages.c - the messages of chat completions, every member of each looked at. */
#include <stdio.h>
#include <string.h>

#include "fields.h"
#include "media.h"
#include "openai.h"

typedef struct message {
    const char *role, *id, *name;
    const sv_json *content, *calls, *reasoning, *thinking;
} message;

#define FIELD(name, read, member)                                                                  \
    {                                                                                              \
        name, read, offsetof(message, member), 0, 0, NULL                                          \
    }

static const sv_field message_table[] = {
    FIELD("role", sv_read_string, role),
    FIELD("content", sv_read_json, content),
    FIELD("name", sv_read_string, name),
    FIELD("tool_calls", sv_read_array, calls),
    FIELD("tool_call_id", sv_read_string, id),
    FIELD("reasoning_content", sv_read_json, reasoning),
    FIELD("reasoning", sv_read_json, thinking),
    /* what clients send back of an answer as they got it */
    {"refusal", sv_read_refuse, 0, 0, 0, NULL},
    {"annotations", sv_read_any, 0, 0, 0, NULL},
    {"audio", sv_read_refuse, 0, 0, 0, NULL},
    {"function_call", sv_read_refuse, 0, 0, 0, "tool_calls has replaced it"},
    {0}};

/* ---------------------------------------------------------------- parts of a content */

typedef struct part {
    const char *type;
    const sv_json *text, *image_url, *video_url, *input_audio;
} part;

#define PART(name, read)                                                                           \
    {                                                                                              \
#name, read, offsetof(part, name), 0, 0, NULL                                              \
    }

static const sv_field part_table[] = {PART(type, sv_read_string),
                                      PART(text, sv_read_json),
                                      PART(image_url, sv_read_json),
                                      PART(video_url, sv_read_json),
                                      PART(input_audio, sv_read_object),
                                      {"cache_control", sv_read_any, 0, 0, 0, NULL},
                                      {0}};

typedef struct link_to {
    const sv_json *url;
    const char *detail;
} link_to;

static const sv_field link_table[] = {
    {"url", sv_read_json, offsetof(link_to, url), 0, 0, NULL},
    {"detail", sv_read_string, offsetof(link_to, detail), 0, 0, NULL},
    {0}};

/* {"url": ..., "detail": ...}, or the URL alone */
static bool add_link(sv_exchange *x, sv_job *j, apus_media_type kind, const sv_json *v,
                     const char *path, sv_content *out)
{
    link_to l = {.url = v};
    sv_path at, detail;
    int tokens;
    snprintf(at.text, sizeof at.text, "%s", path);
    if (v && v->type == SV_JSON_OBJECT) {
        l.url = NULL;
        if (!sv_fields_read(x, link_table, v, path, &l)) return false;
        sv_path_at(&at, path, "url");
    }
    if (!sv_media_detail(x, j, l.detail, sv_path_at(&detail, path, "detail"), &tokens) ||
        !sv_media_add_url(x, j, kind, at.text, tokens, l.url))
        return false;
    sv_content_media(out, kind);
    return true;
}

typedef struct sound {
    const sv_json *data;
    const char *format;
} sound;

static const sv_field sound_table[] = {
    {"data", sv_read_json, offsetof(sound, data), 0, 0, NULL},
    {"format", sv_read_string, offsetof(sound, format), 0, 0, NULL},
    {0}};

/* What the data are is seen by themselves; the word only has to be one. */
static bool is_sound_format(const char *word)
{
    static const char *const words[] = {"wav", "flac", "aiff"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(word, words[i])) return true;
    return false;
}

static bool add_sound(sv_exchange *x, sv_job *j, const sv_json *v, const char *path,
                      sv_content *out)
{
    sound s = {0};
    sv_path at;
    if (!v) return sv_fail(x, 400, NULL, path, "%s: expected an object", path);
    if (!sv_fields_read(x, sound_table, v, path, &s)) return false;
    sv_path_at(&at, path, "format");
    if (!s.format || !is_sound_format(s.format))
        return sv_fail(x, 400, "unsupported_value", at.text, "%s: expected wav, flac or aiff",
                       at.text);
    sv_path_at(&at, path, "data");
    if (!s.data || s.data->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, at.text, "%s: expected a string", at.text);
    if (!sv_media_add(x, j, APUS_MEDIA_SOUND, at.text, 0, s.data->str, s.data->len)) return false;
    sv_content_media(out, APUS_MEDIA_SOUND);
    return true;
}

static bool add_part(sv_exchange *x, sv_job *j, const sv_json *v, const char *path, bool shows,
                     sv_content *out)
{
    part p = {0};
    sv_path at;
    if (v->type == SV_JSON_STRING) {
        sv_content_text(out, v->str, v->len);
        return true;
    }
    if (!sv_fields_read(x, part_table, v, path, &p)) return false;
    const char *type = p.type ? p.type : "none";
    if (!strcmp(type, "text")) {
        if (!p.text || p.text->type != SV_JSON_STRING)
            return sv_fail(x, 400, NULL, path, "%s.text: expected a string", path);
        sv_content_text(out, p.text->str, p.text->len);
        return true;
    }
    sv_path_at(&at, path, type);
    if (shows && !strcmp(type, "image_url"))
        return add_link(x, j, APUS_MEDIA_PICTURE, p.image_url, at.text, out);
    if (shows && !strcmp(type, "video_url"))
        return add_link(x, j, APUS_MEDIA_VIDEO, p.video_url, at.text, out);
    if (shows && !strcmp(type, "input_audio")) return add_sound(x, j, p.input_audio, at.text, out);
    return sv_fail(x, 400, "unsupported_value", path,
                   "%s: parts of type %.60s are not supported here", path, type);
}

/* A string, or a list of parts; shows: pictures may be among them. */
static bool read_content(sv_exchange *x, sv_job *j, const sv_json *content, const char *path,
                         bool shows, sv_content *out)
{
    size_t i = 0;
    if (!content) return true;
    if (content->type == SV_JSON_STRING) {
        sv_content_text(out, content->str, content->len);
        return true;
    }
    if (content->type != SV_JSON_ARRAY)
        return sv_fail_kind(x, path, "a string or an array of parts", content);
    for (const sv_json *p = content->first; p; p = p->next) {
        sv_path at;
        if (!add_part(x, j, p, sv_path_index(&at, path, i++), shows, out)) return false;
    }
    return true;
}

/* ---------------------------------------------------------------- messages */

static bool read_call(sv_exchange *x, sv_conversation *c, const sv_json *call, const char *path)
{
    const sv_json *f = sv_json_get(call, "function"), *name = sv_json_get(f, "name"),
                  *args = sv_json_get(f, "arguments"), *id = sv_json_get(call, "id");
    if (!name || name->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.function.name: expected a string", path);
    if (args && args->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.function.arguments: expected a string of JSON",
                       path);
    sv_conversation_call(c, id && id->type == SV_JSON_STRING ? id->str : NULL, name->str,
                         args ? args->str : "", args ? args->len : 0);
    return true;
}

static bool read_assistant(sv_exchange *x, sv_conversation *c, const message *m,
                           const sv_content *said, const char *path)
{
    const sv_json *thought = m->reasoning ? m->reasoning : m->thinking;
    sv_path calls, at;
    size_t i = 0;
    sv_conversation_flush(c);
    if (!m->content && !m->calls)
        return sv_fail(x, 400, NULL, path, "%s: expected content or tool_calls", path);
    if (thought && thought->type != SV_JSON_STRING)
        return sv_fail(x, 400, NULL, path, "%s.reasoning_content: expected a string", path);
    if (thought) sv_conversation_think(c, thought->str, thought->len);
    sv_conversation_say(c, sv_buf_text(&said->text), said->text.len);
    sv_path_at(&calls, path, "tool_calls");
    for (const sv_json *k = m->calls ? m->calls->first : NULL; k; k = k->next)
        if (!read_call(x, c, k, sv_path_index(&at, calls.text, i++))) return false;
    return true;
}

static bool add_message(sv_exchange *x, sv_conversation *c, const message *m, sv_content *said,
                        const char *path)
{
    sv_path at;
    if (!m->role) return sv_fail(x, 400, NULL, path, "%s: expected a role", path);
    if (!strcmp(m->role, "assistant")) return read_assistant(x, c, m, said, path);
    if (!m->content)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "content"), "%s: expected content",
                       path);
    if (m->calls)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "tool_calls"),
                       "%s: only an assistant calls tools", path);
    if (!strcmp(m->role, "user"))
        sv_conversation_show(c, said);
    else if (!strcmp(m->role, "system") || !strcmp(m->role, "developer"))
        sv_conversation_system(c, sv_buf_text(&said->text), said->text.len);
    else if (strcmp(m->role, "tool") != 0)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "role"),
                       "%s: expected system, developer, user, assistant or tool, found %.60s",
                       at.text, m->role);
    else if (!m->id)
        return sv_fail(x, 400, NULL, sv_path_at(&at, path, "tool_call_id"),
                       "%s: expected the id of the call", at.text);
    else
        sv_conversation_result(c, m->id, m->name, said);
    return true;
}

static bool read_message(sv_exchange *x, sv_job *j, sv_conversation *c, const sv_json *v,
                         const char *path)
{
    message m = {0};
    sv_content said = {0};
    sv_path at;
    bool ok = sv_fields_read(x, message_table, v, path, &m);
    bool shows = ok && m.role && (!strcmp(m.role, "user") || !strcmp(m.role, "tool"));
    ok = ok && read_content(x, j, m.content, sv_path_at(&at, path, "content"), shows, &said);
    if (ok && said.text.failed) ok = sv_fail(x, 503, NULL, NULL, "out of memory");
    ok = ok && add_message(x, c, &m, &said, path);
    sv_content_free(&said);
    return ok;
}

bool sv_openai_messages(sv_exchange *x, sv_job *j, const sv_json *list)
{
    sv_conversation c = {0};
    size_t i = 0;
    bool ok = true;
    if (!list) return sv_fail(x, 400, NULL, "messages", "messages: expected an array");
    for (const sv_json *m = list->first; m && ok; m = m->next) {
        sv_path at;
        ok = read_message(x, j, &c, m, sv_path_index(&at, "messages", i++));
    }
    if (ok) return sv_conversation_finish(x, &c, j, "messages");
    sv_conversation_free(&c);
    return false;
}
