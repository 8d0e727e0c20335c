/* tools.c - small facts about a model that tools need. */
#include "apus/apus_unstable.h"

#include "engine/model.h"

int32_t apus_text_start(const apus_model *m)
{
    return m && ap_arch_is_gemma(m->config.arch) ? m->config.bos : -1;
}
