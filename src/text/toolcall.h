/* toolcall.h - the arguments of tool calls, as models write them, to JSON. */
#ifndef AP_TEXT_TOOLCALL_H
#define AP_TEXT_TOOLCALL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"

/* Append a parsed value as JSON text, separators ", " and ": ", numbers as they were written. */
void ap_toolcall_put_json(ap_buf *out, const ap_json *j);

/* The schema of parameter `key` of function `name` in a list of tools (OpenAI's shape or bare
 * functions); NULL: not described. */
const ap_json *ap_toolcall_schema(const ap_json *tools, const char *name, size_t name_len,
                                  const char *key, size_t key_len);

/* Append a parameter that was written as plain text, typed by its schema (may be NULL): "null" is
 * null for any type; strings stay verbatim; integers, numbers, booleans (also True, False) are read
 * and fall back to a string; objects and arrays are read as JSON, else as a Python literal, else
 * they are a string. Source: the qwen3_coder parsers of MLX and vLLM. */
void ap_toolcall_put_typed(ap_buf *out, const char *s, size_t n, const ap_json *schema);

/* Append a Python literal (str, numbers, True, False, None, list, tuple, dict) as JSON. false: it
 * is none, and out is as it was. */
bool ap_toolcall_put_python(ap_buf *out, const char *s, size_t n);

/* Read "call:NAME{key:value,...}" as Gemma writes it at *at (leading white space skipped).
 *   name, name_len  out, into s
 *   args            appended: the JSON object
 *   *at             behind the closing brace
 * false: it is broken, args is as it was. */
bool ap_toolcall_gemma(const char *s, size_t n, size_t *at, const char **name, size_t *name_len,
                       ap_buf *args);

#endif
