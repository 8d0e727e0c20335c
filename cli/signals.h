/* signals.h - what signals that end the program leave behind: nothing. */
#ifndef APUS_CLI_SIGNALS_H
#define APUS_CLI_SIGNALS_H

/* Begin to catch them. A file that grows over its limit (SIGXFSZ) becomes a failed write, which is
 * told; every other one removes unfinished files and then ends the program as it always does. */
void signals_begin(void);

/* The same again for a signal that something else was caught with. */
void signals_restore(int sig);

#endif
