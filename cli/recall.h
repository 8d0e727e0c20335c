/* recall.h - experts that were in memory when a model was last used, kept in a file of the user's cache. */
#ifndef APUS_CLI_RECALL_H
#define APUS_CLI_RECALL_H

#include "apus/apus.h"

/* Read them again, if there is such a file and it is whole; models that have all in memory have none. */
void recall_experts(apus_model *m);
/* Write the file, if any expert was used. Failures are not told: it is only slower without. */
void remember_experts(const apus_model *m);

#endif
