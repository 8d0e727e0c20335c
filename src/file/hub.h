/* hub.h - where a model is: a path, or org/repo in the local Hugging Face cache. */
#ifndef AP_FILE_HUB_H
#define AP_FILE_HUB_H

#include "base/err.h"

/* Resolve name to a model folder, or to a *.gguf file.
 *   name   a folder; a config.json, *.safetensors, *.safetensors.index.json or *.gguf in it; or
 *          org/repo[@rev], rev a branch, a tag or a full commit, "main" if not given. Of a folder or
 *          repository with GGUF files: NAME:TYPE (such as :Q4_K_M), NAME:FILE.gguf, org/repo/FILE.gguf, or
 *          just NAME if there is one only; org/repo:TYPE@rev is org/repo@rev:TYPE
 *   cache  the hub cache folder (holding models--org--repo), or NULL
 *   dir    apus_free it
 * A path that exists wins; safetensors with their config.json win over GGUF files beside them. Names of
 * parts that could leave the cache ("..", leading dots) are refused. Nothing is downloaded. EFILE: neither;
 * the sentence tells where it was looked for, or which GGUF files there are. EFORMAT: the cache's refs file
 * holds no commit. */
apus_err ap_hub_resolve(const char *name, const char *cache, char **dir, apus_diag *diag);

#endif
