#include "engine/patches_file.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "file/safetensors.h"

#define MAX_PARTS 65536

/* The tensors of a file, of a picture, a video or a sound. */
typedef struct input {
    const char *path;
    apus_media_type type;
    ap_tensor values, grid,
        places;             /* [parts * n, width] or [parts, n, width]; [1, 3]; [parts, n, 2] */
    ap_tensor mask;         /* of a sound: [parts, n] */
    size_t parts, n, width; /* rows of a part, those that fill up counted */
} input;

/* False: there is none of that name. */
static bool find(const ap_safetensors *f, const char *name, ap_tensor *out)
{
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->entry[i].name, name)) {
            *out = f->entry[i].tensor;
            return true;
        }
    return false;
}

/* Integers [from, from + n) of a tensor of I32 or I64; false: it has others. */
static bool integers(const ap_tensor *t, size_t from, int32_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t narrow;
        int64_t wide;
        if (t->dtype == AP_I32) {
            memcpy(&narrow, (const uint8_t *)t->data + (from + i) * sizeof narrow, sizeof narrow);
            wide = narrow;
        } else if (t->dtype == AP_I64) {
            memcpy(&wide, (const uint8_t *)t->data + (from + i) * sizeof wide, sizeof wide);
        } else {
            return false;
        }
        if (wide < INT32_MIN || wide > INT32_MAX) return false;
        out[i] = (int32_t)wide;
    }
    return true;
}

/* Parts and rows of values whose first axes are `leading` of them. */
static apus_err measure(input *in, apus_diag *diag)
{
    static const char *const rows_of[] = {"patches of one picture", "patches of one video",
                                          "rows of one sound"};
    bool video = in->type == APUS_MEDIA_VIDEO, sound = in->type == APUS_MEDIA_SOUND;
    const ap_tensor *t = &in->values;
    int32_t grid[3] = {1, 1, 1};
    bool has_grid = in->grid.rank > 0;
    bool ok = ap_dtype_block(t->dtype) == 1 && t->dtype <= AP_BF16 &&
              (t->rank == 2 || (t->rank == 3 && !has_grid));
    if (ok && has_grid)
        ok = ap_tensor_count(&in->grid) == 3 && integers(&in->grid, 0, grid, 3) && grid[0] >= 1;
    if (ok) {
        int64_t rows = t->shape[t->rank - 2];
        in->width = (size_t)t->shape[t->rank - 1];
        in->parts = has_grid ? (size_t)grid[0] : t->rank == 3 ? (size_t)t->shape[0] : 1;
        ok = in->width > 0 && in->parts >= 1 && in->parts <= MAX_PARTS && rows > 0 &&
             rows <= INT32_MAX && in->width <= INT32_MAX && (video || in->parts == 1) &&
             (!has_grid || rows % grid[0] == 0);
        in->n = ok ? (size_t)(has_grid ? rows / grid[0] : rows) : 0;
    }
    if (ok && sound)
        ok = ap_tensor_count(&in->mask) == (int64_t)in->n && ap_tensor_bytes(&in->mask) == in->n;
    else if (ok && !has_grid)
        ok = ap_tensor_count(&in->places) == 2 * (int64_t)(in->parts * in->n);
    if (ok) return APUS_OK;
    return ap_fail(
        diag, APUS_EFORMAT,
        "%s: expected the %s as f32, f16 or bf16, with %s; the shapes found do not agree", in->path,
        rows_of[in->type], sound ? "a byte for each" : "one grid for all or two numbers for each");
}

/* (x, y) of each patch. The reference fills up with patches at (-1, -1), which are left out. */
static apus_err take_places(const input *in, size_t i, ap_patches *p, apus_diag *diag)
{
    p->pos = ap_malloc(p->n, sizeof *p->pos);
    if (!p->pos) return ap_fail_nomem(diag, p->n * sizeof *p->pos, "the places of patches");
    if (!integers(&in->places, 2 * i * in->n, &p->pos[0][0], 2 * p->n))
        return ap_fail(diag, APUS_EFORMAT, "%s: the places of patches: expected 32-bit integers",
                       in->path);
    while (p->n && p->pos[p->n - 1][0] < 0) p->n--;
    return APUS_OK;
}

/* Rows that are of the sound stand before those that fill up. */
static apus_err take_mask(const input *in, ap_patches *p, apus_diag *diag)
{
    const uint8_t *mask = in->mask.data;
    while (p->n && !mask[p->n - 1]) p->n--;
    for (size_t i = 0; i < p->n; i++)
        if (!mask[i])
            return ap_fail(diag, APUS_EFORMAT,
                           "%s: input_features_mask: expected ones, then zeros, found 0 at %zu",
                           in->path, i);
    return APUS_OK;
}

static apus_err take_part(const input *in, size_t i, ap_patches *p, apus_diag *diag)
{
    size_t values = in->n * in->width, bytes;
    p->n = p->padded = in->n;
    p->width = in->width;
    if (!ap_mul_size(values, sizeof(float), &bytes)) bytes = SIZE_MAX;
    p->values = bytes == SIZE_MAX ? NULL : ap_malloc(bytes, 1);
    if (!p->values) return ap_fail_nomem(diag, bytes, "the patches of a picture");
    size_t at = i * values * ap_dtype_bytes(in->values.dtype);
    ap_to_f32(in->values.dtype, (const uint8_t *)in->values.data + at, p->values, values);
    apus_err err = APUS_OK;
    if (in->grid.rank > 0) {
        integers(&in->grid, 0, p->grid, 3);
        p->grid[0] = 1;
    } else if (in->type == APUS_MEDIA_SOUND) {
        err = take_mask(in, p, diag);
    } else {
        err = take_places(in, i, p, diag);
    }
    if (!err) ap_patches_hash(p);
    return err;
}

static apus_err find_all(const ap_safetensors *f, input *in, apus_diag *diag)
{
    bool video = find(f, "pixel_values_videos", &in->values);
    bool found = video || find(f, "pixel_values", &in->values);
    in->type = video ? APUS_MEDIA_VIDEO : APUS_MEDIA_PICTURE;
    if (found && (find(f, video ? "video_grid_thw" : "image_grid_thw", &in->grid) ||
                  find(f, video ? "video_position_ids" : "image_position_ids", &in->places)))
        return APUS_OK;
    in->type = APUS_MEDIA_SOUND;
    if (!found && find(f, "input_features", &in->values) &&
        find(f, "input_features_mask", &in->mask))
        return APUS_OK;
    return ap_fail(diag, APUS_EFORMAT,
                   "%s: expected pixel_values with image_grid_thw or image_position_ids, "
                   "pixel_values_videos with video_grid_thw or video_position_ids, or "
                   "input_features with input_features_mask",
                   in->path);
}

apus_err ap_patches_read(const char *path, ap_clip *out, apus_media_type *type, apus_diag *diag)
{
    ap_safetensors f;
    input in = {.path = path};
    apus_err err = ap_safetensors_open(path, &f, diag);
    if (err) return err;
    err = find_all(&f, &in, diag);
    if (!err) err = measure(&in, diag);
    if (!err && !(out->part = ap_calloc(in.parts, sizeof *out->part)))
        err = ap_fail_nomem(diag, in.parts * sizeof *out->part, "the parts of a video");
    for (size_t i = 0; i < in.parts && !err; i++) {
        out->n = i + 1;
        err = take_part(&in, i, &out->part[i], diag);
    }
    *type = in.type;
    ap_safetensors_close(&f);
    return err;
}
