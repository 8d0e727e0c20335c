/* library.h - shared libraries that are loaded when they are needed. */
#ifndef AP_BASE_LIBRARY_H
#define AP_BASE_LIBRARY_H

typedef struct ap_library ap_library;

/* The library of that file name, such as "libsndfile.so.1", where the system looks for libraries; NULL: it is not there.
 * It stays in memory. Any thread, any number of times. */
ap_library *ap_library_load(const char *file);

/* The address of a function of it, put to a pointer to functions of its type: `to` points to that. Returns 0, or -1: it
 * has none of that name. */
int ap_library_function(ap_library *lib, const char *name, void *to);

#endif
