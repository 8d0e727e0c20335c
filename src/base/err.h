/* err.h - failing with a sentence. */
#ifndef AP_BASE_ERR_H
#define AP_BASE_ERR_H

#include <stdarg.h>

#include "apus/apus.h"

/* Fill diag (may be NULL) with code and the formatted sentence, and return code.
 * The sentence names the file, the tensor or field, what was expected and what was found; control
 * characters and invalid UTF-8 in it are replaced, so file contents can be quoted safely. */
apus_err ap_fail(apus_diag *diag, apus_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
apus_err ap_fail_va(apus_diag *diag, apus_err code, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));

/* A zero-terminated text made fit for a terminal: what is not printable or not UTF-8 becomes '?'. */
void ap_sanitize(char *text);

/* ENOMEM with the number of bytes wanted and for what. */
apus_err ap_fail_nomem(apus_diag *diag, size_t bytes, const char *what);

#endif
