/* sizes.h - types and sizes of weights, for people. */
#ifndef APUS_CLI_SIZES_H
#define APUS_CLI_SIZES_H

#include <stdint.h>

#include "options.h"

/* A type of weights in lower case. The mixtures of llama.cpp (Q4_K_M) become what they mostly consist of:
 * apus mixes types by its own recipe. Valid until the next call. */
const char *type_name(const char *given);

/* "18.21 GiB" into out; returns it. */
const char *human_bytes(uint64_t bytes, char out[32]);

/* Say how large a model is that was written: "DST: 18.21 GiB, 4.52 bits a weight". Returns the exit
 * status. */
int tell_written(const command *c, const char *path);

#endif
