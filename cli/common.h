/* common.h - what the commands share: the options of every command, opening models, reading input,
 * the terminal. */
#ifndef APUS_CLI_COMMON_H
#define APUS_CLI_COMMON_H

#include <stdio.h>

#include "apus/apus.h"
#include "options.h"

extern const command cmd_run, cmd_chat, cmd_info, cmd_tokenize, cmd_render, cmd_logits, cmd_bench,
    cmd_perplexity, cmd_quantize, cmd_synth;

extern const command *const commands[]; /* all of them, NULL at the end */

/* Options of several commands. */
typedef struct common_opts {
    const char *model;
    int threads, prefill_chunk, ctx;
    bool ctx_given; /* with ctx 0: all of the model's context */
    const char *cpumask;
    const char *precision, *kv, *device;
} common_opts;

extern common_opts common;
extern const opt model_table[];   /* --model */
extern const opt threads_table[]; /* --threads */
extern const opt engine_table[];  /* what shapes an engine, threads apart */

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

/* Print "apus CMD: sentence" of a failed call; returns the exit status. */
int report(const command *c, const apus_diag *d);

/* Print "apus CMD: ..." of a failure; returns EXIT_FAILED. */
int fail(const command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub; NULL = nowhere. */
const char *hub_cache(void);

/* The model's name: that of --model, else the first of the *n positional arguments, which is taken
 * off argv and *n; NULL: none was given. At most max_rest others may be left. Returns -1, or the exit
 * status. */
int take_model(const command *c, char **argv, int *n, int max_rest, const char **name);

/* Open a model at `load`; name NULL = the built-in tiny model, which is announced on stderr.
 * A progress bar is shown on a terminal. With APUS_LOAD_ALL an engine of the common options must fit
 * beside it, or nothing is loaded. Returns -1, or the exit status. */
int open_model(const command *c, const char *name, apus_load load, apus_model **out);
/* The same with APUS_LOAD_ALL, for an engine of engine_settings with that need_ctx. */
int open_for_engine(const command *c, const char *name, int need_ctx, apus_model **out);

/* Engine settings from the common options; checks --cpumask. need_ctx: tokens that must fit when
 * --ctx is not given (0 = the default). Returns -1, or the exit status. */
int engine_settings(const command *c, const apus_model *m, int need_ctx, apus_engine_settings *out);

/* ", -c N makes it larger, up to 32768", or what to say when it is as large as it can be. Valid until
 * the next call. */
const char *larger_context(int ctx, int most);

/* Tokens of a prompt that an engine of those settings computes at once. */
int chunk_of(const apus_model *m, const apus_engine_settings *es);

/* The model's sampling defaults overlaid with the options given. */
void sampling_settings(const apus_model *m, apus_sampling *out);

/* A type of weights in lower case. The mixtures of llama.cpp (Q4_K_M) become what they mostly consist of:
 * apus mixes types by its own recipe. Valid until the next call. */
const char *type_name(const char *given);

/* "18.21 GiB" into out; returns it. */
const char *human_bytes(uint64_t bytes, char out[32]);

/* Say how large a model is that was written: "DST: 18.21 GiB, 4.52 bits a weight". Returns the exit
 * status. */
int tell_written(const command *c, const char *path);

/* A whole file ("-" = stdin); free() it; NULL with an explanation on stderr. */
char *read_input(const command *c, const char *path, size_t *len);

/* Whitespace-separated integers of a file; free() them; NULL with an explanation on stderr. */
int32_t *read_ints(const command *c, const char *path, size_t *n);

/* The same from text; name is used in the explanation. */
int32_t *parse_ints(const command *c, const char *name, const char *text, size_t len, size_t *n);

/* Flush stdout; a failed write turns status 0 into EXIT_FAILED with an explanation. */
int finish_output(const command *c, int status);

/* Progress bar on stderr; pass as apus_progress_fn. Draws only on a terminal. ctx unused. */
bool progress_bar(void *ctx, const char *stage, uint64_t done, uint64_t total);
void progress_clear(void);

/* Colours when f is a terminal and NO_COLOR is not set; else "". */
const char *dim(FILE *f);
const char *bold(FILE *f);
const char *plain(FILE *f);

/* "prompt 12 tokens at 345.6 tok/s, answer 34 tokens at 56.7 tok/s" */
void print_speed(FILE *f, const apus_generate_result *r);

/* SIGINT cancels this engine's running call; NULL = default behaviour again. */
void interrupt_target(apus_engine *e);
/* Did a SIGINT come since the target was set? One between two calls cancels neither. */
bool interrupt_came(void);
/* Without a target SIGINT writes a byte, its number, to fd instead of ending the program; -1 = no
 * more. */
void interrupt_to(int fd);
/* Leave it to another program that runs meanwhile. */
void interrupt_ignore(bool on);

#endif
