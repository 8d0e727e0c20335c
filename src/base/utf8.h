/* utf8.h - decoding and encoding of UTF-8, strict as RFC 3629 (no surrogates, no overlong forms). */
#ifndef AP_BASE_UTF8_H
#define AP_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decode one character at s (n >= 1 bytes left). Returns its length 1..4 and sets *cp; for an
 * invalid sequence sets *cp = 0xFFFD and returns the length of its maximal valid prefix (>= 1), as
 * Unicode's "substitution of maximal subparts" and Python's errors="replace" do. */
size_t ap_utf8_decode(const char *s, size_t n, uint32_t *cp);

/* Encode cp (a scalar value) into out[4]; returns the length. */
size_t ap_utf8_encode(uint32_t cp, char out[4]);

bool ap_utf8_valid(const char *s, size_t n);

/* Bytes at the end of s that begin a character that could still be completed (0..3). */
size_t ap_utf8_incomplete_tail(const char *s, size_t n);

#endif
