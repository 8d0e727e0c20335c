/* tower_linear.c - products of towers: with bounds, as Gemma has them, and without. */
#include <math.h>

#include "model/tower_linear.h"

/* A bound of a clipped product; without one there is none. */
static float bound(ap_bind *b, const char *module, const char *leaf, float none)
{
    float value = none;
    if (b->err || !ap_bind_has(b, "%s.%s", module, leaf)) return none;
    ap_tensor t = ap_bind_view(b, -1, NULL, "%s.%s", module, leaf);
    if (b->err) return none;
    if (ap_tensor_count(&t) == 1 && ap_dtype_block(t.dtype) == 1)
        ap_to_f32(t.dtype, t.data, &value, 1);
    else
        value = NAN;
    if (isnan(value))
        b->err = ap_fail(b->diag, APUS_EFORMAT, "tensor %s%s.%s: expected one number", b->prefix,
                         module, leaf);
    return value;
}

void ap_bind_bounds(ap_bind *b, ap_linear *out, const char *module)
{
    *out = (ap_linear){.in = {-INFINITY, INFINITY}, .out = {-INFINITY, INFINITY}};
    out->in[0] = bound(b, module, "input_min", -INFINITY);
    out->in[1] = bound(b, module, "input_max", INFINITY);
    out->out[0] = bound(b, module, "output_min", -INFINITY);
    out->out[1] = bound(b, module, "output_max", INFINITY);
    if (!b->err && (out->in[0] > out->in[1] || out->out[0] > out->out[1]))
        b->err = ap_fail(b->diag, APUS_EFORMAT, "tensor %s%s: expected bounds that ascend",
                         b->prefix, module);
}

void ap_bind_clipped(ap_bind *b, bool clipped, ap_linear *out, int rows, int cols,
                     const char *module)
{
    *out = (ap_linear){.in = {-INFINITY, INFINITY}, .out = {-INFINITY, INFINITY}};
    if (clipped) ap_bind_bounds(b, out, module);
    ap_bind_mat(b, &out->w, rows, cols, "%s.linear.weight", module);
}

void ap_tower_clamp(const ap_exec *ex, float lo, float hi, const float *x, float *y, int rows,
                    int n)
{
    ex->k->elem(ex, &(ap_elem_args){.op = AP_ELEM_CLAMP,
                                    .y = y,
                                    .x = x,
                                    .ldy = n,
                                    .ldx = n,
                                    .rows = rows,
                                    .n = n,
                                    .n_block = 1,
                                    .lo = lo,
                                    .hi = hi});
}

/* y = x within bounds; false: there are none, and nothing was done. */
static bool clamp(const ap_exec *ex, const float *bounds, const float *x, float *y, int rows, int n)
{
    if (bounds[0] == -INFINITY && bounds[1] == INFINITY) return false;
    ap_tower_clamp(ex, bounds[0], bounds[1], x, y, rows, n);
    return true;
}

void ap_linear_run(const ap_exec *ex, const ap_linear *l, const float *x, float *room, float *y,
                   int n)
{
    bool bounded = clamp(ex, l->in, x, room, n, l->w.cols);
    ap_matmul(ex, bounded ? room : x, &l->w, y, n);
    clamp(ex, l->out, y, y, n, l->w.rows);
}
