/* report.h - what a command says of failures. */
#ifndef APUS_CLI_REPORT_H
#define APUS_CLI_REPORT_H

#include "apus/apus.h"
#include "options.h"

/* Print "apus CMD: sentence" of a failed call; returns the exit status. */
int report(const command *c, const apus_diag *d);

/* Print "apus CMD: ..." of a failure; returns EXIT_FAILED. */
int fail(const command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Flush stdout; a failed write turns status 0 into EXIT_FAILED with an explanation. */
int finish_output(const command *c, int status);

#endif
