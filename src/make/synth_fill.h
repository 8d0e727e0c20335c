/* synth_fill.h - random weights, as the bytes of a tensor of any type.
 *
 * Bytes are made in pieces; each depends on the seed, the tensor's number and its place alone, so the
 * file is the same for any number of threads. Quantised blocks are random bits with scales that give
 * the wanted spread: nothing is quantised. */
#ifndef AP_MAKE_SYNTH_FILL_H
#define AP_MAKE_SYNTH_FILL_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

typedef enum ap_fill_kind {
    AP_FILL_EVEN,     /* uniform around mean */
    AP_FILL_LOG,      /* the logarithm of a number uniform in 1 .. 16 */
    AP_FILL_NEGATIVE, /* minus such a number */
    AP_FILL_FREQS     /* the first `turning` values are 1, the others 1e30 */
} ap_fill_kind;

/* What to fill a tensor with. */
typedef struct ap_fill {
    ap_fill_kind kind;
    ap_dtype dtype;         /* plain types, block types; U32 = the integers of MLX's format */
    double mean, deviation; /* block types: mean 0 */
    uint64_t turning;
    int bits;      /* of MLX's format; 0 = none. dtype F32, F16, BF16: its scales or its biases */
    int part;      /* 1 scales, 2 biases */
    uint64_t seed; /* of the tensor; scales and biases of a module have the same */
    const float
        *row_scale; /* [rows] factors of rows of `cols` plain numbers around 0; NULL: none */
    uint64_t cols;
    bool router;

    /* made by ap_fill_prepare */
    uint16_t d[16], dmin[16]; /* f16 */
    uint8_t exponent;         /* of MXFP4 */
} ap_fill;

/* Work out the scales. */
void ap_fill_prepare(ap_fill *f);

/* Bytes of a piece, the last of a tensor may be shorter: whole blocks, near 64 KiB. */
size_t ap_fill_piece_bytes(const ap_fill *f);

/* Piece number `piece` of the tensor, n bytes of it. */
void ap_fill_piece(const ap_fill *f, uint64_t piece, uint8_t *out, size_t n);

/* A seed for tensor number `index`. */
uint64_t ap_fill_seed(uint64_t seed, uint64_t index);

#endif
