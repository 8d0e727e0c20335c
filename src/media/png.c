/* PNG by libpng. Animations: apng.c. */
#include <setjmp.h>
#include <string.h>

#include <png.h>

#include "base/mem.h"
#include "media/apng.h"
#include "media/formats.h"

enum {
    MAX_CHUNK = 64 << 20,
    MAX_CHUNKS = 1000
}; /* bytes and number of what stands beside the pixels */

typedef struct job {
    const ap_source *src;
    size_t at;
    png_structp png;
    png_infop info;
    uint8_t *row; /* RGBA; NULL while rows are written where they belong */
    bool ran_out;
    bool no_memory;
    char reason[128];
} job;

static bool is_png(const uint8_t *data, size_t len)
{
    return len >= 8 && !memcmp(data, "\x89PNG\r\n\x1A\n", 8);
}

/* ---------------------------------------------------------------- what libpng calls */

static void fail(png_structp png, png_const_charp text)
{
    job *j = png_get_error_ptr(png);
    size_t n = strlen(text);
    if (n >= sizeof j->reason) n = sizeof j->reason - 1;
    memcpy(j->reason, text, n);
    png_longjmp(png, 1);
}

static void ignore(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void take(png_structp png, png_bytep to, size_t n)
{
    job *j = png_get_io_ptr(png);
    if (n > j->src->len - j->at) {
        j->ran_out = true;
        png_error(png, "cut short");
    }
    memcpy(to, j->src->data + j->at, n);
    j->at += n;
}

static png_voidp get_memory(png_structp png, png_alloc_size_t n)
{
    job *j = png_get_mem_ptr(png);
    void *p = ap_malloc(n, 1);
    if (!p) j->no_memory = true;
    return p;
}

static void give_back(png_structp png, png_voidp p)
{
    (void)png;
    ap_free(p);
}

/* ---------------------------------------------------------------- a decoder */

static void job_free(job *j)
{
    if (j->png) png_destroy_read_struct(&j->png, &j->info, NULL);
    ap_free(j->row);
    ap_free(j);
}

static apus_err damaged(const job *j, apus_diag *diag)
{
    if (j->no_memory) return ap_fail(diag, APUS_ENOMEM, "%s: out of memory", j->src->name);
    if (j->ran_out)
        return ap_fail(diag, APUS_EFORMAT, "%s: the PNG data are cut short", j->src->name);
    return ap_fail(diag, APUS_EFORMAT, "%s: not a PNG that can be read: %s", j->src->name,
                   j->reason);
}

static apus_err job_create(const ap_source *src, job **out, apus_diag *diag)
{
    job *j = ap_calloc(1, sizeof *j);
    if (j) {
        j->src = src;
        j->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, j, fail, ignore, j, get_memory,
                                          give_back);
        j->info = j->png ? png_create_info_struct(j->png) : NULL;
    }
    if (!j || !j->info) {
        if (j) job_free(j);
        return ap_fail_nomem(diag, sizeof *j, "a PNG decoder");
    }
    png_set_read_fn(j->png, j, take);
    png_set_user_limits(j->png, PNG_UINT_31_MAX,
                        PNG_UINT_31_MAX); /* ap_picture_allow tells better */
    png_set_chunk_malloc_max(j->png, MAX_CHUNK);
    png_set_chunk_cache_max(j->png, MAX_CHUNKS);
    *out = j;
    return APUS_OK;
}

/* Size and allowance, then everything to 8-bit RGB or, if anything may be transparent, RGBA. From here on what
 * fails may leave by longjmp. */
static apus_err read_head(job *j, bool force_alpha, bool *alpha, apus_diag *diag)
{
    png_uint_32 width, height;
    int depth, color;
    png_read_info(j->png, j->info);
    png_get_IHDR(j->png, j->info, &width, &height, &depth, &color, NULL, NULL, NULL);
    apus_err err = ap_picture_allow(j->src, width, height, diag);
    if (err) return err;
    bool key = png_get_valid(j->png, j->info, PNG_INFO_tRNS);
    *alpha = force_alpha || key || (color & PNG_COLOR_MASK_ALPHA);
    png_set_expand(j->png);
    png_set_strip_16(j->png); /* the upper 8 bits, as Pillow */
    if (!(color & PNG_COLOR_MASK_COLOR)) png_set_gray_to_rgb(j->png);
    if (*alpha && !key && !(color & PNG_COLOR_MASK_ALPHA))
        png_set_add_alpha(j->png, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(j->png);
    png_read_update_info(j->png, j->info);
    return APUS_OK;
}

/* Rows of `stride` bytes; an interlaced picture passes over them several times. */
static void read_rows(job *j, uint8_t *to, size_t stride)
{
    int passes = png_get_interlace_type(j->png, j->info) == PNG_INTERLACE_ADAM7 ? 7 : 1;
    png_uint_32 height = png_get_image_height(j->png, j->info);
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < height; y++) png_read_row(j->png, to + y * stride, NULL);
}

/* Behind the pixels there may be EXIF data too; damage there is none of the picture's. */
static int orientation_of(job *j)
{
    png_bytep exif;
    png_uint_32 n;
    if (!setjmp(png_jmpbuf(j->png))) png_read_end(j->png, j->info);
    if (!png_get_eXIf_1(j->png, j->info, &n, &exif)) return 1;
    return ap_exif_orientation(exif, n);
}

/* ---------------------------------------------------------------- pictures */

static apus_err decode_rgba(job *j, uint8_t **rgba, int *width, int *height, apus_diag *diag)
{
    bool alpha;
    if (setjmp(png_jmpbuf(j->png))) return damaged(j, diag);
    apus_err err = read_head(j, true, &alpha, diag);
    if (err) return err;
    *width = (int)png_get_image_width(j->png, j->info);
    *height = (int)png_get_image_height(j->png, j->info);
    *rgba = ap_malloc((size_t)*width * (size_t)*height, 4);
    if (!*rgba) return ap_fail_nomem(diag, (size_t)*width * (size_t)*height * 4, "a picture");
    read_rows(j, *rgba, 4 * (size_t)*width);
    return APUS_OK;
}

apus_err ap_png_rgba(const ap_source *src, uint8_t **rgba, int *width, int *height, apus_diag *diag)
{
    job *j = NULL;
    *rgba = NULL;
    apus_err err = job_create(src, &j, diag);
    if (err) return err;
    err = decode_rgba(j, rgba, width, height, diag);
    job_free(j);
    if (!err) return APUS_OK;
    ap_free(*rgba);
    *rgba = NULL;
    return err;
}

/* One row at a time unless interlaced, when j->row is the whole picture. */
static apus_err read_alpha(job *j, const ap_picture *out, apus_diag *diag)
{
    size_t width = (size_t)out->width, height = (size_t)out->height;
    bool whole = png_get_interlace_type(j->png, j->info) == PNG_INTERLACE_ADAM7;
    j->row = ap_malloc(whole ? width * height : width, 4);
    if (!j->row) return ap_fail_nomem(diag, width * height * 4, "a picture");
    if (whole) {
        read_rows(j, j->row, 4 * width);
        ap_over_white(j->row, width * height, out->rgb);
        return APUS_OK;
    }
    for (size_t y = 0; y < height; y++) {
        png_read_row(j->png, j->row, NULL);
        ap_over_white(j->row, width, out->rgb + 3 * width * y);
    }
    return APUS_OK;
}

static apus_err decode(job *j, ap_picture *out, apus_diag *diag)
{
    bool alpha;
    if (setjmp(png_jmpbuf(j->png))) return damaged(j, diag);
    apus_err err = read_head(j, false, &alpha, diag);
    if (!err)
        err = ap_picture_create((int)png_get_image_width(j->png, j->info),
                                (int)png_get_image_height(j->png, j->info), out, diag);
    if (err) return err;
    if (alpha) return read_alpha(j, out, diag);
    read_rows(j, out->rgb, 3 * (size_t)out->width);
    return APUS_OK;
}

static apus_err read_png(const ap_source *src, ap_picture *out, int *orientation, apus_diag *diag)
{
    job *j = NULL;
    apus_err err = job_create(src, &j, diag);
    if (err) return err;
    err = decode(j, out, diag);
    if (!err) *orientation = orientation_of(j);
    job_free(j);
    return err;
}

const ap_decoder ap_decoder_png = {"PNG", is_png, read_png, ap_apng_open};
