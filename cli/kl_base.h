/* kl_base.h - a model's predictions of a text in a file, so that others can be compared with it without
 * running it again.
 *
 * Layout, little-endian: "APUSKL1\n", u32 vocabulary V, u32 window, u64 windows, i32 first token of
 * every window (-1: the text's own), i32 [windows * window] tokens; then for each scored token f32
 * -log p of the token that followed and u16 [V] -log p of every token in steps of 2^-11, at most 65535
 * (32 nats). Rounding like that changes a divergence by about 1e-8. */
#ifndef APUS_CLI_KL_BASE_H
#define APUS_CLI_KL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "apus/apus_unstable.h"

typedef struct kl_base {
    FILE *f;          /* reading; NULL: not */
    apus_output *out; /* writing; NULL: not */
    uint64_t at;      /* bytes written */
    char *path;
    int vocab, window;
    size_t windows;
    uint8_t *row; /* one scored token as in the file */
} kl_base;

/* The text that the predictions are of. */
typedef struct kl_text {
    int vocab, window;
    size_t windows;
    int32_t first;      /* -1: none */
    const int32_t *ids; /* [windows * window] */
} kl_text;

/* Write to `out`, begun by the caller, who ends it; or read a file, which must be of the same text. */
bool kl_base_create(kl_base *k, const char *path, apus_output *out, const kl_text *t, apus_diag *d);
bool kl_base_open(kl_base *k, const char *path, const kl_text *t, apus_diag *d);

/* One scored token: logits [vocab], log of the sum of their exp, -log p of what followed. */
bool kl_base_write(kl_base *k, const float *logits, double log_sum, double nll, apus_diag *d);
/* The next one: log p [vocab] (normalised to 2^-11), -log p of what followed. */
bool kl_base_read(kl_base *k, float *log_p, double *nll, apus_diag *d);

void kl_base_close(kl_base *k);

#endif
