/* gold.h - the reference's answers beside a tiny model (logits.safetensors), for the golden runner.
 *
 * The reader trusts the file: it is made by tools/goldens/make_model_goldens.py and committed. It
 * is independent of src/file on purpose. Tensors: see README.md of this folder. */
#ifndef TESTS_GOLDEN_GOLD_H
#define TESTS_GOLDEN_GOLD_H

#include <stdint.h>

#define GOLD_MAX_PROMPTS 16
#define GOLD_GREEDY      32

typedef struct gold_prompt {
    const int32_t *ids;    /* i32 [n] */
    const int32_t *pos;    /* i32 [n_pos] ascending, the last one is n - 1 */
    const float *logits;   /* f32 [n_pos, V] of the float32 reference */
    const float *noise;    /* f32 [n_pos] its distance to a float64 run */
    const int32_t *greedy; /* i32 [GOLD_GREEDY] */
    const float *gap;      /* f32 [GOLD_GREEDY] best minus second best logit */
    const float *rgap;     /* f32 [n + GOLD_GREEDY - 1] running router gap; NULL without experts */
    int n, n_pos;
} gold_prompt;

typedef struct gold {
    gold_prompt prompt[GOLD_MAX_PROMPTS];
    int n_prompt, vocab, max_n;
    void *data; /* the file */
} gold;

/* Read folder/logits.safetensors. Returns 0, or -1 after printing why not. */
int gold_read(const char *folder, gold *g);
void gold_free(gold *g);

#endif
