/* json_number.h - numbers of JSON within bounds, exactly: as digits, never as floating point. */
#ifndef AP_TEXT_GRAMMAR_JSON_NUMBER_H
#define AP_TEXT_GRAMMAR_JSON_NUMBER_H

#include <stddef.h>

#include "text/grammar/grammar.h"

enum { AP_DECIMAL_DIGITS = 64 };

/* A decimal number. */
typedef struct ap_decimal {
    bool negative;
    int n_whole, n_fraction;
    char whole[AP_DECIMAL_DIGITS];    /* '0' to '9'; no zero at the front but for "0" */
    char fraction[AP_DECIMAL_DIGITS]; /* no zero at the end */
} ap_decimal;

/* Read a number as JSON writes it. false: it has too many digits. */
bool ap_decimal_read(const char *s, size_t n, ap_decimal *out);
/* < 0, 0, > 0 as a is less than, equal to, or more than b. */
int ap_decimal_compare(const ap_decimal *a, const ap_decimal *b);
bool ap_decimal_whole(const ap_decimal *a);

typedef struct ap_number_range {
    bool integer;
    bool has_lo, has_hi, lo_open, hi_open; /* open: the bound itself is outside */
    ap_decimal lo, hi;
    int64_t multiple; /* of multiple / 10^scale; 0 = of anything */
    int scale;
} ap_number_range;

/* The largest `multiple`. */
#define AP_NUMBER_MULTIPLE 10000

/* Put the numbers of a range into a grammar, as JSON writes them: whole numbers of up to 20 digits (or as many as the
 * bounds have), fractions of up to 20; exponents, of one or two digits, only where there are no bounds. */
void ap_number_put(const ap_number_range *r, ap_grammar *g, int32_t from, int32_t to);
bool ap_number_fits(const ap_number_range *r, const char *s, size_t n);

#endif
