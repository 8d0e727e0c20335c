/* json_out.h - writing JSON with libyajl's generator. */
#ifndef APUS_CLI_JSON_OUT_H
#define APUS_CLI_JSON_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct json_out json_out;

json_out *json_new(bool pretty); /* exits the program when memory is out */
void json_free(json_out *j);
/* key NULL inside arrays and at the top */
void json_map(json_out *j, const char *key);
void json_array(json_out *j, const char *key);
void json_end_map(json_out *j);
void json_end_array(json_out *j);
void json_string(json_out *j, const char *key, const char *s, size_t n);
void json_text(json_out *j, const char *key, const char *s); /* NULL s = null */
void json_int(json_out *j, const char *key, int64_t v);
void json_real(json_out *j, const char *key, double v);
void json_bool(json_out *j, const char *key, bool v);
/* Print the text so far and a line feed on stdout; control characters are escaped. */
void json_print(json_out *j);
/* The text so far, owned by j. */
const char *json_str(json_out *j, size_t *len);
/* A copy of it, to be freed; ends the program when memory is out. */
char *json_copy(json_out *j);

#endif
