#include "engine/patches_file.h"

#include <string.h>

#include "base/mem.h"
#include "file/safetensors.h"

static const ap_tensor *find(const ap_safetensors *f, const char *name)
{
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->entry[i].name, name)) return &f->entry[i].tensor;
    return NULL;
}

/* Integers of a tensor of I32 or I64; false: it has others. */
static bool integers(const ap_tensor *t, int32_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t narrow;
        int64_t wide;
        if (t->dtype == AP_I32) {
            memcpy(&narrow, (const uint8_t *)t->data + i * sizeof narrow, sizeof narrow);
            wide = narrow;
        } else if (t->dtype == AP_I64) {
            memcpy(&wide, (const uint8_t *)t->data + i * sizeof wide, sizeof wide);
        } else {
            return false;
        }
        if (wide < INT32_MIN || wide > INT32_MAX) return false;
        out[i] = (int32_t)wide;
    }
    return true;
}

/* [n, width], or [1, n, width] as Gemma's processor has it: one picture. */
static apus_err take_values(const ap_safetensors *f, const char *path, ap_patches *p,
                            apus_diag *diag)
{
    const ap_tensor *t = find(f, "pixel_values");
    bool batch = t && t->rank == 3 && t->shape[0] == 1;
    size_t bytes;
    if (!t || (t->rank != 2 && !batch) || ap_dtype_block(t->dtype) != 1 || t->dtype > AP_BF16)
        return ap_fail(
            diag, APUS_EFORMAT,
            "%s: expected a tensor pixel_values [patches, values] of f32, f16 or bf16 of "
            "one picture",
            path);
    p->n = (size_t)t->shape[batch];
    p->width = (size_t)t->shape[batch + 1];
    if (!p->n || !p->width || p->n > INT32_MAX || p->width > INT32_MAX ||
        !ap_mul_size(p->n * p->width, sizeof(float), &bytes))
        return ap_fail(diag, APUS_EFORMAT, "%s: pixel_values: found %zu patches of %zu values",
                       path, p->n, p->width);
    p->values = ap_malloc(bytes, 1);
    if (!p->values) return ap_fail_nomem(diag, bytes, "the patches of a picture");
    ap_to_f32(t->dtype, t->data, p->values, p->n * p->width);
    return APUS_OK;
}

static apus_err take_grid(const ap_tensor *t, const char *path, ap_patches *p, apus_diag *diag)
{
    if (ap_tensor_count(t) != 3 || !integers(t, p->grid, 3))
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: image_grid_thw: expected the three sizes of one picture", path);
    return APUS_OK;
}

/* (x, y) of each patch. The reference fills up with patches at (-1, -1), which are left out. */
static apus_err take_places(const ap_tensor *t, const char *path, ap_patches *p, apus_diag *diag)
{
    if (ap_tensor_count(t) != 2 * (int64_t)p->n)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: image_position_ids: expected two numbers for each of %zu patches", path,
                       p->n);
    p->pos = ap_malloc(p->n, sizeof *p->pos);
    if (!p->pos) return ap_fail_nomem(diag, p->n * sizeof *p->pos, "the places of patches");
    if (!integers(t, &p->pos[0][0], 2 * p->n))
        return ap_fail(diag, APUS_EFORMAT, "%s: image_position_ids: expected 32-bit integers",
                       path);
    p->padded = p->n;
    while (p->n && p->pos[p->n - 1][0] < 0) p->n--;
    return APUS_OK;
}

apus_err ap_patches_read(const char *path, ap_patches *p, apus_diag *diag)
{
    ap_safetensors f;
    apus_err err = ap_safetensors_open(path, &f, diag);
    if (err) return err;
    const ap_tensor *grid = find(&f, "image_grid_thw"), *pos = find(&f, "image_position_ids");
    err = take_values(&f, path, p, diag);
    if (!err && grid) err = take_grid(grid, path, p, diag);
    if (!err && pos) err = take_places(pos, path, p, diag);
    if (!err && !grid && !pos)
        err = ap_fail(diag, APUS_EFORMAT,
                      "%s: expected a tensor image_grid_thw or image_position_ids beside "
                      "pixel_values",
                      path);
    ap_safetensors_close(&f);
    if (err) return err;
    ap_patches_hash(p);
    return APUS_OK;
}
