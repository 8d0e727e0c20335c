/* input.h - what commands read. */
#ifndef APUS_CLI_INPUT_H
#define APUS_CLI_INPUT_H

#include <stddef.h>
#include <stdint.h>

#include "options.h"

/* A whole file ("-" = stdin); free() it; NULL with an explanation on stderr. */
char *read_input(const command *c, const char *path, size_t *len);

/* Whitespace-separated integers of a file; free() them; NULL with an explanation on stderr. */
int32_t *read_ints(const command *c, const char *path, size_t *n);

/* The same from text; name is used in the explanation. */
int32_t *parse_ints(const command *c, const char *name, const char *text, size_t len, size_t *n);

#endif
