/* gguf_find.h - the GGUF file that is meant in a folder that holds several. */
#ifndef AP_FILE_GGUF_FIND_H
#define AP_FILE_GGUF_FIND_H

#include <stddef.h>

#include "base/err.h"

/* Find the file in dir or one level below it.
 *   which  NULL: the only one; a type such as "Q4_K_M" that its name or its folder's ends in; or the name
 *          of a file
 *   name   what the caller called the model, for sentences
 *   path   apus_free it; NULL, and OK, if which is NULL and there is no GGUF file
 * Projectors (mmproj) and importance matrices do not count, nor the later parts of a split model. EFILE:
 * none or several fit; the sentence lists what is there. */
apus_err ap_gguf_find_in(const char *dir, const char *which, const char *name, char **path,
                         apus_diag *diag);

#endif
