/* few_slots.h - a source of experts with few slots: what a model that does not fit in memory lives with. */
#ifndef TESTS_GOLDEN_FEW_SLOTS_H
#define TESTS_GOLDEN_FEW_SLOTS_H

#include "apus/apus.h"

typedef struct few_slots few_slots;

/* Let engines that are made from now on get the experts of m from n slots that they are copied to. Ends the program
 * when memory is out. NULL: m has no experts. */
few_slots *few_slots_make(apus_model *m, int n);
/* After the engines. */
void few_slots_free(few_slots *f);
/* Waves that were handed out. */
long few_slots_waves(const few_slots *f);

#endif
