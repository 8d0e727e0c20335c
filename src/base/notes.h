/* notes.h - what a reader wants told although it is no error: kept in order until somebody shows it. */
#ifndef AP_BASE_NOTES_H
#define AP_BASE_NOTES_H

#include <stddef.h>

enum { AP_MAX_NOTES = 32 };

typedef struct ap_notes { /* {0} = none */
    char *text[AP_MAX_NOTES];
    size_t n;
} ap_notes;

/* Add a sentence; control characters and invalid UTF-8 are replaced as in ap_fail. n may be NULL. A
 * note is help, not a result: what repeats one that is there, or finds no room or memory, is left out. */
void ap_note(ap_notes *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void ap_notes_free(ap_notes *n);

#endif
