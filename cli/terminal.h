/* terminal.h - what may be written to a terminal, and what it is. */
#ifndef APUS_CLI_TERMINAL_H
#define APUS_CLI_TERMINAL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

/* Take the user's locale for characters; where that is not UTF-8 (or not installed), C.UTF-8. */
void use_utf8(void);

/* Bytes of a text up to the first that is not UTF-8; n if all is. */
size_t utf8_prefix(const char *text, size_t n);

/* Write text that models, files or users made. To a terminal control characters go as what they are
 * called (^[ for escape, <U+009B> for C1, ? for broken UTF-8), line feeds and tabs excepted, so that
 * no text can command it; elsewhere every byte goes as it is. */
void put_text(FILE *f, const char *text, size_t n);

/* The same for formatted text. */
void put_textf(FILE *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void put_textv(FILE *f, const char *fmt, va_list ap);

#endif
