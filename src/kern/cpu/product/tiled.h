/* tiled.h - matmul, glu and moe in bf16 tiles (micro_amx.h), where precision, level, weights and the
 * number of rows speak for it. */
#ifndef AP_KERN_CPU_PRODUCT_TILED_H
#define AP_KERN_CPU_PRODUCT_TILED_H

#include "kern/cpu/micro/micro_amx.h"

/* Rows of a product from which on tiles are quicker than integers, which waste nothing on rows that
 * are not there and unpack less. An estimate: 16 rows cost a tile as much as one. */
#define AP_TILED_ROWS 13

/* Which operand the weights of a product are; NONE: it does not go by tiles. All n_mat matrices have
 * the same side. */
ap_amx_side ap_tiled_side(const ap_exec *ex, const ap_mat *const *w, int n_mat, int rows);

/* The slots; false = not by tiles, nothing was done. Inputs of a product are packed in the table's
 * room for inputs, in pieces of rows if it is small. */
bool ap_tiled_matmul(const ap_exec *ex, const ap_matmul_args *a);
bool ap_tiled_glu(const ap_exec *ex, const ap_glu_args *a);

/* ------------------------------------------------------------------ experts */

#define AP_TILED_UNIT 256 /* rows of an expert that are computed together, at most */

/* Rows [slot, slot + rows) of the pairs sorted by expert. */
typedef struct ap_moe_unit {
    int32_t expert; /* which of those at hand */
    int32_t slot, rows;
    int32_t tile; /* by tiles: tiles of rows of all units before it */
    int32_t row;  /* otherwise: rows of all units before it that go without tiles */
} ap_moe_unit;

/* The experts of a step, or of a wave, that go by tiles. */
typedef struct ap_tiled_moe {
    const ap_exec *ex;
    const ap_moe_args *a;
    const ap_expert *expert;    /* those at hand */
    const int32_t *tok_of;      /* [pairs] token of a slot */
    const ap_moe_unit *units;   /* each cut at a multiple of 16 rows */
    int n_unit, n_tile;         /* n_tile: tiles of rows of all units */
    float *out;                 /* f32 [pairs, 16 * n_slice] ld_out: results of slots */
    int ld_out, slice, n_slice; /* first panel of the outputs in work, and how many */
    uint8_t *x, *mid;           /* packed inputs of both products, unit by unit */
    int hidden, ffn;
    int widest;                                         /* tiles of rows of the largest unit */
    int glu_group, glu_groups, down_group, down_groups; /* panels of a task; tasks of a unit */
} ap_tiled_moe;

/* Does an expert with this many rows go by tiles? */
bool ap_tiled_expert(const ap_exec *ex, const ap_expert *e, int rows);

/* Bytes of x and of mid for any routing of this many pairs that go by tiles; 0 where there are no tiles.
 * SIZE_MAX / 8 or more: too large. padding: the part that rows which are not there may take. */
size_t ap_tiled_moe_bytes(const ap_exec *ex, size_t pairs, int n_expert, int cols);
size_t ap_tiled_moe_padding(const ap_exec *ex, size_t pairs, int n_expert, int cols);

/* Packs the inputs of all units and chooses the groups. Then glu_tasks tasks, in any order, by any
 * threads; then, for each slice of the outputs, down_tasks of them. */
void ap_tiled_moe_begin(ap_tiled_moe *j);
void ap_tiled_moe_slice(ap_tiled_moe *j, int panel, int n_panel);
static inline int ap_tiled_glu_tasks(const ap_tiled_moe *j)
{
    return j->n_unit * j->glu_groups;
}
static inline int ap_tiled_down_tasks(const ap_tiled_moe *j)
{
    return j->n_unit * j->down_groups;
}
void ap_tiled_moe_glu(const ap_tiled_moe *j, int task);
void ap_tiled_moe_down(const ap_tiled_moe *j, int task);

#endif
