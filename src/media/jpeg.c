/* JPEG by libjpeg(-turbo), with its defaults: the accurate integer DCT and smooth upsampling of chroma. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "base/mem.h"
#include "media/formats.h"

enum { MAX_SCANS = 500 }; /* of a progressive file; each costs as much as a whole picture */

typedef struct job {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr err;
    struct jpeg_source_mgr in;
    struct jpeg_progress_mgr progress;
    jmp_buf failed;
    JSAMPLE *row;       /* of CMYK; NULL: libjpeg writes RGB where it belongs */
    const char *reason; /* NULL: libjpeg's message */
    bool ran_out;       /* the file ended before its end marker */
    bool starved;       /* ... and data of pixels were wanted of it */
} job;

static bool is_jpeg(const uint8_t *data, size_t len)
{
    return len >= 3 && !memcmp(data, "\xFF\xD8\xFF", 3);
}

/* ---------------------------------------------------------------- what libjpeg calls */

static void fail(j_common_ptr c)
{
    longjmp(((job *)c->client_data)->failed, 1);
}

static void note(j_common_ptr c, int level)
{
    job *j = c->client_data;
    if (level < 0 && c->err->msg_code == JWRN_HIT_MARKER && j->ran_out) j->starved = true;
}

static void say_nothing(j_common_ptr c)
{
    (void)c;
}

static void nothing(j_decompress_ptr d)
{
    (void)d;
}

/* Many files lack their end marker and nothing else: it is made up, and what is missing is noted. */
static boolean fill(j_decompress_ptr d)
{
    static const JOCTET end[2] = {0xFF, JPEG_EOI};
    ((job *)d->client_data)->ran_out = true;
    d->src->next_input_byte = end;
    d->src->bytes_in_buffer = sizeof end;
    return TRUE;
}

static void skip(j_decompress_ptr d, long n)
{
    if (n <= 0) return;
    if ((size_t)n > d->src->bytes_in_buffer) {
        fill(d);
        return;
    }
    d->src->next_input_byte += n;
    d->src->bytes_in_buffer -= (size_t)n;
}

static void watch(j_common_ptr c)
{
    job *j = c->client_data;
    if (j->d.input_scan_number <= MAX_SCANS) return;
    j->reason = "more than 500 scans";
    fail(c);
}

/* ---------------------------------------------------------------- decoding */

static void begin(job *j, const ap_source *src)
{
    j->d.err = jpeg_std_error(&j->err);
    j->err.error_exit = fail;
    j->err.emit_message = note;
    j->err.output_message = say_nothing;
    j->d.client_data = j;
    jpeg_create_decompress(&j->d);
    j->d.client_data = j;
    j->in = (struct jpeg_source_mgr){.next_input_byte = src->data,
                                     .bytes_in_buffer = src->len,
                                     .init_source = nothing,
                                     .fill_input_buffer = fill,
                                     .skip_input_data = skip,
                                     .resync_to_restart = jpeg_resync_to_restart,
                                     .term_source = nothing};
    j->d.src = &j->in;
    j->progress.progress_monitor = watch;
    j->d.progress = &j->progress;
}

static int orientation_of(const job *j)
{
    for (jpeg_saved_marker_ptr m = j->d.marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length >= 6 && !memcmp(m->data, "Exif\0", 6))
            return ap_exif_orientation(m->data, m->data_length);
    return 1;
}

/* n pixels of CMYK as Adobe's programs write them, inverted. */
static void cmyk_to_rgb(const uint8_t *cmyk, size_t n, uint8_t *rgb)
{
    for (size_t i = 0; i < n; i++, cmyk += 4, rgb += 3) {
        unsigned white = cmyk[3];
        for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(white - ap_div255((255u - cmyk[c]) * white));
    }
}

static apus_err allocate(job *j, const ap_source *src, ap_picture *out, apus_diag *diag)
{
    apus_err err = ap_picture_allow(src, j->d.image_width, j->d.image_height, diag);
    if (err) return err;
    bool four = j->d.jpeg_color_space == JCS_CMYK || j->d.jpeg_color_space == JCS_YCCK;
    j->d.out_color_space = four ? JCS_CMYK : JCS_RGB;
    if (four && !(j->row = ap_malloc(j->d.image_width, 4)))
        return ap_fail_nomem(diag, (size_t)j->d.image_width * 4, "a row of a picture");
    return ap_picture_create((int)j->d.image_width, (int)j->d.image_height, out, diag);
}

/* Left through longjmp too, so what must survive lives in *j and *out. */
static apus_err decode(job *j, const ap_source *src, ap_picture *out, int *orientation,
                       apus_diag *diag)
{
    jpeg_save_markers(&j->d, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&j->d, TRUE);
    *orientation = orientation_of(j);
    apus_err err = allocate(j, src, out, diag);
    if (err) return err;
    jpeg_start_decompress(&j->d);
    while (j->d.output_scanline < j->d.output_height) {
        uint8_t *to = out->rgb + 3 * (size_t)out->width * j->d.output_scanline;
        JSAMPROW into = j->row ? j->row : to;
        jpeg_read_scanlines(&j->d, &into, 1);
        if (j->row) cmyk_to_rgb(j->row, (size_t)out->width, to);
    }
    /* where several scans make the picture, nobody wants the missing ones */
    if (j->starved || (j->ran_out && jpeg_has_multiple_scans(&j->d)))
        return ap_fail(diag, APUS_EFORMAT, "%s: the JPEG data are cut short", src->name);
    return APUS_OK;
}

static apus_err damaged(job *j, const ap_source *src, apus_diag *diag)
{
    char text[JMSG_LENGTH_MAX];
    if (j->ran_out)
        return ap_fail(diag, APUS_EFORMAT, "%s: the JPEG data are cut short", src->name);
    (*j->err.format_message)((j_common_ptr)&j->d, text);
    return ap_fail(diag, APUS_EFORMAT, "%s: not a JPEG that can be read: %s", src->name,
                   j->reason ? j->reason : text);
}

static apus_err read_jpeg(const ap_source *src, ap_picture *out, int *orientation, apus_diag *diag)
{
    apus_err err;
    job *j = ap_calloc(1, sizeof *j);
    if (!j) return ap_fail_nomem(diag, sizeof *j, "a JPEG decoder");
    if (setjmp(j->failed)) {
        err = damaged(j, src, diag);
    } else {
        begin(j, src);
        err = decode(j, src, out, orientation, diag);
    }
    jpeg_destroy_decompress(&j->d);
    ap_free(j->row);
    ap_free(j);
    return err;
}

const ap_decoder ap_decoder_jpeg = {"JPEG", is_jpeg, read_jpeg, NULL};
