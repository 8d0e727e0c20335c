/* name.h - org/repo[@rev][:WHICH] in pieces. */
#ifndef APUS_HUB_NAME_H
#define APUS_HUB_NAME_H

#include <stdbool.h>

typedef struct hub_name {
    char repo[200]; /* "org/repo" */
    char rev[201];  /* a branch, a tag or a commit; "main" if none was given */
    char which
        [300]; /* of GGUF files: a type such as Q4_K_M, or FILE.gguf below the repository; "" = none given */
    bool rev_given;
    bool exact; /* which is the path of a file, as in org/repo/FILE.gguf */
} hub_name;

/* org/repo, with @rev and :WHICH behind it in any order, or org/repo/FILE.gguf[@rev]. Every part is what the
 * hub allows and nothing that a path could abuse ("..", leading dots). False: it is no such name. */
bool hub_name_parse(const char *text, hub_name *out);

/* A name of a file below a folder, as a server tells it: parts with single slashes between them, none of
 * which is "." or "..", no backslash, no control character, no part longer than a file system takes. */
bool hub_path_is_safe(const char *path);

/* 40 hexadecimal digits in lower case. */
bool hub_is_commit(const char *s);

#endif
