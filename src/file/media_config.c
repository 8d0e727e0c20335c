#include "file/media_config.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "file/fields.h"

#define MAX_CONFIG_BYTES ((size_t)4 << 20)
#define MAX_PIXELS       ((int64_t)1 << 32)

enum { BICUBIC = 3 }; /* as Pillow numbers filters */

/* ---------------------------------------------------------------- pictures and videos */

/* Three numbers, or one for all. */
static void channels(const ap_fields *f, const char *key, double lo, double out[3])
{
    const ap_json *v = ap_field(f, key);
    if (!v) return;
    if (v->type != AP_JSON_ARRAY) {
        out[0] = out[1] = out[2] = ap_field_num(f, key, lo, 1e6, 0);
        return;
    }
    const ap_json *e = v->first;
    for (int c = 0; c < 3; c++, e = e ? e->next : NULL) {
        bool number = e && (e->type == AP_JSON_INT || e->type == AP_JSON_DOUBLE);
        if (v->len != 3 || !number || !(e->number >= lo && e->number <= 1e6)) {
            ap_field_fail(f, APUS_EFORMAT, key, v, "expected three numbers from %g on", lo);
            return;
        }
        out[c] = e->number;
    }
}

/* size: {"shortest_edge", "longest_edge"}, which are pixels here; before, min_pixels and max_pixels. */
static void bounds(const ap_fields *f, ap_vision_settings *v)
{
    ap_fields size = *f;
    size.o = ap_field_object(f, "size");
    if (size.o) {
        v->min_pixels = ap_field_int(&size, "shortest_edge", 1, MAX_PIXELS, v->min_pixels);
        v->max_pixels = ap_field_int(&size, "longest_edge", 1, MAX_PIXELS, v->max_pixels);
    }
    v->min_pixels = ap_field_int(f, "min_pixels", 1, MAX_PIXELS, v->min_pixels);
    v->max_pixels = ap_field_int(f, "max_pixels", 1, MAX_PIXELS, v->max_pixels);
}

static void qwen(const ap_fields *f, ap_vision_settings *v)
{
    bounds(f, v);
    v->merge = (int)ap_field_int(f, "merge_size", 1, 16, v->merge);
    v->temporal =
        (int)ap_field_int(f, "temporal_patch_size", 1, AP_MEDIA_MAX_TEMPORAL, v->temporal);
    v->min_frames = (int)ap_field_int(f, "min_frames", 1, 1 << 20, v->min_frames);
    v->max_frames = (int)ap_field_int(f, "max_frames", 1, 1 << 20, v->max_frames);
    v->cap_frames = ap_field_bool(f, "cap_pixels_per_frame", v->cap_frames);
    v->max_frame_tokens = (int)ap_field_int(f, "max_video_tokens", 1, 1 << 20, v->max_frame_tokens);
}

static void gemma(const ap_fields *f, ap_vision_settings *v)
{
    v->merge = (int)ap_field_int(f, "pooling_kernel_size", 1, 16, v->merge);
    v->soft_tokens = (int)ap_field_int(f, "max_soft_tokens", 1, 1 << 16, v->soft_tokens);
    if (!*f->err && !ap_media_is_budget(v->soft_tokens))
        ap_field_fail(f, APUS_EUNSUPPORTED, "max_soft_tokens", NULL,
                      "expected 70, 140, 280, 560 or 1120, found %d", v->soft_tokens);
}

static void vision(const ap_fields *f, ap_media_kind kind, ap_vision_settings *v)
{
    if (ap_field_int(f, "resample", 0, 5, BICUBIC) != BICUBIC)
        ap_field_fail(f, APUS_EUNSUPPORTED, "resample", ap_field(f, "resample"),
                      "only 3 (bicubic) is supported");
    v->patch = (int)ap_field_int(f, "patch_size", 1, 256, v->patch);
    v->resize = ap_field_bool(f, "do_resize", v->resize);
    v->rescale = ap_field_bool(f, "do_rescale", v->rescale);
    v->factor = ap_field_num(f, "rescale_factor", 1e-6, 1e6, v->factor);
    v->normalize = ap_field_bool(f, "do_normalize", v->normalize);
    channels(f, "image_mean", -1e6, v->mean);
    channels(f, "image_std", 1e-6, v->std);
    v->sample = ap_field_bool(f, "do_sample_frames", v->sample);
    v->frames = (int)ap_field_int(f, "num_frames", 1, 1 << 20, v->frames);
    v->fps = ap_field_num(f, "fps", 1e-6, 1e6, v->fps);
    if (kind == AP_MEDIA_QWEN)
        qwen(f, v);
    else
        gemma(f, v);
}

/* ---------------------------------------------------------------- sound */

/* A duration in ms as samples, rounded as the reference does. */
static int samples_of(const ap_fields *f, const char *key, int rate, int def)
{
    double ms = ap_field_num(f, key, 1, 1000, def * 1000.0 / rate);
    return (int)(ms * rate / 1000 + 0.5);
}

static void refuse_number(const ap_fields *f, const char *key)
{
    if (ap_field_num(f, key, -1e9, 1e9, 0) != 0)
        ap_field_fail(f, APUS_EUNSUPPORTED, key, ap_field(f, key), "only 0 is supported");
}

static void mel(const ap_fields *f, ap_sound_settings *s)
{
    s->features = (int)ap_field_int(f, "feature_size", 1, 1024, s->features);
    s->window = samples_of(f, "frame_length_ms", s->rate, s->window);
    s->hop = samples_of(f, "hop_length_ms", s->rate, s->hop);
    s->low = ap_field_num(f, "min_frequency", 0, 1e6, s->low);
    s->high = ap_field_num(f, "max_frequency", 1, 1e6, s->high);
    s->floor = ap_field_num(f, "mel_floor", 1e-30, 1e6, s->floor);
    s->scale = ap_field_num(f, "input_scale_factor", 1e-6, 1e6, s->scale);
    s->fft = 1;
    while (s->fft < s->window) s->fft *= 2;
    if (ap_field_bool(f, "fft_overdrive", false)) s->fft *= 2;
    refuse_number(f, "dither");
    refuse_number(f, "preemphasis");
    for (const char **key = (const char *[]){"per_bin_mean", "per_bin_stddev", NULL}; *key; key++)
        if (ap_field(f, *key)) ap_field_fail(f, APUS_EUNSUPPORTED, *key, NULL, "is not supported");
}

static void sound(const ap_fields *f, ap_media_kind kind, ap_sound_settings *s)
{
    s->rate = (int)ap_field_int(f, "sampling_rate", 1000, 192000, s->rate);
    if (kind == AP_MEDIA_GEMMA) mel(f, s);
    if (kind == AP_MEDIA_EMBEDDER)
        s->features = (int)ap_field_int(f, "audio_samples_per_token", 1, 1 << 16, s->features);
}

/* ---------------------------------------------------------------- files */

typedef struct reader {
    const ap_media_config_text *file;
    ap_json *root[AP_MEDIA_CONFIG_FILES]; /* NULL: no such file */
    apus_diag *diag;
    apus_err err;
} reader;

/* The first of: that part of processor_config.json; the files named, in order. */
static ap_fields part_of(reader *r, const char *part, const char *prefix, int first, int second)
{
    const ap_json *o = ap_json_get(r->root[AP_MEDIA_CONFIG_PROCESSOR], part);
    if (o && o->type == AP_JSON_OBJECT)
        return (ap_fields){r->file[AP_MEDIA_CONFIG_PROCESSOR].name, prefix, o, r->diag, &r->err};
    int from = r->root[first] ? first : second;
    return (ap_fields){r->file[from].name, "", r->root[from], r->diag, &r->err};
}

static void read_parts(reader *r, ap_media_kind kind, ap_media_settings *out)
{
    const int own = AP_MEDIA_CONFIG_PREPROCESSOR, video = AP_MEDIA_CONFIG_VIDEO;
    ap_fields f = part_of(r, "image_processor", "image_processor.", own, own);
    vision(&f, kind, &out->picture);
    f = part_of(r, "video_processor", "video_processor.", video, own);
    vision(&f, kind, &out->video);
    f = part_of(r, "feature_extractor", "feature_extractor.", own, own);
    sound(&f, kind, &out->sound);
}

apus_err ap_media_config_parse(const ap_media_config_text file[AP_MEDIA_CONFIG_FILES],
                               ap_media_kind kind, ap_media_settings *out, apus_diag *diag)
{
    reader r = {.file = file, .diag = diag};
    ap_arena arena;
    ap_arena_init(&arena, 64 << 20);
    for (int i = 0; i < AP_MEDIA_CONFIG_FILES && !r.err; i++) {
        if (!file[i].text) continue;
        r.err = ap_json_parse(&arena, file[i].text, file[i].len, file[i].name, 0, &r.root[i], diag);
        if (!r.err && r.root[i]->type != AP_JSON_OBJECT)
            r.err = ap_fail(diag, APUS_EFORMAT, "%s: expected an object", file[i].name);
    }
    ap_media_settings_default(kind, out);
    if (!r.err) read_parts(&r, kind, out);
    ap_arena_free(&arena);
    return r.err;
}

apus_err ap_media_config_read(const char *dir, ap_media_kind kind, ap_media_settings *out,
                              apus_diag *diag)
{
    static const char *const names[AP_MEDIA_CONFIG_FILES] = {
        "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"};
    ap_media_config_text file[AP_MEDIA_CONFIG_FILES] = {{0}};
    char *path[AP_MEDIA_CONFIG_FILES] = {NULL}, *text[AP_MEDIA_CONFIG_FILES] = {NULL};
    apus_err err = APUS_OK;
    for (int i = 0; i < AP_MEDIA_CONFIG_FILES && !err; i++) {
        file[i].name = path[i] = ap_path_join(dir, names[i]);
        if (!path[i])
            err = ap_fail_nomem(diag, strlen(dir), "a path");
        else if (ap_path_exists(path[i]))
            err = ap_file_read(path[i], MAX_CONFIG_BYTES, &text[i], &file[i].len, diag);
        file[i].text = text[i];
    }
    if (!err) err = ap_media_config_parse(file, kind, out, diag);
    for (int i = 0; i < AP_MEDIA_CONFIG_FILES; i++) {
        ap_free(path[i]);
        ap_free(text[i]);
    }
    return err;
}
