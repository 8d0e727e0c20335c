#include "engine/shown.h"

#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "base/mem.h"
#include "base/num.h"
#include "engine/engine.h"

/* ---------------------------------------------------------------- towers */

/* How many rows part p becomes, and in what lines. */
static apus_err check_part(const apus_model *m, const apus_media *x, const ap_patches *p,
                           ap_soft *soft, apus_diag *diag)
{
    if (x->type != APUS_MEDIA_SOUND) return ap_tower_check(m->tower, p, x->name, soft, diag);
    *soft = (ap_soft){.height = 1};
    return ap_audio_tower_check(m->audio_tower, p, x->name, &soft->width, diag);
}

static apus_err run_tower(apus_engine *e, const apus_media *x, const ap_patches *p, float *out,
                          apus_diag *diag)
{
    const volatile int *cancel = &e->cancel[e->size.n_session];
    return x->type == APUS_MEDIA_SOUND
               ? ap_audio_tower_encode(e->model->audio_tower, &e->exec, p, out, cancel, diag)
               : ap_tower_encode(e->model->tower, &e->exec, p, out, cancel, diag);
}

apus_err ap_sight_embeds(const apus_model *m, const ap_sight *s, ap_embeds **out, apus_diag *diag)
{
    ap_soft soft;
    apus_err err = check_part(m, s->media, s->part, &soft, diag);
    if (!err) err = ap_embeds_create(soft.height * soft.width, m->config.hidden, out, diag);
    if (err) return err;
    (*out)->height = soft.height;
    (*out)->cols = soft.width;
    (*out)->model = m->fingerprint;
    memcpy((*out)->hash, s->part->hash, sizeof(*out)->hash);
    return APUS_OK;
}

static apus_err encode_part(apus_engine *e, const apus_media *x, size_t i, apus_diag *diag)
{
    const apus_model *m = e->model;
    const ap_sight s = {.part = &x->clip.part[i], .media = x};
    ap_embeds *rows, *none = NULL;
    apus_err err = ap_sight_embeds(m, &s, &rows, diag);
    if (err) return err;
    err = run_tower(e, x, s.part, rows->row, diag);
    if (err || !__atomic_compare_exchange_n(&x->rows[i], &none, rows, false, __ATOMIC_ACQ_REL,
                                            __ATOMIC_ACQUIRE))
        ap_embeds_drop(rows); /* or another thread was first */
    return err;
}

static ap_embeds *rows_of(const apus_media *x, size_t i)
{
    return __atomic_load_n(&x->rows[i], __ATOMIC_ACQUIRE);
}

/* Has the model what it takes to see x? */
static apus_err check_kind(const apus_model *m, const apus_media *x, apus_diag *diag)
{
    bool heard = x->type == APUS_MEDIA_SOUND;
    if (heard ? m->audio_tower != NULL : m->tower != NULL) return APUS_OK;
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "%s: the model was opened without its %s tower (apus_model_settings.towers)",
                   x->name, heard ? "audio" : "vision");
}

static apus_err encode(apus_engine *e, const apus_media *x, apus_diag *diag)
{
    apus_err err = check_kind(e->model, x, diag);
    for (size_t i = 0; i < x->clip.n && !err; i++) {
        const ap_embeds *rows = rows_of(x, i);
        if (!rows)
            err = encode_part(e, x, i, diag);
        else if (rows->model != e->model->fingerprint)
            err = ap_fail(diag, APUS_EINVAL, "%s: was shown to another model before", x->name);
    }
    return err;
}

apus_err apus_media_encode(apus_engine *e, const apus_media *x, apus_diag *diag)
{
    if (!e || !x)
        return ap_fail(diag, APUS_EINVAL, "apus_media_encode: an engine and media are needed");
    apus_err err = ap_call_begin(e, diag);
    if (err) return err;
    err = encode(e, x, diag);
    ap_call_end(e);
    return err;
}

const float *apus_media_rows(const apus_media *x, size_t i)
{
    const ap_embeds *rows = x && i < x->clip.n ? rows_of(x, i) : NULL;
    return rows ? rows->row : NULL;
}

/* ---------------------------------------------------------------- places */

bool ap_media_is_place(const apus_model *m, int32_t id)
{
    const ap_config *c = &m->config;
    return id >= 0 && (id == c->image_token || id == c->video_token || id == c->audio_token);
}

static int count_parts(const apus_media *const *media, int n_media)
{
    size_t n = 0;
    for (int i = 0; i < n_media; i++) n += media[i]->clip.n;
    return (int)n;
}

/* Of what is seen, or heard. */
static bool is_place_of(const apus_model *m, int32_t id, bool heard)
{
    return ap_media_is_place(m, id) && heard == (id == m->config.audio_token);
}

/* The run of n places from tok[*i] on that a part of x fills. */
static apus_err place_part(const apus_model *m, const int32_t *tok, int n, int *i, int rows,
                           const apus_media *x, apus_diag *diag)
{
    int first;
    bool heard = x->type == APUS_MEDIA_SOUND;
    while (*i < n && !is_place_of(m, tok[*i], heard)) ++*i;
    for (first = *i; *i < n && *i - first < rows && is_place_of(m, tok[*i], heard);) ++*i;
    if (*i - first == rows) return APUS_OK;
    return ap_fail(diag, APUS_EINVAL,
                   "%s: needs %d places (id %d) in a row, found %d of them at token %d", x->name,
                   rows, heard ? m->config.audio_token : m->config.image_token, *i - first, first);
}

/* A part's rows at [pos, pos + n) of a session; e: NULL where no tower has run. */
static ap_span span_of(const apus_model *m, const apus_media *x, ap_embeds *e, int pos, int n)
{
    bool seen = x->type != APUS_MEDIA_SOUND, axes = seen && e && m->config.rope_axes;
    return (ap_span){.pos = pos,
                     .n = n,
                     .height = axes ? e->height : 0,
                     .width = axes ? e->cols : 0,
                     .whole = seen && m->config.see_whole_pictures,
                     .embeds = e};
}

/* The spans that media fill among tok, in the order of the media; tok begins at position pos of a session. What is
 * seen and what is heard have places of their own. Rows are borrowed, NULL where no tower has run.
 *   span  [parts of all media] out */
static apus_err place(const apus_model *m, const int32_t *tok, int n, int pos,
                      const apus_media *const *media, int n_media, ap_span *span, apus_diag *diag)
{
    int at[2] = {0, 0}; /* behind the last place that is filled: seen, heard */
    for (int k = 0; k < n_media; k++) {
        const apus_media *x = media[k];
        int *i = &at[x->type == APUS_MEDIA_SOUND];
        for (size_t f = 0; f < x->clip.n; f++) {
            ap_embeds *e = rows_of(x, f);
            int rows = e ? e->n : (int)x->clip.part[f].soft_tokens;
            apus_err err = place_part(m, tok, n, i, rows, x, diag);
            if (err) return err;
            *span++ = span_of(m, x, e, pos + *i - rows, rows);
        }
    }
    for (int i = ap_min_int(at[0], at[1]); i < n; i++)
        for (int heard = 0; heard < 2; heard++)
            if (i >= at[heard] && is_place_of(m, tok[i], heard))
                return ap_fail(diag, APUS_EINVAL,
                               "token %d is a place (id %d) that none of %d media fills", i,
                               (int)tok[i], n_media);
    return APUS_OK;
}

/* Spans in the order of their places. */
static void sort(ap_span *span, int n)
{
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && span[k].pos < span[k - 1].pos; k--) {
            ap_span x = span[k];
            span[k] = span[k - 1];
            span[k - 1] = x;
        }
}

/* A list of media that a caller gives beside tokens. */
static bool is_list(const apus_media *const *media, int n_media)
{
    if (!media || n_media < 1) return false;
    for (int i = 0; i < n_media; i++)
        if (!media[i]) return false;
    return true;
}

apus_err apus_media_ids(const apus_model *m, int32_t *tok, int n, const apus_media *const *media,
                        int n_media, apus_diag *diag)
{
    if (!m || !tok || n < 1 || !is_list(media, n_media))
        return ap_fail(diag, APUS_EINVAL, "apus_media_ids: tokens and media are needed");
    size_t parts = (size_t)count_parts(media, n_media);
    ap_span *span = ap_calloc(parts, sizeof *span), *at = span;
    if (!span) return ap_fail_nomem(diag, parts * sizeof *span, "the places of media");
    apus_err err = place(m, tok, n, 0, media, n_media, span, diag);
    for (int k = 0; k < n_media && !err; k++)
        for (size_t f = 0; f < media[k]->clip.n; f++, at++)
            for (int i = 0; i < at->n; i++)
                tok[at->pos + i] = ap_span_id(media[k]->clip.part[f].hash, i);
    ap_free(span);
    return err;
}

apus_err apus_media_find(const apus_model *m, const int32_t *tok, int n,
                         const apus_media *const *media, int n_media, int *begin, int *end,
                         apus_diag *diag)
{
    if (!m || !tok || n < 1 || !is_list(media, n_media) || !begin || !end)
        return ap_fail(diag, APUS_EINVAL, "apus_media_find: tokens and media are needed");
    size_t parts = (size_t)count_parts(media, n_media);
    ap_span *span = ap_calloc(parts, sizeof *span), *at = span;
    if (!span) return ap_fail_nomem(diag, parts * sizeof *span, "the places of media");
    apus_err err = place(m, tok, n, 0, media, n_media, span, diag);
    for (int i = 0; i < n_media && !err; i++) {
        begin[i] = at->pos;
        at += media[i]->clip.n;
        end[i] = at[-1].pos + at[-1].n;
    }
    ap_free(span);
    return err;
}

/* ---------------------------------------------------------------- requests */

/* Part f of x, which stands at span: what its rows are. Of a tower that has not run, it is asked. */
static apus_err look_at(const apus_engine *e, const apus_media *x, size_t f, int together,
                        ap_sight *s, apus_diag *diag)
{
    const apus_model *m = e->model;
    ap_soft soft;
    s->media = x;
    s->part = &x->clip.part[f];
    if (s->span.embeds && s->span.embeds->model != m->fingerprint) s->span.embeds = NULL;
    bool axes = x->type != APUS_MEDIA_SOUND && m->config.rope_axes;
    apus_err err = check_part(m, x, s->part, &soft, diag);
    if (err) return err;
    if (soft.height * soft.width != s->span.n)
        return ap_fail(diag, APUS_EINVAL, "%s: becomes %d rows, but has %d places", x->name,
                       soft.height * soft.width, s->span.n);
    s->span.height = axes ? soft.height : 0;
    s->span.width = axes ? soft.width : 0;
    if (!s->span.whole || s->span.n <= e->size.chunk - together) return APUS_OK;
    return ap_fail(diag, APUS_EINVAL,
                   "%s: its %d places are computed at once, beside %d tokens of others: expected a "
                   "prefill_chunk of at least as many, found %d",
                   x->name, s->span.n, together, e->size.chunk);
}

static apus_err look_at_all(const apus_engine *e, int32_t *tok, int n,
                            const apus_media *const *media, int n_media, int together,
                            const ap_span *span, ap_sight *s, apus_diag *diag)
{
    for (int k = 0; k < n_media; k++)
        for (size_t f = 0; f < media[k]->clip.n; f++, s++) {
            s->span = *span++;
            apus_err err = look_at(e, media[k], f, together, s, diag);
            if (err) return err;
            for (int i = 0; i < s->span.n && s->span.pos + i < n; i++)
                tok[s->span.pos + i] = ap_span_id(s->part->hash, i);
        }
    return APUS_OK;
}

static int by_place(const void *a, const void *b)
{
    return ((const ap_sight *)a)->span.pos - ((const ap_sight *)b)->span.pos;
}

apus_err ap_media_place(const apus_engine *e, int32_t *tok, int n, const apus_media *const *media,
                        int n_media, int together, ap_sight **out, int *n_out, apus_diag *diag)
{
    apus_err err = APUS_OK;
    for (int i = 0; i < n_media && !err; i++) err = check_kind(e->model, media[i], diag);
    if (err) return err;
    size_t parts = (size_t)count_parts(media, n_media);
    ap_span *span = ap_calloc(parts, sizeof *span);
    ap_sight *sight = ap_calloc(parts, sizeof *sight);
    if (!span || !sight) err = ap_fail_nomem(diag, parts * sizeof *sight, "the places of media");
    if (!err) err = place(e->model, tok, n, 0, media, n_media, span, diag);
    if (!err) err = look_at_all(e, tok, n, media, n_media, together, span, sight, diag);
    if (!err) qsort(sight, parts, sizeof *sight, by_place);
    ap_free(span);
    if (err) {
        ap_free(sight);
        return err;
    }
    *out = sight;
    *n_out = (int)parts;
    return APUS_OK;
}

/* ---------------------------------------------------------------- feeds */

apus_err ap_media_check(const apus_engine *e, const apus_feed *f, const char *at, apus_diag *diag)
{
    (void)e;
    if (f->n_media < 0 || (f->n_media && !f->media))
        return ap_fail(diag, APUS_EINVAL, "%sn_media: expected 0 or more media, found %d", at,
                       f->media ? f->n_media : 0);
    for (int i = 0; i < f->n_media; i++)
        if (!f->media[i])
            return ap_fail(diag, APUS_EINVAL,
                           "%smedia[%d]: expected a picture, video or sound, found NULL", at, i);
    return APUS_OK;
}

/* Wanted rows of the feed within a span. */
static int rows_in(const apus_feed *f, const ap_span *x, int pos)
{
    int n = 0;
    for (int i = 0; f->rows && i < f->n_rows; i++)
        n += pos + f->rows[i] >= x->pos && pos + f->rows[i] < x->pos + x->n;
    return n;
}

/* What sees itself whole is computed in one step: does it fit? */
static apus_err check_whole(const apus_engine *e, const apus_feed *f, const ap_span *x,
                            apus_diag *diag)
{
    if (!x->whole) return APUS_OK;
    if (x->n > e->size.chunk)
        return ap_fail(diag, APUS_EINVAL,
                       "a picture's %d places are computed at once: expected a prefill_chunk of at "
                       "least as many, found %d",
                       x->n, e->size.chunk);
    int wanted = f->logits && !e->exec.dev->is_host ? rows_in(f, x, f->session->pos) : 0;
    if (wanted > e->size.logit_rows)
        return ap_fail(diag, APUS_EINVAL,
                       "%d rows of logits are wanted within a picture; on this device at most %d "
                       "can be had",
                       wanted, e->size.logit_rows);
    return APUS_OK;
}

apus_err ap_media_ready(apus_engine *e, const apus_feed *f, apus_diag *diag)
{
    ap_spans *s = &f->session->spans;
    if (!f->n_media) return APUS_OK;
    int parts = count_parts(f->media, f->n_media);
    apus_err err = ap_spans_reserve(s, parts, diag);
    for (int i = 0; i < f->n_media && !err; i++) err = encode(e, f->media[i], diag);
    if (!err)
        err = place(e->model, f->tok, f->n, f->session->pos, f->media, f->n_media, s->at + s->n,
                    diag);
    if (!err) sort(s->at + s->n, parts);
    for (int i = 0; i < parts && !err; i++) err = check_whole(e, f, &s->at[s->n + i], diag);
    return err;
}

void ap_media_begin(apus_session *s, const apus_feed *f)
{
    for (int n = f->n_media ? count_parts(f->media, f->n_media) : 0; n > 0; n--) {
        ap_span x = s->spans.at[s->spans.n];
        ap_spans_add(&s->spans, &x, s->tok + x.pos);
    }
}
