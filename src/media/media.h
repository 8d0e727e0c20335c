/* media.h - pictures, video frames and sound as the rows that a tower takes. */
#ifndef AP_MEDIA_MEDIA_H
#define AP_MEDIA_MEDIA_H

#include <stddef.h>
#include <stdint.h>

/* What the reference's processor makes of one picture, one frame of a video (Qwen: as many consecutive ones as
 * a patch is long, so grid t is 1), or one sound. Owned by its maker: ap_patches_clear. Read by any number of
 * threads.
 *
 *   Gemma picture   values [n][16*16*3] in (y, x, c) order, 0 ... 1, and pos (x, y) in patches
 *   Gemma, no tower values [n][48*48*3] in (y, x, c) order, 0 ... 1, and pos (x, y) in blocks of 48
 *   Qwen            values [n][3*2*16*16] in (c, t, y, x) order, normalised; rows in merge-block order:
 *                   [grid t][grid h / 2][grid w / 2][2][2]; pos is NULL
 *   Gemma sound     values [n][128] log mel, or [n][640] samples where there is no tower; pos is NULL
 *
 * Only rows that show something are here: the reference pads Gemma's to `padded` rows with values 0 and
 * pos (-1, -1), and masks them. */
typedef struct ap_patches {
    float *values; /* [n][width] */
    size_t n, width;
    int32_t (*pos)[2];
    int32_t grid[3];    /* Qwen: t, h, w in patches; else 0 */
    size_t soft_tokens; /* that the prompt holds for it */
    size_t padded;      /* >= n: rows of the reference's pixel_values */
    double seconds;     /* a video frame's time, or the middle of several */
    uint64_t hash[2];   /* of all of the above but seconds: equal content, equal tokens */
} ap_patches;

/* Frees what p holds and zeroes it; a zeroed one may be cleared. */
void ap_patches_clear(ap_patches *p);
/* Sets p->hash. */
void ap_patches_hash(ap_patches *p);

/* A picture or a sound, which is one part, or the parts of a video in order, all of one shape. */
typedef struct ap_clip {
    ap_patches *part;
    size_t n;
} ap_clip;

void ap_clip_clear(ap_clip *c);

#endif
