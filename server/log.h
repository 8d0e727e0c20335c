/* log.h - lines on stderr: for each request who asked what and how it went, never what was said; and what
 * happens to the server. As text or, one object a line, as JSON. */
#ifndef APUS_SERVER_LOG_H
#define APUS_SERVER_LOG_H

#include "exchange.h"

/* An exchange is through. Counts it, too. */
void sv_log_exchange(const sv_exchange *x);
/* Something happened: one sentence. level: "info", "warning" or "error". */
void sv_log(const sv_settings *s, const char *level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
