/* sample.h - the sampler: settings, random numbers and history around the slot that chooses (kern.h). */
#ifndef AP_ENGINE_SAMPLE_H
#define AP_ENGINE_SAMPLE_H

#include "apus/apus.h"
#include "base/rng.h"
#include "kern/kern.h"

/* What one sequence is sampled with. */
typedef struct ap_sample_state {
    apus_sampling set;
    ap_rng rng;
} ap_sample_state;

/* Chooses after up to n_row rows of logits at once. */
typedef struct ap_chooser {
    int n_row, vocab, most_history;
    int n_allowed; /* ids that may be chosen */
    const ap_exec *ex;
    ap_sample_row *row; /* [n_row] */
    int *at;            /* [n_row] whose logits these are */
    /* memory of the device */
    void *scratch;
    size_t scratch_bytes;
    int32_t *history; /* i32 [n_row, most_history]; NULL where the host's may be read */
    uint32_t *mask;   /* ids that may be chosen; NULL = all */
    int32_t *id;      /* shared, i32 [n_row]: what was chosen; -1 where a logit is NaN or +inf */
} ap_chooser;

struct apus_sampler {
    ap_sample_state state;
    ap_chooser chooser;
    ap_exec ex;
    float *logits; /* shared, f32 [V] */
};

/* Check settings. EINVAL names field and range. */
apus_err ap_sampling_check(const apus_sampling *s, apus_diag *diag);

/* New settings (checked) and a fresh random sequence. */
void ap_sample_start(ap_sample_state *p, const apus_sampling *s);

/* Bytes of a chooser's memory; false on overflow. most_history: tokens that penalties may look at. */
bool ap_chooser_bytes(const ap_exec *ex, int n_row, int vocab, int most_history, size_t *bytes);

/* Take memory of the device of ex, which outlives the chooser; p is zeroed. ENOMEM. */
apus_err ap_chooser_init(ap_chooser *p, const ap_exec *ex, int n_row, int vocab, int most_history,
                         apus_diag *diag);
void ap_chooser_close(ap_chooser *p); /* of a zeroed struct too */

/* These ids, and no others, are never chosen. ENOMEM. */
apus_err ap_chooser_forbid(ap_chooser *p, const int32_t *id, int n, apus_diag *diag);

/* How row i is chosen after in the next run; draws a random number.
 *   at       the row of logits that it is
 *   history  i32 [n] on the host, n <= most_history, until the run; tokens the penalties look at */
void ap_chooser_row(ap_chooser *p, int i, int at, ap_sample_state *state, const int32_t *history,
                    int n);

/* Choose after rows 0 to n - 1, all of them set by ap_chooser_row, and wait: p->id.
 *   logits  f32 [*, V] of the device; the rows that they are of are changed
 * EDEVICE. */
apus_err ap_chooser_run(ap_chooser *p, float *logits, int n, apus_diag *diag);

#endif
