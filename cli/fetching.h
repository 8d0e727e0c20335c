/* fetching.h - models of the hub into the cache, for commands. */
#ifndef APUS_CLI_FETCHING_H
#define APUS_CLI_FETCHING_H

#include "hub.h"
#include "options.h"

/* Fetch what of a model is missing, with a bar on a terminal; dry: only tell. Ctrl-C leaves what has come for the
 * next time and ends the program. Returns -1, or the exit status. */
int fetch_model(const command *c, const hub_name *name, bool dry, hub_pulled *out);

/* Before a model of that name is opened: if it is org/repo and not whole in the cache, fetch it, unless
 * fetching is not wanted (hub_offline). Paths and other names are left to whoever opens them. Returns -1, or the
 * exit status. */
int fetch_if_missing(const command *c, const char *name);

/* What to say after a failure to open a model: "; 'apus pull NAME' fetches it", or "" if that would not help. */
const char *fetch_advice(const char *name);

#endif
