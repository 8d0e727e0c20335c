/* EXIF data is a TIFF: a byte order, the offset of a directory, entries of {tag, type, count, value}. */
#include <string.h>

#include "base/mem.h"
#include "media/formats.h"

enum { ORIENTATION = 0x0112, BYTE = 1, SHORT = 3, LONG = 4 };

typedef struct tiff {
    const uint8_t *data;
    size_t len;
    bool big;
} tiff;

/* n bytes at `at` as a number; 0 beyond the end. */
static uint32_t number(const tiff *t, size_t at, int n)
{
    uint32_t v = 0;
    if (at > t->len || t->len - at < (size_t)n) return 0;
    for (int i = 0; i < n; i++)
        v |= (uint32_t)t->data[at + (size_t)i] << 8 * (t->big ? n - 1 - i : i);
    return v;
}

static int orientation_at(const tiff *t, size_t entry)
{
    uint32_t type = number(t, entry + 2, 2), v = 0;
    if (number(t, entry + 4, 4) != 1) return 1;
    if (type == BYTE) v = number(t, entry + 8, 1);
    if (type == SHORT) v = number(t, entry + 8, 2);
    if (type == LONG) v = number(t, entry + 8, 4);
    return v >= 1 && v <= 8 ? (int)v : 1;
}

int ap_exif_orientation(const uint8_t *exif, size_t len)
{
    tiff t = {exif, len, false};
    if (len >= 6 && !memcmp(exif, "Exif\0", 6)) t = (tiff){exif + 6, len - 6, false};
    if (t.len < 8) return 1;
    t.big = t.data[0] == 'M';
    if (memcmp(t.data, t.big ? "MM" : "II", 2) || number(&t, 2, 2) != 42) return 1;
    size_t directory = number(&t, 4, 4);
    uint32_t n = number(&t, directory, 2);
    for (uint32_t i = 0; i < n; i++) {
        size_t entry = directory + 2 + 12 * (size_t)i;
        if (entry + 12 > t.len) break;
        if (number(&t, entry, 2) == ORIENTATION) return orientation_at(&t, entry);
    }
    return 1;
}

/* Where the pixel (x, y) of the upright picture is stored in p. */
static size_t stored_at(const ap_picture *p, int orientation, int x, int y)
{
    int w = p->width - 1, h = p->height - 1, sx = 0, sy = 0;
    switch (orientation) {
    case 2:
        sx = w - x, sy = y;
        break;
    case 3:
        sx = w - x, sy = h - y;
        break;
    case 4:
        sx = x, sy = h - y;
        break;
    case 5:
        sx = y, sy = x;
        break;
    case 6:
        sx = y, sy = h - x;
        break;
    case 7:
        sx = w - y, sy = h - x;
        break;
    case 8:
        sx = w - y, sy = x;
        break;
    }
    return (size_t)sy * (size_t)p->width + (size_t)sx;
}

apus_err ap_picture_turn(ap_picture *p, int orientation, apus_diag *diag)
{
    ap_picture turned;
    bool across = orientation >= 5;
    if (orientation <= 1 || orientation > 8) return APUS_OK;
    apus_err err = ap_picture_create(across ? p->height : p->width, across ? p->width : p->height,
                                     &turned, diag);
    if (err) return err;
    uint8_t *to = turned.rgb;
    for (int y = 0; y < turned.height; y++)
        for (int x = 0; x < turned.width; x++, to += 3)
            memcpy(to, p->rgb + 3 * stored_at(p, orientation, x, y), 3);
    ap_picture_clear(p);
    *p = turned;
    return APUS_OK;
}
