/* buf.h - a string of bytes that grows. */
#ifndef APUS_SERVER_BUF_H
#define APUS_SERVER_BUF_H

#include <stdbool.h>
#include <stddef.h>

/* All zero is an empty one. When memory was out, `failed` is set and stays, and what came since is lost:
 * who hands the bytes on looks at it once. */
typedef struct sv_buf {
    char *data; /* zero-terminated when not NULL */
    size_t len, cap;
    bool failed;
} sv_buf;

void sv_buf_add(sv_buf *b, const char *s, size_t n);
void sv_buf_adds(sv_buf *b, const char *s);
void sv_buf_addf(sv_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Take n bytes away at the front. */
void sv_buf_drop(sv_buf *b, size_t n);
/* The bytes, never NULL. */
const char *sv_buf_text(const sv_buf *b);
void sv_buf_free(sv_buf *b);

#endif
