/* kcheck.h - the harness: every slot of struct ap_kern, at every level, against an f64 oracle,
 * against ref to the bit, and against itself in another batch. Other devices than the CPU are compared with
 * ref within a tolerance.
 *
 * A check of a slot is one function in a check_*.c, listed in kcheck.c:
 *
 *   void check_norm(kc *c)
 *   {
 *       for each case {
 *           inputs by kc_in, outputs by kc_out
 *           kc_call(c->ref, norm, &a); kc_written(out); kc_close(out, oracle)
 *           kc_same(out, the Order of kern.h written out once more): levels share the code above
 *           the micro kernels, so agreement among them does not show that
 *           for every c->kern[i] { kc_poison(out2); kc_call(&c->kern[i].x, ...); kc_same(out2, out) }
 *           rows alone: run on one row at a time; kc_same
 *       }
 *   }
 *
 * Memory from kc_* lives until the check returns; then all canaries are looked at. Host and device under test
 * both address it. */
#ifndef KCHECK_H
#define KCHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/rng.h"
#include "kern/kern.h"
#include "tolerance.h"

typedef struct kc_kern {
    ap_exec x;
    bool exact;    /* bit-equal to ref; else within kc.loose */
    char name[48]; /* "avx2 x2": level and threads */
} kc_kern;

typedef struct kc {
    ap_device *dev;      /* where memory is from */
    const ap_exec *ref;  /* ref level, one thread: the definition */
    const kc_kern *kern; /* [n_kern] every level and thread count to compare with it */
    int n_kern;
    ap_rng rng;
    bool is_short;    /* fewer tokens where they are many: levels that are emulated */
    bool bench;       /* inputs without denormals, which cost f32 kernels a factor of twenty */
    const char *slot; /* the slot under test */
    char where[128];  /* the case under test, for messages: kc_case */
    double loose; /* of devices that are not exact: off by this part of a row's largest value, */
    double part;  /* and by this part of what was added up, where that is known: */
    const double
        *mag;  /* [rows, n] sums of magnitudes of what kc_same compares next; NULL = not known */
    int fails; /* of this slot */
    int64_t values; /* compared so far */
    struct kc_block *blocks;
    struct kc_chunk *chunks; /* memory of other devices than the CPU, for blocks */
} kc;

/* Run a slot and wait for its results. */
#define kc_call(ex, slot, ...) ((ex)->k->slot((ex), __VA_ARGS__), kc_finish(ex))
void kc_finish(const ap_exec *ex);

#define KC_LOOSE      2e-4          /* what kc_case sets: f32 in another order */
#define KC_LOOSE_FAST 6e-2          /* of precision FAST: inputs of 8 bits or bf16 */
#define KC_PART       (64 * KC_EPS) /* what kc_case sets */
#define KC_PART_INT15 2e-5 /* inputs of 15 bits: one of them may be rounded to its neighbour */

/* Name the case that follows. */
void kc_case(kc *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void kc_fail(kc *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ------------------------------------------------------------------ memory between canaries */

void *kc_bytes(kc *c, size_t n); /* 64-byte aligned */
float *kc_out(kc *c, size_t n);  /* f32 [n], poisoned: a NaN with a pattern of its own */
void kc_poison(float *p, size_t n);
/* f32 [n] at an address that is 4 mod 64: normal values times scale, among them zeros, denormals
 * and outliers of 100 times the size */
float *kc_in(kc *c, size_t n, double scale);
void kc_fill(kc *c, float *p, size_t n, double scale);
float *kc_copy(kc *c, const float *p, size_t n);
double *kc_f64(kc *c, size_t n);   /* zeroed */
int kc_int(kc *c, int lo, int hi); /* lo .. hi, both included */

/* A tensor [rows, cols] of type t with such values, at an odd address; and its exact f32 copy. */
ap_tensor kc_tensor(kc *c, ap_dtype t, int rows, int cols, double scale, float **values);
/* The same, packed as ex takes it. */
ap_mat kc_mat(kc *c, const ap_exec *ex, const ap_tensor *t);
/* As kern takes it: of CPUs, what ref has packed. */
ap_mat kc_mat_of(kc *c, const kc_kern *kern, const ap_tensor *t, const ap_mat *ref);

/* A step: sequence i has n_tok[i] tokens from position pos[i] on, row i of the tables, block i of the states,
 * and sees what is behind it. Its arrays may be changed.
 *   page  i32 [n_seq, page_ld] of both groups, or NULL */
ap_batch *kc_batch(kc *c, int n_seq, const int *pos, const int *n_tok, const int32_t *page,
                   int page_ld);
/* Tokens [t, t + n) of sequence i as a step of its own: its row 0 is the batch's row seq[i].begin + t. */
ap_batch *kc_piece(kc *c, const ap_batch *b, int i, int t, int n);
/* Some neighbours see one another: random spans in both directions. */
void kc_spans(kc *c, ap_batch *b);

/* ------------------------------------------------------------------ comparing */

/* Of devices that are not exact: how much of a row's largest value they may be off; products of 15 bits may round
 * an input to its neighbour. */
double kc_loose_of(apus_precision p);
/* With precision FAST a device has inputs of its own form, so it is held to the finer result of HIGH, not to the
 * roundings of ref; that is only computed if there is such a device. */
apus_precision kc_fine_precision(apus_precision p);
bool kc_needs_fine(const kc *c, apus_precision p);

/* Every value of rows x n (ld apart) was written and nothing between the rows was. */
void kc_written(kc *c, const char *what, const float *p, int64_t rows, int64_t n, int64_t ld);
/* What `who` (NULL: ref) has computed equals it to the bit (a NaN equals any NaN, but no poison), or within
 * c->loose if it is not exact: rows x n. */
void kc_same(kc *c, const kc_kern *who, const char *what, const float *got, int64_t ldgot,
             const float *want, int64_t ldwant, int64_t rows, int64_t n);
/* What `who` has computed once more, in another batch or another way that must not matter, equals `first` to the
 * bit, on every device. */
void kc_again(kc *c, const kc_kern *who, const char *what, const float *got, int64_t ldgot,
              const float *first, int64_t ldfirst, int64_t rows, int64_t n);
/* What kc_again compares with: f32 [n] of who's own, or ref's, which those that are exact equal. */
const float *kc_first(kc *c, const kc_kern *who, const float *own, const float *ref, size_t n);
/* Does the largest of n values of a row tell how large its errors are? Where those are large, a row of a few
 * values that all cancel may be off by more. */
bool kc_tells(const kc_kern *who, double loose, int n);
/* Within tol of the oracle; mag may be NULL. want and mag are dense [rows, n]. */
void kc_close(kc *c, const char *what, kc_tol tol, const float *got, int64_t ld, const double *want,
              const double *mag, int64_t rows, int64_t n);

/* x . w in the Order of ap_matmul_args, written out once more. */
float kc_dot(const float *x, const float *w, int n);

/* ------------------------------------------------------------------ timing */

typedef struct kc_bench {
    const ap_exec *x;
    const char *name; /* of the table */
    const char *slot;
    double peak_flops, peak_bytes; /* per second, at this level and thread count */
    double peak_dots;              /* operations of 8-bit dot products */
    double peak_tiles;             /* of bf16 tiles; 0 without */
    kc *c;                         /* memory and random numbers */
} kc_bench;

typedef void (*kc_fn)(const ap_exec *ex, void *arg);

/* Time fn, print a line: time, GFLOP/s, GB/s, and the share of the time that the peaks would allow.
 *   shape  such as "T=1 2048x8192 bf16"
 *   flops, bytes  of one call; 0 = does not apply */
void kc_time(kc_bench *b, const char *shape, double flops, double bytes, kc_fn fn, void *arg);

/* ------------------------------------------------------------------ checks, one per slot */

void check_pack_bytes(kc *c);
void check_pack(kc *c);
void check_pack_mat(kc *c);
void check_mat_rows(kc *c);
void check_embed(kc *c);
void check_norm(kc *c);
void check_layer_norm(kc *c);
void check_blend(kc *c);
void check_matmul(kc *c);
void check_glu(kc *c);
void check_route(kc *c);
void check_moe_scratch_bytes(kc *c);
void check_moe(kc *c);
void check_moe_waves_scratch_bytes(kc *c);
void check_moe_begin(kc *c);
void check_moe_wave(kc *c);
void check_moe_end(kc *c);
void check_elem(kc *c);
void check_rope(kc *c);
void check_qkv(kc *c);
void check_attn_scratch_bytes(kc *c);
void check_attn_fast_dim(kc *c);
void check_attn(kc *c);
void check_attn_near(kc *c);
void check_conv(kc *c);
void check_delta_scratch_bytes(kc *c);
void check_delta(kc *c);
void check_commit(kc *c);
void check_carry(kc *c);
void check_project(kc *c);
void check_mix(kc *c);
void check_recur(kc *c);
void check_attend(kc *c);
void check_sample_scratch_bytes(kc *c);
void check_sample(kc *c);

/* weights in integer form; parts of the above */
void check_pack_quant(kc *c);
void check_matmul_quant(kc *c);
void check_glu_quant(kc *c);
void check_moe_quant(kc *c);
void bench_matmul_quant(kc_bench *b);

/* The experts of *a, H inputs and F in the middle, in waves of one up to all: the bits of moe. Nothing where the
 * table has no waves; y and scratch are not used. */
void check_in_waves(kc *c, const kc_kern *who, const ap_exec *ex, const ap_moe_args *a, int H,
                    int F);

/* A random tensor of form i of those that have an integer form, [rows, units * a number of its own];
 * false: there is no form i. */
bool kc_quant_tensor(kc *c, int i, int rows, int units, ap_tensor *out);

/* Random weights of type t: floats, or the first of the integer forms that has it. */
ap_tensor kc_weights(kc *c, ap_dtype t, int rows, int cols);

/* products in bf16 tiles; parts of the above */
void check_matmul_amx(kc *c);
void check_glu_amx(kc *c);
void check_moe_amx(kc *c);
void bench_matmul_amx(kc_bench *b);
void bench_moe_amx(kc_bench *b);
void bench_pack_quant(kc_bench *b);

void bench_pack(kc_bench *b);
void bench_embed(kc_bench *b);
void bench_norm(kc_bench *b);
void bench_layer_norm(kc_bench *b);
void bench_matmul(kc_bench *b);
void bench_glu(kc_bench *b);
void bench_route(kc_bench *b);
void bench_moe(kc_bench *b);
void bench_elem(kc_bench *b);
void bench_rope(kc_bench *b);
void bench_qkv(kc_bench *b);
void bench_attn(kc_bench *b);
void bench_attn_near(kc_bench *b);
void bench_conv(kc_bench *b);
void bench_delta(kc_bench *b);
void bench_commit(kc_bench *b);
void bench_sample(kc_bench *b);

#endif
