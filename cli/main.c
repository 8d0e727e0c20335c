#include <stdio.h>
#include <string.h>

#include "common.h"

static const command *const commands[] = {&cmd_run,      &cmd_chat,       &cmd_info,
                                          &cmd_tokenize, &cmd_render,     &cmd_logits,
                                          &cmd_bench,    &cmd_perplexity, &cmd_quantize,
                                          &cmd_synth};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void help(FILE *f)
{
    fprintf(
        f,
        "apus %s - run Gemma 4 and Qwen 3.5 models on this machine\n\nusage: apus COMMAND ...\n\n",
        apus_version());
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-11s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\nMODEL is a folder with config.json and *.safetensors, a *.gguf file, or "
          "org/repo[@rev] in the\n"
          "local Hugging Face cache; NAME:TYPE (such as :Q4_K_M) and org/repo/FILE.gguf choose "
          "among\n"
          "several GGUF files. 'apus COMMAND --help' explains a command.\n\n"
          "  apus chat                          talk to the built-in tiny model\n"
          "  apus run MODEL -p \"Tell me a joke\"  one answer\n"
          "  apus info MODEL                    what it is and what memory it needs\n\n"
          "exit status: 0 done, 1 failed, 2 wrong usage\n",
          f);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        help(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        help(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("apus %s\n", apus_version());
        return 0;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i]->name)) return commands[i]->run(argc - 1, argv + 1);
    fprintf(stderr, "apus: unknown command '%s'; 'apus --help' lists them\n", argv[1]);
    return EXIT_USAGE;
}
