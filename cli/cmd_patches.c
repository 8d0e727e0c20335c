/* cmd_patches.c - apus patches: what a model's towers are shown of a picture, as safetensors. */
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "input.h"
#include "models.h"
#include "report.h"

static struct {
    const char *out;
    int image_tokens;
    bool still, force;
} o;

static const opt patches_table[] = {
    {"image-tokens", 0, OPT_INT, &o.image_tokens, NULL, 1, 1 << 20, "N",
     "at most this many tokens of the prompt; Gemma: 70, 140, 280, 560 or 1120"},
    {"still", 0, OPT_FLAG, &o.still, NULL, 0, 0, NULL, "only the first frame of an animation"},
    {"output", 'o', OPT_STRING, &o.out, NULL, 0, 0, "FILE", "the safetensors file to write"},
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "overwrite OUT if it is there"},
    {0}};

static const opt *const tables[] = {patches_table, model_table, tower_table, NULL};

static int run(int argc, char **argv);
const command cmd_patches = {
    "patches",
    "MODEL PIC [--image-tokens N] [--still] -o OUT.safetensors [--force]",
    "write what a model is shown of a picture",
    "PIC is a JPEG, PNG, WebP or GIF, an animation or a folder of pictures (a video), or a sound "
    "file. OUT "
    "holds what the reference's processor gives: F32 `pixel_values` and I32 `image_position_ids` "
    "(Gemma) "
    "or `image_grid_thw` (Qwen), for videos `pixel_values_videos` and `video_position_ids` or "
    "`video_grid_thw`, for sound `input_features` and U8 `input_features_mask`.",
    tables,
    run};

/* ---------------------------------------------------------------- the file */

typedef struct tensor {
    const char *name, *type;
    size_t dim[3];
    int n_dim;
    size_t bytes;
} tensor;

typedef struct file {
    apus_output *out;
    uint64_t at; /* where the next bytes go */
} file;

/* The header of two tensors, padded to 8 bytes. */
static apus_err write_header(file *f, const tensor *t, apus_diag *d)
{
    char text[8 + 1024];
    size_t begin = 0, n = 8;
    for (int i = 0; i < 2; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[",
                              i ? "," : "{", t[i].name, t[i].type);
        for (int k = 0; k < t[i].n_dim; k++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%zu", k ? "," : "", t[i].dim[k]);
        n += (size_t)snprintf(text + n, sizeof text - n, "],\"data_offsets\":[%zu,%zu]}%s", begin,
                              begin + t[i].bytes, i ? "}" : "");
        begin += t[i].bytes;
    }
    while (n % 8) text[n++] = ' ';
    for (int i = 0; i < 8; i++) text[i] = (char)((uint64_t)(n - 8) >> (8 * i));
    f->at = n;
    return apus_output_put(f->out, 0, text, n, d);
}

static apus_err put(file *f, const void *data, size_t n, apus_diag *d)
{
    apus_err err = n ? apus_output_put(f->out, f->at, data, n, d) : APUS_OK;
    f->at += n;
    return err;
}

/* n bytes of one value: the reference's filling. */
static apus_err put_filling(file *f, int byte, size_t n, apus_diag *d)
{
    unsigned char block[4096];
    apus_err err = APUS_OK;
    memset(block, byte, sizeof block);
    for (size_t k; n && !err; n -= k)
        err = put(f, block, k = n < sizeof block ? n : sizeof block, d);
    return err;
}

/* ---------------------------------------------------------------- parts */

typedef apus_err (*part_fn)(file *f, const apus_media_part *p, apus_diag *d);

static apus_err each(file *f, const apus_media *x, part_fn write, apus_diag *d)
{
    apus_media_part p = {.size = sizeof p};
    apus_err err = APUS_OK;
    for (size_t i = 0; !err && apus_media_part_at(x, i, &p); i++) err = write(f, &p, d);
    return err;
}

static apus_err put_values(file *f, const apus_media_part *p, apus_diag *d)
{
    apus_err err = put(f, p->values, p->n * p->width * sizeof *p->values, d);
    return err ? err : put_filling(f, 0, (p->padded - p->n) * p->width * sizeof *p->values, d);
}

static apus_err put_positions(file *f, const apus_media_part *p, apus_diag *d)
{
    apus_err err = put(f, p->pos, p->n * sizeof *p->pos, d);
    return err ? err : put_filling(f, 0xFF, (p->padded - p->n) * sizeof *p->pos, d); /* -1 */
}

static apus_err put_mask(file *f, const apus_media_part *p, apus_diag *d)
{
    apus_err err = put_filling(f, 1, p->n, d);
    return err ? err : put_filling(f, 0, p->padded - p->n, d);
}

static size_t count_parts(const apus_media *x)
{
    apus_media_part p = {.size = sizeof p};
    size_t n = 0;
    while (apus_media_part_at(x, n, &p)) n++;
    return n;
}

/* Qwen: all rows one after the other, and one grid for all of them. */
static apus_err write_grid(file *f, const apus_media *x, const apus_media_part *first, apus_diag *d)
{
    bool video = apus_media_type_of(x) == APUS_MEDIA_VIDEO;
    size_t parts = count_parts(x), rows = first->n * parts;
    int32_t grid[3] = {(int32_t)parts, first->grid[1], first->grid[2]};
    tensor t[2] = {{video ? "pixel_values_videos" : "pixel_values",
                    "F32",
                    {rows, first->width},
                    2,
                    rows * first->width * sizeof(float)},
                   {video ? "video_grid_thw" : "image_grid_thw", "I32", {1, 3}, 2, sizeof grid}};
    apus_err err = write_header(f, t, d);
    if (!err) err = each(f, x, put_values, d);
    return err ? err : put(f, grid, sizeof grid, d);
}

/* Gemma: parts of equal numbers of rows, and what tells the rows that are there. */
static apus_err write_padded(file *f, const apus_media *x, const apus_media_part *first,
                             apus_diag *d)
{
    static const char *const values[] = {"pixel_values", "pixel_values_videos", "input_features"};
    static const char *const about[] = {"image_position_ids", "video_position_ids",
                                        "input_features_mask"};
    apus_media_type type = apus_media_type_of(x);
    bool sound = type == APUS_MEDIA_SOUND;
    size_t parts = count_parts(x), rows = first->padded * parts;
    tensor t[2] = {{values[type],
                    "F32",
                    {parts, first->padded, first->width},
                    3,
                    rows * first->width * sizeof(float)},
                   {about[type],
                    sound ? "U8" : "I32",
                    {parts, first->padded, 2},
                    sound ? 2 : 3,
                    sound ? rows : rows * 2 * sizeof(int32_t)}};
    apus_err err = write_header(f, t, d);
    if (!err) err = each(f, x, put_values, d);
    return err ? err : each(f, x, sound ? put_mask : put_positions, d);
}

/* ---------------------------------------------------------------- the command */

static int write_media(const apus_media *x, apus_output *out)
{
    apus_diag d;
    file f = {.out = out};
    apus_media_part first = {.size = sizeof first};
    if (!apus_media_part_at(x, 0, &first)) return fail(&cmd_patches, "nothing to write");
    apus_err err = first.grid[0] ? write_grid(&f, x, &first, &d) : write_padded(&f, x, &first, &d);
    return err ? report(&cmd_patches, &d) : 0;
}

static int fill(const char *model, const char *picture, apus_output *out)
{
    apus_diag d;
    apus_model *m = NULL;
    apus_media *x = NULL;
    apus_media_settings s;
    int rc = open_model(&cmd_patches, model, APUS_LOAD_INFO, &m);
    if (rc >= 0) return rc;
    apus_media_settings_default(&s);
    s.image_tokens = o.image_tokens;
    s.still = o.still;
    rc = apus_media_open(m, picture, &s, &x, &d) ? report(&cmd_patches, &d) : write_media(x, out);
    apus_media_free(x);
    apus_model_close(m);
    return rc;
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    int rc = options_parse(&cmd_patches, argc, argv, 2, &n);
    if (rc < 0) rc = take_model(&cmd_patches, argv, &n, 1, &name);
    if (rc >= 0) return rc;
    if (!name) return usage_error(&cmd_patches, "MODEL is missing");
    if (n < 1) return usage_error(&cmd_patches, "PIC is missing");
    if (!o.out) return usage_error(&cmd_patches, "--output is missing");
    const char *sources[] = {name, argv[1], common.mmproj};
    rc = keep_apart(&cmd_patches, o.out, sources, sizeof sources / sizeof *sources);
    if (rc >= 0) return rc;
    apus_diag d;
    apus_output *out;
    if (apus_output_create(o.out, o.force, &out, &d)) return report(&cmd_patches, &d);
    rc = fill(name, argv[1], out);
    if (rc)
        apus_output_drop(out);
    else if (apus_output_finish(out, &d))
        rc = report(&cmd_patches, &d);
    return rc;
}
