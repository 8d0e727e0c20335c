/* tower_linear.h - products of towers, whose inputs and outputs may have bounds. */
#ifndef AP_MODEL_TOWER_LINEAR_H
#define AP_MODEL_TOWER_LINEAR_H

#include "model/model_impl.h"

/* y = W x + bias; with bounds, x and y are clamped before and after. */
typedef struct ap_linear {
    ap_mat w;
    const float *bias;   /* or NULL */
    float in[2], out[2]; /* lowest, highest */
} ap_linear;

/* Bounds of a clipped product, "<module>.input_min" and its like; without one there is none. */
void ap_bind_bounds(ap_bind *b, ap_linear *out, const char *module);
/* "<module>.linear.weight" [rows, cols], with its bounds if clipped. */
void ap_bind_clipped(ap_bind *b, bool clipped, ap_linear *out, int rows, int cols,
                     const char *module);
/* y = x within lo and hi, f32 [rows, n]; may be x. */
void ap_tower_clamp(const ap_exec *ex, float lo, float hi, const float *x, float *y, int rows,
                    int n);
/* y = W x of n rows, with bounds, without the bias. room: as much as x, for x within its bounds. */
void ap_linear_run(const ap_exec *ex, const ap_linear *l, const float *x, float *room, float *y,
                   int n);

#endif
