/* gold.h - what make_media_goldens.py wrote, for the tests of it. */
#ifndef GOLD_H
#define GOLD_H

#include "apus/apus.h"
#include "file/safetensors.h"

#define MOST_PICTURES 16

extern int gold_fails;
void gold_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void gold_need(apus_err err, const apus_diag *d); /* or the end */

typedef struct gold {
    ap_safetensors f;
    const char *folder;
} gold;

void gold_open(gold *g, const char *folder);
/* Tensor NAME_k, or NULL. */
const ap_tensor *gold_find(const gold *g, const char *name, int k);
/* A copy with the right alignment; free it. */
void *gold_copy(const ap_tensor *t);

typedef struct prompt {
    int32_t *ids, *pos, *used;
    float *logits, *rgap;
    int n, n_pos, n_used;
} prompt;

/* Prompt k; false: there is none. */
bool gold_prompt(const gold *g, int k, prompt *p);
void gold_prompt_free(prompt *p);

/* The model, with its towers. */
apus_model *gold_model(const char *folder, const char *device, apus_precision precision);
/* Pictures 0 ..., as many as there are. */
int gold_pictures(const gold *g, const apus_model *m, apus_media *out[MOST_PICTURES]);
/* The most places of a picture that may not be cut. */
int gold_most_places(apus_media *const *media, int n);

#endif
