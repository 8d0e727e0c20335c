/* files.h - the files of a repository, and which of them a model needs. */
#ifndef APUS_HUB_FILES_H
#define APUS_HUB_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "why.h"

typedef struct hub_file {
    char *name;    /* below the repository; hub_path_is_safe */
    uint64_t size; /* valid if size_known */
    char etag
        [65]; /* hash that the cache calls the blob by: SHA-256 of large files, git's SHA-1 of others;
                    * "" = not known yet */
    bool size_known, wanted;
} hub_file;

typedef struct hub_files {
    hub_file *item;
    size_t n, cap;
    char commit[41];
} hub_files;

bool hub_files_add(hub_files *f, const hub_file *file, apus_diag *why); /* copies; the name, too */
hub_file *hub_files_find(const hub_files *f, const char *name);         /* NULL: not there */
void hub_files_free(hub_files *f);

/* What the hub answers to /api/models/org/repo/revision/rev?blobs=true. repo: for sentences. A name of a file
 * that could leave the cache refuses all of it. */
bool hub_files_read(const char *text, size_t len, const char *repo, hub_files *out, apus_diag *why);

/* Mark what a model of that repository needs, as files have names: which = a type or FILE.gguf, "" = none given.
 * Safetensors come with their configurations, tokenizer and templates; GGUF files with their other parts and
 * one projector. If there are several types and none was asked for, Q4_K_M. Weights in other forms never.
 * *index: model.safetensors.index.json if the shards it names are to be marked, with hub_files_want_shards,
 * when it can be read; else NULL. */
bool hub_files_choose(hub_files *f, const char *repo, const char *which, const hub_file **index,
                      apus_diag *why);
bool hub_files_want_shards(hub_files *f, const char *text, size_t len, const char *repo,
                           apus_diag *why);

/* -NNNNN-of-NNNNN before the ending of a name: number and count, and the bytes before it; else 1 of 1. */
typedef struct hub_part {
    int no, of;
    size_t stem;
} hub_part;
hub_part hub_part_of(const char *name);

/* The type of a GGUF file as its name or its folder's tells it, such as "Q4_K_M"; "" if it does not. */
void hub_type_of(const char *name, char out[64]);

bool hub_ends_with(const char *s, const char *end);

#endif
