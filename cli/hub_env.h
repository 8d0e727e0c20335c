/* hub_env.h - where models come from and are kept, as the environment says. */
#ifndef APUS_CLI_HUB_ENV_H
#define APUS_CLI_HUB_ENV_H

#include <stdbool.h>

#include "options.h"

/* $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; NULL = nowhere. */
const char *hub_cache(void);

/* $HF_ENDPOINT without slashes at its end, else https://huggingface.co. */
const char *hub_endpoint(void);

/* $HF_TOKEN, else what is in $HF_TOKEN_PATH, else in the file token beside the cache; NULL: none, or none is to be
 * sent ($HF_HUB_DISABLE_IMPLICIT_TOKEN). Returns -1, or the exit status when it is no token. */
int hub_token(const command *c, const char **token);

/* $HF_HUB_DOWNLOAD_TIMEOUT: seconds. */
int hub_timeout(void);

/* --offline, $HF_HUB_OFFLINE or $TRANSFORMERS_OFFLINE: the word to say it with, NULL: not asked for. */
const char *hub_offline(void);

#endif
