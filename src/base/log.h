/* log.h - telling the caller's log what happened. */
#ifndef AP_BASE_LOG_H
#define AP_BASE_LOG_H

#include "apus/apus.h"

typedef struct ap_log {
    apus_log_fn fn; /* NULL: nobody listens */
    void *ctx;
} ap_log;

/* One line; what is not printable in it becomes '?'. */
void ap_log_say(const ap_log *log, apus_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
