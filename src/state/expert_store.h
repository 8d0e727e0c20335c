/* expert_store.h - experts of which only some are in memory: the others are read from files when a layer needs
 * them, while those that are there are computed.
 *
 * Memory is slots, each as large as the largest expert; which expert is in which slot is decided layer by layer
 * (expert_cache.h). Reads begin as soon as a layer has chosen, several experts at a time, around the system's cache:
 * what the slots keep is not kept twice. An expert is gathered from the places where its matrices, scales and biases
 * lie and packed as a resident model packs it, so results are the same to the bit; or it is one record that was
 * packed beforehand, in a file of its own, and lands in its slot. When all that a layer lacks is on its way, reads
 * go on with what the next one will want (expert_ahead.h), and are under way between layers too.
 *
 * One store may serve several engines: a layer has it alone from want to done. */
#ifndef AP_STATE_EXPERT_STORE_H
#define AP_STATE_EXPERT_STORE_H

#include "base/aio.h"
#include "state/expert_form.h"

typedef struct ap_expert_store ap_expert_store;

/* Packed experts in a file: those that a view names and whose record is not 0. */
typedef struct ap_expert_records {
    const char *path;
    const uint64_t *offset; /* [L][E], multiples of AP_IO_ALIGN */
    const uint64_t *sum;    /* [L][E] XXH3 of ap_expert_bytes */
} ap_expert_records;

/* Everything that pointers lead to stays as long as the store. */
typedef struct ap_expert_spec {
    int n_layer, n_expert;
    const ap_expert_view *view; /* [L][E], zeroed where there is none */
    ap_device *dev;             /* of slots; its table packs */
    const char *const *path;    /* [n_file] files that the views lie in */
    int n_file;
    /* Which file has the n bytes at p, and where; false: none, they are in memory. */
    bool (*where)(const void *ctx, const void *p, size_t n, size_t *file, uint64_t *offset);
    const void *ctx;
    const ap_expert_records *records; /* NULL: gather */
    ap_aio_kind io;
    int n_slot; /* >= 1 */
} ap_expert_spec;

/* The largest of all, a multiple of AP_IO_ALIGN: what a slot takes; and how many there are. */
size_t ap_expert_slot_bytes(const ap_expert_spec *s, size_t *n);
/* Memory beside the slots: where experts are gathered, and tables. */
size_t ap_expert_room_bytes(const ap_expert_spec *s);

/* EFILE, ENOMEM; EFORMAT: matrices that this table cannot pack. */
apus_err ap_expert_store_create(const ap_expert_spec *s, ap_expert_store **out, apus_diag *diag);
void ap_expert_store_free(ap_expert_store *s);

ap_expert_source *ap_expert_store_source(ap_expert_store *s);

/* Read experts here and there for about a fifth of a second, with ever more reads at once, and keep the number that
 * was quickest. Returns bytes a second; 0: too few bytes to tell. */
double ap_expert_store_probe(ap_expert_store *s);

/* An expert that was in memory, and how much it was used (expert_cache.h). */
typedef struct ap_expert_use {
    int layer, expert;
    double uses;
} ap_expert_use;

/* Those that are in memory, in any order: out [slots], returns how many. Waits for the layer that is computed. */
int ap_expert_store_list(const ap_expert_store *s, ap_expert_use *out);
/* Bring experts into free slots as if they had been used so; what there is no such expert, no slot or no reading
 * of is left out. progress (may be NULL) is asked now and then; false: no more. Nobody computes. */
void ap_expert_store_recall(ap_expert_store *s, const ap_expert_use *use, int n,
                            apus_progress_fn progress, void *ctx);

typedef struct ap_expert_counts {
    uint64_t hits, misses; /* experts that a layer wanted, and had or had not */
    uint64_t ahead;        /* read before their layer asked, */
    uint64_t ahead_used;   /* and it did; they count as misses */
    uint64_t bytes;        /* read */
    uint64_t stall_us;     /* waited for reads with nothing to compute */
    uint64_t pack_us;      /* gathered experts brought into their form */
} ap_expert_counts;

/* Since the store was made. By any thread. */
ap_expert_counts ap_expert_store_counts(const ap_expert_store *s);
int ap_expert_store_slots(const ap_expert_store *s);
int ap_expert_store_depth(const ap_expert_store *s); /* experts that are read at once */
const char *ap_expert_store_io(const ap_expert_store *s);

#endif
