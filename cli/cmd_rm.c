/* cmd_rm.c - apus rm: models out of the cache. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "hub.h"
#include "hub_env.h"
#include "report.h"
#include "sizes.h"
#include "terminal.h"

static struct {
    bool yes;
} o;

static const opt rm_table[] = {{"yes", 'y', OPT_FLAG, &o.yes, NULL, 0, 0, NULL, "do not ask"}, {0}};

static const opt *const tables[] = {rm_table, NULL};

static int run(int argc, char **argv);

const command cmd_rm = {
    "rm",
    "NAME [NAME...] [--yes]",
    "remove a model from the local cache",
    "NAME is what 'apus list' calls it: org/repo removes all of the repository, @REV one snapshot, "
    ":TYPE or /FILE.gguf the files of that model. Files that another snapshot has too stay.",
    tables,
    run};

/* -1: go on; else the exit status. */
static int ask(const char *name, uint64_t bytes)
{
    char line[16] = "", size[32];
    if (o.yes) return -1;
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO))
        return usage_error(&cmd_rm, "there is no terminal to ask on; --yes removes without asking");
    put_textf(stderr, "Remove %s, which frees %s? [y/N] ", name, human_bytes(bytes, size));
    if (fgets(line, sizeof line, stdin) && (*line == 'y' || *line == 'Y')) return -1;
    return fail(&cmd_rm, "%s stays", name);
}

static int take_out(const char *cache, const char *text)
{
    hub_name name;
    hub_removal plan;
    apus_diag why;
    char size[32];
    if (!hub_name_parse(text, &name))
        return usage_error(&cmd_rm, "'%s' is no name of a model in the cache; 'apus list' has them",
                           text);
    int rc =
        hub_remove_plan(cache, &name, &plan, &why) ? ask(text, plan.bytes) : report(&cmd_rm, &why);
    if (rc < 0 && !hub_remove(cache, &name, &plan, &why)) rc = report(&cmd_rm, &why);
    if (rc < 0) {
        put_textf(stderr, "%s is removed, %s are free\n", text, human_bytes(plan.bytes, size));
        rc = 0;
    }
    hub_removal_free(&plan);
    return rc;
}

static int run(int argc, char **argv)
{
    int n;
    int rc = options_parse(&cmd_rm, argc, argv, 64, &n);
    if (rc >= 0) return rc;
    if (!n) return usage_error(&cmd_rm, "NAME is missing");
    const char *cache = hub_cache();
    if (!cache) return fail(&cmd_rm, "no folder that models are kept in: set HF_HOME or HOME");
    rc = 0;
    for (int i = 0; i < n && !rc; i++) rc = take_out(cache, argv[1 + i]);
    return rc;
}
