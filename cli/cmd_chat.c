/* cmd_chat.c - apus chat: a conversation at the terminal. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "answer.h"
#include "common.h"
#include "dropped.h"
#include "interrupt.h"
#include "line_editor.h"
#include "models.h"
#include "pictures.h"
#include "progress.h"
#include "recall.h"
#include "report.h"
#include "terminal.h"

static struct {
    const char *system;
    int max_tokens;
} o;

static const opt chat_table[] = {
    {"system", 0, OPT_STRING, &o.system, NULL, 0, 0, "TEXT", "system message"},
    {"-sys", 0, OPT_STRING, &o.system, NULL, 0, 0, "TEXT", NULL},
    {"system-prompt", 0, OPT_STRING, &o.system, NULL, 0, 0, "TEXT", NULL},
    {"max-tokens", 'n', OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N",
     "stop an answer after N tokens (default -1: when the model ends its turn)"},
    {"predict", 0, OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N", NULL},
    {"n-predict", 0, OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N", NULL},
    {"max-new-tokens", 0, OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N", NULL},
    {0}};

static const opt *const tables[] = {chat_table,     model_table,     think_table,   template_table,
                                    sampling_table, tower_table,     threads_table, engine_table,
                                    recall_table,   speculate_table, NULL};

static int run(int argc, char **argv);
const command cmd_chat = {
    "chat",
    "[MODEL] [options]",
    "talk with a model",
    "Lines are edited as in a shell and kept in a history. A pasted text is one message, however "
    "many lines it has; lines between \"\"\" and \"\"\" are one too, and a line that ends with \\ "
    "goes on in the next. Ctrl-X Ctrl-E or /edit opens a text editor. Ctrl-C stops an answer or "
    "gives a line up, Ctrl-D leaves, /help lists commands.",
    tables,
    run};

typedef struct turn {
    char *role, *content, *thinking;
    pictures shown; /* owned */
} turn;

typedef struct chat {
    const char *name; /* of the model; NULL = the built-in one */
    apus_model *model;
    apus_engine *engine;
    apus_session *session;
    turn *turns;
    size_t n_turns;
    char *system;
    uint64_t answers; /* moves the seed on, so that a repeated question may be answered anew */
    char *unanswered; /* the question whose reading was stopped, for /again */
    pictures next;    /* shown with the next message */
    bool lost;        /* the model could not be opened again */
    line_editor *editor;
    apus_chat_settings settings;
    int ctx, most_ctx; /* tokens of the context; what the model reaches */
    int chunk;         /* tokens of a prompt read at once */
} chat;

static char *copy(const char *s, size_t n)
{
    char *r = malloc(n + 1);
    if (!r) {
        fputs("apus chat: out of memory\n", stderr);
        exit(EXIT_FAILED);
    }
    memcpy(r, s, n);
    r[n] = 0;
    return r;
}

static void add_turn(chat *c, const char *role, const char *content, size_t len,
                     const char *thinking)
{
    turn *t = realloc(c->turns, (c->n_turns + 1) * sizeof *t);
    if (!t) {
        fputs("apus chat: out of memory\n", stderr);
        exit(EXIT_FAILED);
    }
    c->turns = t;
    t[c->n_turns++] = (turn){.role = copy(role, strlen(role)),
                             .content = copy(content, len),
                             .thinking = thinking ? copy(thinking, strlen(thinking)) : NULL};
}

static void drop_turns(chat *c, size_t keep)
{
    while (c->n_turns > keep) {
        turn *t = &c->turns[--c->n_turns];
        pictures_free(&t->shown);
        free(t->role);
        free(t->content);
        free(t->thinking);
    }
}

static char *conversation_json(const chat *c)
{
    json_out *j = json_new(false);
    json_array(j, NULL);
    if (c->system) {
        json_map(j, NULL);
        json_text(j, "role", "system");
        json_text(j, "content", c->system);
        json_end_map(j);
    }
    for (size_t i = 0; i < c->n_turns; i++) {
        json_map(j, NULL);
        json_text(j, "role", c->turns[i].role);
        pictures_content(j, &c->turns[i].shown, c->turns[i].content, strlen(c->turns[i].content));
        if (c->turns[i].thinking) json_text(j, "reasoning_content", c->turns[i].thinking);
        json_end_map(j);
    }
    json_end_array(j);
    char *text = json_copy(j);
    json_free(j);
    return text;
}

/* Say on the answer's line what it lacks. */
static void tell_end(const chat *c, const answer *a)
{
    bool silent = !answer_says_something(a);
    switch (a->result.stop) {
    case APUS_STOP_CALLER:
        fputs(" [stopped]", stdout);
        break;
    case APUS_STOP_CONTEXT:
        printf(" [cut: the context of %d tokens is full; /new starts afresh%s]", c->ctx,
               larger_context(c->ctx, c->most_ctx));
        break;
    case APUS_STOP_LENGTH:
        printf(" [cut after %d tokens%s; -n N allows more]", a->result.n_generated,
               silent && a->thinking.len ? ", all of them spent on thinking" : "");
        break;
    case APUS_STOP_STRING:
    case APUS_STOP_TOKEN:
        if (silent) fputs(" [no answer]", stdout);
        break;
    }
}

/* The last question was not read to its end: what was read stays in the session. */
static void keep_question(chat *c, size_t n_prompt)
{
    turn *t = &c->turns[c->n_turns - 1];
    free(c->unanswered);
    c->unanswered = copy(t->content, strlen(t->content));
    c->next = t->shown;
    t->shown.n = 0;
    drop_turns(c, c->n_turns - 1);
    printf("[stopped: %d of %zu tokens are read and stay so; /again goes on with the question]\n",
           apus_session_pos(c->session), n_prompt);
}

static void keep_answer(chat *c, answer *a)
{
    tell_end(c, a);
    putchar('\n');
    fflush(stdout);
    print_speed(stderr, &a->result);
    add_turn(c, "assistant", a->content.data, a->content.len,
             a->thinking.len ? a->thinking.data : NULL);
}

/* Answer ids, the whole conversation as tokens. */
static apus_err answer_ids(chat *c, const char *text, size_t len, const int32_t *ids, size_t n,
                           const pictures *p, answer *a, apus_diag *d)
{
    apus_sampling way;
    apus_generate_settings g;
    int first, same = pictures_held(c->session, c->model, ids, n, p, &first, d);
    if (same < 0) return d->code;
    interrupt_target(c->engine);
    apus_err err = apus_session_rewind(c->session, same, d);
    interrupt_target(NULL);
    if (err) return err;
    apus_generate_settings_default(&g);
    sampling_settings(c->model, &way);
    way.seed += c->answers++;
    g.sampling = &way;
    g.max_tokens = o.max_tokens;
    question q = {.model = c->model,
                  .engine = c->engine,
                  .session = c->session,
                  .ids = ids + same,
                  .n = (int)n - same,
                  .media = pictures_list(p) + first,
                  .n_media = p->n - first,
                  .chunk = c->chunk,
                  .mode = ANSWER_CHAT,
                  .prompt = text,
                  .prompt_len = len,
                  .set = &g};
    return answer_generate(&q, a, d);
}

/* ---------------------------------------------------------------- what is shown */

static int make_engine(chat *c)
{
    apus_diag d;
    apus_engine_settings es;
    apus_info info = {.size = sizeof info};
    int rc = engine_settings(&cmd_chat, c->model, 0, &es);
    if (rc >= 0) return rc;
    recall_experts(c->model);
    if (common.towers) make_room_for_pictures(c->model, &es);
    if (apus_engine_create(c->model, &es, &c->engine, &d) ||
        apus_session_create(c->engine, &c->session, &d) || apus_model_info(c->model, &info, &d))
        return report(&cmd_chat, &d);
    c->ctx = apus_session_room(c->session);
    c->most_ctx = info.context;
    c->chunk = chunk_of(c->model, &es);
    return -1;
}

static void close_model(chat *c)
{
    apus_session_free(c->session);
    apus_engine_free(c->engine);
    remember_experts(c->model);
    apus_model_close(c->model);
    c->session = NULL;
    c->engine = NULL;
    c->model = NULL;
}

/* Towers are loaded when something is shown for the first time that needs them. What can be known before the model
 * is closed for it is checked first. false: it cannot see or hear. */
static bool open_towers(chat *c, const pictures *p)
{
    apus_model *m;
    unsigned had = common.towers;
    for (int i = 0; i < p->n; i++) common.towers |= picture_tower(p->item[i]);
    if (common.towers == had) return true;
    if (open_model(&cmd_chat, c->name, APUS_LOAD_INFO, &m) >= 0) {
        common.towers = had;
        return false;
    }
    apus_model_close(m);
    close_model(c);
    c->lost = open_for_engine(&cmd_chat, c->name, 0, &c->model) >= 0 || make_engine(c) >= 0;
    return !c->lost;
}

/* What the conversation shows, in order, borrowed; false: more than fits. */
static bool gather(const chat *c, pictures *out)
{
    out->n = 0;
    for (size_t i = 0; i < c->n_turns; i++)
        for (int k = 0; k < c->turns[i].shown.n; k++) {
            if (out->n == (int)PICTURES) return false;
            out->item[out->n++] = c->turns[i].shown.item[k];
        }
    return true;
}

/* Open a file and show it with the next message. */
static void attach(chat *c, const char *path)
{
    static const char *const what[] = {"picture", "video", "sound"};
    apus_diag d;
    apus_media *x;
    if (c->next.n == (int)PICTURES) {
        printf("at most %d files are shown in a conversation\n", (int)PICTURES);
        return;
    }
    if (apus_media_open(c->model, path, NULL, &x, &d)) {
        report(&cmd_chat, &d);
        return;
    }
    c->next.item[c->next.n++] = x;
    put_text(stdout, path, strlen(path));
    printf(": a %s of %d tokens, shown with the next message\n", what[apus_media_type_of(x)],
           apus_media_tokens(x));
    fflush(stdout);
}

/* ---------------------------------------------------------------- answering */

/* The conversation as text, with room for what it shows, and its tokens. */
static apus_err tokenize(chat *c, const pictures *p, char **text, size_t *len, int32_t **ids,
                         size_t *n, apus_diag *d)
{
    char *messages = conversation_json(c), *whole;
    apus_err err = apus_chat_render(c->model, messages, NULL, &c->settings, text, len, d);
    free(messages);
    if (!err && p->n) {
        err = apus_media_expand(c->model, *text, *len, pictures_list(p), p->n, &whole, len, d);
        if (!err) {
            apus_free(*text);
            *text = whole;
        }
    }
    return err ? err : apus_tokenize(c->model, *text, *len, GUARDED_TOKENS, ids, n, d);
}

/* Answer the last user turn. The turn is dropped again when it could not be answered. */
static void answer_turn(chat *c)
{
    apus_diag d;
    char *text = NULL;
    size_t len = 0, n = 0;
    int32_t *ids = NULL;
    answer a = {0};
    pictures p;
    bool fits = gather(c, &p);
    if (!fits)
        fail(&cmd_chat, "at most %d files are shown in a conversation: /new starts afresh",
             (int)PICTURES);
    if (!fits || !open_towers(c, &p)) {
        drop_turns(c, c->n_turns - 1);
        return;
    }
    apus_err err = tokenize(c, &p, &text, &len, &ids, &n, &d);
    if (!err && n > (size_t)c->ctx) {
        fail(&cmd_chat,
             "the conversation has %zu tokens and the context room for %d: /new starts afresh%s", n,
             c->ctx, larger_context(c->ctx, c->most_ctx));
        drop_turns(c, c->n_turns - 1);
    } else {
        if (!err) err = answer_ids(c, text, len, ids, n, &p, &a, &d);
        bool unread = err == APUS_ECANCELLED ||
                      (!err && a.result.stop == APUS_STOP_CALLER && a.result.n_generated == 0);
        if (unread) {
            keep_question(c, n);
        } else if (err) {
            report(&cmd_chat, &d);
            drop_turns(c, c->n_turns - 1);
        } else {
            keep_answer(c, &a);
        }
        answer_free(&a);
    }
    apus_free(text);
    apus_free(ids);
}

static void ask(chat *c, const char *text, size_t len)
{
    free(c->unanswered);
    c->unanswered = NULL;
    add_turn(c, "user", text, len, NULL);
    c->turns[c->n_turns - 1].shown = c->next;
    c->next.n = 0;
    answer_turn(c);
}

static bool is_blank(const char *s)
{
    return !s[strspn(s, " \t\r\n")];
}

/* ---------------------------------------------------------------- commands */

static void start_afresh(chat *c)
{
    drop_turns(c, 0);
    pictures_free(&c->next);
    free(c->unanswered);
    c->unanswered = NULL;
}

static bool do_new(chat *c, const char *rest)
{
    (void)rest;
    start_afresh(c);
    puts("a new conversation");
    return true;
}

static bool do_system(chat *c, const char *rest)
{
    bool had = c->system != NULL;
    free(c->system);
    c->system = is_blank(rest) ? NULL : copy(rest, strlen(rest));
    start_afresh(c);
    printf("%s; a new conversation\n", c->system ? "system message set"
                                       : had     ? "system message removed"
                                                 : "no system message");
    return true;
}

static bool do_think(chat *c, const char *rest)
{
    static const char *const state[] = {"as the model's template has it", "on", "off"};
    if (!strcmp(rest, "on"))
        c->settings.think = APUS_THINK_ON;
    else if (!strcmp(rest, "off"))
        c->settings.think = APUS_THINK_OFF;
    else if (*rest)
        puts("expected /think on or /think off");
    printf("thinking is %s\n", state[c->settings.think]);
    return true;
}

static bool do_again(chat *c, const char *rest)
{
    (void)rest;
    if (c->unanswered) {
        char *text = c->unanswered;
        c->unanswered = NULL;
        ask(c, text, strlen(text));
        free(text);
    } else if (c->n_turns < 2) {
        puts("nothing was asked yet");
    } else {
        drop_turns(c, c->n_turns - 1);
        answer_turn(c);
    }
    return true;
}

/* Let the user write `text` in an editor, and ask that. */
static void ask_edited(chat *c, const char *text)
{
    char *edited = edit_text(text);
    if (edited) {
        size_t n = strlen(edited);
        while (n && strchr(" \t\r\n", edited[n - 1])) edited[--n] = 0;
        if (n) {
            put_text(stdout, edited, n);
            putchar('\n');
            fflush(stdout);
            line_editor_remember(c->editor, edited);
            ask(c, edited, n);
        } else {
            puts("nothing was written, nothing is sent");
        }
    }
    free(edited);
}

static bool do_edit(chat *c, const char *rest)
{
    ask_edited(c, rest);
    return true;
}

/* A path as it is, or as a terminal writes it. */
static bool show_file(chat *c, const char *rest, const char *name)
{
    char *path = NULL;
    const char *home = getenv("HOME");
    if (is_blank(rest)) {
        printf("expected %s FILE\n", name);
    } else if (!strncmp(rest, "~/", 2) && home) {
        strbuf whole = {0};
        strbuf_add(&whole, home, strlen(home));
        strbuf_add(&whole, rest + 1, strlen(rest + 1));
        attach(c, whole.data);
        strbuf_free(&whole);
    } else if (access(rest, F_OK) != 0 && dropped_path(rest, &path)) {
        attach(c, path);
        free(path);
    } else {
        attach(c, rest);
    }
    return true;
}

static bool do_image(chat *c, const char *rest)
{
    return show_file(c, rest, "/image");
}

static bool do_audio(chat *c, const char *rest)
{
    return show_file(c, rest, "/audio");
}

static bool do_exit(chat *c, const char *rest)
{
    (void)c;
    (void)rest;
    return false;
}

static bool do_help(chat *c, const char *rest);

typedef struct chat_command {
    const char *name, *args, *help; /* help NULL: another name for the one before */
    bool takes_text;
    bool (*run)(chat *c, const char *rest); /* false: leave */
} chat_command;

static const chat_command chat_commands[] = {
    {"/new", "", "forget the conversation", false, do_new},
    {"/clear", "", NULL, false, do_new},
    {"/reset", "", NULL, false, do_new},
    {"/system", " [TEXT]", "set the system message (none: remove it) and start afresh", true,
     do_system},
    {"/think", " [on|off]", "let the model think before it answers, or not", true, do_think},
    {"/again", "", "answer the last question anew, or one that was stopped", false, do_again},
    {"/regen", "", NULL, false, do_again},
    {"/edit", " [TEXT]", "write a message in $VISUAL or $EDITOR (also Ctrl-X Ctrl-E)", true,
     do_edit},
    {"/image", " FILE", "show a picture or video with the next message", true, do_image},
    {"/audio", " FILE", "let a sound be heard with the next message", true, do_audio},
    {"/help", "", "this list", true, do_help},
    {"/?", "", NULL, true, do_help},
    {"/exit", "", "leave (also /quit, /bye and Ctrl-D)", false, do_exit},
    {"/quit", "", NULL, false, do_exit},
    {"/bye", "", NULL, false, do_exit},
};
enum { N_CHAT_COMMANDS = sizeof chat_commands / sizeof *chat_commands };

static bool do_help(chat *c, const char *rest)
{
    (void)c;
    (void)rest;
    for (int i = 0; i < N_CHAT_COMMANDS; i++)
        if (chat_commands[i].help)
            printf("  %s%-*s %s\n", chat_commands[i].name, 17 - (int)strlen(chat_commands[i].name),
                   chat_commands[i].args, chat_commands[i].help);
    puts("  //TEXT            send a message that begins with /\n"
         "A picture or sound that is dropped onto the terminal is shown, too.\n"
         "A pasted text is one message. Lines between \"\"\" and \"\"\" are one too, and a line\n"
         "that ends with \\ goes on in the next. Ctrl-C stops an answer or gives a line up.");
    return true;
}

/* What is not a command is never taken for one: leaving by a slip would lose the conversation. */
static void unknown_command(chat *c, const char *word, size_t len)
{
    int near = 0;
    put_textf(stdout, "unknown command '%.*s'", (int)len, word);
    for (int i = 0; i < N_CHAT_COMMANDS && len > 1; i++)
        if (chat_commands[i].help && !strncmp(chat_commands[i].name, word, len))
            printf("%s%s", near++ ? " or " : "; did you mean ", chat_commands[i].name);
    printf("%s A message that begins with / is sent as //.\n", near ? "?" : ".");
    do_help(c, "");
}

/* Returns false to leave. */
static bool run_command(chat *c, const char *line)
{
    size_t word = strcspn(line, " \t\n");
    const char *rest = line + word + strspn(line + word, " \t");
    for (int i = 0; i < N_CHAT_COMMANDS; i++) {
        const chat_command *k = &chat_commands[i];
        if (strlen(k->name) != word || memcmp(k->name, line, word) != 0) continue;
        if (k->takes_text || is_blank(rest)) return k->run(c, rest);
        printf("%s takes no text; nothing was done\n", k->name);
        return true;
    }
    unknown_command(c, line, word);
    return true;
}

/* ---------------------------------------------------------------- messages */

#define FENCE "\"\"\""

/* Where the text of a block begins in a line that opens one, behind the command it is for. */
static const char *block_start(const char *line)
{
    static const char system[] = "/system ";
    const char *p = line;
    if (!strncmp(p, system, sizeof system - 1)) p += strspn(p + 7, " \t") + 7;
    return strncmp(p, FENCE, 3) ? NULL : p + 3;
}

static bool ends_block(const char *s, size_t n)
{
    return n >= 3 && !memcmp(s + n - 3, FENCE, 3);
}

/* The rest of a block whose first line is in *all without its end. */
static line_end read_block(chat *c, strbuf *all)
{
    for (;;) {
        char *line;
        line_end end = line_editor_read(c->editor, ". ", &line);
        if (end != LINE_READ) {
            free(line);
            return end;
        }
        size_t n = strlen(line);
        bool last = ends_block(line, n);
        if (last) n -= 3;
        if (all->len && !(last && n == 0)) strbuf_add(all, "\n", 1);
        strbuf_add(all, line, n);
        free(line);
        if (last) return LINE_READ;
    }
}

/* A block that `line` opens, its text from `inner` on; what stands before is a command. */
static line_end take_block(chat *c, const char *line, const char *inner, bool closed, strbuf *all)
{
    strbuf text = {0};
    size_t n = strlen(inner) - (closed ? 3 : 0);
    if (n && *inner == '\n') inner++, n--;
    while (closed && n && inner[n - 1] == '\n') n--;
    strbuf_add(&text, inner, n);
    line_end end = closed ? LINE_READ : read_block(c, &text);
    strbuf_add(all, line, strcspn(line, "\""));
    strbuf_add(all, text.data, text.len);
    strbuf_free(&text);
    return end;
}

/* A line, and those after it as long as they end with a backslash. */
static line_end take_lines(chat *c, char *line, strbuf *all)
{
    line_end end = LINE_READ;
    while (line) {
        size_t n = strlen(line);
        bool typed = !strchr(line, '\n'), go_on = typed && n && line[n - 1] == '\\';
        strbuf_add(all, line, go_on ? n - 1 : n);
        free(line);
        line = NULL;
        if (!go_on || end != LINE_READ) break;
        strbuf_add(all, "\n", 1);
        end = line_editor_read(c->editor, ". ", &line);
    }
    return end;
}

/* What a first line begins. A line with line feeds was pasted or comes from the history: it is whole. */
static line_end read_rest(chat *c, char *line, strbuf *all)
{
    const char *inner = block_start(line);
    bool closed = inner && ends_block(inner, strlen(inner));
    line_end end;
    if (inner && (closed || !strchr(line, '\n'))) {
        end = take_block(c, line, inner, closed, all);
        free(line);
    } else {
        end = take_lines(c, line, all);
    }
    return end == LINE_CLOSED ? LINE_READ : end; /* the end of input ends a message, too */
}

/* A whole message. */
static line_end read_message(chat *c, strbuf *all)
{
    char *line;
    line_end end = line_editor_read(c->editor, "> ", &line);
    if (end == LINE_READ) return read_rest(c, line, all);
    strbuf_add(all, line ? line : "", line ? strlen(line) : 0);
    free(line);
    return end;
}

/* Paths of dropped files that a message begins with are what it shows. Returns the rest of it. */
static const char *take_dropped(chat *c, const char *text)
{
    char *path;
    size_t n;
    while (*text && (n = dropped_path(text, &path)) > 0) {
        attach(c, path);
        free(path);
        text += n;
    }
    return text;
}

/* Returns false to leave. */
static bool take_message(chat *c, const char *text, size_t len)
{
    const char *said = take_dropped(c, text);
    if (said != text) {
        line_editor_remember(c->editor, text);
        if (*said) ask(c, said, strlen(said));
        return true;
    }
    bool one_line = !strchr(text, '\n') || !strncmp(text, "/system ", 8);
    line_editor_remember(c->editor, text);
    if (!strncmp(text, "//", 2))
        ask(c, text + 1, len - 1);
    else if (text[0] == '/' && one_line)
        return run_command(c, text);
    else if (!is_blank(text))
        ask(c, text, len);
    return true;
}

static void converse(chat *c)
{
    if (isatty(STDIN_FILENO))
        fputs("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.\n", stderr);
    for (bool go_on = true; go_on && !c->lost;) {
        strbuf all = {0};
        strbuf_add(&all, "", 0);
        switch (read_message(c, &all)) {
        case LINE_READ:
            go_on = take_message(c, all.data, all.len);
            break;
        case LINE_INTERRUPTED:
            if (is_blank(all.data)) puts("Ctrl-D or /exit leaves.");
            break;
        case LINE_EDIT:
            ask_edited(c, all.data);
            break;
        case LINE_CLOSED:
            go_on = false;
            break;
        }
        strbuf_free(&all);
        fflush(stdout);
    }
}

static int start(chat *c)
{
    int rc = make_engine(c);
    if (rc >= 0) return rc;
    if (o.system) c->system = copy(o.system, strlen(o.system));
    c->editor = line_editor_open();
    return c->editor ? -1 : fail(&cmd_chat, "out of memory");
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    chat c = {0};
    o.max_tokens = -1;
    int rc = options_parse(&cmd_chat, argc, argv, 1, &n);
    if (rc < 0) rc = take_model(&cmd_chat, argv, &n, 0, &name);
    if (rc < 0 && think.on && think.off)
        rc = usage_error(&cmd_chat, "choose one of --think and --no-think");
    if (rc < 0) rc = guarded_settings(&cmd_chat, &c.settings);
    if (rc < 0) rc = open_for_engine(&cmd_chat, name, 0, &c.model);
    if (rc >= 0) return rc;
    c.name = name;
    rc = start(&c);
    if (rc < 0) {
        converse(&c);
        rc = c.lost ? EXIT_FAILED : 0;
    }
    line_editor_close(c.editor);
    drop_turns(&c, 0);
    pictures_free(&c.next);
    free(c.turns);
    free(c.system);
    free(c.unanswered);
    close_model(&c);
    return finish_output(&cmd_chat, rc);
}
