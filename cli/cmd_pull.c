/* cmd_pull.c - apus pull: a model of the hub into the cache. */
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "fetching.h"
#include "hub_env.h"
#include "report.h"
#include "terminal.h"

static struct {
    bool dry;
} o;

static const opt pull_table[] = {
    {"dry-run", 0, OPT_FLAG, &o.dry, NULL, 0, 0, NULL, "only tell which files it would be"}, {0}};

static const opt *const tables[] = {pull_table, NULL};

static int run(int argc, char **argv);

const command cmd_pull = {
    "pull",
    "NAME [NAME...] [--dry-run]",
    "fetch a model of the Hugging Face hub, or what is new of it",
    "NAME is org/repo, with :TYPE (such as :Q4_K_M) or /FILE.gguf for one of several GGUF files, "
    "and "
    "@REV for a branch, a tag or a commit. Of a repository of safetensors the weights, "
    "configurations and tokenizer are fetched; of one of GGUF files that type, Q4_K_M if none is "
    "named, "
    "with all of its parts and a projector. They go where the hub's own programs keep them, whole "
    "and "
    "with their checksums compared; what was interrupted goes on. The path of the model is "
    "printed.\n\n"
    "HF_TOKEN, or the file that 'hf auth login' writes, opens what is private or has terms; "
    "HF_HUB_CACHE and HF_HOME say where models are kept, HF_ENDPOINT names another hub.\n\n"
    "  apus pull Qwen/Qwen3.5-4B\n"
    "  apus pull unsloth/Qwen3.6-35B-A3B-GGUF:Q4_K_M",
    tables,
    run};

static int pull(const char *text)
{
    hub_name name;
    hub_pulled p;
    if (!hub_name_parse(text, &name))
        return usage_error(&cmd_pull,
                           "'%s' is not a name of the form org/repo, with :TYPE, /FILE.gguf and "
                           "@REV behind it as needed",
                           text);
    int rc = fetch_model(&cmd_pull, &name, o.dry, &p);
    if (rc >= 0) return rc;
    if (!o.dry) {
        put_text(stdout, p.path, strlen(p.path));
        putchar('\n');
    }
    return 0;
}

static int run(int argc, char **argv)
{
    int n;
    int rc = options_parse(&cmd_pull, argc, argv, 64, &n);
    if (rc >= 0) return rc;
    if (!n) return usage_error(&cmd_pull, "NAME is missing");
    if (hub_offline()) return fail(&cmd_pull, "%s is set: nothing is fetched", hub_offline());
    rc = 0;
    for (int i = 0; i < n && !rc; i++) rc = pull(argv[1 + i]);
    return finish_output(&cmd_pull, rc);
}
