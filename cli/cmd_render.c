/* cmd_render.c - apus render: a conversation through the chat template. */
#include <stdlib.h>

#include "common.h"

static struct {
    const char *messages, *tools;
    bool tokens, no_generation_prompt;
} o;

static const opt render_table[] = {
    {"messages", 'm', OPT_STRING, &o.messages, NULL, 0, 0, "FILE",
     "JSON array of {\"role\", \"content\", ...}; '-' = standard input"},
    {"tools", 0, OPT_STRING, &o.tools, NULL, 0, 0, "FILE", "JSON array of tools"},
    {"tokens", 0, OPT_FLAG, &o.tokens, NULL, 0, 0, NULL, "print token ids instead of text"},
    {"no-generation-prompt", 0, OPT_FLAG, &o.no_generation_prompt, NULL, 0, 0, NULL,
     "do not open the assistant's turn"},
    {0}};

static int run(int argc, char **argv);
const command cmd_render = {
    "render", "MODEL --messages FILE.json [--tools FILE.json] [options]",
    "show the prompt a conversation becomes",
    "  echo '[{\"role\":\"user\",\"content\":\"Hi\"}]' | apus render MODEL -m -", run};

static int render(const apus_model *m, const char *messages, const char *tools)
{
    apus_diag d;
    apus_chat_settings s;
    char *text;
    size_t len;
    apus_chat_settings_default(&s);
    s.think = think_setting();
    s.no_generation_prompt = o.no_generation_prompt;
    if (apus_chat_render(m, messages, tools, &s, &text, &len, &d)) return report(&cmd_render, &d);
    int rc = 0;
    if (o.tokens) {
        int32_t *ids;
        size_t n;
        if (apus_tokenize(m, text, len, APUS_TOK_SPECIAL, &ids, &n, &d)) {
            rc = report(&cmd_render, &d);
        } else {
            for (size_t i = 0; i < n; i++) printf("%s%d", i ? " " : "", ids[i]);
            putchar('\n');
            apus_free(ids);
        }
    } else {
        fwrite(text, 1, len, stdout);
    }
    apus_free(text);
    return rc;
}

static int run(int argc, char **argv)
{
    const opt *tables[] = {render_table, think_table, common_table, NULL};
    int n;
    int rc = options_parse(&cmd_render, tables, argc, argv, 1, &n);
    if (rc >= 0) return rc;
    if (n < 1) return usage_error(&cmd_render, "MODEL is missing");
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
    rc = open_model(&cmd_render, argv[1], APUS_LOAD_TEXT, &m);
    if (rc < 0) {
        rc = render(m, messages, tools);
        apus_model_close(m);
    }
    free(messages);
    free(tools);
    return finish_output(&cmd_render, rc);
}
