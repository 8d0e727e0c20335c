/* constrain.h - what a client says an answer must be: a JSON schema, any JSON object, a grammar. */
#ifndef APUS_SERVER_CONSTRAIN_H
#define APUS_SERVER_CONSTRAIN_H

#include "job.h"

/* An answer of that schema, grammar (GBNF), or of any JSON object. One of them at most: a second is an error at its path. */
bool sv_constrain_schema(sv_exchange *x, sv_job *j, const sv_json *schema, const char *path);
bool sv_constrain_grammar(sv_exchange *x, sv_job *j, const char *grammar, const char *path);
bool sv_constrain_object(sv_exchange *x, sv_job *j, const char *path);

/* Compile it, so that what is wrong with it is told with its path. Called when the job is complete. */
bool sv_constrain_check(sv_exchange *x, const sv_job *j);
/* false: the answer may be anything. What out points to is the job's. */
bool sv_constrain_settings(const sv_job *j, apus_constraint *out);

#endif
