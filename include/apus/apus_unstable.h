/* apus_unstable.h - what tools and tests need besides apus.h; may change with every version. */
#ifndef APUS_APUS_UNSTABLE_H
#define APUS_APUS_UNSTABLE_H

#include "apus/apus.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What this machine can do, measured now with loops that do nothing else; takes about a second.
 *   level    AUTO or one the processor has
 *   threads  0 = one per physical core allowed to us
 *   read     out, bytes per second that memory delivers to all threads together
 *   flops    out, f32 operations per second (a multiply-add counts two) of all threads
 * Returns OK; EINVAL, ENOMEM. */
APUS_API apus_err apus_machine_peaks(apus_cpu level, int threads, double *read, double *flops,
                                     apus_diag *diag);

/* The token that a text without a chat template should begin with even where the tokenizer does not
 * add it: <bos> of Gemma 4, which has never seen a text without. -1: none. */
APUS_API int32_t apus_text_start(const apus_model *m);

#ifdef __cplusplus
}
#endif
#endif
