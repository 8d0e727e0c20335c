/* model.h - what an open model holds. */
#ifndef AP_ENGINE_MODEL_H
#define AP_ENGINE_MODEL_H

#include "base/log.h"
#include "file/config.h"
#include "file/mmproj.h"
#include "file/packed.h"
#include "file/weights.h"
#include "kern/kern.h"
#include "model/arch.h"
#include "model/audio_tower.h"
#include "model/tower.h"
#include "state/expert_store.h"
#include "text/chat.h"
#include "text/tokenizer.h"

struct apus_model {
    ap_config config;
    char *dir;
    ap_weights *weights;         /* NULL with APUS_LOAD_TEXT */
    ap_mmproj mmproj;            /* of a GGUF model: its towers; path NULL: there is none */
    bool no_weights;             /* APUS_LOAD_INFO of a configuration alone: weights has no data */
    ap_tokenizer *tokenizer;     /* NULL: the folder has none, or APUS_LOAD_INFO */
    ap_chat *chat;               /* likewise */
    ap_chat_syntax syntax;       /* of its answers */
    ap_model_impl *impl;         /* NULL unless APUS_LOAD_ALL */
    uint64_t budget;             /* bytes that it and its engines may take; 0 = what is there */
    ap_expert_source *experts;   /* NULL: impl has them all, or there are none */
    unsigned towers;             /* APUS_TOWER_* that are loaded too */
    ap_vision_config vision;     /* with APUS_TOWER_VISION */
    ap_tower *tower;             /* likewise */
    ap_audio_config audio;       /* with APUS_TOWER_AUDIO */
    ap_audio_tower *audio_tower; /* likewise */
    size_t tower_bytes;          /* of the towers' weights */
    ap_expert_store *store;      /* whose source that is, or NULL */
    ap_model_impl *outline;    /* has the views that the store reads by; NULL: all are in memory */
    const char **paths;        /* of the files, for the store */
    ap_expert_records records; /* of packed, for the store */
    ap_packed packed;          /* its experts in a file of their own; path NULL: there is none */
    ap_device *dev;            /* has the weights; lent to engines. NULL with APUS_LOAD_TEXT */
    apus_precision precision;
    size_t packed_bytes;  /* of the weights, also when they are not loaded */
    size_t mapped_bytes;  /* of the embedding's rows, at most, in the file's pages */
    uint64_t fingerprint; /* APUS_LOAD_ALL: ties saved sessions to these weights */
    ap_log log;
    apus_info info;
    struct ap_grammars *grammars; /* compiled for constraints; guards itself */
    char weight_types[512];
    ap_notes notes; /* of the files */
};

/* What makes two folders the same model for saved sessions and packed experts: configuration, tensor names, shapes,
 * types and some bytes of each. */
uint64_t ap_fingerprint(const ap_config *c, const ap_weights *w);

/* Where things are, for the log: a level of the CPU such as "avx2", or another device's name. */
static inline const char *ap_where(const ap_device *d)
{
    return d->is_host ? apus_cpu_name(d->kern->level) : d->name;
}

/* model.c: what the model sees and hears with, of its files. EUNSUPPORTED: it does not. */
apus_err ap_vision_of(const apus_model *m, ap_vision_config *out, apus_diag *diag);
apus_err ap_audio_of(const apus_model *m, ap_audio_config *out, apus_diag *diag);

#endif
