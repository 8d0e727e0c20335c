/* cmd_quantize.c - apus quantize: a model of floats to a smaller one. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "input.h"
#include "hub_env.h"
#include "interrupt.h"
#include "models.h"
#include "progress.h"
#include "report.h"
#include "sizes.h"

static struct {
    const char *to, *recipe;
    int group;
    bool force;
} o;

static const opt quantize_table[] = {
    {"to", 0, OPT_STRING, &o.to, NULL, 0, 0, "TYPE",
     "GGUF: q8_0, q6_k, q5_k, q4_k, q3_k, q2_k, q5_1, q5_0, q4_1, q4_0, iq4_xs, iq4_nl, mxfp4, "
     "bf16, f16, f32; MLX: mlx2, mlx3, mlx4, mlx5, mlx6, mlx8"},
    {"recipe", 0, OPT_STRING, &o.recipe, NULL, 0, 0, "FILE",
     "types of single matrices: lines of PATTERN TYPE"},
    {"group", 0, OPT_INT, &o.group, NULL, 32, 128, "N",
     "MLX: weights that share a scale: 32, 64 (default) or 128"},
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "overwrite DST if it is there"},
    {0}};

static const opt *const tables[] = {quantize_table, threads_table, NULL};

static int run(int argc, char **argv);
const command cmd_quantize = {
    "quantize",
    "SRC DST --to TYPE [--recipe FILE] [--group N] [--force] [options]",
    "write a model with smaller weights",
    "SRC is a folder of f32, f16 or bf16 safetensors, or a GGUF file for another one; DST must not "
    "exist (with --force a file, or a folder that holds a model and nothing else, is replaced), "
    "and "
    "appears when it is complete. A GGUF type gives the file DST, whose name ends in .gguf, with "
    "tokenizer and template inside. mlxB is MLX's affine format: B-bit integers, a scale and a "
    "bias "
    "for each group, in a folder with the tokenizer and template of SRC. Matrices where few "
    "weights "
    "decide much get more bits; norms, other vectors and convolutions are not quantised. A "
    "recipe's "
    "first line that fits a matrix decides: 'layers.*.self_attn.v_proj.weight q6_k'. 'apus "
    "perplexity DST -f TEXT --kl-against SRC' tells what was lost.",
    tables,
    run};

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

/* "q4", "4", "int4", "4bit": how many bits, but not whose. */
static int unknown_type(const char *given)
{
    int bits = 0;
    for (const char *p = given; *p; p++)
        if (*p >= '2' && *p <= '8' && *p != '7') bits = *p - '0';
    if (bits && strlen(given) <= 5)
        return usage_error(&cmd_quantize,
                           "--to: found '%s'; %d bits are q%d_%s in a GGUF file and "
                           "mlx%d in a folder",
                           given, bits, bits, bits == 8 ? "0" : "k", bits);
    return usage_error(&cmd_quantize, "--to: expected one of the types of --help, found '%s'",
                       given);
}

/* What a GGUF file of the model does not have. */
static void tell_towers(const char *src)
{
    apus_model *m;
    apus_model_settings s;
    apus_info info = {.size = sizeof info};
    size_t n = strlen(src);
    bool gguf = n > 5 && !strcmp(src + n - 5, ".gguf");
    apus_model_settings_default(&s);
    s.load = APUS_LOAD_INFO;
    s.hub_cache = hub_cache();
    if (apus_model_open(src, &s, &m, NULL)) return;
    if (!apus_model_info(m, &info, NULL) && info.towers)
        fprintf(stderr,
                "note: the towers for pictures and sound are left out: they belong in an mmproj "
                "file beside "
                "it, %s\n",
                gguf ? "as beside SRC" : "which llama.cpp's convert_hf_to_gguf.py --mmproj writes");
    apus_model_close(m);
}

static int run(int argc, char **argv)
{
    int n;
    o.group = 64;
    int rc = options_parse(&cmd_quantize, argc, argv, 3, &n);
    if (rc >= 0) return rc;
    if (n == 3 && o.to) return usage_error(&cmd_quantize, "unexpected argument '%s'", argv[3]);
    if (n == 3) o.to = argv[3];
    if (n < 2) return usage_error(&cmd_quantize, n ? "DST is missing" : "SRC and DST are missing");
    if (!o.to) return usage_error(&cmd_quantize, "--to is missing");
    apus_diag d;
    apus_quantize_settings s;
    apus_quantize_settings_default(&s);
    const char *to = type_name(o.to);
    s.bits = bits_of(to);
    s.group = o.group;
    s.threads = common.threads;
    s.force = o.force;
    s.hub_cache = hub_cache();
    s.progress = progress_until_interrupt;
    if (!s.bits) {
        if (!is_gguf(to)) return unknown_type(o.to);
        s.bits = 4;
        s.gguf_type = to;
    }
    if (s.group != 32 && s.group != 64 && s.group != 128)
        return usage_error(&cmd_quantize, "--group: expected 32, 64 or 128, found %d", s.group);
    interrupt_note();
    size_t len;
    char *recipe = o.recipe ? read_input(&cmd_quantize, o.recipe, &len) : NULL;
    if (o.recipe && !recipe) return EXIT_FAILED;
    s.recipe = recipe;
    s.recipe_name = o.recipe;
    apus_err err = apus_quantize(argv[1], argv[2], &s, &d);
    progress_clear();
    free(recipe);
    if (err) report(&cmd_quantize, &d);
    if (!err && s.gguf_type) tell_towers(argv[1]);
    if (!err) return tell_written(&cmd_quantize, argv[2]);
    return err == APUS_ECANCELLED ? 130 : EXIT_FAILED;
}
