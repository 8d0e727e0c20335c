/* budget.h - what of a model stays in memory when not all of it may: everything that every token needs, and as many
 * experts as there is room for. */
#ifndef AP_ENGINE_BUDGET_H
#define AP_ENGINE_BUDGET_H

#include "engine/engine.h"

/* Bytes of the experts of a model from ap_model_measure, packed: [L][E], ap_free it; NULL: no memory. */
size_t *ap_budget_record_bytes(const ap_config *c, const ap_expert_view *v, const ap_kern *k);

/* Decide how the model is loaded, before a byte of its weights is read: m->outline stays NULL if all of it fits into
 * the memory that the settings allow, else the store of its experts is made and the plan told to the log.
 * m->packed_bytes: of the whole model. ENOMEM with the numbers; EUNSUPPORTED: not on this device. */
apus_err ap_budget_plan(apus_model *m, const apus_model_settings *s, apus_diag *diag);
void ap_budget_free(apus_model *m);

#endif
