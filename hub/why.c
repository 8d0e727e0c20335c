#include "why.h"

#include <stdarg.h>
#include <stdio.h>

/* Names in sentences come from servers and folders: nothing in them may command a terminal. */
static void fill(apus_diag *why, apus_err code, const char *fmt, va_list ap)
{
    if (!why) return;
    why->code = code;
    vsnprintf(why->text, sizeof why->text, fmt, ap);
    for (char *p = why->text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f) *p = '?';
}

bool hub_fail(apus_diag *why, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(why, APUS_EFILE, fmt, ap);
    va_end(ap);
    return false;
}

bool hub_no_memory(apus_diag *why)
{
    hub_fail(why, "out of memory");
    if (why) why->code = APUS_ENOMEM;
    return false;
}

bool hub_stopped(apus_diag *why, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(why, APUS_ECANCELLED, fmt, ap);
    va_end(ap);
    return false;
}
