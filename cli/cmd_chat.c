/* cmd_chat.c - apus chat: a conversation at the terminal. */
#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "answer.h"

static struct {
    const char *system;
    int max_tokens;
} o;

static const opt chat_table[] = {
    {"system", 0, OPT_STRING, &o.system, NULL, 0, 0, "TEXT", "system message"},
    {"max-tokens", 'n', OPT_INT, &o.max_tokens, NULL, -1, INT_MAX, "N",
     "stop an answer after N tokens (default -1: when\nthe model ends its turn)"},
    {0}};

static int run(int argc, char **argv);
const command cmd_chat = {
    "chat", "[MODEL] [options]", "talk with a model",
    "Lines are edited as in a shell and kept in a history. End a line with \\ to go on in\n"
    "the next one. Ctrl-C stops an answer, Ctrl-D leaves, /help lists commands.",
    run};

typedef struct turn {
    char *role, *content, *thinking;
} turn;

typedef struct chat {
    apus_model *model;
    apus_engine *engine;
    apus_session *session;
    turn *turns;
    size_t n_turns;
    char *system;
    apus_think think;
    uint64_t answers; /* moves the seed on, so that a repeated question may be answered anew */
    EditLine *el;
    History *history;
    char history_path[PATH_MAX];
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
    t[c->n_turns++] = (turn){copy(role, strlen(role)), copy(content, len),
                             thinking ? copy(thinking, strlen(thinking)) : NULL};
}

static void drop_turns(chat *c, size_t keep)
{
    while (c->n_turns > keep) {
        turn *t = &c->turns[--c->n_turns];
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
        json_text(j, "content", c->turns[i].content);
        if (c->turns[i].thinking) json_text(j, "reasoning_content", c->turns[i].thinking);
        json_end_map(j);
    }
    json_end_array(j);
    char *text = json_copy(j);
    json_free(j);
    return text;
}

/* Tokens at the front of ids that the session holds already. At least one is left to feed. */
static int shared_prefix(const apus_session *s, const int32_t *ids, size_t n)
{
    const int32_t *held = apus_session_tokens(s);
    int pos = apus_session_pos(s), i = 0;
    while (i < pos && (size_t)i + 1 < n && held[i] == ids[i]) i++;
    return i;
}

/* Answer the last user turn. The turn is dropped again when it could not be answered. */
static void answer_turn(chat *c)
{
    apus_diag d;
    apus_chat_settings cs;
    apus_generate_settings g;
    char *text = NULL, *messages = conversation_json(c);
    size_t len = 0, n = 0;
    int32_t *ids = NULL;
    answer a = {0};
    apus_chat_settings_default(&cs);
    cs.think = c->think;
    apus_err err = apus_chat_render(c->model, messages, NULL, &cs, &text, &len, &d);
    if (!err) err = apus_tokenize(c->model, text, len, APUS_TOK_SPECIAL, &ids, &n, &d);
    if (!err) {
        int same = shared_prefix(c->session, ids, n);
        err = apus_session_rewind(c->session, same, &d);
        if (!err) {
            apus_generate_settings_default(c->model, &g);
            sampling_settings(c->model, &g.sampling);
            g.sampling.seed += c->answers++;
            g.max_tokens = o.max_tokens;
            err = answer_generate(c->model, c->engine, c->session, ids + same, (int)n - same,
                                  ANSWER_CHAT, text, len, false, &g, &a, &d);
        }
    }
    if (err) {
        report(&cmd_chat, &d);
        drop_turns(c, c->n_turns - 1);
    } else {
        if (a.result.stop == APUS_STOP_CALLER) fputs(" [stopped]", stdout);
        if (a.result.stop == APUS_STOP_CONTEXT)
            fputs(" [the context is full: /new starts afresh]", stdout);
        putchar('\n');
        fflush(stdout);
        print_speed(stderr, &a.result);
        add_turn(c, "assistant", a.content.data, a.content.len,
                 a.thinking.len ? a.thinking.data : NULL);
        answer_free(&a);
    }
    free(messages);
    apus_free(text);
    apus_free(ids);
}

/* ---------------------------------------------------------------- commands */

static void print_help(void)
{
    puts("  /new              forget the conversation\n"
         "  /system [TEXT]    set the system message (none: remove it) and start afresh\n"
         "  /think on|off     let the model think before it answers, or not\n"
         "  /again            answer the last question anew\n"
         "  /help             this list\n"
         "  /exit             leave (also Ctrl-D)\n"
         "Ctrl-C stops an answer. A line that ends with \\ goes on in the next one.");
}

/* Returns false to leave. */
static bool run_command(chat *c, const char *line)
{
    size_t word = strcspn(line, " \t");
    const char *rest = line + word + strspn(line + word, " \t");
    if (!strncmp(line, "/exit", word) || !strncmp(line, "/quit", word)) return false;
    if (word == 5 && !strncmp(line, "/help", word)) {
        print_help();
    } else if (word == 4 && !strncmp(line, "/new", word)) {
        drop_turns(c, 0);
    } else if (word == 7 && !strncmp(line, "/system", word)) {
        free(c->system);
        c->system = *rest ? copy(rest, strlen(rest)) : NULL;
        drop_turns(c, 0);
    } else if (word == 6 && !strncmp(line, "/think", word) &&
               (!strcmp(rest, "on") || !strcmp(rest, "off"))) {
        c->think = !strcmp(rest, "on") ? APUS_THINK_ON : APUS_THINK_OFF;
    } else if (word == 6 && !strncmp(line, "/again", word)) {
        if (c->n_turns < 2) {
            puts("nothing was asked yet");
        } else {
            drop_turns(c, c->n_turns - 1);
            answer_turn(c);
        }
    } else {
        printf("unknown command '%.*s'; /help lists them\n", (int)word, line);
    }
    return true;
}

/* ---------------------------------------------------------------- lines */

static char prompt_text[16] = "> ";
static char *el_prompt(EditLine *el)
{
    (void)el;
    return prompt_text;
}

static void open_editor(chat *c)
{
    HistEvent ev;
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    c->el = el_init("apus", stdin, stdout, stderr);
    c->history = history_init();
    if (!c->el || !c->history) return;
    history(c->history, &ev, H_SETSIZE, 1000);
    history(c->history, &ev, H_SETUNIQUE, 1);
    el_set(c->el, EL_PROMPT, el_prompt);
    el_set(c->el, EL_EDITOR, "emacs");
    el_set(c->el, EL_SIGNAL, 1);
    el_set(c->el, EL_HIST, history, c->history);
    el_source(c->el, NULL);
    int n = 0;
    if (state && *state)
        n = snprintf(c->history_path, sizeof c->history_path, "%s/apus", state);
    else if (home && *home)
        n = snprintf(c->history_path, sizeof c->history_path, "%s/.local/state/apus", home);
    if (n <= 0 || (size_t)n + 16 > sizeof c->history_path) {
        c->history_path[0] = 0;
        return;
    }
    for (char *p = c->history_path + 1; *p; p++) { /* mkdir -p; a failure shows when saving */
        if (*p != '/') continue;
        *p = 0;
        mkdir(c->history_path, 0700);
        *p = '/';
    }
    mkdir(c->history_path, 0700);
    strcat(c->history_path, "/history");
    history(c->history, &ev, H_LOAD, c->history_path);
}

static void close_editor(chat *c)
{
    HistEvent ev;
    if (c->history && c->history_path[0]) history(c->history, &ev, H_SAVE, c->history_path);
    if (c->history) history_end(c->history);
    if (c->el) el_end(c->el);
}

/* One line without its end; NULL at the end of input. free() it. */
static char *read_line(chat *c, const char *prompt)
{
    snprintf(prompt_text, sizeof prompt_text, "%s", prompt);
    if (c->el) {
        int n;
        const char *line = el_gets(c->el, &n);
        if (!line || n <= 0) return NULL;
        return copy(line, line[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n);
    }
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    if (n && line[n - 1] == '\n') line[n - 1] = 0;
    return line;
}

/* A message: lines joined as long as they end with a backslash. */
static char *read_message(chat *c)
{
    strbuf all = {0};
    char *line = read_line(c, "> ");
    while (line) {
        size_t n = strlen(line);
        bool more = n && line[n - 1] == '\\';
        strbuf_add(&all, line, more ? n - 1 : n);
        free(line);
        if (!more) break;
        strbuf_add(&all, "\n", 1);
        line = read_line(c, ". ");
    }
    if (c->history && all.data && all.len) {
        HistEvent ev;
        history(c->history, &ev, H_ENTER, all.data);
    }
    return all.data;
}

static void converse(chat *c)
{
    bool tty = isatty(STDIN_FILENO);
    if (tty) {
        fputs("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves.\n", stderr);
        open_editor(c);
    }
    for (;;) {
        char *line = read_message(c);
        if (!line) break;
        bool go_on = true;
        if (line[0] == '/')
            go_on = run_command(c, line);
        else if (line[strspn(line, " \t")]) {
            add_turn(c, "user", line, strlen(line), NULL);
            answer_turn(c);
        }
        free(line);
        if (!go_on) break;
    }
    if (tty) close_editor(c);
}

static int run(int argc, char **argv)
{
    const opt *tables[] = {chat_table, think_table, sampling_table, common_table, NULL};
    int n;
    o.max_tokens = -1;
    int rc = options_parse(&cmd_chat, tables, argc, argv, 1, &n);
    if (rc >= 0) return rc;
    if (think.on && think.off)
        return usage_error(&cmd_chat, "choose one of --think and --no-think");
    chat c = {.think = think_setting()};
    rc = open_model(&cmd_chat, n ? argv[1] : NULL, APUS_LOAD_ALL, &c.model);
    if (rc >= 0) return rc;
    apus_diag d;
    apus_engine_settings es;
    rc = engine_settings(&cmd_chat, c.model, 0, &es);
    if (rc < 0) {
        rc = 0;
        if (o.system) c.system = copy(o.system, strlen(o.system));
        if (apus_engine_create(c.model, &es, &c.engine, &d) ||
            apus_session_create(c.engine, &c.session, &d))
            rc = report(&cmd_chat, &d);
        else
            converse(&c);
    }
    drop_turns(&c, 0);
    free(c.turns);
    free(c.system);
    apus_session_free(c.session);
    apus_engine_free(c.engine);
    apus_model_close(c.model);
    return finish_output(&cmd_chat, rc);
}
