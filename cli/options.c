#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "habits.h"
#include "report.h"
#include "terminal.h"

enum { COLUMNS = 80, HELP_COLUMN = 30 };

int usage_error(const command *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "apus %s: ", c->name);
    va_start(ap, fmt);
    put_textv(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nusage: apus %s %s\n'apus %s --help' explains it.\n", c->name, c->synopsis,
            c->name);
    return EXIT_USAGE;
}

/* ---------------------------------------------------------------- help */

/* One line of text from `from` to its end; returns the end. */
static const char *wrap_line(FILE *f, const char *from, int *at, int indent)
{
    bool first = true;
    while (*from && *from != '\n') {
        int n = (int)strcspn(from, " \n");
        if (!first && *at + 1 + n > COLUMNS) {
            fprintf(f, "\n%*s", indent, "");
            *at = indent;
            first = true;
        }
        fprintf(f, "%s%.*s", first ? "" : " ", n, from);
        *at += n + !first;
        first = false;
        from += n;
        while (*from == ' ') from++;
    }
    return from;
}

void print_wrapped(FILE *f, const char *text, int at, int indent)
{
    while (*text) {
        if (*text == ' ') {
            size_t n = strcspn(text, "\n");
            fwrite(text, 1, n, f);
            text += n;
        } else {
            text = wrap_line(f, text, &at, indent);
        }
        if (*text != '\n') break;
        text++;
        putc('\n', f);
        if (*text && *text != '\n') fprintf(f, "%*s", indent, "");
        at = indent;
    }
    putc('\n', f);
}

static void print_option(const opt *o)
{
    int n = printf("  %s%c%s--%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
                   o->letter ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
    if (n + 2 > HELP_COLUMN) {
        putchar('\n');
        n = 0;
    }
    printf("%*s", HELP_COLUMN - n, "");
    print_wrapped(stdout, o->help, HELP_COLUMN, HELP_COLUMN);
}

static void print_help(const command *c)
{
    int at = printf("usage: apus %s ", c->name);
    print_wrapped(stdout, c->synopsis, at, at);
    printf("\n%s\n\noptions:\n", c->summary);
    for (const opt *const *t = c->tables; *t; t++)
        for (const opt *o = *t; o->name; o++)
            if (o->help) print_option(o);
    printf("  -h, --help                  this text\n");
    if (!c->details) return;
    putchar('\n');
    print_wrapped(stdout, c->details, 0, 0);
}

/* ---------------------------------------------------------------- finding an option */

static bool same_name(const char *name, const char *given, size_t len)
{
    if (strlen(name) != len) return false;
    for (size_t i = 0; i < len; i++)
        if (given[i] != name[i] && !(given[i] == '_' && name[i] == '-')) return false;
    return true;
}

/* The option of a word: "--name", or "-name" for those with a single dash. */
static const opt *find_word(const command *c, const char *word, size_t len)
{
    size_t skip = word[1] == '-' ? 2 : 0;
    for (const opt *const *t = c->tables; *t; t++)
        for (const opt *o = *t; o->name; o++)
            if ((o->name[0] == '-') == (skip == 0) && same_name(o->name, word + skip, len - skip))
                return o;
    return NULL;
}

static const opt *find_letter(const command *c, char letter)
{
    for (const opt *const *t = c->tables; *t; t++)
        for (const opt *o = *t; o->name; o++)
            if (o->letter == letter) return o;
    return NULL;
}

bool option_listed(const command *c, const char *name, size_t len)
{
    for (const opt *const *t = c->tables; *t; t++)
        for (const opt *o = *t; o->name; o++)
            if (o->help && same_name(o->name, name, len)) return true;
    return false;
}

/* Explain a word that is no option of the command. */
static int unknown(const command *c, const char *word, size_t len)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)len, word);
    const char *answer = habit_answer(c, name);
    if (answer) return usage_error(c, "%s: %s", name, answer);
    if (word[1] != '-' && option_listed(c, word + 1, len - 1))
        return usage_error(c, "unknown option '%s': two dashes, -%s", name, name);
    return usage_error(c, "unknown option '%s'", name);
}

/* ---------------------------------------------------------------- values */

static bool store_int(const opt *o, const char *value)
{
    char *end;
    errno = 0;
    long v = strtol(value, &end, 10);
    if (end == value || *end || errno || (double)v < o->min || (double)v > o->max) return false;
    *(int *)o->dst = (int)v;
    return true;
}

static bool store_real(const opt *o, const char *value)
{
    char *end;
    double v = strtod(value, &end);
    if (end == value || *end || !isfinite(v) || v < o->min || v > o->max) return false;
    *(float *)o->dst = (float)v;
    return true;
}

static bool store_seed(const opt *o, const char *value)
{
    char *end;
    uint64_t seed = 0;
    errno = 0;
    if (!strcmp(value, "-1")) {
        if (getrandom(&seed, sizeof seed, 0) != sizeof seed) return false;
        seed >>= 32; /* short enough to be typed again */
        fprintf(stderr, "seed %" PRIu64 "\n", seed);
    } else {
        seed = strtoull(value, &end, 0);
        if (end == value || *end || errno || strchr(value, '-')) return false;
    }
    *(uint64_t *)o->dst = seed;
    return true;
}

static bool store_item(string_list *list, const char *value)
{
    if (list->n == (int)(sizeof list->item / sizeof *list->item)) return false;
    list->item[list->n++] = value;
    return true;
}

/* Set an option's target. Returns false if the value is not of its type and range. */
static bool store(const opt *o, const char *value)
{
    bool ok = true;
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
    case OPT_INT:
        ok = store_int(o, value);
        break;
    case OPT_REAL:
        ok = store_real(o, value);
        break;
    case OPT_SEED:
        ok = store_seed(o, value);
        break;
    case OPT_LIST:
        ok = store_item(o->dst, value);
        break;
    }
    if (ok && o->given) *o->given = true;
    return ok;
}

static bool takes_value(const opt *o)
{
    return o->type != OPT_FLAG && o->type != OPT_UNFLAG;
}

static int bad_value(const command *c, const opt *o, const char *value)
{
    const char *dash = o->name[0] == '-' ? "" : "--";
    switch (o->type) {
    case OPT_INT:
        return usage_error(c, "%s%s: expected a whole number from %.0f to %.0f, found '%s'", dash,
                           o->name, o->min, o->max, value);
    case OPT_REAL:
        return usage_error(c, "%s%s: expected a number from %g to %g, found '%s'", dash, o->name,
                           o->min, o->max, value);
    case OPT_LIST:
        return usage_error(c, "%s%s: given more than %zu times", dash, o->name,
                           sizeof((string_list *)0)->item / sizeof(char *));
    default:
        return usage_error(c, "%s%s: expected a whole number, or -1 for a random one, found '%s'",
                           dash, o->name, value);
    }
}

/* ---------------------------------------------------------------- command lines */

/* The option of argument a, and its value if that is joined to it. NULL: there is none. */
static const opt *find_option(const command *c, const char *a, const char **value, size_t *len)
{
    const char *eq = strchr(a, '=');
    *len = eq ? (size_t)(eq - a) : strlen(a);
    *value = eq ? eq + 1 : NULL;
    const opt *o = find_word(c, a, *len);
    if (o || a[1] == '-') return o;
    if (*len > 2 && (habit_answer(c, a) || option_listed(c, a + 1, *len - 1))) return NULL;
    *value = a[2] ? a + 2 : NULL;
    return find_letter(c, a[1]);
}

/* One option at argv[*i]; *i moves on to its value. */
static int parse_option(const command *c, int argc, char **argv, int *i)
{
    const char *value;
    size_t len;
    const opt *o = find_option(c, argv[*i], &value, &len);
    if (!o) return unknown(c, argv[*i], len);
    const char *dash = o->name[0] == '-' ? "" : "--";
    if (!takes_value(o)) {
        if (value) return usage_error(c, "%s%s takes no value", dash, o->name);
    } else if (!value) {
        if (*i + 1 == argc)
            return usage_error(c, "%s%s needs a value: %s%s %s", dash, o->name, dash, o->name,
                               o->arg ? o->arg : "VALUE");
        value = argv[++*i];
    }
    return store(o, value) ? -1 : bad_value(c, o, value);
}

int options_parse(const command *c, int argc, char **argv, int max_positional, int *n_positional)
{
    int n = 0;
    bool only_positional = false;
    for (int i = 1; i < argc; i++) {
        char *a = argv[i];
        if (only_positional || a[0] != '-' || a[1] == 0) {
            if (n == max_positional)
                return usage_error(c, "unexpected argument '%s'%s", a,
                                   n ? "; a text of several words needs quotes" : "");
            argv[1 + n++] = a;
        } else if (!strcmp(a, "--")) {
            only_positional = true;
        } else if (!strcmp(a, "-h") || !strcmp(a, "--help")) {
            print_help(c);
            return finish_output(c, 0);
        } else {
            int rc = parse_option(c, argc, argv, &i);
            if (rc >= 0) return rc;
        }
    }
    *n_positional = n;
    return -1;
}
