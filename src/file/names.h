/* names.h - a set of names, each with a value: duplicates found, look-up in constant time.
 *
 * Names come from files, so crafted hash collisions must not cost a quadratic search: the entries
 * are sorted by (hash, length, bytes), a table over the top hash bits gives the place to start, and
 * a binary search finishes. */
#ifndef AP_FILE_NAMES_H
#define AP_FILE_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ap_name {
    uint64_t hash;
    const char *s; /* borrowed */
    size_t len;
    uintptr_t value; /* the caller's number or pointer */
} ap_name;

typedef struct ap_names { /* {0} is the empty set */
    ap_name *item;
    size_t n, cap;
    uint32_t *start; /* [2^bits + 1] first item of a bucket; NULL before ap_names_sort */
    int bits;
} ap_names;

bool ap_names_add(ap_names *t, const char *s, size_t len, uintptr_t value); /* false: no memory */

/* After the last add. Returns a name that appears twice, or NULL. */
const char *ap_names_sort(ap_names *t);

/* The item of that name, or NULL. Only after ap_names_index. */
bool ap_names_index(ap_names *t); /* after ap_names_sort; false: out of memory */
const ap_name *ap_names_find(const ap_names *t, const char *s, size_t len);

void ap_names_free(ap_names *t);

#endif
