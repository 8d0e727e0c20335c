/* sample.h - the sampler over buffers that somebody else may own. */
#ifndef AP_ENGINE_SAMPLE_H
#define AP_ENGINE_SAMPLE_H

#include "apus/apus.h"
#include "base/rng.h"

typedef struct ap_candidate {
    float x; /* penalised logit */
    int32_t id;
} ap_candidate;

struct apus_sampler {
    apus_sampling set;
    int vocab;
    ap_rng rng;
    float *x;           /* f32 [V] penalised logits */
    double *weight;     /* f64 [V] exp((x - max) / temperature) */
    ap_candidate *cand; /* [V] */
    uint32_t *count;    /* u32 [V], zero between calls */
    void *mem;          /* all of them */
    size_t mem_bytes;
};

/* Bytes of the buffers for a vocabulary; false on overflow. */
bool ap_sampler_bytes(int vocab, size_t *bytes);

/* Check settings. EINVAL names field and range. */
apus_err ap_sampling_check(const apus_sampling *s, apus_diag *diag);

/* Put buffers in place; mem: zeroed, AP_ALIGN-aligned, ap_sampler_bytes. */
void ap_sampler_init(apus_sampler *p, int vocab, void *mem, size_t mem_bytes);

/* New settings (checked) and a fresh random sequence. */
void ap_sampler_start(apus_sampler *p, const apus_sampling *s);

#endif
