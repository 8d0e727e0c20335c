/* prompt.h - what apus run is asked: gathered from options, files and standard input, then made into
 * tokens. */
#ifndef APUS_CLI_PROMPT_H
#define APUS_CLI_PROMPT_H

#include "answer.h"
#include "pictures.h"

typedef struct prompt_opts {
    const char *text; /* --prompt or the argument after MODEL */
    const char *file, *system, *ids, *messages, *tools;
    string_list pictures; /* --image and --audio, in order */
    bool seen, heard;     /* there is one of them */
    int image_tokens;     /* 0 = as the model's processor says */
    bool raw;
} prompt_opts;

typedef struct prompt {
    char *user; /* the text, NULL with --ids and --messages */
    size_t len;
    char *messages, *tools; /* JSON */
    answer_mode mode;
    char *text; /* from the chat template, or NULL */
    size_t text_len;
    int32_t *ids; /* NULL until it is tokenized */
    size_t n;
    bool own_ids; /* from --ids */
    pictures pics;
} prompt;

/* Check the options against each other. Returns -1, or the exit status. */
int prompt_check(const command *c, const prompt_opts *o);

/* Read what is to be answered. What is piped to standard input comes before the text of --prompt or
 * --file. model: checked before somebody is asked to type. An empty prompt is an error. Returns -1, or
 * the exit status. */
int prompt_read(const command *c, const prompt_opts *o, const char *model, prompt *p);

/* Make tokens of it, once, with the pictures' places. Returns -1, or the exit status. */
int prompt_tokenize(const command *c, const prompt_opts *o, const apus_model *m, prompt *p);

void prompt_free(prompt *p);

#endif
