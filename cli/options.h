/* options.h - table-driven command lines: parsing, and help made from the same table. */
#ifndef APUS_CLI_OPTIONS_H
#define APUS_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef enum opt_type {
    OPT_FLAG,   /* bool *: set true */
    OPT_UNFLAG, /* bool *: set false */
    OPT_STRING, /* const char ** */
    OPT_INT,    /* int * in [min, max] */
    OPT_REAL,   /* float * in [min, max] */
    OPT_SEED,   /* uint64_t *; -1 = a random one, which is told on stderr */
    OPT_LIST    /* string_list *: one more string */
} opt_type;

/* The values of an option that may be given several times. */
typedef struct string_list {
    const char *item[16];
    int n;
} string_list;

/* A spelling of other programs is an entry with help NULL: understood, and not listed in help. */
typedef struct opt {
    const char *name; /* without dashes, "-x" for a word with a single one; NULL ends a table */
    char letter;      /* 0 = none */
    opt_type type;
    void *dst;
    bool *given; /* set true when met; may be NULL */
    double min, max;
    const char *arg;  /* what help calls the value */
    const char *help; /* wrapped to the terminal's 80 columns when it is printed */
} opt;

typedef struct command {
    const char *name;
    const char *synopsis;     /* after "apus NAME " */
    const char *summary;      /* one line */
    const char *details;      /* paragraphs after the options; lines that begin with a space are not
                           * wrapped; may be NULL */
    const opt *const *tables; /* what the command understands; NULL-terminated */
    int (*run)(int argc, char **argv);
} command;

/* Parse argv[1..]; positional arguments are moved to the front of argv[1..] and counted.
 * Returns -1 to go on, else the exit status (0 after --help, EXIT_USAGE after a mistake, which was
 * explained on stderr). */
int options_parse(const command *c, int argc, char **argv, int max_positional, int *n_positional);

/* Does a command list that option in its help? name: without dashes. */
bool option_listed(const command *c, const char *name, size_t len);

/* Print paragraphs so that no line has more than 80 columns. The first line begins at column `at`,
 * those after it at column `indent`; lines that begin with a space stay as they are. */
void print_wrapped(FILE *f, const char *text, int at, int indent);

/* Explain a usage mistake; returns EXIT_USAGE. */
int usage_error(const command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
