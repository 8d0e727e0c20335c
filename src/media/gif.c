/* GIF by giflib, record by record. Canvas, disposal and colours follow Pillow. */
#include <string.h>

#include <gif_lib.h>

#include "base/mem.h"
#include "media/formats.h"

typedef struct reader {
    GifFileType *gif;
    const ap_source *src;
    size_t at;
    int disposal; /* of the newest frame: 0 in a file means as before */
} reader;

/* What stands before a frame's pixels. */
typedef struct head {
    int left, top, width, height;
    bool interlaced;
    const ColorMapObject *map; /* NULL: indices are grey */
    int transparent;           /* index, or -1 */
    int disposal;
    int delay; /* 1/100 s */
} head;

typedef struct player {
    reader r;
    uint8_t *canvas, *backup; /* RGBA; backup: before the newest frame, once one is to be undone */
    uint8_t *row;             /* indices; as wide as the canvas */
    int width, height, n;     /* n: frames drawn */
    head shown;               /* of the frame on the canvas */
    bool alpha;               /* the first frame has transparent pixels */
} player;

static bool is_gif(const uint8_t *data, size_t len)
{
    return len >= 6 && (!memcmp(data, "GIF87a", 6) || !memcmp(data, "GIF89a", 6));
}

static apus_err damaged(const reader *r, int code, apus_diag *diag)
{
    if (code == D_GIF_ERR_NOT_ENOUGH_MEM)
        return ap_fail(diag, APUS_ENOMEM, "%s: out of memory", r->src->name);
    if (r->at >= r->src->len)
        return ap_fail(diag, APUS_EFORMAT, "%s: the GIF data are cut short", r->src->name);
    const char *text = GifErrorString(code);
    return ap_fail(diag, APUS_EFORMAT, "%s: not a GIF that can be read: %s", r->src->name,
                   text ? text : "damaged data");
}

/* ---------------------------------------------------------------- records */

static int take(GifFileType *gif, GifByteType *to, int n)
{
    reader *r = gif->UserData;
    size_t left = r->src->len - r->at, got = n < 0 ? 0 : (size_t)n < left ? (size_t)n : left;
    memcpy(to, r->src->data + r->at, got);
    r->at += got;
    return (int)got;
}

static apus_err reader_open(reader *r, const ap_source *src, apus_diag *diag)
{
    int code = 0;
    *r = (reader){.src = src};
    r->gif = DGifOpen(r, take, &code);
    return r->gif ? APUS_OK : damaged(r, code, diag);
}

static void reader_close(reader *r)
{
    if (r->gif) DGifCloseFile(r->gif, NULL);
    r->gif = NULL;
}

static bool read_extension(reader *r, head *h)
{
    GifByteType *block;
    GraphicsControlBlock control;
    int kind;
    if (DGifGetExtension(r->gif, &kind, &block) == GIF_ERROR) return false;
    if (kind == GRAPHICS_EXT_FUNC_CODE && block &&
        DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK) {
        h->transparent = control.TransparentColor;
        h->delay = control.DelayTime;
        if (control.DisposalMode) r->disposal = control.DisposalMode;
    }
    while (block)
        if (DGifGetExtensionNext(r->gif, &block) == GIF_ERROR) return false;
    return true;
}

static bool read_descriptor(reader *r, head *h)
{
    if (DGifGetImageDesc(r->gif) == GIF_ERROR) return false;
    const GifImageDesc *d = &r->gif->Image;
    h->left = d->Left;
    h->top = d->Top;
    h->width = d->Width;
    h->height = d->Height;
    h->interlaced = d->Interlace;
    h->map = d->ColorMap ? d->ColorMap : r->gif->SColorMap;
    h->disposal = r->disposal;
    return true;
}

/* Up to the next frame's pixels; *end: there is none. A file may lack its last byte, the trailer. */
static apus_err next_head(reader *r, head *h, bool *end, apus_diag *diag)
{
    GifRecordType kind;
    *h = (head){.transparent = -1};
    *end = false;
    for (;;) {
        bool over = r->at >= r->src->len;
        bool ok = DGifGetRecordType(r->gif, &kind) == GIF_OK;
        if (over || (ok && kind == TERMINATE_RECORD_TYPE)) {
            *end = true;
            return APUS_OK;
        }
        if (ok && kind == EXTENSION_RECORD_TYPE) ok = read_extension(r, h);
        if (ok && kind == IMAGE_DESC_RECORD_TYPE && (ok = read_descriptor(r, h))) return APUS_OK;
        if (!ok) return damaged(r, r->gif->Error, diag);
    }
}

static apus_err skip_pixels(reader *r, apus_diag *diag)
{
    GifByteType *block;
    int size;
    bool ok = DGifGetCode(r->gif, &size, &block) == GIF_OK;
    while (ok && block) ok = DGifGetCodeNext(r->gif, &block) == GIF_OK;
    return ok ? APUS_OK : damaged(r, r->gif->Error, diag);
}

/* ---------------------------------------------------------------- canvas */

/* As Pillow has it: what lies behind a palette's end is grey. */
static void color_of(const head *h, int index, uint8_t *rgb)
{
    memset(rgb, index, 3);
    if (!h->map || index < 0 || index >= h->map->ColorCount) return;
    GifColorType c = h->map->Colors[index];
    rgb[0] = c.Red;
    rgb[1] = c.Green;
    rgb[2] = c.Blue;
}

/* The part of h's frame that lies on the canvas, in one colour. */
static void fill(player *p, const head *h, const uint8_t *rgba)
{
    for (int y = h->top; y < h->top + h->height && y < p->height; y++)
        for (int x = h->left; x < h->left + h->width && x < p->width; x++)
            memcpy(p->canvas + 4 * ((size_t)y * (size_t)p->width + (size_t)x), rgba, 4);
}

/* What is around the first frame: its transparent index, or index 0. */
static void clear(player *p, const head *first)
{
    head all = {.width = p->width, .height = p->height};
    uint8_t rgba[4] = {0, 0, 0, 255};
    p->alpha = first->transparent >= 0;
    color_of(first, p->alpha ? first->transparent : 0, rgba);
    if (p->alpha) rgba[3] = 0;
    fill(p, &all, rgba);
}

/* Undo the frame on the canvas as its disposal says. */
static void dispose(player *p)
{
    const head *h = &p->shown;
    uint8_t rgba[4] = {0, 0, 0, 255};
    if (h->disposal == DISPOSE_PREVIOUS && p->backup) {
        memcpy(p->canvas, p->backup, 4 * (size_t)p->width * (size_t)p->height);
    } else if (h->disposal == DISPOSE_BACKGROUND) {
        bool clear_it = h->transparent >= 0 || p->alpha;
        color_of(h, clear_it ? h->transparent : p->r.gif->SBackGroundColor, rgba);
        if (p->alpha) rgba[3] = 0;
        fill(p, h, rgba);
    }
}

static void put_row(player *p, const head *h, int y)
{
    if (h->top + y >= p->height) return;
    uint8_t *to = p->canvas + 4 * ((size_t)(h->top + y) * (size_t)p->width + (size_t)h->left);
    for (int x = 0; x < h->width && h->left + x < p->width; x++, to += 4) {
        bool seen = p->row[x] != h->transparent;
        if (seen || p->n == 0) {
            color_of(h, p->row[x], to);
            to[3] = seen ? 255 : 0;
        }
    }
}

static apus_err draw(player *p, const head *h, apus_diag *diag)
{
    static const int begin[] = {0, 4, 2, 1}, step[] = {8, 8, 4, 2};
    for (int pass = 0; pass < (h->interlaced ? 4 : 1); pass++)
        for (int y = h->interlaced ? begin[pass] : 0; y < h->height;
             y += h->interlaced ? step[pass] : 1) {
            if (DGifGetLine(p->r.gif, p->row, h->width) == GIF_ERROR)
                return damaged(&p->r, p->r.gif->Error, diag);
            put_row(p, h, y);
        }
    return APUS_OK;
}

/* ---------------------------------------------------------------- frames */

static void player_free(player *p)
{
    reader_close(&p->r);
    ap_free(p->canvas);
    ap_free(p->backup);
    ap_free(p->row);
    ap_free(p);
}

static apus_err player_create(const ap_source *src, player **out, apus_diag *diag)
{
    player *p = ap_calloc(1, sizeof *p);
    if (!p) return ap_fail_nomem(diag, sizeof *p, "a GIF decoder");
    apus_err err = reader_open(&p->r, src, diag);
    if (err)
        player_free(p);
    else
        *out = p;
    return err;
}

/* A frame that leaves the canvas enlarges it. */
static void enlarge(const head *h, int *width, int *height)
{
    if (h->left + h->width > *width) *width = h->left + h->width;
    if (h->top + h->height > *height) *height = h->top + h->height;
}

static apus_err allocate(player *p, int width, int height, apus_diag *diag)
{
    apus_err err = ap_picture_allow(p->r.src, (uint64_t)width, (uint64_t)height, diag);
    if (err) return err;
    size_t n = (size_t)width * (size_t)height;
    p->width = width;
    p->height = height;
    p->canvas = ap_malloc(n, 4);
    p->row = ap_malloc((size_t)width, 1);
    return p->canvas && p->row ? APUS_OK : ap_fail_nomem(diag, 4 * n, "a picture");
}

static apus_err keep_backup(player *p, apus_diag *diag)
{
    size_t n = (size_t)p->width * (size_t)p->height;
    if (!p->backup && !(p->backup = ap_malloc(n, 4)))
        return ap_fail_nomem(diag, 4 * n, "a picture");
    memcpy(p->backup, p->canvas, 4 * n);
    return APUS_OK;
}

/* Draw the frame that h stands before. */
static apus_err show(player *p, const head *h, ap_picture *out, apus_diag *diag)
{
    apus_err err = APUS_OK;
    if (p->n == 0)
        clear(p, h);
    else
        dispose(p);
    /* before the first frame there is nothing to go back to, unless it can be seen through */
    bool backed = h->disposal == DISPOSE_PREVIOUS && (p->n > 0 || p->alpha);
    if (backed) err = keep_backup(p, diag);
    if (!err) err = draw(p, h, diag);
    if (err) return err;
    if (h->disposal == DISPOSE_PREVIOUS && !backed) err = keep_backup(p, diag);
    if (err) return err;
    p->shown = *h;
    p->n++;
    ap_over_white(p->canvas, (size_t)p->width * (size_t)p->height, out->rgb);
    return APUS_OK;
}

static apus_err read_gif(const ap_source *src, ap_picture *out, int *orientation, apus_diag *diag)
{
    player *p = NULL;
    head h;
    bool end;
    apus_err err = player_create(src, &p, diag);
    if (err) return err;
    *orientation = 1;
    err = next_head(&p->r, &h, &end, diag);
    if (!err && end) err = ap_fail(diag, APUS_EFORMAT, "%s: a GIF without a picture", src->name);
    if (!err) {
        int width = p->r.gif->SWidth, height = p->r.gif->SHeight;
        enlarge(&h, &width, &height);
        err = allocate(p, width, height, diag);
    }
    if (!err) err = ap_picture_create(p->width, p->height, out, diag);
    if (!err) err = show(p, &h, out, diag);
    player_free(p);
    return err;
}

static apus_err next_frame(ap_film *f, ap_picture *frame, apus_diag *diag)
{
    player *p = f->state;
    head h;
    bool end;
    apus_err err = next_head(&p->r, &h, &end, diag);
    if (!err && end) err = damaged(&p->r, D_GIF_ERR_EOF_TOO_SOON, diag);
    return err ? err : show(p, &h, frame, diag);
}

static void close_film(ap_film *f)
{
    player_free(f->state);
}

static const ap_film_ops film_ops = {next_frame, close_film};

/* Size, count and duration: no pixels are decoded. */
static apus_err survey(const ap_source *src, ap_film *out, apus_diag *diag)
{
    reader r;
    head h;
    bool end = false;
    ap_pace pace = {0};
    apus_err err = reader_open(&r, src, diag);
    if (err) return err;
    out->width = r.gif->SWidth;
    out->height = r.gif->SHeight;
    for (;;) {
        err = next_head(&r, &h, &end, diag);
        if (err || end) break;
        enlarge(&h, &out->width, &out->height);
        ap_pace_add(&pace, h.delay * 10);
        if (++out->n_frames > src->limits.frames) {
            err = ap_fail(diag, APUS_EUNSUPPORTED, "%s: more than %d frames", src->name,
                          src->limits.frames);
            break;
        }
        if ((err = skip_pixels(&r, diag))) break;
    }
    out->fps = ap_pace_fps(&pace);
    reader_close(&r);
    return err;
}

static apus_err open_film(const ap_source *src, ap_film *out, apus_diag *diag)
{
    player *p = NULL;
    apus_err err = survey(src, out, diag);
    if (err || out->n_frames < 2) {
        out->n_frames = 0;
        return err;
    }
    if ((err = player_create(src, &p, diag))) return err;
    if ((err = allocate(p, out->width, out->height, diag))) {
        player_free(p);
        return err;
    }
    out->state = p;
    out->op = &film_ops;
    out->src = src;
    return APUS_OK;
}

const ap_decoder ap_decoder_gif = {"GIF", is_gif, read_gif, open_film};
