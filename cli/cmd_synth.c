/* cmd_synth.c - apus synth: models with random weights. */
#include <string.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "interrupt.h"
#include "progress.h"
#include "report.h"
#include "sizes.h"

static struct {
    const char *to;
    uint64_t seed;
    int layers;
    float skew;
    bool force;
} o;

static const opt synth_table[] = {
    {"to", 0, OPT_STRING, &o.to, NULL, 0, 0, "TYPE",
     "GGUF: q8_0, q6_k, q5_k, q4_k, q4_0, bf16, ...; folders: bf16 (default), f16, f32, mlx4, "
     "mlx8, ..."},
    {"seed", 's', OPT_SEED, &o.seed, NULL, 0, 0, "N", "random seed; the same gives the same file"},
    {"layers", 0, OPT_INT, &o.layers, NULL, 1, 4096, "N", "only the first N layers"},
    {"router-skew", 0, OPT_REAL, &o.skew, NULL, 0, 4, "A",
     "choose experts unevenly, in proportion to 1 / rank to the power of A (default 0: all alike)"},
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "overwrite DST if it is there"},
    {0}};

static const opt *const tables[] = {synth_table, threads_table, NULL};

static int run(int argc, char **argv);
const command cmd_synth = {
    "synth",
    "CONFIG DST --to TYPE [--layers N] [--seed N] [--router-skew A] [--force] [options]",
    "write a model with random weights",
    "CONFIG is a config.json or its folder, such as those in models/configs; DST must not exist "
    "(with --force it is replaced as in 'apus quantize'). A name that ends in .gguf gives a GGUF "
    "file, any other a folder of safetensors. The model has the shape, size and speed of the real "
    "one and a tokenizer that stands in for the real one; what it says is noise. Types of single "
    "matrices are chosen as 'apus quantize' does.",
    tables,
    run};

static int run(int argc, char **argv)
{
    int n;
    int rc = options_parse(&cmd_synth, argc, argv, 2, &n);
    if (rc >= 0) return rc;
    if (n < 2) return usage_error(&cmd_synth, n ? "DST is missing" : "CONFIG and DST are missing");
    apus_diag d;
    apus_synth_settings s;
    apus_synth_settings_default(&s);
    s.to = o.to ? type_name(o.to) : NULL;
    s.seed = o.seed;
    s.layers = o.layers;
    s.router_skew = (double)o.skew;
    s.threads = common.threads;
    s.force = o.force;
    s.progress = progress_until_interrupt;
    interrupt_note();
    apus_err err = apus_synth(argv[1], argv[2], &s, &d);
    progress_clear();
    if (err) report(&cmd_synth, &d);
    if (!err) return tell_written(&cmd_synth, argv[2]);
    return err == APUS_ECANCELLED ? 130 : err == APUS_EINVAL ? EXIT_USAGE : EXIT_FAILED;
}
