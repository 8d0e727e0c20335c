/* cmd_quantize.c - apus quantize: a model of floats to a smaller one. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "common.h"

static struct {
    const char *to, *recipe;
    int group;
    bool force;
} o;

static const opt quantize_table[] = {
    {"to", 0, OPT_STRING, &o.to, NULL, 0, 0, "TYPE",
     "GGUF: q8_0, q6_k, q5_k, q4_k, q3_k, q2_k, q5_1, q5_0,\nq4_1, q4_0, iq4_xs, iq4_nl, mxfp4, "
     "bf16, f16, f32;\nMLX: mlx2, mlx3, mlx4, mlx5, mlx6, mlx8"},
    {"recipe", 0, OPT_STRING, &o.recipe, NULL, 0, 0, "FILE",
     "types of single matrices: lines of PATTERN TYPE"},
    {"group", 0, OPT_INT, &o.group, NULL, 32, 128, "N",
     "MLX: weights that share a scale: 32, 64 (default) or 128"},
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "overwrite DST if it is there"},
    {0}};

static int run(int argc, char **argv);
const command cmd_quantize = {
    "quantize", "SRC DST --to TYPE [--recipe FILE] [--group N] [--force] [options]",
    "write a model with smaller weights",
    "SRC is a folder of f32, f16 or bf16 safetensors; DST must not exist (with --force\n"
    "a file, or a folder that holds a model and nothing else, is replaced), and appears\n"
    "when it is complete. A GGUF type gives the file DST, whose name ends in .gguf, with\n"
    "tokenizer and template inside. mlxB is MLX's affine format: B-bit integers, a scale\n"
    "and a bias for each group, in a folder with the tokenizer and template of SRC.\n"
    "Matrices where few weights decide much get more bits; norms, other vectors and\n"
    "convolutions are not quantised. A recipe's first line that fits a matrix decides:\n"
    "'layers.*.self_attn.v_proj.weight q6_k'. 'apus perplexity DST -f TEXT\n"
    "--kl-against SRC' tells what was lost.",
    run};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static bool progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    return progress_bar(ctx, stage, done, total) && !interrupted;
}

static int bits_of(const char *to)
{
    static const char known[] = "234568";
    bool ok = !strncmp(to, "mlx", 3) && strlen(to) == 4 && strchr(known, to[3]);
    return ok ? to[3] - '0' : 0;
}

static bool is_gguf(const char *to)
{
    static const char *const known[] = {"q8_0",  "q6_k", "q5_k", "q4_k", "q3_k",   "q2_k",
                                        "q5_1",  "q5_0", "q4_1", "q4_0", "iq4_xs", "iq4_nl",
                                        "mxfp4", "bf16", "f16",  "f32",  NULL};
    for (const char *const *k = known; *k; k++)
        if (!strcmp(*k, to)) return true;
    return false;
}

static int run(int argc, char **argv)
{
    const opt *tables[] = {quantize_table, common_table, NULL};
    int n;
    o.group = 64;
    int rc = options_parse(&cmd_quantize, tables, argc, argv, 2, &n);
    if (rc >= 0) return rc;
    if (n < 2) return usage_error(&cmd_quantize, n ? "DST is missing" : "SRC and DST are missing");
    if (!o.to) return usage_error(&cmd_quantize, "--to is missing");
    apus_diag d;
    apus_quantize_settings s;
    apus_quantize_settings_default(&s);
    s.bits = bits_of(o.to);
    s.group = o.group;
    s.threads = common.threads;
    s.force = o.force;
    s.hub_cache = hub_cache();
    s.progress = progress;
    if (!s.bits) {
        if (!is_gguf(o.to))
            return usage_error(&cmd_quantize,
                               "--to: expected one of the types of --help, found '%s'", o.to);
        s.bits = 4;
        s.gguf_type = o.to;
    }
    if (s.group != 32 && s.group != 64 && s.group != 128)
        return usage_error(&cmd_quantize, "--group: expected 32, 64 or 128, found %d", s.group);
    struct sigaction sa = {0};
    sa.sa_handler = on_interrupt;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    size_t len;
    char *recipe = o.recipe ? read_input(&cmd_quantize, o.recipe, &len) : NULL;
    if (o.recipe && !recipe) return EXIT_FAILED;
    s.recipe = recipe;
    s.recipe_name = o.recipe;
    apus_err err = apus_quantize(argv[1], argv[2], &s, &d);
    progress_clear();
    free(recipe);
    if (err) report(&cmd_quantize, &d);
    return err == APUS_ECANCELLED ? 130 : err ? EXIT_FAILED : 0;
}
