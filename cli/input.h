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

/* A result must not be what it is made from, which --force would destroy: compares `out` with n names of files
 * and folders, of which some may be NULL. Returns -1, or the exit status with an explanation on stderr. */
int keep_apart(const command *c, const char *out, const char *const *in, size_t n);

#endif
