/* store.h - the Hugging Face cache folder, as huggingface_hub lays it out:
 *
 *     models--org--repo/blobs/<etag>                contents; <etag>.incomplete while they are fetched
 *     models--org--repo/refs/<rev>                  the commit that a branch or tag stands for
 *     models--org--repo/snapshots/<commit>/<file>   links to blobs
 *     .locks/models--org--repo/<etag>.lock          flock: somebody fetches this blob
 */
#ifndef APUS_HUB_STORE_H
#define APUS_HUB_STORE_H

#include <stdint.h>

#include "why.h"

typedef struct hub_path {
    char s[4096];
} hub_path;

/* Format a path; false and a sentence if it is too long. */
bool hub_path_set(hub_path *p, apus_diag *why, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* CACHE/models--org--repo; repo: "org/repo". */
bool hub_store_repo(hub_path *p, const char *cache, const char *repo, apus_diag *why);

/* Make a folder, and those around it. */
bool hub_store_folder(const char *path, apus_diag *why);
/* Make what a repository needs; also marks a cache folder that is new as one that backups may skip. */
bool hub_store_prepare(const char *cache, const char *repo, apus_diag *why);

/* Take the lock of a blob: its file descriptor, to be closed; -1: another process has it; -2: it cannot be had,
 * with a sentence. */
int hub_store_lock(const char *cache, const char *repo, const char *etag, apus_diag *why);

/* Let snapshots/<commit>/<name> be a link to the blob. What is there already is replaced if it is another link. */
bool hub_store_link(const char *cache, const char *repo, const char *commit, const char *name,
                    const char *etag, apus_diag *why);
/* refs/<rev> names the commit. A rev that is the commit itself needs no ref. */
bool hub_store_ref(const char *cache, const char *repo, const char *rev, const char *commit,
                   apus_diag *why);
/* The commit of a revision: false (no sentence) if the cache does not know it. */
bool hub_store_commit(const char *cache, const char *repo, const char *rev, char commit[41]);

/* Bytes that fit in the file system of the cache, whose folder need not exist yet; UINT64_MAX: nobody knows. */
uint64_t hub_store_room(const char *cache);

bool hub_exists(const char *path);

#endif
