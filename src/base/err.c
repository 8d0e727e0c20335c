#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Quoted file contents must not reach a terminal as control codes or broken UTF-8. */
void ap_sanitize(char *text)
{
    size_t n = strlen(text);
    size_t tail = ap_utf8_incomplete_tail(text, n); /* cut by the buffer's end */
    n -= tail;
    text[n] = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = ap_utf8_decode(text + i, n - i, &cp);
        bool bad =
            cp < 0x20 || cp == 0x7F || (cp >= 0x80 && cp < 0xA0) || (cp == 0xFFFD && len < 3);
        if (bad) memset(text + i, '?', len);
        i += len;
    }
}

apus_err ap_fail_va(apus_diag *diag, apus_err code, const char *fmt, va_list ap)
{
    if (diag) {
        diag->code = code;
        vsnprintf(diag->text, sizeof diag->text, fmt, ap);
        ap_sanitize(diag->text);
    }
    return code;
}

apus_err ap_fail(apus_diag *diag, apus_err code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    ap_fail_va(diag, code, fmt, ap);
    va_end(ap);
    return code;
}

apus_err ap_fail_nomem(apus_diag *diag, size_t bytes, const char *what)
{
    return ap_fail(diag, APUS_ENOMEM, "out of memory: %zu bytes for %s could not be had", bytes,
                   what);
}

const char *apus_err_name(apus_err code)
{
    switch (code) {
    case APUS_OK:
        return "ok";
    case APUS_EINVAL:
        return "invalid argument";
    case APUS_EFILE:
        return "file error";
    case APUS_EFORMAT:
        return "format error";
    case APUS_EUNSUPPORTED:
        return "unsupported";
    case APUS_ENOMEM:
        return "out of memory";
    case APUS_EFULL:
        return "no room";
    case APUS_ECANCELLED:
        return "cancelled";
    case APUS_EINTERNAL:
        return "internal error";
    case APUS_EDEVICE:
        return "device error";
    case APUS_ENONFINITE:
        return "not finite";
    case APUS_EBUSY:
        return "busy";
    }
    return "unknown error";
}
