#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/err.h"

void ap_log_say(const ap_log *log, apus_log_level level, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    if (!log->fn) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    ap_sanitize(line);
    log->fn(log->ctx, level, line);
}
