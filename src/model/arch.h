/* arch.h - what a model family implements, and the step it is given. */
#ifndef AP_MODEL_ARCH_H
#define AP_MODEL_ARCH_H

#include "file/config.h"
#include "file/weights.h"
#include "kern/expert_source.h"

/* Kinds of memory that a session of this model needs; state/ makes it. Layers that own K/V are in
 * one of two groups: full (keep all pages) and sliding (free pages that left the window). */
typedef enum ap_kv_group { AP_KV_FULL = 0, AP_KV_SLIDING = 1 } ap_kv_group;

typedef struct ap_state_shape {
    size_t
        page_bytes[AP_KV_GROUPS]; /* all layers of the group, AP_PAGE tokens; 0 = no such layer */
    int window;                   /* of the sliding group */
    size_t recur_floats; /* conv + delta states of all layers, per sequence, and the carried row */
    size_t
        kept_floats; /* of a kept row (kern.h), in all layers; 0 = no layer has a recurrent state */
    /* With the draft head each of these has its part at the end: */
    size_t head_page_bytes; /* in pages of full layers: its keys and values; 0 = it is not run */
    size_t carry_floats;    /* of states and of kept rows: the last row's normed hidden row */
} ap_state_shape;

/* One forward pass over the rows of a batch. Memory is the device's. */
typedef struct ap_step {
    const ap_batch *batch;          /* every page written in this step is in its tables */
    const ap_state_shape *shape;    /* of pages and states; with the head's part: it is fed */
    uint8_t *kv_base[AP_KV_GROUPS]; /* page memory */
    float *recur;                   /* f32 [blocks, recur_block_floats], read and replaced */
    size_t recur_block_floats;
    float *kept; /* f32 [layers with states][kept_rows][...]: rows that sequences keep; or NULL */
    size_t kept_rows;          /* those of each layer */
    float *logits;             /* f32 [n_out, V] */
    void *scratch;             /* ap_model_scratch_bytes(c, ex, T, experts != NULL) */
    ap_expert_source *experts; /* NULL: the model has them all */
    ap_delta_form delta_form;
    apus_kv kv; /* what the pages hold; not AUTO */
} ap_step;

typedef struct ap_model_impl ap_model_impl; /* a loaded model: config, weights, packed matrices */

/* Bind and check all tensors of the text model and pack the weights into memory of the device.
 *   w        stays open as long as the model (embedding rows are read from it)
 *   dev      likewise
 *   experts  also the routed ones; without them steps need a source
 * Errors name tensor and file. progress as in apus_model_settings, may be NULL. */
apus_err ap_model_load(const ap_config *c, const ap_weights *w, ap_device *dev, bool experts,
                       apus_progress_fn progress, void *ctx, ap_model_impl **out, apus_diag *diag);
void ap_model_free(ap_model_impl *m);

/* Check all tensors as ap_model_load does, and tell how many bytes it would take; nothing is packed. *out, if
 * wanted: a model with nothing to run that tells, without experts, where those are. */
apus_err ap_model_measure(const ap_config *c, const ap_weights *w, ap_device *dev, bool experts,
                          size_t *bytes, ap_model_impl **out, apus_diag *diag);

/* Routed experts in the files, [L][E], zeroed in layers that have none: of a model from ap_model_measure. */
const ap_expert_view *ap_model_views(const ap_model_impl *m);

const ap_config *ap_model_config(const ap_model_impl *m);
size_t ap_model_packed_bytes(const ap_model_impl *m);

/* From the config alone. kv: not AUTO. head: c has one, and it is run. False: pages of this type do not take a head
 * size of the model. */
bool ap_state_shape_of(const ap_config *c, apus_kv kv, bool head, ap_state_shape *out);

/* Scratch of a step of at most n_tok tokens.
 *   waves  experts come from a source; the table has moe_wave */
size_t ap_model_scratch_bytes(const ap_config *c, const ap_exec *ex, int n_tok, bool waves);

/* Run a step: everything was checked and allocated before. Errors of a device show when it finishes; those
 * of step->experts here, with states and K/V as after a cancel.
 *   cancel  polled between layers; when set the pass stops early: ECANCELLED.
 *           Recurrent states are then undefined and must be restored; K/V of the step's rows are old or
 *           right, never mixed up. May be NULL. Not looked at in steps that a device records. */
apus_err ap_model_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                          const volatile int *cancel, apus_diag *diag);

/* Run the draft head on a row of each sequence of s->batch, all of them wanted: on its token and on the hidden row
 * before it. Its keys and values go to that position's place in the pages.
 *   hidden  f32 [S, H] of the device: the rows before, which are replaced by the head's own; with
 *   carried true (hidden is only written) the rows that the sequences carry
 * Everything up to the token before was fed with a shape that has the head's part, on sequences of one token and more.
 * s->logits: of the token after next. */
void ap_model_draft(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, float *hidden,
                    bool carried);

/* Recurrent states after n_tok kept rows of each sequence of s->batch, from its row `keep` on: as those rows would have
 * left them. Of s only the batch's seq, recur and kept are looked at. Nothing for models without such states. */
void ap_model_commit(const ap_model_impl *m, const ap_exec *ex, const ap_step *s);

#endif
