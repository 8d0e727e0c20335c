/* stage.h - results that appear under their name whole or not at all.
 *
 * A result, a file or a folder of files, is written in a private folder beside its name,
 *
 *     DIR/.NAME.apus-0123456789abcdef/out      with a file `lock` next to it,
 *
 * and is given the name by one rename when everything is on the disk. The digits are random and the
 * folder is ours alone, so nobody can put a link in the way. `lock` is locked (flock) as long as its
 * maker lives: a folder of that form, of this user, whose lock is free was left by a run that was
 * killed, and the next result of the same name removes it. Nothing else is ever removed.
 *
 * What exists under the name is replaced only on demand, and only
 *   by a file:   a regular file
 *   by a folder: a folder with config.json that holds nothing but files of the kinds that models have
 * Symbolic links, devices, pipes and sockets are always refused: a link may lead anywhere. */
#ifndef AP_BASE_STAGE_H
#define AP_BASE_STAGE_H

#include <stdbool.h>

#include "base/err.h"

typedef enum ap_stage_kind { AP_STAGE_FILE, AP_STAGE_FOLDER } ap_stage_kind;

typedef struct ap_stage {
    ap_stage_kind kind;
    bool replace;
    char *path; /* the result's name; NULL: not begun */
    char *dir;  /* the private folder */
    char *
        out; /* in it: where the caller writes; a folder exists, a file is for the caller to make */
    int lock; /* file descriptor */
    int live; /* place in the list for signal handlers, -1: none */
} ap_stage;

/* Could a result of that name be written? Looks only. EFILE with the reason. */
apus_err ap_stage_check(const char *path, ap_stage_kind kind, bool replace, apus_diag *diag);

/* A result must not take the place of what it is made from: EINVAL if it is `source`, or one of the
 * files of the model in the folder `source`. */
apus_err ap_stage_apart(const char *path, const char *source, apus_diag *diag);

/* Check, remove what killed runs left of this name, make the private folder. EFILE, ENOMEM; *s then
 * is as after ap_stage_drop. */
apus_err ap_stage_begin(ap_stage *s, const char *path, ap_stage_kind kind, bool replace,
                        apus_diag *diag);

/* Give what was written, which must be closed and flushed (ap_output_close), its name. If something
 * came to have the name meanwhile it stays, and the result is dropped. Ends *s in any case. */
apus_err ap_stage_finish(ap_stage *s, apus_diag *diag);

/* A sentence about s->out becomes one about the result. */
void ap_stage_rephrase(const ap_stage *s, apus_diag *diag);

/* Remove what was written. Nothing to do for a zeroed, ended or dropped stage. */
void ap_stage_drop(ap_stage *s);

/* Remove what this process has begun and not finished, in all threads, before a signal ends it.
 * Async-signal-safe. */
void ap_stages_remove(void);

#endif
