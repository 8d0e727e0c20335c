/* progress.h - colours, a bar, and how fast it went. */
#ifndef APUS_CLI_PROGRESS_H
#define APUS_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdio.h>

#include "apus/apus.h"

/* Progress bar on stderr; pass as apus_progress_fn. Draws only on a terminal. ctx unused. */
bool progress_bar(void *ctx, const char *stage, uint64_t done, uint64_t total);
/* The same, and false, which ends the work, once Ctrl-C has come (interrupt_note). */
bool progress_until_interrupt(void *ctx, const char *stage, uint64_t done, uint64_t total);
/* The same for bytes that come from elsewhere: "1.23 of 8.91 GB at 35.1 MB/s, 3 min 39 s [###....]  14 %". */
void progress_bytes(uint64_t done, uint64_t total);
void progress_clear(void);

/* Colours when f is a terminal and NO_COLOR is not set; else "". */
const char *dim(FILE *f);
const char *bold(FILE *f);
const char *plain(FILE *f);

/* "prompt 12 tokens at 345.6 tok/s, answer 34 tokens at 56.7 tok/s" */
void print_speed(FILE *f, const apus_generate_result *r);
/* "experts: 61.2 % of those chosen were in memory, 3.10 GB read, 812 ahead of their layer of which 93 % were used, 2.9 s
 * waited"; nothing if all are. */
void print_experts(FILE *f, const apus_model *m);

#endif
