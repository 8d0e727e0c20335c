/* hub.h - models by name: fetching them, and what of them is in the cache. The door of this library. */
#ifndef APUS_HUB_H
#define APUS_HUB_H

#include <stddef.h>
#include <stdint.h>

#include "name.h"
#include "why.h"

/* ---------------------------------------------------------------- fetching (pull.c; needs libcurl) */

typedef struct hub_settings {
    const char *endpoint; /* "https://huggingface.co", no slash at the end */
    const char *cache;    /* folder that holds models--org--repo */
    const char *token;    /* NULL: none */
    int timeout_s;        /* without a byte before a connection counts as lost */
    int parallel;         /* ranges of a large file that are fetched at once */
    /* Called by the thread that pulls. stop: asked several times a second. Any may be NULL. */
    bool (*stop)(void *ctx);
    void (*progress)(void *ctx, uint64_t done, uint64_t total); /* bytes, of all files */
    void (*say)(void *ctx, const char *line);                   /* what goes on, for people */
    void *ctx;
} hub_settings;

typedef struct hub_pulled {
    char commit[41];
    size_t n_files;
    uint64_t bytes;     /* of all files of the model */
    uint64_t new_bytes; /* of those that were not in the cache */
    char path[4096];    /* the snapshot's folder, or the GGUF file in it; not set by a dry run */
} hub_pulled;

/* Fetch what of `name` is missing in the cache. The snapshot has its ref last, so what was interrupted is not taken
 * for a model; the next call goes on. dry: only say which files it would be. False and *why: ECANCELLED after a stop;
 * EFILE with the sentence. */
bool hub_pull(const hub_settings *set, const hub_name *name, bool dry, hub_pulled *out,
              apus_diag *why);

/* ---------------------------------------------------------------- what is there (cache.c, remove.c) */

typedef struct hub_entry {
    char
        *name; /* that it can be opened by: org/repo, with @rev and :TYPE or /FILE.gguf as needed */
    char *repo; /* "org/repo" */
    char *file; /* below the snapshot; NULL: all of it is the model */
    char *path; /* what apus opens */
    char commit[41];
    char quant[64];   /* "Q4_K_M", "bf16", "4 bit"; "" = not known */
    uint64_t size;    /* bytes of the weights */
    int64_t modified; /* seconds since 1970: the youngest of its files */
    bool complete;    /* all shards or parts are there */
} hub_entry;

typedef struct hub_entries {
    hub_entry *item; /* by name */
    size_t n, cap;
} hub_entries;

/* All models in the cache; those of a repository if repo is not NULL. A cache that does not exist holds none. */
bool hub_cached(const char *cache, const char *repo, hub_entries *out, apus_diag *why);
void hub_entries_free(hub_entries *e);

/* Does a name mean the entry, if both are of one repository and snapshot? */
bool hub_means(const hub_name *name, const hub_entry *e);

/* Is that model there, with all of its parts? No sentence: what opens it tells. */
bool hub_has(const char *cache, const hub_name *name);

/* What would go with a name. */
typedef struct hub_removal {
    char folder[4096];   /* of the repository */
    char commit[41];     /* one snapshot; "" = all of the repository */
    char (*links)[1024]; /* some files of the snapshot; NULL = all of it */
    size_t n_links;
    uint64_t bytes; /* that this frees: of contents that nothing else in the repository refers to */
} hub_removal;

/* org/repo: all of it. @rev: that snapshot. :TYPE, :FILE or /FILE: those files of the snapshot. False with a
 * sentence: there is no such thing, or it is being fetched. */
bool hub_remove_plan(const char *cache, const hub_name *name, hub_removal *out, apus_diag *why);
bool hub_remove(const char *cache, const hub_name *name, hub_removal *plan, apus_diag *why);
void hub_removal_free(hub_removal *r);

#endif
