/* Animated PNG: frames are the image data of PNGs of their own, in chunks of other names. Each is put together
 * again and decoded like any PNG. */
#include "media/apng.h"

#include <string.h>

#include "base/mem.h"
#include "media/formats.h"

enum { HEAD = 8, CHUNK = 12, IHDR_SIZE = 13, FCTL_SIZE = 26, MAX_SHARED = 4096 };
enum { COLOR_TYPE = 9, HAS_ALPHA = 4 };                /* in IHDR */
enum { KEEP = 0, TO_BACKGROUND = 1, TO_PREVIOUS = 2 }; /* what becomes of a shown frame */
enum { REPLACE = 0, OVER = 1 };

typedef struct chunk {
    const uint8_t *type, *data;
    size_t size;
} chunk;

typedef struct walk {
    const ap_source *src;
    size_t at;
} walk;

typedef struct control {
    uint32_t width, height, left, top;
    unsigned delay, delay_of;
    int dispose, blend;
} control;

typedef struct player {
    walk w;
    uint8_t *canvas, *backup; /* RGBA; backup: before the newest frame */
    uint8_t *png; /* the newest frame as a PNG; as long as the file, and a little more */
    uint8_t shared[MAX_SHARED]; /* the chunks PLTE and tRNS, for every frame */
    size_t n_shared;
    uint8_t ihdr[IHDR_SIZE];
    control shown, next; /* next: of the chunk that was read ahead */
    bool has_next;
    bool alpha; /* may pixels be transparent? */
    int n;
} player;

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* The CRC of PNG and zlib. */
static uint32_t crc_of(const uint8_t *data, size_t n, uint32_t crc)
{
    for (size_t i = 0; i < n; i++) {
        crc ^= data[i];
        for (int b = 0; b < 8; b++) crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
    }
    return crc;
}

static bool is(const chunk *c, const char *type)
{
    return !memcmp(c->type, type, 4);
}

/* ---------------------------------------------------------------- chunks */

static apus_err damaged(const ap_source *src, const char *what, apus_diag *diag)
{
    return ap_fail(diag, APUS_EFORMAT, "%s: not an animated PNG that can be read: %s", src->name,
                   what);
}

/* *end at IEND or where the file ends. */
static apus_err next_chunk(walk *w, chunk *c, bool *end, apus_diag *diag)
{
    size_t left = w->src->len - w->at;
    *end = left == 0;
    if (*end) return APUS_OK;
    const uint8_t *p = w->src->data + w->at;
    if (left < CHUNK || get32(p) > left - CHUNK)
        return ap_fail(diag, APUS_EFORMAT, "%s: the PNG data are cut short", w->src->name);
    *c = (chunk){p + 4, p + 8, get32(p)};
    w->at += CHUNK + c->size;
    *end = is(c, "IEND");
    return APUS_OK;
}

static apus_err read_control(const ap_source *src, const chunk *c, const uint8_t *ihdr,
                             control *out, apus_diag *diag)
{
    const uint8_t *p = c->data;
    if (c->size != FCTL_SIZE) return damaged(src, "a frame's head has another size", diag);
    if ((crc_of(c->type, 4 + c->size, ~0u) ^ ~0u) != get32(p + c->size))
        return damaged(src, "a frame's head is damaged", diag);
    *out = (control){get32(p + 4),
                     get32(p + 8),
                     get32(p + 12),
                     get32(p + 16),
                     (unsigned)p[20] << 8 | p[21],
                     (unsigned)p[22] << 8 | p[23],
                     p[24],
                     p[25]};
    uint64_t width = get32(ihdr), height = get32(ihdr + 4);
    if (!out->width || !out->height || (uint64_t)out->left + out->width > width ||
        (uint64_t)out->top + out->height > height)
        return damaged(src, "a frame lies outside the picture", diag);
    if (out->dispose > TO_PREVIOUS || out->blend > OVER)
        return damaged(src, "a frame is to be shown in an unknown way", diag);
    return APUS_OK;
}

/* The IHDR chunk that every PNG begins with. */
static apus_err open_walk(walk *w, const ap_source *src, uint8_t *ihdr, apus_diag *diag)
{
    chunk c = {0};
    bool end;
    *w = (walk){src, HEAD};
    apus_err err = next_chunk(w, &c, &end, diag);
    if (err) return err;
    if (end || !is(&c, "IHDR") || c.size != IHDR_SIZE)
        return damaged(src, "it does not begin with its head", diag);
    memcpy(ihdr, c.data, IHDR_SIZE);
    return APUS_OK;
}

/* ---------------------------------------------------------------- one frame as a PNG */

static uint8_t *put_chunk(uint8_t *to, const char *type, const uint8_t *data, size_t n)
{
    put32(to, (uint32_t)n);
    memcpy(to + 4, type, 4);
    memcpy(to + 8, data, n);
    put32(to + 8 + n, crc_of(to + 4, n + 4, ~0u) ^ ~0u);
    return to + CHUNK + n;
}

static uint8_t *begin_png(player *p, const control *c)
{
    uint8_t ihdr[IHDR_SIZE];
    memcpy(p->png, "\x89PNG\r\n\x1A\n", HEAD);
    memcpy(ihdr, p->ihdr, sizeof ihdr);
    put32(ihdr, c->width);
    put32(ihdr + 4, c->height);
    uint8_t *to = put_chunk(p->png + HEAD, "IHDR", ihdr, sizeof ihdr);
    memcpy(to, p->shared, p->n_shared);
    return to + p->n_shared;
}

/* What follows a frame's head, up to the next one, put together; p->next is read ahead. */
static apus_err collect(player *p, size_t *len, apus_diag *diag)
{
    chunk c = {0};
    bool end;
    uint8_t *to = begin_png(p, &p->next);
    p->has_next = false;
    for (;;) {
        apus_err err = next_chunk(&p->w, &c, &end, diag);
        if (err) return err;
        if (end) break;
        if (is(&c, "fcTL")) {
            p->has_next = true;
            if ((err = read_control(p->w.src, &c, p->ihdr, &p->next, diag))) return err;
            break;
        }
        if (is(&c, "IDAT")) to = put_chunk(to, "IDAT", c.data, c.size);
        if (is(&c, "fdAT") && c.size >= 4) to = put_chunk(to, "IDAT", c.data + 4, c.size - 4);
    }
    *len = (size_t)(put_chunk(to, "IEND", to, 0) - p->png);
    return APUS_OK;
}

/* ---------------------------------------------------------------- canvas */

static uint8_t *pixel(const ap_film *f, uint8_t *canvas, const control *c, uint32_t y)
{
    return canvas + 4 * ((size_t)(c->top + y) * (size_t)f->width + c->left);
}

/* Transparent, or black where nothing can be. */
static void erase(const player *p, uint8_t *rgba, size_t n)
{
    memset(rgba, 0, 4 * n);
    for (size_t i = 0; i < n && !p->alpha; i++) rgba[4 * i + 3] = 255;
}

static void dispose(const ap_film *f, player *p)
{
    const control *c = &p->shown;
    for (uint32_t y = 0; y < c->height; y++) {
        uint8_t *row = pixel(f, p->canvas, c, y);
        if (c->dispose == TO_BACKGROUND || (c->dispose == TO_PREVIOUS && p->n == 1))
            erase(p, row, c->width);
        else if (c->dispose == TO_PREVIOUS)
            memcpy(row, pixel(f, p->backup, c, y), 4 * (size_t)c->width);
    }
}

/* One pixel over another, as Pillow rounds it. */
static void over(uint8_t *to, const uint8_t *from)
{
    unsigned a = from[3], all = a * 255 + to[3] * (255 - a);
    if (a == 0) return;
    unsigned share = (unsigned)((uint64_t)a * 255 * 255 * 128 / all), rest = 255 * 128 - share;
    for (int i = 0; i < 3; i++) {
        unsigned t = from[i] * share + to[i] * rest + (0x80 << 7);
        to[i] = (uint8_t)(((t >> 8) + t) >> 8 >> 7);
    }
    to[3] = (uint8_t)ap_div255(all);
}

static void blend(const ap_film *f, player *p, const control *c, const uint8_t *rgba)
{
    for (uint32_t y = 0; y < c->height; y++, rgba += 4 * (size_t)c->width) {
        uint8_t *row = pixel(f, p->canvas, c, y);
        if (c->blend == REPLACE)
            memcpy(row, rgba, 4 * (size_t)c->width);
        else
            for (size_t x = 0; x < c->width; x++) over(row + 4 * x, rgba + 4 * x);
    }
}

/* ---------------------------------------------------------------- frames */

static apus_err next_frame(ap_film *f, ap_picture *frame, apus_diag *diag)
{
    player *p = f->state;
    control c = p->next;
    ap_source png = *f->src;
    uint8_t *rgba;
    int width, height;
    size_t n = (size_t)f->width * (size_t)f->height;
    if (!p->has_next) return damaged(f->src, "frames are missing", diag);
    apus_err err = collect(p, &png.len, diag);
    png.data = p->png;
    if (!err) err = ap_png_rgba(&png, &rgba, &width, &height, diag);
    if (err) return err;
    if (p->n) dispose(f, p);
    memcpy(p->backup, p->canvas, 4 * n);
    blend(f, p, &c, rgba);
    ap_free(rgba);
    p->shown = c;
    p->n++;
    ap_over_white(p->canvas, n, frame->rgb);
    return APUS_OK;
}

static void close_film(ap_film *f)
{
    player *p = f->state;
    ap_free(p->canvas);
    ap_free(p->backup);
    ap_free(p->png);
    ap_free(p);
}

static const ap_film_ops film_ops = {next_frame, close_film};

/* Count and duration; n_frames stays 0 for what is no animation. */
static apus_err survey(const ap_source *src, ap_film *out, apus_diag *diag)
{
    walk w;
    chunk c = {0};
    control frame;
    ap_pace pace = {0};
    uint8_t ihdr[IHDR_SIZE];
    bool end = false, animated = false;
    apus_err err = open_walk(&w, src, ihdr, diag);
    int n = 0;
    while (!err && !(err = next_chunk(&w, &c, &end, diag)) && !end) {
        if (is(&c, "IDAT") && !animated) return APUS_OK;
        if (is(&c, "acTL")) animated = true;
        if (!animated || !is(&c, "fcTL")) continue;
        if ((err = read_control(src, &c, ihdr, &frame, diag))) break;
        ap_pace_add(&pace, frame.delay * 1000.0 / (frame.delay_of ? frame.delay_of : 100));
        if (++n > src->limits.frames)
            return ap_fail(diag, APUS_EUNSUPPORTED, "%s: more than %d frames", src->name,
                           src->limits.frames);
    }
    if (err) return animated ? err : APUS_OK; /* damage is for who decodes the picture to tell */
    if (n < 2) return APUS_OK;
    err = ap_picture_allow(src, get32(ihdr), get32(ihdr + 4), diag);
    out->width = (int)get32(ihdr);
    out->height = (int)get32(ihdr + 4);
    out->n_frames = n;
    out->fps = ap_pace_fps(&pace);
    return err;
}

static apus_err allocate(player *p, const ap_film *f, apus_diag *diag)
{
    size_t n = (size_t)f->width * (size_t)f->height, len = 0;
    p->canvas = ap_calloc(n, 4);
    p->backup = ap_calloc(n, 4);
    /* a frame's chunks are no longer than in the file; the head and PLTE are there once more */
    if (ap_add_size(f->src->len, 2 * MAX_SHARED, &len)) p->png = ap_malloc(len, 1);
    return p->canvas && p->backup && p->png ? APUS_OK : ap_fail_nomem(diag, 8 * n + len, "a film");
}

/* What all frames share: the chunks PLTE and tRNS, which stand before the first pixels. */
static apus_err keep_palette(player *p, const ap_source *src, apus_diag *diag)
{
    walk w;
    chunk c = {0};
    bool end;
    apus_err err = open_walk(&w, src, p->ihdr, diag);
    p->alpha = p->ihdr[COLOR_TYPE] & HAS_ALPHA;
    while (!err && !(err = next_chunk(&w, &c, &end, diag)) && !end && !is(&c, "IDAT")) {
        if (!is(&c, "PLTE") && !is(&c, "tRNS")) continue;
        if (is(&c, "tRNS")) p->alpha = true;
        if (CHUNK + c.size > MAX_SHARED - p->n_shared)
            return damaged(src, "its palette is too long", diag);
        memcpy(p->shared + p->n_shared, c.data - 8, CHUNK + c.size);
        p->n_shared += CHUNK + c.size;
    }
    return err;
}

/* Up to the head of the first frame. A picture before it is not part of the animation. */
static apus_err seek_first(player *p, const ap_source *src, apus_diag *diag)
{
    chunk c;
    bool end = false;
    apus_err err = open_walk(&p->w, src, p->ihdr, diag);
    while (!err && !p->has_next && !(err = next_chunk(&p->w, &c, &end, diag)) && !end) {
        p->has_next = is(&c, "fcTL");
        if (p->has_next) err = read_control(src, &c, p->ihdr, &p->next, diag);
    }
    return err;
}

apus_err ap_apng_open(const ap_source *src, ap_film *out, apus_diag *diag)
{
    apus_err err = survey(src, out, diag);
    if (err || !out->n_frames) {
        out->n_frames = 0;
        return err;
    }
    player *p = out->state = ap_calloc(1, sizeof *p);
    if (!p) return ap_fail_nomem(diag, sizeof *p, "a film");
    out->op = &film_ops;
    out->src = src;
    err = allocate(p, out, diag);
    if (!err) err = keep_palette(p, src, diag);
    if (!err) err = seek_first(p, src, diag);
    if (!err) erase(p, p->canvas, (size_t)out->width * (size_t)out->height);
    if (err) close_film(out);
    return err;
}
