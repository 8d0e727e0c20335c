/* common.h - the commands, and the options that several of them have. */
#ifndef APUS_CLI_COMMON_H
#define APUS_CLI_COMMON_H

#include <stdio.h>

#include "apus/apus.h"
#include "options.h"

extern const command cmd_run, cmd_chat, cmd_info, cmd_tokenize, cmd_render, cmd_logits, cmd_patches,
    cmd_bench, cmd_perplexity, cmd_quantize, cmd_synth, cmd_repack, cmd_serve, cmd_pull, cmd_list,
    cmd_rm;

extern const command *const commands[]; /* all of them, NULL at the end */

/* Options of several commands. */
typedef struct common_opts {
    const char *model;
    int threads, prefill_chunk, ctx;
    bool ctx_given; /* with ctx 0: all of the model's context */
    const char *cpumask;
    const char *precision, *kv, *device, *memory, *experts, *mmproj, *speculate;
    uint64_t memory_taken; /* no option: bytes of `memory` that other models have */
    bool offline;          /* fetch nothing */
    bool no_recall;        /* start without the experts of the last time */
    unsigned towers; /* no option: which towers a command needs, set before the model is opened */
} common_opts;

extern common_opts common;
extern const opt model_table[];     /* --model */
extern const opt tower_table[];     /* --mmproj */
extern const opt threads_table[];   /* --threads */
extern const opt engine_table[];    /* what shapes an engine, threads apart */
extern const opt recall_table[];    /* --no-recall */
extern const opt speculate_table[]; /* --speculate, of commands that write answers */

/* Sampling options of run and chat. */
typedef struct sampling_opts {
    float temp, top_p, min_p, repetition, presence, frequency;
    int top_k;
    uint64_t seed;
    bool temp_given, top_p_given, min_p_given, top_k_given, repetition_given, presence_given,
        frequency_given;
} sampling_opts;

extern sampling_opts sampling;
extern const opt sampling_table[];

/* --think, --no-think */
typedef struct think_opts {
    bool on, off;
} think_opts;
extern think_opts think;
extern const opt think_table[];
apus_think think_setting(void);

/* --chat-template-kwargs, --chat-template-file */
typedef struct template_opts {
    const char *kwargs, *file;
} template_opts;
extern template_opts template_opt;
extern const opt template_table[];
/* Settings of the chat template from the options of think_table and template_table. Reads the file.
 * Returns -1, or the exit status. */
int template_settings(const command *c, apus_chat_settings *out);
/* The same for prompts that are answered: what messages say stays text, whatever it looks like. */
int guarded_settings(const command *c, apus_chat_settings *out);
#define GUARDED_TOKENS (APUS_TOK_SPECIAL | APUS_TOK_GUARDED) /* how to tokenize what they render */

/* The model's sampling defaults overlaid with the options given. */
void sampling_settings(const apus_model *m, apus_sampling *out);

#endif
