/* expert_form.h - an expert in memory: its three matrices one behind the other, packed as a table of operations takes
 * them; those of types without a packed form as files have them, data, scales and biases. */
#ifndef AP_STATE_EXPERT_FORM_H
#define AP_STATE_EXPERT_FORM_H

#include "kern/expert_source.h"

/* Bytes of an expert, packed as table k does; 0: there is none. */
size_t ap_expert_bytes(const ap_kern *k, const ap_expert_view *v);
/* The matrices of an expert that is at `at`, 64-byte aligned. */
void ap_expert_at(const ap_kern *k, const ap_expert_view *v, uint8_t *at, ap_expert *out);

/* Pack an expert whose parts lie in memory to `at`: tasks [0, ap_expert_tasks), in any order, by any threads. */
int ap_expert_tasks(const ap_expert_view *v);
void ap_expert_task(const ap_kern *k, const ap_expert_view *v, int task, uint8_t *at);

/* The parts of an expert: data, scales and biases of its matrices. */
#define AP_EXPERT_PARTS 9
typedef struct ap_expert_part {
    const void *at;
    size_t bytes; /* 0: it has no such part */
} ap_expert_part;
void ap_expert_parts(const ap_expert_view *v, ap_expert_part out[AP_EXPERT_PARTS]);
/* The same expert with its parts elsewhere. */
void ap_expert_moved(ap_expert_view *v, void *const at[AP_EXPERT_PARTS]);

/* A number for the form of packed experts: of another form, another number. */
uint64_t ap_expert_form(const ap_kern *k);

#endif
