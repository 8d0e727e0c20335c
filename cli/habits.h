/* habits.h - options of other programs, and what they are called here. */
#ifndef APUS_CLI_HABITS_H
#define APUS_CLI_HABITS_H

#include "options.h"

/* What to say to an option that the command does not have: a sentence that names the right one, or
 * the commands that have it. word: as it was typed, without "=value". NULL: nothing is known. */
const char *habit_answer(const command *c, const char *word);

#endif
