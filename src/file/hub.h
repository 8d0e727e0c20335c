/* hub.h - where a model is: a path, or org/repo[@rev] in the local Hugging Face cache. */
#ifndef AP_FILE_HUB_H
#define AP_FILE_HUB_H

#include "base/err.h"

/* Resolve name to a model folder.
 *   cache  the hub cache folder (holding models--org--repo), or NULL
 *   dir    apus_free it
 * A path that exists wins. EFILE: neither; the sentence tells where it was looked for. */
apus_err ap_hub_resolve(const char *name, const char *cache, char **dir, apus_diag *diag);

#endif
