#include "engine/spans.h"

#include <string.h>
#include <xxhash.h>

#include "base/mem.h"
#include "base/num.h"

apus_err ap_embeds_create(int n, int width, ap_embeds **out, apus_diag *diag)
{
    size_t bytes = SIZE_MAX;
    ap_embeds *e = NULL;
    if (ap_mul_size((size_t)n * (size_t)width, sizeof(float), &bytes) &&
        ap_add_size(bytes, sizeof *e, &bytes))
        e = ap_malloc(bytes, 1);
    if (!e) return ap_fail_nomem(diag, bytes, "what a picture shows");
    *e = (ap_embeds){.refs = 1, .n = n, .width = width};
    *out = e;
    return APUS_OK;
}

ap_embeds *ap_embeds_share(ap_embeds *e)
{
    __atomic_add_fetch(&e->refs, 1, __ATOMIC_RELAXED);
    return e;
}

void ap_embeds_drop(ap_embeds *e)
{
    if (e && __atomic_sub_fetch(&e->refs, 1, __ATOMIC_ACQ_REL) == 0) ap_free(e);
}

/* ---------------------------------------------------------------- the list */

apus_err ap_spans_reserve(ap_spans *s, int more, apus_diag *diag)
{
    if (more <= s->room - s->n) return APUS_OK;
    int room = s->n + more;
    ap_span *at = ap_realloc(s->at, (size_t)room, sizeof *at);
    if (!at) return ap_fail_nomem(diag, (size_t)room * sizeof *at, "a session's pictures");
    s->at = at;
    s->room = room;
    return APUS_OK;
}

/* Position that angles turn with of what stands at pos, behind the span. */
static int rope_behind(const ap_span *x, int pos)
{
    int length = x->height ? ap_max_int(x->height, x->width) : x->n;
    return x->rope + length + pos - (x->pos + x->n);
}

int32_t ap_span_id(const uint64_t hash[2], int row)
{
    XXH64_hash_t h = XXH64(hash, 2 * sizeof *hash, (XXH64_hash_t)row);
    return -1 - (int32_t)(h & 0x7fffffff);
}

void ap_spans_add(ap_spans *s, const ap_span *span, int32_t *tok)
{
    ap_span *x = &s->at[s->n];
    *x = *span;
    x->rope = s->n ? rope_behind(x - 1, x->pos) : x->pos;
    if (x->embeds) ap_embeds_share(x->embeds);
    s->n++;
    for (int i = 0; tok && i < x->n; i++) tok[i] = ap_span_id(x->embeds->hash, x->row + i);
}

int ap_spans_lacking(const ap_spans *s, int pos)
{
    for (int i = 0; i < s->n; i++)
        if (!s->at[i].embeds && s->at[i].pos + s->at[i].n > pos) return i;
    return -1;
}

void ap_spans_give(ap_spans *s, int i, ap_embeds *e)
{
    s->at[i].embeds = ap_embeds_share(e);
}

void ap_spans_seen(ap_spans *s, int pos)
{
    for (int i = 0; i < s->n && s->at[i].pos + s->at[i].n <= pos; i++) {
        ap_embeds_drop(s->at[i].embeds);
        s->at[i].embeds = NULL;
    }
}

void ap_spans_cut(ap_spans *s, int pos)
{
    while (s->n && s->at[s->n - 1].pos >= pos) ap_embeds_drop(s->at[--s->n].embeds);
}

apus_err ap_spans_copy(ap_spans *dst, const ap_spans *src, apus_diag *diag)
{
    apus_err err = ap_spans_reserve(dst, src->n, diag);
    if (err || !src->n) return err;
    memcpy(dst->at, src->at, (size_t)src->n * sizeof *src->at);
    dst->n = src->n;
    for (int i = 0; i < dst->n; i++)
        if (dst->at[i].embeds) ap_embeds_share(dst->at[i].embeds);
    return APUS_OK;
}

void ap_spans_clear(ap_spans *s)
{
    ap_spans_cut(s, 0);
    ap_free(s->at);
    *s = (ap_spans){0};
}

/* The last span that begins at or before pos. */
static const ap_span *before(const ap_spans *s, int pos)
{
    int lo = 0, hi = s->n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (s->at[mid].pos <= pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo ? &s->at[lo - 1] : NULL;
}

const ap_span *ap_spans_find(const ap_spans *s, int pos)
{
    const ap_span *x = before(s, pos);
    return x && pos < x->pos + x->n ? x : NULL;
}

/* ---------------------------------------------------------------- rows of a step */

int ap_spans_share(const ap_spans *s, int pos, int n, int room)
{
    const ap_span *x = n ? ap_spans_find(s, pos + n) : NULL;
    if (!x || !x->whole || x->pos == pos + n) return n; /* nothing goes on behind the rows */
    if (x->pos > pos) return x->pos - pos;
    int rest = x->pos + x->n - pos;
    return rest <= room ? rest : 0;
}

static void turn(ap_rows *r, int t, int time, int height, int width)
{
    int T = r->batch.n_tok;
    r->rope_pos[t] = time;
    r->rope_pos[T + t] = height;
    r->rope_pos[2 * T + t] = width;
}

static void fill_text(ap_rows *r, int t, int pos, const ap_span *last)
{
    int rope = last ? rope_behind(last, pos) : pos;
    turn(r, t, rope, rope, rope);
}

static void fill_place(ap_rows *r, int t, int pos, const ap_span *x)
{
    int i = pos - x->pos;
    if (x->height)
        turn(r, t, x->rope, x->rope + i / x->width, x->rope + i % x->width);
    else
        turn(r, t, x->rope + i, x->rope + i, x->rope + i);
    if (x->whole) r->see_end[t] = x->pos + x->n;
}

void ap_spans_fill(const ap_spans *s, ap_rows *r, int begin, int n, int pos, int32_t pad,
                   float *embed, int *used)
{
    if (!s->n) return;
    for (int i = 0; i < n; i++) {
        const ap_span *x = before(s, pos + i);
        if (!x || pos + i >= x->pos + x->n) {
            fill_text(r, begin + i, pos + i, x);
            continue;
        }
        size_t width = (size_t)x->embeds->width;
        fill_place(r, begin + i, pos + i, x);
        r->tok[begin + i] = pad;
        r->embed_row[begin + i] = *used;
        r->dev->op->put(r->dev, embed + (size_t)*used * width,
                        x->embeds->row + (size_t)(x->row + pos + i - x->pos) * width,
                        width * sizeof(float));
        ++*used;
    }
}
