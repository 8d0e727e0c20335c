/* serve_list.h - the models that apus serve may be asked for. */
#ifndef APUS_CLI_SERVE_LIST_H
#define APUS_CLI_SERVE_LIST_H

#include "options.h"
#include "server.h"

typedef struct serve_list {
    sv_entry *item;
    int n, cap;
} serve_list;

/* A model; name NULL: the last part of its source, which is an alias then. Returns -1, or the exit status. */
int serve_list_add(const command *c, serve_list *l, const char *name, const char *source);

/* Those of --models: of a folder its *.gguf files and the folders in it that are models, by their names; of a file its
 * lines, MODEL or NAME = MODEL, without what follows #. Returns -1, or the exit status. */
int serve_list_read(const command *c, serve_list *l, const char *path);

/* Fetch what is missing, and learn what the server tells of each. One that cannot be opened is an error if it is among
 * the first `named`, else it is left out. Returns -1, or the exit status. */
int serve_list_inspect(const command *c, serve_list *l, int named);

#endif
