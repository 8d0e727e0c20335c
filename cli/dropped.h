/* dropped.h - files that were dropped onto a terminal, which types their paths. */
#ifndef APUS_CLI_DROPPED_H
#define APUS_CLI_DROPPED_H

#include <stddef.h>

/* Does a text begin with the path of a picture, animation or sound that exists, as terminals write it: absolute, as
 * it is, with backslashes, in quotes, or as a file:// address? Returns how much of the text it takes with the
 * spaces behind it, and the path in *path (free it); 0: it does not. */
size_t dropped_path(const char *text, char **path);

#endif
