/* options.h - table-driven command lines: parsing, and help made from the same table. */
#ifndef APUS_CLI_OPTIONS_H
#define APUS_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

typedef enum opt_type {
    OPT_FLAG,   /* bool *: set true */
    OPT_UNFLAG, /* bool *: set false */
    OPT_STRING, /* const char ** */
    OPT_INT,    /* int * in [min, max] */
    OPT_REAL,   /* float * in [min, max] */
    OPT_SEED    /* uint64_t * */
} opt_type;

typedef struct opt {
    const char *name; /* without dashes; NULL ends a table */
    char letter;      /* 0 = none */
    opt_type type;
    void *dst;
    bool *given; /* set true when met; may be NULL */
    double min, max;
    const char *arg; /* what help calls the value */
    const char *help;
} opt;

typedef struct command {
    const char *name;
    const char *synopsis; /* after "apus NAME " */
    const char *summary;  /* one line */
    const char *details;  /* paragraphs after the options; may be NULL */
    int (*run)(int argc, char **argv);
} command;

/* Parse argv[1..]; positional arguments are moved to the front of argv[1..] and counted.
 * Returns -1 to go on, else the exit status (0 after --help, EXIT_USAGE after a mistake, which was
 * explained on stderr). tables: NULL-terminated list of option tables. */
int options_parse(const command *c, const opt *const *tables, int argc, char **argv,
                  int max_positional, int *n_positional);

/* Explain a usage mistake; returns EXIT_USAGE. */
int usage_error(const command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
