#include "options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int usage_error(const command *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "apus %s: ", c->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nusage: apus %s %s\n'apus %s --help' explains it.\n", c->name, c->synopsis,
            c->name);
    return EXIT_USAGE;
}

static void print_option(const opt *o)
{
    char left[64];
    snprintf(left, sizeof left, "  %s%c%s--%s%s%s", o->letter ? "-" : " ",
             o->letter ? o->letter : ' ', o->letter ? ", " : "  ", o->name, o->arg ? " " : "",
             o->arg ? o->arg : "");
    printf("%-32s", left);
    /* Continuation lines are aligned with the first. */
    for (const char *p = o->help; *p; p++) {
        putchar(*p);
        if (*p == '\n') printf("%32s", "");
    }
    putchar('\n');
}

static void print_help(const command *c, const opt *const *tables)
{
    printf("usage: apus %s %s\n\n%s\n\noptions:\n", c->name, c->synopsis, c->summary);
    for (; *tables; tables++)
        for (const opt *o = *tables; o->name; o++) print_option(o);
    printf("  -h, --help                    this text\n");
    if (c->details) printf("\n%s\n", c->details);
}

static const opt *find(const opt *const *tables, const char *name, size_t len, char letter)
{
    for (; *tables; tables++)
        for (const opt *o = *tables; o->name; o++)
            if (letter ? o->letter == letter
                       : strlen(o->name) == len && !memcmp(o->name, name, len))
                return o;
    return NULL;
}

/* Set an option's target. Returns false if the value is not of its type and range. */
static bool store(const opt *o, const char *value)
{
    char *end = NULL;
    errno = 0;
    switch (o->type) {
    case OPT_FLAG:
        *(bool *)o->dst = true;
        break;
    case OPT_UNFLAG:
        *(bool *)o->dst = false;
        break;
    case OPT_STRING:
        *(const char **)o->dst = value;
        break;
    case OPT_INT: {
        long v = strtol(value, &end, 10);
        if (end == value || *end || errno || (double)v < o->min || (double)v > o->max) return false;
        *(int *)o->dst = (int)v;
        break;
    }
    case OPT_REAL: {
        double v = strtod(value, &end);
        if (end == value || *end || !isfinite(v) || v < o->min || v > o->max) return false;
        *(float *)o->dst = (float)v;
        break;
    }
    case OPT_SEED: {
        unsigned long long v = strtoull(value, &end, 0);
        if (end == value || *end || errno || strchr(value, '-')) return false;
        *(uint64_t *)o->dst = v;
        break;
    }
    }
    if (o->given) *o->given = true;
    return true;
}

static bool takes_value(const opt *o)
{
    return o->type != OPT_FLAG && o->type != OPT_UNFLAG;
}

static int bad_value(const command *c, const opt *o, const char *value)
{
    if (o->type == OPT_INT)
        return usage_error(c, "--%s: expected a whole number from %.0f to %.0f, found '%s'",
                           o->name, o->min, o->max, value);
    if (o->type == OPT_REAL)
        return usage_error(c, "--%s: expected a number from %g to %g, found '%s'", o->name, o->min,
                           o->max, value);
    return usage_error(c, "--%s: expected a whole number, found '%s'", o->name, value);
}

int options_parse(const command *c, const opt *const *tables, int argc, char **argv,
                  int max_positional, int *n_positional)
{
    int n = 0;
    bool only_positional = false;
    for (int i = 1; i < argc; i++) {
        char *a = argv[i];
        if (only_positional || a[0] != '-' || a[1] == 0) {
            if (n == max_positional) return usage_error(c, "unexpected argument '%s'", a);
            argv[1 + n++] = a;
            continue;
        }
        if (!strcmp(a, "--")) {
            only_positional = true;
            continue;
        }
        if (!strcmp(a, "-h") || !strcmp(a, "--help")) {
            print_help(c, tables);
            return 0;
        }
        const opt *o;
        const char *value = NULL;
        if (a[1] == '-') {
            const char *eq = strchr(a, '=');
            o = find(tables, a + 2, eq ? (size_t)(eq - a - 2) : strlen(a + 2), 0);
            if (eq) value = eq + 1;
        } else {
            o = find(tables, NULL, 0, a[1]);
            if (a[2]) value = a + 2;
        }
        if (!o) return usage_error(c, "unknown option '%s'", a);
        if (!takes_value(o)) {
            if (value) return usage_error(c, "--%s takes no value", o->name);
        } else if (!value) {
            if (i + 1 == argc)
                return usage_error(c, "--%s needs a value: --%s %s", o->name, o->name, o->arg);
            value = argv[++i];
        }
        if (!store(o, value)) return bad_value(c, o, value);
    }
    *n_positional = n;
    return -1;
}
