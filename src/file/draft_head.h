/* draft_head.h - the head of a Qwen model for the tokens after the next one ("mtp", "nextn"): is it among the weights,
 * and what does it look like?
 *
 * Files of the configuration tell it wrongly, or not at all: the tensors decide. */
#ifndef AP_FILE_DRAFT_HEAD_H
#define AP_FILE_DRAFT_HEAD_H

#include "base/notes.h"
#include "file/weights.h"

/* What the names of its tensors begin with, such as "mtp."; NULL: there is none. */
const char *ap_draft_head_prefix(const ap_weights *w);
/* Are its norms stored as 1 + w? Of a model that has zero-centred ones. */
bool ap_draft_head_shifted(const ap_weights *w);

/* Sets c->has_head and c->head. A head that cannot be used (tensors are missing or have other shapes, several layers)
 * is left out, which is told in notes (may be NULL). Quantised tensors are joined. */
void ap_draft_head_find(ap_config *c, const ap_weights *w, ap_notes *notes);

#endif
