/* tools.c - small facts about a model that tools need. */
#include "apus/apus_unstable.h"

#include "engine/model.h"
#include "file/family.h"

int32_t apus_text_start(const apus_model *m)
{
    return m && ap_family_of(m->config.arch)->tokens->first ? m->config.bos : -1;
}
