/* cmd_quantize.c - apus quantize: a model of floats to a smaller one. */
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "common.h"

static struct {
    const char *to;
    int group;
} o;

static const opt quantize_table[] = {
    {"to", 0, OPT_STRING, &o.to, NULL, 0, 0, "FORMAT", "mlx2, mlx3, mlx4, mlx5, mlx6 or mlx8"},
    {"group", 0, OPT_INT, &o.group, NULL, 32, 128, "N",
     "weights that share a scale: 32, 64 (default) or 128"},
    {0}};

static int run(int argc, char **argv);
const command cmd_quantize = {
    "quantize", "SRC DST --to FORMAT [--group N] [options]", "write a model with smaller weights",
    "SRC is a folder of f32, f16 or bf16 safetensors; DST must not exist, and appears when it is\n"
    "complete. mlxB is MLX's affine format: B-bit integers, a scale and a bias for each group, in "
    "a\n"
    "folder with the tokenizer and template of SRC. mlx2 to mlx4 keep the embedding, the head and\n"
    "the routers at 8 bits. Norms and other vectors, convolutions, and matrices whose width is no\n"
    "multiple of the group stay as they are. 'apus perplexity DST -f TEXT --kl-against SRC' tells\n"
    "what was lost.",
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
    s.hub_cache = hub_cache();
    s.progress = progress;
    if (!s.bits)
        return usage_error(&cmd_quantize,
                           "--to: expected mlx2, mlx3, mlx4, mlx5, mlx6 or mlx8, found '%s'", o.to);
    if (s.group != 32 && s.group != 64 && s.group != 128)
        return usage_error(&cmd_quantize, "--group: expected 32, 64 or 128, found %d", s.group);
    struct sigaction sa = {0};
    sa.sa_handler = on_interrupt;
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    apus_err err = apus_quantize(argv[1], argv[2], &s, &d);
    progress_clear();
    if (err) report(&cmd_quantize, &d);
    return err == APUS_ECANCELLED ? 130 : err ? EXIT_FAILED : 0;
}
