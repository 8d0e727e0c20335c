/* cmd_tokenize.c - apus tokenize: text to ids and back. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common.h"
#include "input.h"
#include "models.h"
#include "report.h"
#include "terminal.h"

static struct {
    bool decode, plain_text, no_bos;
} o;

static const opt tokenize_table[] = {
    {"decode", 'd', OPT_FLAG, &o.decode, NULL, 0, 0, NULL,
     "TEXT is token ids; print the text they stand for"},
    {"no-special", 0, OPT_FLAG, &o.plain_text, NULL, 0, 0, NULL,
     "treat markers such as <|im_end|> or <think> as ordinary text; with --decode: leave special "
     "tokens out"},
    {"no-bos", 0, OPT_FLAG, &o.no_bos, NULL, 0, 0, NULL,
     "do not add what the tokenizer puts around a text, such as <bos>"},
    {0}};

static const opt *const tables[] = {tokenize_table, model_table, NULL};

static int run(int argc, char **argv);
const command cmd_tokenize = {
    "tokenize",
    "MODEL [--decode] [TEXT]",
    "text to token ids, or back",
    "TEXT is read from standard input when it is not given. Ids are printed on one line.\n\n"
    "  "
    "apus tokenize MODEL \"Hello\"\n  echo \"9707 11\" | apus tokenize MODEL --decode",
    tables,
    run};

static int encode(const apus_model *m, const char *text, size_t len)
{
    apus_diag d;
    int32_t *ids;
    size_t n;
    unsigned flags =
        (o.plain_text ? APUS_TOK_PLAIN : APUS_TOK_SPECIAL) | (o.no_bos ? 0 : APUS_TOK_BOS);
    if (apus_tokenize(m, text, len, flags, &ids, &n, &d)) return report(&cmd_tokenize, &d);
    for (size_t i = 0; i < n; i++) printf("%s%d", i ? " " : "", ids[i]);
    putchar('\n');
    apus_free(ids);
    return 0;
}

static int decode(const apus_model *m, const int32_t *ids, size_t n)
{
    apus_diag d;
    char *text;
    size_t len;
    if (apus_detokenize(m, ids, n, o.plain_text, &text, &len, &d)) return report(&cmd_tokenize, &d);
    put_text(stdout, text, len);
    if (isatty(STDOUT_FILENO)) putchar('\n');
    apus_free(text);
    return 0;
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    int rc = options_parse(&cmd_tokenize, argc, argv, 2, &n);
    if (rc < 0) rc = take_model(&cmd_tokenize, argv, &n, 1, &name);
    if (rc >= 0) return rc;
    if (!name) return usage_error(&cmd_tokenize, "MODEL is missing");
    apus_model *m;
    rc = open_model(&cmd_tokenize, name, APUS_LOAD_TEXT, &m);
    if (rc >= 0) return rc;
    rc = EXIT_FAILED;
    size_t len = n > 0 ? strlen(argv[1]) : 0;
    if (o.decode) {
        size_t count;
        int32_t *ids = n > 0 ? parse_ints(&cmd_tokenize, "TEXT", argv[1], len, &count)
                             : read_ints(&cmd_tokenize, "-", &count);
        if (ids) rc = decode(m, ids, count);
        free(ids);
    } else {
        char *input = n > 0 ? NULL : read_input(&cmd_tokenize, "-", &len);
        if (n > 0 || input) rc = encode(m, n > 0 ? argv[1] : input, len);
        free(input);
    }
    apus_model_close(m);
    return finish_output(&cmd_tokenize, rc);
}
