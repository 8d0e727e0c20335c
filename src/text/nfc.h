/* nfc.h - Unicode normalisation form C as the reference library computes it.
 *
 * utf8proc supplies decompositions, classes and compositions; characters newer than the library's
 * table (Unicode 9) stay as they are (text/unicode_fix.h). */
#ifndef AP_TEXT_NFC_H
#define AP_TEXT_NFC_H

#include "base/err.h"
#include "base/json.h"

/* Normalise valid UTF-8.
 *   changed  false: the text is in form C already and out is untouched; true: out holds the result
 * Linear in n. Returns OK; ENOMEM. */
apus_err ap_nfc(const char *s, size_t n, ap_buf *out, bool *changed, apus_diag *diag);

#endif
