/* models.h - opening models and settling what an engine of them is to be. */
#ifndef APUS_CLI_MODELS_H
#define APUS_CLI_MODELS_H

#include "apus/apus.h"
#include "options.h"

/* The model's name: that of --model, else the first of the *n positional arguments, which is taken
 * off argv and *n; NULL: none was given. At most max_rest others may be left. Returns -1, or the exit
 * status. */
int take_model(const command *c, char **argv, int *n, int max_rest, const char **name);

/* Open a model at `load`; name NULL = the built-in tiny model, which is announced on stderr.
 * A progress bar is shown on a terminal. With APUS_LOAD_ALL an engine of the common options must fit
 * beside it, or nothing is loaded. Returns -1, or the exit status. */
int open_model(const command *c, const char *name, apus_load load, apus_model **out);
/* The same with APUS_LOAD_ALL, for an engine of engine_settings with that need_ctx. */
int open_for_engine(const command *c, const char *name, int need_ctx, apus_model **out);

/* Why one of these failed last, where it was the library that did. */
apus_err open_error(void);

/* Engine settings from the common options; checks --cpumask. need_ctx: tokens that must fit when
 * --ctx is not given (0 = the default). Returns -1, or the exit status. */
int engine_settings(const command *c, const apus_model *m, int need_ctx, apus_engine_settings *out);

/* APUS_TOWER_* that the model has and its files hold; nothing is said if it cannot be opened. */
unsigned loadable_towers(const char *name);

/* ", -c N makes it larger, up to 32768", or what to say when it is as large as it can be. Valid until
 * the next call. */
const char *larger_context(int ctx, int most);

/* Let an engine compute as many tokens at once as a picture may have, unless --prefill-chunk says what: some
 * models see a picture as a whole. */
void make_room_for_pictures(const apus_model *m, apus_engine_settings *es);

/* Tokens of a prompt that an engine of those settings computes at once. */
int chunk_of(const apus_model *m, const apus_engine_settings *es);

#endif
