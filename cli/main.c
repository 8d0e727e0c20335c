#include <stdio.h>
#include <string.h>

#include "common.h"
#include "report.h"
#include "signals.h"
#include "terminal.h"

const command *const commands[] = {&cmd_run,        &cmd_chat,     &cmd_info,    &cmd_tokenize,
                                   &cmd_render,     &cmd_logits,   &cmd_patches, &cmd_bench,
                                   &cmd_perplexity, &cmd_quantize, &cmd_synth,   &cmd_repack,
#ifndef APUS_NO_SERVER
                                   &cmd_serve,
#endif
                                   &cmd_pull,       &cmd_list,     &cmd_rm,      NULL};

static void help(FILE *f)
{
    fprintf(
        f,
        "apus %s - run Gemma 4 and Qwen 3.5 models on this machine\n\nusage: apus COMMAND ...\n\n",
        apus_version());
    for (const command *const *c = commands; *c; c++)
        fprintf(f, "  %-11s %s\n", (*c)->name, (*c)->summary);
    fputs("\nMODEL is a folder with config.json and *.safetensors, a *.gguf file, or\n"
          "org/repo[@rev] of the Hugging Face hub, which run, chat and serve fetch into the\n"
          "local cache; NAME:TYPE (such as :Q4_K_M) and org/repo/FILE.gguf choose among\n"
          "several GGUF files. 'apus COMMAND --help' explains a command.\n\n"
          "  apus chat                          talk to the built-in tiny model\n"
          "  apus run MODEL -p \"Tell me a joke\"  one answer\n"
          "  apus info MODEL                    what it is and what memory it needs\n\n"
          "exit status: 0 done, 1 failed, 2 wrong usage\n",
          f);
}

int main(int argc, char **argv)
{
    use_utf8();
    if (argc < 2) {
        help(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        help(stdout);
        return finish_output(NULL, 0);
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("apus %s\n", apus_version());
        return finish_output(NULL, 0);
    }
    signals_begin();
    for (const command *const *c = commands; *c; c++)
        if (!strcmp(argv[1], (*c)->name)) return (*c)->run(argc - 1, argv + 1);
#ifdef APUS_NO_SERVER
    if (!strcmp(argv[1], "serve")) {
        fputs(
            "apus: this program was built without its server: install libmicrohttpd's development "
            "files (Debian: libmicrohttpd-dev) and build it again\n",
            stderr);
        return EXIT_FAILED;
    }
#endif
    put_textf(stderr, "apus: unknown command '%s'; 'apus --help' lists them\n", argv[1]);
    return EXIT_USAGE;
}
