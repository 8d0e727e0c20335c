/* json_schema.h - JSON Schema to a grammar of the documents that a schema allows.
 *
 * Every document of the grammar is valid, and well-formed UTF-8. Not every valid document is of it: properties come in
 * the order of the schema (what additionalProperties lets in, behind them), white space is what compact and indented
 * writers put, and where a schema leaves open what it means, the narrower reading counts: without "type" the types
 * that its other keywords speak of, without "additionalProperties" none but "properties".
 *
 * docs/server.md lists the keywords; one that is not there is an error that names it and its place. */
#ifndef AP_TEXT_GRAMMAR_JSON_SCHEMA_H
#define AP_TEXT_GRAMMAR_JSON_SCHEMA_H

#include "base/json.h"
#include "text/grammar/grammar.h"

/* Compile a schema and make the grammar ready.
 *   g  zeroed; ap_grammar_free it, also after an error
 * Returns OK; EFORMAT: no JSON, or a keyword's value is wrong; EUNSUPPORTED: a keyword, or too large; EINVAL: no
 * document can be valid; ENOMEM. */
apus_err ap_json_schema_parse(const char *text, size_t len, ap_grammar *g, apus_diag *diag);

/* The grammar of all JSON objects. */
apus_err ap_json_object_grammar(ap_grammar *g, apus_diag *diag);

/* For grammars that hold documents among other things. */
typedef struct ap_schemas ap_schemas;

/* Begin to add schemas to a grammar that is being built. NULL: memory is out.
 *   quote  -1: documents are JSON; else they are written as Gemma writes arguments, with this token around strings */
ap_schemas *ap_schemas_open(ap_grammar *g, int32_t quote, apus_diag *diag);
void ap_schemas_free(ap_schemas *c);
/* A rule of the documents of a schema; root: what "#" is, and what paths in errors begin with: `where`, which is
 * borrowed. */
apus_err ap_schemas_rule(ap_schemas *c, const ap_json *root, const ap_json *schema,
                         const char *where, int32_t *rule);
/* A rule of the objects of a schema, written as parameters between tags, as Qwen writes arguments: strings as they
 * are, all else as JSON. */
apus_err ap_schemas_parameters(ap_schemas *c, const ap_json *schema, const char *where,
                               int32_t *rule);
/* A rule of all JSON objects. */
int32_t ap_schemas_object(ap_schemas *c);
/* Complete the rules that others asked for. */
apus_err ap_schemas_complete(ap_schemas *c);

#endif
