#include "base/notes.h"

#include <stdarg.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

void ap_note(ap_notes *n, const char *fmt, ...)
{
    apus_diag d;
    if (!n || n->n == AP_MAX_NOTES) return;
    va_list ap;
    va_start(ap, fmt);
    ap_fail_va(&d, APUS_OK, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < n->n; i++)
        if (!strcmp(n->text[i], d.text)) return;
    n->text[n->n] = ap_strdup(d.text);
    if (n->text[n->n]) n->n++;
}

void ap_notes_free(ap_notes *n)
{
    for (size_t i = 0; i < n->n; i++) ap_free(n->text[i]);
    memset(n, 0, sizeof *n);
}
