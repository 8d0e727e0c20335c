#include "media/prepare.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "media/resize.h"

/* A picture's size after resizing. */
typedef struct size2 {
    int64_t width, height;
} size2;

/* ---------------------------------------------------------------- sizes */

/* The largest multiples of a soft token's side that keep the shape and fit the budget. */
static size2 fit_budget(const ap_vision_settings *v, int64_t budget, int64_t w, int64_t h)
{
    int64_t side = (int64_t)v->merge * v->patch, longest = budget * side;
    double pixels = (double)(budget * side * side);
    double f = sqrt(pixels / (double)(w * h));
    size2 to = {(int64_t)floor(f * (double)w / (double)side) * side,
                (int64_t)floor(f * (double)h / (double)side) * side};
    if (to.height == 0 && to.width > 0) {
        to.height = side;
        to.width = w / h * side < longest ? w / h * side : longest;
    } else if (to.width == 0 && to.height > 0) {
        to.width = side;
        to.height = h / w * side < longest ? h / w * side : longest;
    }
    return to;
}

/* n to a multiple of a soft token's side after a change of scale. */
static int64_t down_to(double n, int64_t side)
{
    int64_t to = (int64_t)floor(n / (double)side) * side;
    return to < side ? side : to;
}

static int64_t up_to(double n, int64_t side)
{
    return (int64_t)ceil(n / (double)side) * side;
}

/* The multiples of a soft token's side nearest to the size (ties to even), unless frames x pixels leave the
 * bounds. */
static size2 fit_bounds(const ap_vision_settings *v, int64_t frames, int64_t w, int64_t h,
                        int64_t max_pixels)
{
    int64_t side = (int64_t)v->merge * v->patch, t = v->temporal;
    int64_t whole = (int64_t)rint((double)frames / (double)t) * t; /* of a picture: 1 */
    size2 to = {(int64_t)rint((double)w / (double)side) * side,
                (int64_t)rint((double)h / (double)side) * side};
    if (frames == 1) whole = 1;
    double given = (double)(frames * w * h);
    if (whole * to.width * to.height > max_pixels) {
        double b = sqrt(given / (double)max_pixels);
        to = (size2){down_to((double)w / b, side), down_to((double)h / b, side)};
    } else if (whole * to.width * to.height < v->min_pixels) {
        double b = sqrt((double)v->min_pixels / given);
        to = (size2){up_to((double)w * b, side), up_to((double)h * b, side)};
    }
    return to;
}

/* Frames smaller than a soft token count as enlarged to its side. */
static void enlarge(const ap_vision_settings *v, int64_t *w, int64_t *h)
{
    double side = (double)v->merge * v->patch, x = side / (double)*w, y = side / (double)*h;
    if (x <= 1 && y <= 1) return;
    double scale = x > y ? x : y;
    *w = (int64_t)((double)*w * scale);
    *h = (int64_t)((double)*h * scale);
}

/* Of a video, the pixels that all frames together may have after resizing. */
static int64_t video_pixels(const ap_vision_settings *v, int64_t frames)
{
    if (!v->cap_frames) return v->max_pixels;
    int64_t side = (int64_t)v->merge * v->patch, of_frame = v->max_frame_tokens * side * side;
    if (of_frame > v->max_pixels / frames) of_frame = v->max_pixels / frames;
    int64_t least = (int64_t)((double)v->min_pixels * 1.05);
    return (of_frame > least ? of_frame : least) * frames;
}

static apus_err check_shape(const char *name, int64_t w, int64_t h, apus_diag *diag)
{
    int64_t more = w > h ? w : h, less = w > h ? h : w;
    if (more <= 200 * less) return APUS_OK;
    return ap_fail(
        diag, APUS_EUNSUPPORTED,
        "%s: %lld x %lld pixels, this model takes pictures at most 200 times as long as wide", name,
        (long long)w, (long long)h);
}

/* frames: of a video; 0 = a picture. */
static apus_err target(const ap_media_settings *s, const ap_vision_settings *v, const char *name,
                       int64_t frames, int64_t w, int64_t h, size2 *out, apus_diag *diag)
{
    int64_t side = (int64_t)v->merge * v->patch, was_w = w, was_h = h;
    *out = (size2){w, h};
    if (v->resize && s->kind != AP_MEDIA_QWEN) {
        *out = fit_budget(v, v->soft_tokens, w, h);
    } else if (v->resize) {
        if (frames) enlarge(v, &w, &h);
        apus_err err = check_shape(name, w, h, diag);
        if (err) return err;
        *out = fit_bounds(v, frames ? frames : 1, w, h,
                          frames ? video_pixels(v, frames) : v->max_pixels);
    }
    if (out->width >= side && out->height >= side && out->width % side == 0 &&
        out->height % side == 0 && out->width <= AP_PICTURE_MAX_SIDE &&
        out->height <= AP_PICTURE_MAX_SIDE)
        return APUS_OK;
    return ap_fail(
        diag, APUS_EUNSUPPORTED,
        "%s: %lld x %lld pixels would become %lld x %lld, expected multiples of %lld up to %d",
        name, (long long)was_w, (long long)was_h, (long long)out->width, (long long)out->height,
        (long long)side, AP_PICTURE_MAX_SIDE);
}

/* ---------------------------------------------------------------- values */

/* What each byte of each channel becomes, in the reference's order of operations. */
typedef struct scale {
    float of[3][256];
} scale;

static void make_scale(const ap_vision_settings *v, scale *out)
{
    float times = v->rescale && v->normalize ? (float)(1.0 / v->factor) : 1;
    for (int c = 0; c < 3; c++) {
        float mean = (float)v->mean[c] * times, std = (float)v->std[c] * times;
        for (int b = 0; b < 256; b++) {
            float x = (float)b;
            if (v->normalize)
                x = (x - mean) / std;
            else if (v->rescale)
                x *= (float)v->factor;
            out->of[c][b] = x;
        }
    }
}

/* Blocks of side x side pixels in raster order, channels innermost. */
static void gemma_rows(const ap_picture *p, int side, const scale *s, ap_patches *out)
{
    int across = p->width / side, down = p->height / side;
    float *to = out->values;
    int32_t(*pos)[2] = out->pos;
    for (int by = 0; by < down; by++)
        for (int bx = 0; bx < across; bx++, pos++) {
            (*pos)[0] = bx;
            (*pos)[1] = by;
            for (int y = 0; y < side; y++) {
                size_t at = (size_t)(by * side + y) * (size_t)p->width + (size_t)(bx * side);
                const uint8_t *from = p->rgb + 3 * at;
                for (int x = 0; x < side; x++, from += 3, to += 3)
                    for (int c = 0; c < 3; c++) to[c] = s->of[c][from[c]];
            }
        }
}

/* Channel c of one patch of one frame. */
static float *qwen_channel(const ap_picture *p, int x0, int y0, int patch, const float *value,
                           int c, float *to)
{
    for (int y = y0; y < y0 + patch; y++) {
        const uint8_t *from = p->rgb + 3 * ((size_t)y * (size_t)p->width + (size_t)x0) + c;
        for (int x = 0; x < patch; x++, from += 3) *to++ = value[*from];
    }
    return to;
}

/* Patches in merge-block order, channels outermost; frame [temporal]. */
static void qwen_rows(const ap_picture *const *frame, const ap_vision_settings *v, const scale *s,
                      ap_patches *out)
{
    float *to = out->values;
    int m = v->merge;
    for (int by = 0; by < out->grid[1]; by += m)
        for (int bx = 0; bx < out->grid[2]; bx += m)
            for (int k = 0; k < m * m; k++) {
                int y = (by + k / m) * v->patch, x = (bx + k % m) * v->patch;
                for (int c = 0; c < 3; c++)
                    for (int t = 0; t < v->temporal; t++)
                        to = qwen_channel(frame[t], x, y, v->patch, s->of[c], c, to);
            }
}

/* Rows of what has been resized; frame: one (Gemma) or v->temporal of them. */
static apus_err make_rows(const ap_media_settings *s, const ap_vision_settings *v,
                          const ap_picture *const *frame, ap_patches *out, apus_diag *diag)
{
    bool qwen = s->kind == AP_MEDIA_QWEN;
    int side = s->kind == AP_MEDIA_EMBEDDER ? v->patch * v->merge : v->patch;
    size_t across = (size_t)(frame[0]->width / side), down = (size_t)(frame[0]->height / side);
    size_t per_token = s->kind == AP_MEDIA_EMBEDDER ? 1 : (size_t)(v->merge * v->merge);
    scale table;
    memset(out, 0, sizeof *out);
    out->n = out->padded = across * down;
    out->width = (size_t)side * (size_t)side * 3 * (size_t)(qwen ? v->temporal : 1);
    out->soft_tokens = out->n / per_token;
    out->values = ap_malloc(out->n, out->width * sizeof *out->values);
    if (!qwen) out->pos = ap_malloc(out->n, sizeof *out->pos);
    if (!out->values || (!qwen && !out->pos)) {
        size_t bytes = out->n * out->width * sizeof *out->values;
        ap_patches_clear(out);
        return ap_fail_nomem(diag, bytes, "the patches of a picture");
    }
    make_scale(v, &table);
    if (qwen) {
        out->grid[0] = 1;
        out->grid[1] = (int32_t)down;
        out->grid[2] = (int32_t)across;
        qwen_rows(frame, v, &table, out);
    } else {
        if (out->padded < (size_t)v->soft_tokens * per_token)
            out->padded = (size_t)v->soft_tokens * per_token;
        gemma_rows(frame[0], side, &table, out);
    }
    ap_patches_hash(out);
    return APUS_OK;
}

/* ---------------------------------------------------------------- pictures */

/* The settings with a budget of its own. */
static apus_err with_budget(const ap_media_settings *s, const ap_vision_settings *of, int budget,
                            ap_vision_settings *out, apus_diag *diag)
{
    *out = *of;
    if (!budget) return APUS_OK;
    if (s->kind != AP_MEDIA_QWEN && !ap_media_is_budget(budget))
        return ap_fail(diag, APUS_EINVAL,
                       "%d image tokens: this model's pictures have 70, 140, 280, 560 or 1120",
                       budget);
    if (budget < 1 || budget > 1 << 20)
        return ap_fail(diag, APUS_EINVAL, "%d image tokens: expected 1 to %d", budget, 1 << 20);
    out->soft_tokens = budget;
    int64_t side = (int64_t)of->merge * of->patch;
    out->max_pixels = budget * side * side * (of == &s->video ? of->temporal : 1);
    if (out->min_pixels > out->max_pixels) out->min_pixels = out->max_pixels;
    return APUS_OK;
}

/* p as it is, or resized into *room. */
static apus_err resized(const ap_picture *p, size2 to, ap_picture *room, const ap_picture **out,
                        apus_diag *diag)
{
    memset(room, 0, sizeof *room);
    *out = p;
    if (p->width == to.width && p->height == to.height) return APUS_OK;
    *out = room;
    return ap_picture_resize(p, (int)to.width, (int)to.height, room, diag);
}

apus_err ap_prepare_picture(const ap_media_settings *s, const ap_picture *p, const char *name,
                            int soft_tokens, ap_patches *out, apus_diag *diag)
{
    ap_vision_settings v;
    ap_picture room;
    const ap_picture *frame[AP_MEDIA_MAX_TEMPORAL] = {NULL};
    size2 to;
    apus_err err = with_budget(s, &s->picture, soft_tokens, &v, diag);
    if (!err) err = target(s, &v, name, 0, p->width, p->height, &to, diag);
    if (!err) err = resized(p, to, &room, &frame[0], diag);
    if (err) return err;
    for (int t = 1; t < v.temporal; t++)
        frame[t] = frame[0]; /* a still picture is shown all the time */
    err = make_rows(s, &v, frame, out, diag);
    ap_picture_clear(&room);
    return err;
}

/* ---------------------------------------------------------------- films */

/* How many frames are looked at. */
static int frames_wanted(const ap_media_settings *s, const ap_vision_settings *v, const ap_film *f,
                         double fps)
{
    int total = f->n_frames, n = v->frames;
    if (!v->sample) return total;
    if (!n && v->fps > 0) {
        double by_time = floor(total / fps * v->fps);
        n = by_time < total ? (int)by_time : total;
        if (s->kind == AP_MEDIA_QWEN && n < v->min_frames) n = v->min_frames;
        if (s->kind == AP_MEDIA_QWEN && n > v->max_frames) n = v->max_frames;
    }
    if (n < 1) n = v->fps > 0 ? 1 : total;
    return n < total ? n : total;
}

/* The frame looked at as number i of n. */
static int frame_at(const ap_media_settings *s, int total, int i, int n)
{
    if (s->kind != AP_MEDIA_QWEN) return (int)((int64_t)i * total / n);
    return n == 1 ? 0 : (int)rint(i * ((double)(total - 1) / (n - 1)));
}

typedef struct screening {
    const ap_media_settings *s;
    ap_vision_settings v;
    ap_film *film;
    int wanted, at; /* at: frames read from the film */
    double fps;
    size2 to;
    ap_picture frame;                       /* as in the film */
    ap_picture held[AP_MEDIA_MAX_TEMPORAL]; /* resized, of one part */
} screening;

/* Read on to the wanted frame i and resize it into *out. */
static apus_err take_frame(screening *r, int i, ap_picture *out, apus_diag *diag)
{
    apus_err err = APUS_OK;
    for (int to = frame_at(r->s, r->film->n_frames, i, r->wanted); !err && r->at <= to; r->at++)
        err = ap_film_next(r->film, &r->frame, diag);
    if (!err) err = ap_picture_resize(&r->frame, (int)r->to.width, (int)r->to.height, out, diag);
    return err;
}

/* Part k: of v.temporal frames, the last of the film repeated where one is missing. */
static apus_err make_part(screening *r, int k, ap_patches *out, apus_diag *diag)
{
    const ap_picture *frame[AP_MEDIA_MAX_TEMPORAL] = {NULL};
    int per = r->v.temporal, first = k * per, last = first;
    apus_err err = APUS_OK;
    for (int t = 0; t < per && !err; t++) {
        frame[t] = &r->held[t];
        if (first + t < r->wanted)
            err = take_frame(r, last = first + t, &r->held[t], diag);
        else
            frame[t] = frame[t - 1];
    }
    if (!err) err = make_rows(r->s, &r->v, frame, out, diag);
    for (int t = 0; t < per; t++) ap_picture_clear(&r->held[t]);
    double begin = frame_at(r->s, r->film->n_frames, first, r->wanted) / r->fps;
    double end = frame_at(r->s, r->film->n_frames, last, r->wanted) / r->fps;
    if (!err) out->seconds = (begin + end) / 2;
    return err;
}

static apus_err screen(screening *r, ap_clip *out, apus_diag *diag)
{
    size_t n = (size_t)((r->wanted + r->v.temporal - 1) / r->v.temporal);
    apus_err err = APUS_OK;
    out->part = ap_calloc(n, sizeof *out->part);
    if (!out->part) return ap_fail_nomem(diag, n * sizeof *out->part, "a film");
    for (; out->n < n && !err; out->n++) err = make_part(r, (int)out->n, &out->part[out->n], diag);
    return err;
}

apus_err ap_prepare_film(const ap_media_settings *s, ap_film *f, const char *name, int soft_tokens,
                         ap_clip *out, apus_diag *diag)
{
    screening r = {.s = s, .film = f, .fps = 24}; /* the reference's guess */
    memset(out, 0, sizeof *out);
    if (f->seconds > 0) r.fps = f->n_frames / f->seconds;
    apus_err err = with_budget(s, &s->video, soft_tokens, &r.v, diag);
    if (err) return err;
    r.wanted = frames_wanted(s, &r.v, f, r.fps);
    int frames = r.wanted < r.v.temporal ? r.v.temporal : r.wanted;
    err = target(s, &r.v, name, frames, f->width, f->height, &r.to, diag);
    if (!err) err = ap_picture_create(f->width, f->height, &r.frame, diag);
    if (!err) err = screen(&r, out, diag);
    ap_picture_clear(&r.frame);
    if (err) ap_clip_clear(out);
    return err;
}
