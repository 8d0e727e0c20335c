/* quant_grids.h - codebooks of the IQ2 and IQ3 formats. An IQ2 entry is 8 values of 2 bits that index
 * {8, 25, 43}; an IQ3 entry is 4 values of 3 bits: {4, 12, 20, ..., 60 + 2} for IQ3_XXS, {1, 3, ...,
 * 15} for IQ3_S. Lowest bits first. */
#ifndef AP_TENSOR_QUANT_GRIDS_H
#define AP_TENSOR_QUANT_GRIDS_H

#include <stdint.h>

extern const uint16_t ap_grid_iq2_xxs[256], ap_grid_iq2_xs[512], ap_grid_iq2_s[1024];
extern const uint16_t ap_grid_iq3_xxs[256], ap_grid_iq3_s[512];

#endif
