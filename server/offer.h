/* offer.h - the tools that a model is offered, and which of them it may or must call. */
#ifndef APUS_SERVER_OFFER_H
#define APUS_SERVER_OFFER_H

#include "job.h"

/* Add a function. parameters: its JSON schema, NULL = none. */
bool sv_offer_add(sv_exchange *x, sv_job *j, const char *path, const char *name,
                  const char *description, const sv_json *parameters, bool strict);

typedef enum sv_must { SV_AUTO, SV_NONE, SV_ANY, SV_NAMED } sv_must;

/* All tools are there: close the list and let the choice hold. path: of the choice, in errors. */
bool sv_offer_finish(sv_exchange *x, sv_job *j, sv_must must, const char *name, const char *path);

#endif
