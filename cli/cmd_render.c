/* cmd_render.c - apus render: a conversation through the chat template. */
#include <stdlib.h>

#include "common.h"
#include "input.h"
#include "models.h"
#include "report.h"
#include "terminal.h"

static struct {
    const char *messages, *tools;
    bool tokens, guarded, no_generation_prompt;
} o;

static const opt render_table[] = {
    {"messages", 'm', OPT_STRING, &o.messages, NULL, 0, 0, "FILE",
     "JSON array of {\"role\", \"content\", ...}; '-' = standard input"},
    {"tools", 0, OPT_STRING, &o.tools, NULL, 0, 0, "FILE", "JSON array of tools"},
    {"tokens", 0, OPT_FLAG, &o.tokens, NULL, 0, 0, NULL, "print token ids instead of text"},
    {"guarded", 0, OPT_FLAG, &o.guarded, NULL, 0, 0, NULL,
     "with --tokens: markers that messages hold stay text, as in run, chat and serve; without it "
     "they "
     "are read as the reference library reads them"},
    {"no-generation-prompt", 0, OPT_FLAG, &o.no_generation_prompt, NULL, 0, 0, NULL,
     "do not open the assistant's turn"},
    {"model", 0, OPT_STRING, &common.model, NULL, 0, 0, "MODEL",
     "the model; the same as MODEL as the first argument"},
    {"-hf", 0, OPT_STRING, &common.model, NULL, 0, 0, "MODEL", NULL},
    {0}};

static const opt *const tables[] = {render_table, think_table, template_table, NULL};

static int run(int argc, char **argv);
const command cmd_render = {
    "render",
    "MODEL --messages FILE.json [--tools FILE.json] [options]",
    "show the prompt a conversation becomes",
    "  echo '[{\"role\":\"user\",\"content\":\"Hi\"}]' | apus render MODEL -m -",
    tables,
    run};

static int render(const apus_model *m, const char *messages, const char *tools)
{
    apus_diag d;
    apus_chat_settings s;
    char *text;
    size_t len;
    int rc = template_settings(&cmd_render, &s);
    if (rc >= 0) return rc;
    s.no_generation_prompt = o.no_generation_prompt;
    s.guarded = o.guarded && o.tokens;
    if (apus_chat_render(m, messages, tools, &s, &text, &len, &d)) return report(&cmd_render, &d);
    rc = 0;
    if (o.tokens) {
        int32_t *ids;
        size_t n;
        if (apus_tokenize(m, text, len, s.guarded ? GUARDED_TOKENS : APUS_TOK_SPECIAL, &ids, &n,
                          &d)) {
            rc = report(&cmd_render, &d);
        } else {
            for (size_t i = 0; i < n; i++) printf("%s%d", i ? " " : "", ids[i]);
            putchar('\n');
            apus_free(ids);
        }
    } else {
        put_text(stdout, text, len);
    }
    apus_free(text);
    return rc;
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    int rc = options_parse(&cmd_render, argc, argv, 1, &n);
    if (rc < 0) rc = take_model(&cmd_render, argv, &n, 0, &name);
    if (rc >= 0) return rc;
    if (!name) return usage_error(&cmd_render, "MODEL is missing (-m is --messages here)");
    if (!o.messages) return usage_error(&cmd_render, "--messages is missing");
    if (think.on && think.off)
        return usage_error(&cmd_render, "choose one of --think and --no-think");

    size_t len;
    char *messages = read_input(&cmd_render, o.messages, &len), *tools = NULL;
    if (!messages) return EXIT_FAILED;
    if (o.tools && !(tools = read_input(&cmd_render, o.tools, &len))) {
        free(messages);
        return EXIT_FAILED;
    }
    apus_model *m;
    rc = open_model(&cmd_render, name, APUS_LOAD_TEXT, &m);
    if (rc < 0) {
        rc = render(m, messages, tools);
        apus_model_close(m);
    }
    free(messages);
    free(tools);
    return finish_output(&cmd_render, rc);
}
