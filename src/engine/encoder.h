/* encoder.h - the tower of an engine at work for a scheduler: one picture at a time, in slices between steps, and
 * what came of the last ones, for requests that show them again. Of one thread. */
#ifndef AP_ENGINE_ENCODER_H
#define AP_ENGINE_ENCODER_H

#include "engine/shown.h"

typedef struct ap_encoder {
    const apus_engine *e;
    const ap_patches *part; /* in work; NULL: nothing is */
    bool heard;             /* by the audio tower, */
    ap_tower_run *run;      /* else by this */
    ap_embeds *rows;        /* what becomes of it */
    ap_embeds **kept;       /* [n_kept], the one used last at the end */
    int n_kept, room;
    size_t bytes, most; /* of their rows: there are, may be */
    uint64_t encoded, reused;
    int64_t us; /* all runs together */
} ap_encoder;

/*   most  bytes that are kept; 0 = none */
void ap_encoder_open(ap_encoder *x, const apus_engine *e, uint64_t most);
void ap_encoder_close(ap_encoder *x); /* of a zeroed struct too */

/* What has that hash, with a reference for the caller; NULL: it is not kept. */
ap_embeds *ap_encoder_find(ap_encoder *x, const uint64_t hash[2]);

/* Take up a part; nothing may be in work. It must stay until it is done or stopped. ENOMEM, EINVAL. */
apus_err ap_encoder_begin(ap_encoder *x, const ap_sight *s, apus_diag *diag);
/* Go on with it for us microseconds, at least a layer; us < 0: to the end.
 *   out  what came of it, with a reference for the caller, once it is done; else NULL
 * ECANCELLED, EDEVICE: it was stopped. */
apus_err ap_encoder_go(ap_encoder *x, int64_t us, const volatile int *cancel, ap_embeds **out,
                       apus_diag *diag);
void ap_encoder_stop(ap_encoder *x);

#endif
