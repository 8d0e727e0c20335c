/* line_editor.c - libedit with an input layer of its own: bytes come from here, so that a bracketed
 * paste can be told from typing, and signals are seen between two keys. */
#include "line_editor.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wchar.h>

#include "answer.h"
#include "common.h"
#include "input.h"
#include "interrupt.h"
#include "report.h"
#include "signals.h"

/* Keys that nobody types, bound to what the input layer wants done. */
enum { KEY_INTERRUPT = 0x03, KEY_PASTE = 0x1D, KEY_FINISH = 0x1E };
enum { MAX_HISTORY = 1000, ESCAPE_MS = 50 };
#define MAX_PASTE ((size_t)64 << 20)

#define PASTE_ON    "\033[?2004h"
#define PASTE_OFF   "\033[?2004l"
#define PASTE_BEGIN "[200~" /* after an escape */
#define PASTE_END   "\033[201~"

struct line_editor {
    EditLine *el; /* NULL: not a terminal */
    History *history;
    char history_path[PATH_MAX];
    char prompt[16];
    unsigned char byte[4096]; /* read and not yet taken: [at, len) */
    size_t at, len;
    strbuf paste;
    bool finish; /* KEY_FINISH comes next */
    line_end end;
};

/* ---------------------------------------------------------------- signals */

static int signal_pipe[2] = {-1, -1};
static const int caught[] = {SIGTSTP, SIGWINCH, SIGTERM, SIGHUP, SIGQUIT};
enum { N_CAUGHT = sizeof caught / sizeof *caught };

static void on_signal(int sig)
{
    int saved = errno;
    unsigned char b = (unsigned char)sig;
    if (write(signal_pipe[1], &b, 1) < 0) { /* full: enough are waiting */
    }
    errno = saved;
}

static void set_handler(int sig, void (*handler)(int))
{
    struct sigaction sa = {0};
    sa.sa_handler = handler;
    sa.sa_flags = SA_RESTART; /* a write that waits for the terminal is no failure */
    sigemptyset(&sa.sa_mask);
    sigaction(sig, &sa, NULL);
}

static void catch_signals(bool on)
{
    for (int i = 0; i < N_CAUGHT; i++) {
        bool ends = caught[i] != SIGTSTP && caught[i] != SIGWINCH;
        if (!on && ends)
            signals_restore(caught[i]);
        else
            set_handler(caught[i], on ? on_signal : SIG_DFL);
    }
}

static void paste_mode(bool on)
{
    const char *term = getenv("TERM");
    if (!term || !strcmp(term, "dumb") || !isatty(STDOUT_FILENO)) return;
    fputs(on ? PASTE_ON : PASTE_OFF, stdout);
    fflush(stdout);
}

/* Stop or end as the signal asks, with the terminal as it was before. */
static void obey(line_editor *e, int sig)
{
    el_set(e->el, EL_PREP_TERM, 0);
    paste_mode(false);
    catch_signals(false);
    raise(sig);
    catch_signals(true); /* stopped and continued */
    paste_mode(true);
    el_set(e->el, EL_PREP_TERM, 1);
    el_set(e->el, EL_REFRESH);
}

/* Handle what came; true: Ctrl-C was among it. */
static bool take_signals(line_editor *e)
{
    unsigned char sig;
    bool interrupt = false;
    while (read(signal_pipe[0], &sig, 1) == 1) {
        if (sig == SIGINT)
            interrupt = true;
        else if (sig == SIGWINCH)
            el_resize(e->el);
        else
            obey(e, sig);
    }
    return interrupt;
}

/* ---------------------------------------------------------------- keys */

typedef enum got { GOT_BYTE, GOT_NOTHING, GOT_INTERRUPT, GOT_END } got;

/* Wait until another byte is in e->byte. timeout in ms, -1 = for ever. */
static got more(line_editor *e, int timeout)
{
    if (e->at) memmove(e->byte, e->byte + e->at, e->len - e->at);
    e->len -= e->at;
    e->at = 0;
    for (;;) {
        struct pollfd p[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                              {.fd = signal_pipe[0], .events = POLLIN}};
        int n = poll(p, 2, timeout);
        if (n < 0 && errno != EINTR) return GOT_END;
        if (n <= 0 && timeout >= 0) return GOT_NOTHING;
        if (n <= 0) continue;
        if (p[1].revents && take_signals(e)) return GOT_INTERRUPT;
        if (!p[0].revents) continue;
        ssize_t k = read(STDIN_FILENO, e->byte + e->len, sizeof e->byte - e->len);
        if (k < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (k <= 0) return GOT_END;
        e->len += (size_t)k;
        return GOT_BYTE;
    }
}

static got next_byte(line_editor *e, unsigned char *b)
{
    got g = e->at < e->len ? GOT_BYTE : more(e, -1);
    if (g == GOT_BYTE) *b = e->byte[e->at++];
    return g;
}

/* Do the next bytes spell `text`? They are taken if so. */
static bool follows(line_editor *e, const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        if (e->at + i >= e->len && more(e, ESCAPE_MS) != GOT_BYTE) return false;
        if (e->byte[e->at + i] != (unsigned char)text[i]) return false;
    }
    e->at += n;
    return true;
}

/* Line ends of every system to line feeds; other control characters are dropped. */
static void clean_paste(strbuf *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->len; i++) {
        unsigned char c = (unsigned char)t->data[i];
        if (c == '\r' && i + 1 < t->len && t->data[i + 1] == '\n') continue;
        if (c == '\r') c = '\n';
        if (c >= 0x20 || c == '\n' || c == '\t') t->data[n++] = (char)c;
    }
    while (n && t->data[n - 1] == '\n') n--;
    if (t->data) t->data[n] = 0;
    t->len = n;
}

/* Everything up to the paste's end. */
static got read_paste(line_editor *e)
{
    static const char end[] = PASTE_END;
    const size_t n = sizeof end - 1;
    strbuf *t = &e->paste;
    unsigned char b;
    t->len = 0;
    for (;;) {
        got g = next_byte(e, &b);
        if (g != GOT_BYTE) return g;
        if (t->len < MAX_PASTE) strbuf_add(t, (const char *)&b, 1);
        if (t->len >= n && !memcmp(t->data + t->len - n, end, n)) break;
    }
    t->len -= n;
    clean_paste(t);
    return GOT_BYTE;
}

/* The rest of a character whose first byte is b; false: not UTF-8. */
static bool read_character(line_editor *e, unsigned char b, wchar_t *out)
{
    char bytes[MB_LEN_MAX] = {(char)b};
    int n = b < 0x80 ? 1 : b < 0xC2 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF5 ? 4 : 0;
    mbstate_t state = {0};
    for (int i = 1; i < n; i++) {
        if (e->at >= e->len && more(e, ESCAPE_MS) != GOT_BYTE) return false;
        bytes[i] = (char)e->byte[e->at++];
    }
    return n && mbrtowc(out, bytes, (size_t)n, &state) == (size_t)n;
}

/* libedit's source of characters: 1 = one, 0 = the end. */
static int next_char(EditLine *el, wchar_t *out)
{
    line_editor *e;
    el_get(el, EL_CLIENTDATA, &e);
    if (e->finish) {
        *out = KEY_FINISH;
        return 1;
    }
    for (;;) {
        unsigned char b = 0;
        got g = next_byte(e, &b);
        bool paste = g == GOT_BYTE && b == '\033' && follows(e, PASTE_BEGIN);
        if (paste) g = read_paste(e);
        if (g == GOT_END) return 0;
        *out = g == GOT_INTERRUPT ? KEY_INTERRUPT : KEY_PASTE;
        if (paste || g == GOT_INTERRUPT) return 1;
        if (b != KEY_PASTE && b != KEY_FINISH && read_character(e, b, out)) return 1;
    }
}

/* ---------------------------------------------------------------- what keys do */

static unsigned char insert_paste(EditLine *el, int ch)
{
    line_editor *e;
    (void)ch;
    el_get(el, EL_CLIENTDATA, &e);
    if (e->paste.len && el_insertstr(el, e->paste.data) == 0) return CC_REFRESH;
    return CC_ERROR;
}

/* End the line after the cursor was drawn behind it. */
static unsigned char end_as(EditLine *el, line_end end)
{
    line_editor *e;
    el_get(el, EL_CLIENTDATA, &e);
    const LineInfoW *l = el_wline(el);
    el_cursor(el, (int)(l->lastchar - l->cursor));
    e->end = end;
    e->finish = true;
    return CC_REFRESH;
}

static unsigned char interrupt_line(EditLine *el, int ch)
{
    (void)ch;
    return end_as(el, LINE_INTERRUPTED);
}

static unsigned char edit_line(EditLine *el, int ch)
{
    (void)ch;
    return end_as(el, LINE_EDIT);
}

static unsigned char finish_line(EditLine *el, int ch)
{
    line_editor *e;
    (void)ch;
    el_get(el, EL_CLIENTDATA, &e);
    fputs(e->end == LINE_INTERRUPTED ? "^C\n" : "\n", stdout);
    fflush(stdout);
    e->finish = false;
    return CC_NEWLINE;
}

static char *prompt_of(EditLine *el)
{
    line_editor *e;
    el_get(el, EL_CLIENTDATA, &e);
    return e->prompt;
}

/* ---------------------------------------------------------------- history */

/* $XDG_STATE_HOME/apus/history, else ~/.local/state/apus/history; empty: nowhere. */
static void find_history(char *path, size_t cap)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = 0;
    path[0] = 0;
    if (state && *state)
        n = snprintf(path, cap, "%s/apus", state);
    else if (home && *home)
        n = snprintf(path, cap, "%s/.local/state/apus", home);
    if (n <= 0 || (size_t)n + 16 > cap) {
        path[0] = 0;
        return;
    }
    for (char *p = path + 1; *p; p++) { /* mkdir -p; a failure shows when saving */
        if (*p != '/') continue;
        *p = 0;
        mkdir(path, 0700);
        *p = '/';
    }
    mkdir(path, 0700);
    strcat(path, "/history");
}

static FILE *open_history(const char *path, int flags, const char *mode)
{
    int fd = open(path, O_CREAT | O_CLOEXEC | flags, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, mode);
    if (!f && fd >= 0) close(fd);
    return f;
}

/* A file with many more lines than are kept is written anew. */
static void load_history(line_editor *e)
{
    HistEvent ev;
    char part[PATH_MAX + 24];
    int n = history(e->history, &ev, H_LOAD, e->history_path);
    if (n < 2 * MAX_HISTORY) return;
    snprintf(part, sizeof part, "%s.%ld", e->history_path, (long)getpid());
    FILE *f = open_history(part, O_WRONLY | O_EXCL, "w");
    if (!f) return;
    bool ok = history(e->history, &ev, H_SAVE_FP, f) >= 0;
    if (fclose(f) || !ok || rename(part, e->history_path)) unlink(part);
}

void line_editor_remember(line_editor *e, const char *text)
{
    HistEvent ev;
    if (!e->history || !*text || history(e->history, &ev, H_ENTER, text) <= 0) return;
    if (!e->history_path[0]) return;
    /* Appended as a history of one: versions of libedit differ in how many H_NSAVE_FP takes. */
    FILE *f = open_history(e->history_path, O_WRONLY | O_APPEND, "a");
    History *last = history_init();
    if (f && last) {
        fseek(f, 0, SEEK_END);
        history(last, &ev, H_SETSIZE, 1);
        history(last, &ev, H_ENTER, text);
        history(last, &ev, H_SAVE_FP, f);
    }
    if (last) history_end(last);
    if (f) fclose(f);
}

/* ---------------------------------------------------------------- lines */

static void set_up(line_editor *e)
{
    HistEvent ev;
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_PROMPT, prompt_of);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_GETCFN, next_char);
    history(e->history, &ev, H_SETSIZE, MAX_HISTORY);
    history(e->history, &ev, H_SETUNIQUE, 1);
    el_set(e->el, EL_HIST, history, e->history);
    el_set(e->el, EL_SETTY, "-d", "-icrnl", "-inlcr", NULL); /* \r\n stays what it is */
    el_source(e->el, NULL);
    el_wset(e->el, EL_ADDFN, L"apus-paste", L"insert the pasted text", insert_paste);
    el_wset(e->el, EL_ADDFN, L"apus-interrupt", L"give the line up", interrupt_line);
    el_wset(e->el, EL_ADDFN, L"apus-edit", L"go on in a text editor", edit_line);
    el_wset(e->el, EL_ADDFN, L"apus-finish", L"end the line", finish_line);
    el_set(e->el, EL_BIND, "^]", "apus-paste", NULL);
    el_set(e->el, EL_BIND, "^^", "apus-finish", NULL);
    el_set(e->el, EL_BIND, "^C", "apus-interrupt", NULL);
    el_set(e->el, EL_BIND, "^X^E", "apus-edit", NULL);
    find_history(e->history_path, sizeof e->history_path);
    if (e->history_path[0]) load_history(e);
}

line_editor *line_editor_open(void)
{
    line_editor *e = calloc(1, sizeof *e);
    if (!e || !isatty(STDIN_FILENO)) return e;
    if (pipe(signal_pipe)) {
        free(e);
        return NULL;
    }
    for (int i = 0; i < 2; i++) {
        fcntl(signal_pipe[i], F_SETFL, O_NONBLOCK);
        fcntl(signal_pipe[i], F_SETFD, FD_CLOEXEC);
    }
    e->el = el_init("apus", stdin, stdout, stderr);
    e->history = history_init();
    if (!e->el || !e->history) {
        line_editor_close(e);
        return NULL;
    }
    interrupt_to(signal_pipe[1]);
    set_up(e);
    return e;
}

void line_editor_close(line_editor *e)
{
    if (!e) return;
    interrupt_to(-1);
    if (e->history) history_end(e->history);
    if (e->el) el_end(e->el);
    strbuf_free(&e->paste);
    free(e);
}

static line_end read_plain(char **line)
{
    size_t cap = 0;
    ssize_t n = getline(line, &cap, stdin);
    if (n < 0) {
        free(*line);
        *line = NULL;
        return LINE_CLOSED;
    }
    if (n && (*line)[n - 1] == '\n') (*line)[--n] = 0;
    if (n && (*line)[n - 1] == '\r') (*line)[--n] = 0;
    return LINE_READ;
}

line_end line_editor_read(line_editor *e, const char *prompt, char **line)
{
    int n = 0;
    *line = NULL;
    if (!e->el) return read_plain(line);
    snprintf(e->prompt, sizeof e->prompt, "%s", prompt);
    e->end = LINE_READ;
    e->finish = false;
    catch_signals(true);
    paste_mode(true);
    const char *text = el_gets(e->el, &n);
    paste_mode(false);
    catch_signals(false);
    if (e->end == LINE_READ && (!text || n <= 0)) {
        putchar('\n');
        return LINE_CLOSED;
    }
    if (!text || n < 0) n = 0;
    if (n && text[n - 1] == '\n') n--;
    *line = strndup(n ? text : "", (size_t)n);
    return *line ? e->end : LINE_CLOSED;
}

/* ---------------------------------------------------------------- a text editor */

/* sh -c so that $EDITOR may have arguments. */
static bool run_editor(const char *path)
{
    static const char script[] = "exec ${VISUAL:-${EDITOR:-vi}} \"$1\"";
    int status = -1;
    interrupt_ignore(true);
    pid_t pid = fork();
    if (pid == 0) {
        interrupt_ignore(false);
        execl("/bin/sh", "sh", "-c", script, "sh", path, (char *)NULL);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    interrupt_ignore(false);
    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool write_all(int fd, const char *text)
{
    size_t n = strlen(text);
    while (n) {
        ssize_t k = write(fd, text, n);
        if (k < 0) return false;
        text += k;
        n -= (size_t)k;
    }
    return true;
}

char *edit_text(const char *text)
{
    char path[PATH_MAX];
    const char *dir = getenv("TMPDIR");
    char *edited = NULL;
    size_t len;
    snprintf(path, sizeof path, "%s/apus-XXXXXX", dir && *dir ? dir : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0) {
        fail(&cmd_chat, "%s cannot be created: %s", path, strerror(errno));
        return NULL;
    }
    bool written = write_all(fd, text);
    written = close(fd) == 0 && written;
    if (!written)
        fail(&cmd_chat, "writing %s failed: %s", path, strerror(errno));
    else if (!run_editor(path))
        fail(&cmd_chat, "the editor failed, nothing is sent; VISUAL or EDITOR name the one to use");
    else
        edited = read_input(&cmd_chat, path, &len);
    unlink(path);
    return edited;
}
