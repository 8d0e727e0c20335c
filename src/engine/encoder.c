#include "engine/encoder.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/engine.h"

void ap_encoder_open(ap_encoder *x, const apus_engine *e, uint64_t most)
{
    *x = (ap_encoder){.e = e, .most = most < SIZE_MAX ? (size_t)most : SIZE_MAX};
}

void ap_encoder_close(ap_encoder *x)
{
    ap_encoder_stop(x);
    for (int i = 0; i < x->n_kept; i++) ap_embeds_drop(x->kept[i]);
    ap_free(x->kept);
    *x = (ap_encoder){0};
}

/* ---------------------------------------------------------------- what is kept */

static size_t bytes_of(const ap_embeds *e)
{
    return sizeof *e + (size_t)e->n * (size_t)e->width * sizeof(float);
}

static void take_out(ap_encoder *x, int i)
{
    x->bytes -= bytes_of(x->kept[i]);
    x->n_kept--;
    memmove(&x->kept[i], &x->kept[i + 1], (size_t)(x->n_kept - i) * sizeof *x->kept);
}

/* Behind all others; takes the reference. There is room in the list. */
static void put_last(ap_encoder *x, ap_embeds *e)
{
    x->kept[x->n_kept++] = e;
    x->bytes += bytes_of(e);
}

static bool make_room(ap_encoder *x, size_t bytes)
{
    if (bytes > x->most) return false;
    while (x->bytes > x->most - bytes) {
        ap_embeds *oldest = x->kept[0];
        take_out(x, 0);
        ap_embeds_drop(oldest);
    }
    if (x->n_kept < x->room) return true;
    int room = x->room ? 2 * x->room : 16;
    ap_embeds **kept = ap_realloc(x->kept, (size_t)room, sizeof *kept);
    if (!kept) return false;
    x->kept = kept;
    x->room = room;
    return true;
}

ap_embeds *ap_encoder_find(ap_encoder *x, const uint64_t hash[2])
{
    for (int i = x->n_kept - 1; i >= 0; i--) {
        ap_embeds *e = x->kept[i];
        if (memcmp(e->hash, hash, sizeof e->hash)) continue;
        take_out(x, i);
        put_last(x, e);
        x->reused++;
        return ap_embeds_share(e);
    }
    return NULL;
}

/* ---------------------------------------------------------------- at work */

apus_err ap_encoder_begin(ap_encoder *x, const ap_sight *s, apus_diag *diag)
{
    const apus_model *m = x->e->model;
    apus_err err = ap_sight_embeds(m, s, &x->rows, diag);
    x->heard = s->media->type == APUS_MEDIA_SOUND;
    if (!err && !x->heard)
        err = ap_tower_begin(m->tower, &x->e->exec, s->part, x->rows->row, &x->run, diag);
    if (!err) {
        x->part = s->part;
        return APUS_OK;
    }
    ap_encoder_stop(x);
    return err;
}

void ap_encoder_stop(ap_encoder *x)
{
    ap_tower_end(x->run);
    ap_embeds_drop(x->rows);
    x->run = NULL;
    x->rows = NULL;
    x->part = NULL;
}

/* Sounds are heard in one go. */
static apus_err hear(ap_encoder *x, const volatile int *cancel, bool *done, apus_diag *diag)
{
    *done = true;
    return ap_audio_tower_encode(x->e->model->audio_tower, &x->e->exec, x->part, x->rows->row,
                                 cancel, diag);
}

apus_err ap_encoder_go(ap_encoder *x, int64_t us, const volatile int *cancel, ap_embeds **out,
                       apus_diag *diag)
{
    bool done = false;
    int64_t begin = ap_time_us();
    *out = NULL;
    apus_err err =
        x->heard ? hear(x, cancel, &done, diag) : ap_tower_go(x->run, us, cancel, &done, diag);
    x->us += ap_time_us() - begin;
    if (!err && !done) return APUS_OK;
    if (!err) {
        *out = ap_embeds_share(x->rows);
        x->encoded++;
        if (make_room(x, bytes_of(x->rows))) put_last(x, ap_embeds_share(x->rows));
    }
    ap_encoder_stop(x);
    return err;
}
