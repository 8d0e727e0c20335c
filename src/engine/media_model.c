#include "engine/media_model.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/engine.h"
#include "engine/patches_file.h"
#include "file/media_config.h"
#include "media/film.h"
#include "media/prepare.h"
#include "media/sound.h"

/* What is read, and for what. */
typedef struct job {
    const apus_model *m;
    ap_media_settings how;
    apus_media_settings set;
    const char *name;
    apus_media *out;
} job;

void apus_media_settings_default(apus_media_settings *s)
{
    if (s) *s = (apus_media_settings){.size = sizeof *s};
}

/* ---------------------------------------------------------------- the model's settings */

static apus_err how_of(const apus_model *m, ap_media_settings *out, apus_diag *diag)
{
    const ap_config *c = &m->config;
    bool folder = ap_path_is_dir(m->dir);
    if (!c->media || (folder && !c->multimodal))
        return ap_fail(
            diag, APUS_EUNSUPPORTED,
            "%s: a %s model without towers (no vision_config in config.json): it takes text only",
            m->dir, ap_arch_name(c->arch));
    if (folder) return ap_media_config_read(m->dir, c->media, out, diag);
    const ap_mmproj *p = &m->mmproj;
    ap_media_config_text file[AP_MEDIA_CONFIG_FILES] = {{0}};
    if (p->path)
        file[AP_MEDIA_CONFIG_PREPROCESSOR] =
            (ap_media_config_text){p->path, p->processor.data, p->processor.len};
    return ap_media_config_parse(file, c->media, out, diag);
}

static ap_media_limits limits_of(const job *j)
{
    ap_media_limits l = ap_media_limits_default();
    if (!j->set.max_pixels || j->set.max_pixels >= l.pixels) return l;
    l.film_pixels = l.film_pixels / l.pixels * j->set.max_pixels;
    l.pixels = j->set.max_pixels;
    return l;
}

/* ---------------------------------------------------------------- what is read */

static apus_err use_film(job *j, ap_film *f, apus_diag *diag)
{
    apus_err err = ap_prepare_film(&j->how, f, j->name, j->set.image_tokens, &j->out->clip, diag);
    j->out->type = APUS_MEDIA_VIDEO;
    ap_film_close(f);
    return err;
}

/* Room for the one part of a picture or sound. */
static apus_err one_part(job *j, apus_media_type type, apus_diag *diag)
{
    j->out->type = type;
    j->out->clip.part = ap_calloc(1, sizeof *j->out->clip.part);
    if (!j->out->clip.part) return ap_fail_nomem(diag, sizeof *j->out->clip.part, "a picture");
    j->out->clip.n = 1;
    return APUS_OK;
}

static apus_err use_picture(job *j, const ap_source *src, apus_diag *diag)
{
    ap_picture p;
    apus_err err = ap_picture_decode(src, &p, diag);
    if (err) return err;
    err = one_part(j, APUS_MEDIA_PICTURE, diag);
    if (!err)
        err =
            ap_prepare_picture(&j->how, &p, j->name, j->set.image_tokens, j->out->clip.part, diag);
    ap_picture_clear(&p);
    return err;
}

static apus_err use_sound(job *j, const ap_source *src, apus_diag *diag)
{
    ap_sound s;
    apus_err err = ap_sound_decode(src, &s, diag);
    if (err) return err;
    err = one_part(j, APUS_MEDIA_SOUND, diag);
    if (!err) err = ap_prepare_sound(&j->how, &s, j->name, j->out->clip.part, diag);
    ap_sound_clear(&s);
    return err;
}

static apus_err use_bytes(job *j, const ap_source *src, apus_diag *diag)
{
    ap_film film = {0};
    if (ap_sound_is(src)) return use_sound(j, src, diag);
    if (!j->set.still) {
        apus_err err = ap_film_open(src, &film, diag);
        if (err) return err;
    }
    return film.n_frames ? use_film(j, &film, diag) : use_picture(j, src, diag);
}

static apus_err use_folder(job *j, const char *path, apus_diag *diag)
{
    ap_film film;
    ap_media_limits limits = limits_of(j);
    apus_err err = ap_film_open_folder(path, &limits, &film, diag);
    return err ? err : use_film(j, &film, diag);
}

/* Soft tokens of what the reference has prepared. */
static apus_err count_soft_tokens(job *j, apus_diag *diag)
{
    ap_vision_config v;
    bool heard = j->out->type == APUS_MEDIA_SOUND, tower = j->how.kind == AP_MEDIA_GEMMA;
    apus_err err = heard ? APUS_OK : ap_vision_of(j->m, &v, diag);
    for (size_t i = 0; i < j->out->clip.n && !err; i++) {
        ap_patches *p = &j->out->clip.part[i];
        p->soft_tokens = heard ? ap_sound_tokens(p->n, tower) : p->n / (size_t)(v.merge * v.merge);
    }
    return err;
}

/* What the reference has prepared already. */
static apus_err use_patches(job *j, const char *path, apus_diag *diag)
{
    apus_err err = ap_patches_read(path, &j->out->clip, &j->out->type, diag);
    return err ? err : count_soft_tokens(j, diag);
}

static apus_err use_file(job *j, const char *path, apus_diag *diag)
{
    if (ap_ends_with(path, ".safetensors")) return use_patches(j, path, diag);
    ap_source src;
    ap_media_limits limits = limits_of(j);
    apus_err err = ap_source_open(path, &limits, &src, diag);
    if (err) return err;
    err = use_bytes(j, &src, diag);
    ap_source_close(&src);
    return err;
}

/* ---------------------------------------------------------------- public */

static apus_err begin(job *j, const apus_model *m, const apus_media_settings *s, const char *name,
                      apus_diag *diag)
{
    memset(j, 0, sizeof *j);
    apus_media_settings_default(&j->set);
    apus_err err = ap_settings_take(&j->set, sizeof j->set, s, "apus_media_settings", diag);
    if (!err) err = how_of(m, &j->how, diag);
    j->m = m;
    j->name = name;
    if (!err && !(j->out = ap_calloc(1, sizeof *j->out)))
        err = ap_fail_nomem(diag, sizeof *j->out, "a picture");
    if (!err && !(j->out->name = ap_strdup(name)))
        err = ap_fail_nomem(diag, strlen(name), "a picture's name");
    return err;
}

static apus_err finish(job *j, apus_err err, apus_media **out, apus_diag *diag)
{
    if (!err && !(j->out->rows = ap_calloc(j->out->clip.n, sizeof *j->out->rows)))
        err = ap_fail_nomem(diag, j->out->clip.n * sizeof *j->out->rows, "the parts of a video");
    if (err)
        apus_media_free(j->out);
    else
        *out = j->out;
    return err;
}

apus_err apus_media_open(const apus_model *m, const char *path, const apus_media_settings *s,
                         apus_media **out, apus_diag *diag)
{
    job j;
    if (!m || !path || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_media_open: model, path and out are needed");
    apus_err err = begin(&j, m, s, path, diag);
    if (!err) err = ap_path_is_dir(path) ? use_folder(&j, path, diag) : use_file(&j, path, diag);
    return finish(&j, err, out, diag);
}

apus_err apus_media_open_memory(const apus_model *m, const void *data, size_t len, const char *name,
                                const apus_media_settings *s, apus_media **out, apus_diag *diag)
{
    job j;
    if (!m || (!data && len) || !name || !out)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_media_open_memory: model, data, name and out are needed");
    apus_err err = begin(&j, m, s, name, diag);
    ap_source src = {name, data ? data : (const uint8_t *)"", len, limits_of(&j)};
    if (!err && len > src.limits.bytes)
        err = ap_fail(diag, APUS_EUNSUPPORTED, "%s: %zu bytes, at most %zu are read", name, len,
                      src.limits.bytes);
    if (!err) err = use_bytes(&j, &src, diag);
    return finish(&j, err, out, diag);
}

void apus_media_free(apus_media *x)
{
    if (!x) return;
    for (size_t i = 0; x->rows && i < x->clip.n; i++) ap_embeds_drop(x->rows[i]);
    ap_free(x->rows);
    ap_clip_clear(&x->clip);
    ap_free(x->name);
    ap_free(x);
}

apus_media_type apus_media_type_of(const apus_media *x)
{
    return x ? x->type : APUS_MEDIA_PICTURE;
}

int apus_media_tokens(const apus_media *x)
{
    size_t n = 0;
    for (size_t i = 0; x && i < x->clip.n; i++) n += x->clip.part[i].soft_tokens;
    return (int)n;
}

bool apus_media_part_at(const apus_media *x, size_t i, apus_media_part *out)
{
    if (!x || !out || out->size < sizeof *out || i >= x->clip.n) return false;
    const ap_patches *p = &x->clip.part[i];
    *out = (apus_media_part){.size = sizeof *out,
                             .values = p->values,
                             .n = p->n,
                             .width = p->width,
                             .padded = p->padded,
                             .pos = (const int32_t(*)[2])p->pos,
                             .tokens = (int)p->soft_tokens,
                             .seconds = p->seconds};
    memcpy(out->grid, p->grid, sizeof out->grid);
    return true;
}
