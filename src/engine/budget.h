/* budget.h - what of a model stays in memory when not all of it may: everything that every token needs, and as many
 * experts as there is room for. */
#ifndef AP_ENGINE_BUDGET_H
#define AP_ENGINE_BUDGET_H

#include "engine/engine.h"

/* Decide how the model is loaded, before a byte of its weights is read: m->outline stays NULL if all of it fits into
 * the memory that the settings allow, else the store of its experts is made and the plan told to the log.
 * m->packed_bytes: of the whole model. ENOMEM with the numbers; EUNSUPPORTED: not on this device. */
apus_err ap_budget_plan(apus_model *m, const apus_model_settings *s, apus_diag *diag);
void ap_budget_free(apus_model *m);

#endif
