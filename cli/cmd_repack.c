/* cmd_repack.c - apus repack: experts as one aligned record each. */

#include "apus/apus_unstable.h"
#include "common.h"
#include "hub_env.h"
#include "interrupt.h"
#include "models.h"
#include "progress.h"
#include "report.h"

static struct {
    bool force;
} o;

static const opt repack_table[] = {
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "overwrite DST if it is there"}, {0}};

static const opt *const tables[] = {repack_table, threads_table, NULL};

static int run(int argc, char **argv);
const command cmd_repack = {
    "repack",
    "MODEL DST [--force] [options]",
    "write the experts of a model as they are read fastest",
    "For mixtures of experts that are run in less memory than they take (--memory): each expert "
    "becomes one record "
    "in the form that it is computed with, so that it is read at once, and not gathered and packed "
    "each time. DST has "
    "the experts alone, as large as they are in memory; MODEL is needed as before. With the name "
    "MODEL.gguf.experts "
    "beside a GGUF file, or experts.apus in a model's folder, it is found by itself; else with "
    "--experts DST.\n\n"
    "  apus repack model.gguf model.gguf.experts\n  apus chat model.gguf --memory 8G",
    tables,
    run};

static int run(int argc, char **argv)
{
    int n;
    int rc = options_parse(&cmd_repack, argc, argv, 2, &n);
    if (rc >= 0) return rc;
    if (n < 2) return usage_error(&cmd_repack, n ? "DST is missing" : "MODEL and DST are missing");
    apus_diag d;
    apus_repack_settings s;
    apus_repack_settings_default(&s);
    s.threads = common.threads;
    s.hub_cache = hub_cache();
    s.force = o.force;
    s.progress = progress_until_interrupt;
    interrupt_note();
    apus_err err = apus_repack(argv[1], argv[2], &s, &d);
    progress_clear();
    if (!err) return finish_output(&cmd_repack, 0);
    report(&cmd_repack, &d);
    return err == APUS_ECANCELLED ? 130 : EXIT_FAILED;
}
