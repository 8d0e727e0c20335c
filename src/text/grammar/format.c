/* format.c - the formats of JSON schemas as patterns. */
#include <string.h>

#include "text/grammar/pattern.h"

#define DAY28 "(0[1-9]|1\\d|2[0-8])"
#define LEAP  "(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
#define DATE                                                                                       \
    "(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-" DAY28   \
    ")|" LEAP "-02-29)"
#define OFFSET "(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define TIME   "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?" OFFSET
#define LABEL  "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define BYTE   "(\\d|[1-9]\\d|1\\d\\d|2[0-4]\\d|25[0-5])"
#define IPV4   BYTE "(\\." BYTE "){3}"
#define H16    "[0-9A-Fa-f]{1,4}"
#define IPV6                                                                                       \
    "((" H16 ":){7}" H16 "|::|(" H16 ":){1,7}:|(" H16 ":){1,6}:" H16 "|(" H16 ":){1,5}(:" H16      \
    "){1,2}|(" H16 ":){1,4}(:" H16 "){1,3}|(" H16 ":){1,3}(:" H16 "){1,4}|(" H16 ":){1,2}(:" H16   \
    "){1,5}|" H16 ":(:" H16 "){1,6}|:(:" H16 "){1,7})"
#define URI_CHAR "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define URI_TAIL "(" URI_CHAR "|/)*(\\?(" URI_CHAR "|[/?])*)?(#(" URI_CHAR "|[/?])*)?"

static const struct {
    const char *name, *pattern;
} formats[] = {
    {"date", "^" DATE "$"},
    {"time", "^" TIME "$"},
    {"date-time", "^" DATE "T" TIME "$"},
    {"duration", "^P(\\d{1,9}W|(\\d{1,9}Y(\\d{1,9}M(\\d{1,9}D)?)?|\\d{1,9}M(\\d{1,9}D)?|\\d{1,9}D)("
                 "T(\\d{1,9}H(\\d{"
                 "1,9}M(\\d{1,9}S)?)?|\\d{1,9}M(\\d{1,9}S)?|\\d{1,9}S))?|T(\\d{1,9}H(\\d{1,9}M(\\d{"
                 "1,9}S)?)?|\\d{1,9}"
                 "M(\\d{1,9}S)?|\\d{1,9}S))$"},
    {"email",
     "^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,24}(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,12}){0,3}@(" LABEL
     "\\.){1,3}[A-Za-z]{2,24}$"},
    {"hostname", "^" LABEL "(\\." LABEL "){0,3}$"},
    {"ipv4", "^" IPV4 "$"},
    {"ipv6", "^" IPV6 "$"},
    {"uuid", "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"},
    {"uri", "^[A-Za-z][A-Za-z0-9+.-]{0,31}:" URI_TAIL "$"},
    {"uri-reference", "^([A-Za-z][A-Za-z0-9+.-]{0,31}:" URI_TAIL "|/" URI_TAIL "|)$"},
    {"json-pointer", "^(/([^/~]|~[01])*)*$"},
    /* how a string is shown or used, of which nothing follows for its characters */
    {"password", ""},
    {"binary", ""},
    {"path", ""},
    {"file-path", ""},
    {"directory-path", ""},
};

const char ap_format_names[] =
    "date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, "
    "uri, uri-reference, json-pointer, password, binary, path, file-path, directory-path";

const char *ap_format_pattern(const char *format)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(format, formats[i].name)) return formats[i].pattern;
    return NULL;
}
