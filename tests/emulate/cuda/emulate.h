/* emulate.h - threads of a card as fibers: what a thread asks of those beside it. */
#ifndef EMULATE_H
#define EMULATE_H

#include <cstddef>
#include <cstdint>
#include <functional>

enum { EMULATE_WORDS = 8, EMULATE_MOST_CLUSTER = 8, EMULATE_SHARED = 227 * 1024 };

/* The calling thread's place in its warp. */
int emulate_lane();

/* All 32 lanes give some words, at most EMULATE_WORDS, and see those of all, until the warp's next operation but one.
 * `kind` must be the same in all. */
const uint32_t (*emulate_exchange(const uint32_t *v, int words, int kind))[EMULATE_WORDS];

/* Barriers: of a block, with votes; of `threads` threads that name the same number; of a cluster, in two halves. */
struct emulate_votes {
    int yes, all;
};
void emulate_sync_block();
emulate_votes emulate_sync_count(bool yes);
void emulate_sync_some(int number, int threads);
void emulate_cluster_arrive();
void emulate_cluster_wait();

/* Shared memory: addresses of 32 bits, which begin at 0 with a kernel's dynamic part; the same place in another block of
 * the cluster. */
uint32_t emulate_address(const void *p);
void *emulate_pointer(uint32_t address);
void *emulate_pointer_in(const void *p, int rank);

/* Copies that come late. A thread's own, in groups. */
void emulate_copy(void *to, const void *from, int bytes, int of);
void emulate_copies_commit();
void emulate_copies_wait(int left);

/* And those that a barrier in shared memory counts. */
void emulate_barrier_make(uint32_t at, int arrivals);
void emulate_barrier_arrive(uint32_t at, uint32_t expected);
void emulate_barrier_wait(uint32_t at, uint32_t parity);
void emulate_copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier);

/* Run a kernel: all blocks of the grid. Ends the program with a message where a kernel breaks a rule. */
struct emulate_grid {
    unsigned grid[3], block[3], cluster;
    size_t shared;
    const void *kernel;
    const std::function<void()> *body;
};
void emulate_run(const emulate_grid &g);

#endif
