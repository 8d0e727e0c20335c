/* line_editor.h - lines typed at a terminal: edited with libedit, pasted whole, kept in a history.
 * Where standard input is no terminal, lines are read as they are. */
#ifndef APUS_CLI_LINE_EDITOR_H
#define APUS_CLI_LINE_EDITOR_H

typedef struct line_editor line_editor;

typedef enum line_end {
    LINE_READ,        /* Enter */
    LINE_INTERRUPTED, /* Ctrl-C */
    LINE_EDIT,        /* Ctrl-X Ctrl-E: go on in a text editor */
    LINE_CLOSED       /* Ctrl-D on an empty line, or the end of input */
} line_end;

/* NULL: no memory. From now on Ctrl-C without a running answer ends a line instead of the program. */
line_editor *line_editor_open(void);
void line_editor_close(line_editor *e);

/* Read a line; *line (free it) is what was typed, without its end, NULL with LINE_CLOSED. A text
 * pasted into a terminal that tells pastes from typing is part of the line with its line feeds. */
line_end line_editor_read(line_editor *e, const char *prompt, char **line);

/* Put a message in the history, and in its file at once: it outlives the program's end, of any kind. */
void line_editor_remember(line_editor *e, const char *text);

/* Let $VISUAL, else $EDITOR, else vi change a text; free() the result. NULL: it failed, with an
 * explanation on stderr. */
char *edit_text(const char *text);

#endif
