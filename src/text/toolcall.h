/* toolcall.h - the arguments of tool calls, as models write them, to JSON. */
#ifndef AP_TEXT_TOOLCALL_H
#define AP_TEXT_TOOLCALL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"

/* Append a parsed value as JSON text, separators ", " and ": ", numbers as they were written. Of
 * equal keys the last one's value counts, as in Python and JavaScript. */
void ap_toolcall_put_json(ap_buf *out, const ap_json *j);

/* Append the text of a JSON object in that form. false: it is none, and out is as it was. */
bool ap_toolcall_put_object(ap_buf *out, const char *s, size_t n);

/* Append a parameter that was written as plain text, by its types (AP_TYPE_* of schema.h; 0: not
 * known, a string): "null" is null for any type; strings stay verbatim, also those that look like
 * numbers; integers, numbers, booleans (also True, False) are read and fall back to a string;
 * objects and arrays are read as JSON, else as a Python literal, else they are a string. Source:
 * the qwen3_coder parsers of MLX and vLLM. */
void ap_toolcall_put_typed(ap_buf *out, const char *s, size_t n, int types);

/* Append a Python literal (str, numbers, True, False, None, list, tuple, dict) as JSON. false: it
 * is none, and out is as it was. */
bool ap_toolcall_put_python(ap_buf *out, const char *s, size_t n);

/* Length of the JSON number at s, 0 if there is none. */
size_t ap_toolcall_number(const char *s, size_t n);

/* ---------------------------------------------------------------- toolcall_gemma.c */

/* How far the head of a Gemma call reaches that begins at s: "call:NAME{" as the model should write
 * it, also ":NAME{", "NAME{" and each of them with "(".
 *   name, name_len  out, into s: the name with what stands before it
 *   args            out: where the arguments begin, behind the bracket
 *   bare            out: no "call" and no colon led it in
 * 1: it is one; 0: it is none; -1: too early to tell (never where `final`: no more text comes). */
int ap_toolcall_gemma_head(const char *s, size_t n, bool final, const char **name, size_t *name_len,
                           size_t *args, bool *bare);

/* The name without its namespace ("tools:f", "functions.f", "tools/f"), where only that is the name
 * of a tool. */
void ap_toolcall_gemma_name(const ap_json *tools, const char **name, size_t *name_len);

/* Does the quote before s end its string? Only a separator, a bracket or a marker follows there.
 * 1, 0; -1: too early to tell. */
int ap_toolcall_quote_ends(const char *s, size_t n, bool final);

/* Read one call at *at (leading white space skipped): its arguments as Gemma writes them,
 * {key:value,...} with strings between <|"|>, and as models also write them: JSON, Python's quotes
 * and words, "=" for ":", parentheses for braces.
 *   tools           may be NULL; types values without quotes, names without namespace
 *   name, name_len  out, into s
 *   args            appended: the JSON object
 *   *at             behind the closing bracket
 * false: it is broken, args is as it was. */
bool ap_toolcall_gemma(const ap_json *tools, const char *s, size_t n, size_t *at, const char **name,
                       size_t *name_len, ap_buf *args);

#endif
