/* few_slots.h - a model whose experts come from its files through few slots, as if memory had no room for more. */
#ifndef TESTS_GOLDEN_FEW_SLOTS_H
#define TESTS_GOLDEN_FEW_SLOTS_H

#include <stdbool.h>

#include "apus/apus.h"

typedef struct few_slots few_slots;

/* Let engines that are made from now on get the experts of m from n slots, by threads or by the best there is. NULL:
 * m has no experts. Ends the program if that fails. */
few_slots *few_slots_make(apus_model *m, int n, bool threads);
/* The same from copies of its files, which may be cut (so that every read fails) and mended. */
few_slots *few_slots_make_copy(apus_model *m, int n);
/* The same from a file of packed experts. */
few_slots *few_slots_make_packed(apus_model *m, int n);
void few_slots_cut(const few_slots *f);
void few_slots_mend(const few_slots *f);
/* After the engines, before the model. */
void few_slots_free(few_slots *f);
/* Experts that were read. */
unsigned long few_slots_read(const few_slots *f);

#endif
