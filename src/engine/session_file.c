/* session_file.c - sessions in files, and the same bytes in memory.
 *
 * All numbers little-endian. Version 3 (1 did not tell how the numbers were computed, 2 knew no
 * pictures):
 *   header, 104 bytes:
 *      0  "APUSSESS"
 *      8  u32 version, u32 tokens of a page
 *     16  u64 fingerprint of the model
 *     24  u64 bytes of a page in the full group, u64 in the sliding group (0 = no such layers)
 *     40  u64 floats of a recurrent state (0 = none)
 *     48  i32 window, i32 n tokens, i32 turn, i32 n snapshots
 *     64  i32 n pages full, i32 n pages sliding
 *     72  u64 bytes of the file
 *     80  u32 what the pages hold: 0 = f32, 1 = bf16, 2 = q8
 *     84  u8 precision (apus_precision), u8 form of the delta rule (ap_delta_form; 0 without recurrent
 *         layers), u16 zero
 *     88  i32 n spans (spans.h), i32 n rows of all spans
 *     96  u64 XXH64 of the 96 bytes before
 *   i32 [n tokens] ids, negative in spans
 *   spans: i32 position, n rows, height, width (0, 0: positions go on one by one), 1 = seen as a whole
 *   f32 [n rows of all spans, hidden size of the model]
 *   i32 [n pages] ascending logical numbers of the pages, full then sliding
 *   i32 [n snapshots] ascending positions
 *   f32 live state, f32 states of the snapshots
 *   the pages, full then sliding, as they lie in memory (kern/kern.h)
 * States and pages of an engine that runs the draft head have its part at their ends (model/arch.h): the header tells
 * by their sizes. An engine with the head takes files without, and the other way.
 *   u64 XXH64 of everything behind the header
 * Every count is bounded by the engine's own sizes and the sum must be the file's size before any
 * of them is used. A change of the layout of pages or states asks for a new version. */
#include <string.h>

#include "engine/engine.h"
#include "base/store.h"

#define VERSION      3
#define HEADER_BYTES 104
#define SPAN_INTS    5
static const char magic[8] = "APUSSESS";

typedef struct header {
    uint32_t version, page_tokens, kv, way;
    uint64_t fingerprint, page_bytes[AP_KV_GROUPS], recur_floats;
    int32_t window, n_tok, turn, n_snap, n_page[AP_KV_GROUPS];
    int32_t n_span, n_row;
    int32_t hidden; /* of the model, not in the file */
    uint64_t file_bytes;
} header;

#define ROOM ((size_t)1 << 20)

/* Host memory that blocks of a device pass through. */
static apus_err take_room(uint8_t **out, apus_diag *diag)
{
    *out = ap_malloc(ROOM, 1);
    return *out ? APUS_OK : ap_fail_nomem(diag, ROOM, "blocks of a session");
}

/* Exact size of a file with these counts; false on overflow. Counts are not negative. */
static bool file_bytes(const header *h, uint64_t *out)
{
    size_t sum = HEADER_BYTES + sizeof(uint64_t), part;
    size_t ids = (size_t)h->n_tok + (size_t)h->n_snap + SPAN_INTS * (size_t)h->n_span;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        ids += (size_t)h->n_page[g];
        if (!ap_mul_size((size_t)h->n_page[g], h->page_bytes[g], &part)) return false;
        if (!ap_add_size(sum, part, &sum)) return false;
    }
    size_t states = h->recur_floats ? (size_t)h->n_snap + 1 : 0;
    if (!ap_mul_size(ids, sizeof(int32_t), &part) || !ap_add_size(sum, part, &sum)) return false;
    if (!ap_mul_size(states, h->recur_floats, &part) || !ap_mul_size(part, sizeof(float), &part))
        return false;
    if (!ap_add_size(sum, part, &sum)) return false;
    if (!ap_mul_size((size_t)h->n_row, (size_t)h->hidden * sizeof(float), &part)) return false;
    if (!ap_add_size(sum, part, &sum)) return false;
    *out = sum;
    return true;
}

/* How the engine computes, as far as a continuation depends on it. */
static uint32_t way_of(const apus_engine *e)
{
    uint32_t form = e->size.shape.recur_floats ? (uint32_t)e->delta_form : 0;
    return (uint32_t)e->exec.precision | form << 8;
}

static header header_of(const apus_session *s)
{
    const apus_engine *e = s->engine;
    const ap_state_shape *shape = &e->size.shape;
    header h = {.version = VERSION,
                .page_tokens = AP_PAGE,
                .kv = (uint32_t)(e->size.kv - APUS_KV_F32),
                .way = way_of(e),
                .fingerprint = e->model->fingerprint,
                .recur_floats = shape->recur_floats,
                .window = shape->window,
                .n_tok = s->pos,
                .turn = s->turn,
                .n_snap = s->recur.n_snap,
                .n_span = s->spans.n,
                .hidden = e->model->config.hidden};
    for (int i = 0; i < s->spans.n; i++) h.n_row += s->spans.at[i].n;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        h.page_bytes[g] = shape->page_bytes[g];
        h.n_page[g] = s->kv[g].held;
    }
    if (s->headless) {
        h.page_bytes[AP_KV_FULL] -= shape->head_page_bytes;
        h.recur_floats -= shape->carry_floats;
    }
    return h;
}

/* ---------------------------------------------------------------- save */

static void write_header(ap_store *f, const header *h)
{
    ap_store_write(f, magic, sizeof magic);
    ap_store_write_u32(f, h->version);
    ap_store_write_u32(f, h->page_tokens);
    ap_store_write_u64(f, h->fingerprint);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_store_write_u64(f, h->page_bytes[g]);
    ap_store_write_u64(f, h->recur_floats);
    ap_store_write_u32(f, (uint32_t)h->window);
    ap_store_write_u32(f, (uint32_t)h->n_tok);
    ap_store_write_u32(f, (uint32_t)h->turn);
    ap_store_write_u32(f, (uint32_t)h->n_snap);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_store_write_u32(f, (uint32_t)h->n_page[g]);
    ap_store_write_u64(f, h->file_bytes);
    ap_store_write_u32(f, h->kv);
    ap_store_write_u32(f, h->way);
    ap_store_write_u32(f, (uint32_t)h->n_span);
    ap_store_write_u32(f, (uint32_t)h->n_row);
    ap_store_sum(f);
}

/* Memory of the device to the file, by way of `room` on the host where the device is not the host. */
static void write_block(ap_store *f, ap_device *dev, const void *at, size_t bytes, uint8_t *room)
{
    if (dev->is_host) {
        ap_store_write(f, at, bytes);
        return;
    }
    for (size_t i = 0, n; i < bytes && !f->err; i += n) {
        n = bytes - i < ROOM ? bytes - i : ROOM;
        dev->op->get(dev, room, (const uint8_t *)at + i, n);
        ap_store_write(f, room, n);
    }
}

static void write_spans(ap_store *f, const ap_spans *s)
{
    for (int i = 0; i < s->n; i++) {
        const ap_span *x = &s->at[i];
        const int number[SPAN_INTS] = {x->pos, x->n, x->height, x->width, x->whole};
        for (int k = 0; k < SPAN_INTS; k++) ap_store_write_u32(f, (uint32_t)number[k]);
    }
    for (int i = 0; i < s->n; i++) {
        const ap_span *x = &s->at[i];
        size_t width = (size_t)x->embeds->width;
        ap_store_write(f, x->embeds->row + (size_t)x->row * width,
                       (size_t)x->n * width * sizeof(float));
    }
}

static void write_body(ap_store *f, const apus_session *s, const header *h, uint8_t *room)
{
    const ap_recur *r = &s->recur;
    ap_device *dev = s->engine->exec.dev;
    size_t state = (size_t)h->recur_floats * sizeof(float);
    ap_store_write(f, s->tok, (size_t)s->pos * sizeof *s->tok);
    write_spans(f, &s->spans);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        for (int i = s->kv[g].low; i < s->kv[g].high; i++)
            if (s->kv[g].page[i] >= 0) ap_store_write_u32(f, (uint32_t)i);
    for (int i = 0; i < r->n_snap; i++) ap_store_write_u32(f, (uint32_t)r->snap[i].pos);
    if (r->slab) write_block(f, dev, ap_recur_live(r), state, room);
    for (int i = 0; i < r->n_snap; i++) write_block(f, dev, ap_recur_snap(r, i), state, room);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        for (int i = s->kv[g].low; i < s->kv[g].high; i++)
            if (s->kv[g].page[i] >= 0)
                write_block(f, dev, ap_slab_at(s->kv[g].slab, s->kv[g].page[i]),
                            (size_t)h->page_bytes[g], room);
    if (!f->err) f->err = dev->op->finish(dev, f->diag);
    ap_store_sum(f);
}

static apus_err check_idle(const apus_engine *e, apus_diag *diag)
{
    if (!e->busy) return APUS_OK;
    return ap_fail(diag, APUS_EINVAL, "a call is running on this engine; wait for its return");
}

/* The header of a session that can be saved now. */
static apus_err begin_save(const apus_session *s, header *h, apus_diag *diag)
{
    apus_err err = check_idle(s->engine, diag);
    if (err) return err;
    *h = header_of(s);
    if (!file_bytes(h, &h->file_bytes))
        return ap_fail(diag, APUS_EINTERNAL, "the session's size overflows");
    return APUS_OK;
}

static void write_all(ap_store *f, const apus_session *s, const header *h)
{
    uint8_t *room;
    f->err = take_room(&room, f->diag);
    if (f->err) return;
    write_header(f, h);
    write_body(f, s, h, room);
    ap_free(room);
    if (!f->err && f->size != h->file_bytes)
        f->err = ap_fail(f->diag, APUS_EINTERNAL, "%s: wrote %llu bytes, expected %llu", f->path,
                         (unsigned long long)f->size, (unsigned long long)h->file_bytes);
}

apus_err apus_session_save(const apus_session *s, const char *path, apus_diag *diag)
{
    if (!s || !s->used || !path)
        return ap_fail(diag, APUS_EINVAL, "apus_session_save: session and path are needed");
    header h;
    ap_store f;
    apus_err err = begin_save(s, &h, diag);
    if (!err) err = ap_store_create(&f, path, diag);
    if (err) return err;
    write_all(&f, s, &h);
    return ap_store_close(&f, 1);
}

apus_err apus_session_save_memory(const apus_session *s, void **data, size_t *bytes,
                                  apus_diag *diag)
{
    if (!s || !s->used || !data || !bytes)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_session_save_memory: session, data and bytes are needed");
    header h;
    ap_store f;
    apus_err err = begin_save(s, &h, diag);
    if (!err) err = ap_store_create_memory(&f, h.file_bytes, diag);
    if (err) return err;
    write_all(&f, s, &h);
    err = ap_store_close_memory(&f, data);
    if (!err) *bytes = (size_t)h.file_bytes;
    return err;
}

/* ---------------------------------------------------------------- load */

static void read_header(ap_store *f, header *h)
{
    char found[sizeof magic];
    ap_store_read(f, found, sizeof found);
    if (!f->err && memcmp(found, magic, sizeof magic) != 0)
        f->err = ap_fail(f->diag, APUS_EFORMAT,
                         "%s: is not a session file: expected it to begin with "
                         "APUSSESS",
                         f->path);
    h->version = ap_store_read_u32(f);
    if (!f->err && h->version != VERSION)
        f->err = ap_fail(f->diag, APUS_EFORMAT, "%s: version: expected %d, found %u", f->path,
                         VERSION, (unsigned)h->version);
    h->page_tokens = ap_store_read_u32(f);
    h->fingerprint = ap_store_read_u64(f);
    for (int g = 0; g < AP_KV_GROUPS; g++) h->page_bytes[g] = ap_store_read_u64(f);
    h->recur_floats = ap_store_read_u64(f);
    h->window = (int32_t)ap_store_read_u32(f);
    h->n_tok = (int32_t)ap_store_read_u32(f);
    h->turn = (int32_t)ap_store_read_u32(f);
    h->n_snap = (int32_t)ap_store_read_u32(f);
    for (int g = 0; g < AP_KV_GROUPS; g++) h->n_page[g] = (int32_t)ap_store_read_u32(f);
    h->file_bytes = ap_store_read_u64(f);
    h->kv = ap_store_read_u32(f);
    h->way = ap_store_read_u32(f);
    h->n_span = (int32_t)ap_store_read_u32(f);
    h->n_row = (int32_t)ap_store_read_u32(f);
    ap_store_check(f);
}

static void expect(ap_store *f, const char *what, int64_t low, int64_t high, int64_t found)
{
    if (f->err || (found >= low && found <= high)) return;
    if (low == high)
        f->err = ap_fail(f->diag, APUS_EFORMAT, "%s: %s: expected %lld, found %lld", f->path, what,
                         (long long)low, (long long)found);
    else
        f->err = ap_fail(f->diag, APUS_EFORMAT, "%s: %s: expected %lld to %lld, found %lld",
                         f->path, what, (long long)low, (long long)high, (long long)found);
}

/* The session goes on to the bit only if everything is computed as before. */
static void check_way(ap_store *f, const apus_engine *e, const header *h)
{
    static const char *const forms[] = {"one token after the other", "in chunks"};
    uint32_t here = way_of(e), precision = h->way & 255, form = h->way >> 8;
    if (h->way == here) return;
    if (precision != (here & 255))
        f->err =
            ap_fail(f->diag, APUS_EFORMAT,
                    "%s: was saved with precision %s; this model was opened with %s: choose the "
                    "same to go on",
                    f->path, apus_precision_name((apus_precision)precision),
                    apus_precision_name((apus_precision)(here & 255)));
    else
        f->err =
            ap_fail(f->diag, APUS_EFORMAT,
                    "%s: was saved with the delta rule %s; this engine computes it %s: choose the "
                    "same gdn_chunked to go on",
                    f->path, form < 2 ? forms[form] : "in an unknown form", forms[here >> 8]);
}

/* With the part of the draft head, or without: more is taken only as far as one could be. */
static bool same_blocks(const apus_engine *e, const header *h)
{
    const ap_state_shape *shape = &e->size.shape;
    uint64_t page = shape->page_bytes[AP_KV_FULL], carried = ap_round_up((size_t)h->hidden, 16);
    if (h->page_bytes[AP_KV_SLIDING] != shape->page_bytes[AP_KV_SLIDING]) return false;
    if (h->page_bytes[AP_KV_FULL] == page) return h->recur_floats == shape->recur_floats;
    if (shape->head_page_bytes)
        return h->page_bytes[AP_KV_FULL] == page - shape->head_page_bytes &&
               h->recur_floats == shape->recur_floats - shape->carry_floats;
    return h->page_bytes[AP_KV_FULL] > page && h->page_bytes[AP_KV_FULL] <= 2 * page &&
           h->recur_floats == shape->recur_floats + carried;
}

static void check_header(ap_store *f, const apus_engine *e, const header *h)
{
    static const char *const pages[AP_KV_GROUPS] = {"pages", "sliding pages"};
    const ap_state_shape *shape = &e->size.shape;
    if (f->err) return;
    bool same = h->fingerprint == e->model->fingerprint && h->page_tokens == AP_PAGE &&
                h->window == shape->window;
    bool same_kv = h->kv == (uint32_t)(e->size.kv - APUS_KV_F32);
    if (same && !same_kv) {
        const char *kv = h->kv < APUS_KV_Q8 ? apus_kv_name((apus_kv)(h->kv + APUS_KV_F32)) : NULL;
        f->err = ap_fail(f->diag, APUS_EFORMAT,
                         "%s: was saved with KV pages of type %s; this engine keeps %s: choose the "
                         "same type to go on",
                         f->path, kv ? kv : "unknown", apus_kv_name(e->size.kv));
        return;
    }
    if (!same || !same_blocks(e, h)) {
        f->err = ap_fail(
            f->diag, APUS_EFORMAT,
            "%s: was saved with another model: expected fingerprint %016llx, found %016llx",
            f->path, (unsigned long long)e->model->fingerprint, (unsigned long long)h->fingerprint);
        return;
    }
    check_way(f, e, h);
    expect(f, "tokens", 0, e->model->config.context, h->n_tok);
    if (!f->err && h->n_tok > e->size.ctx)
        f->err = ap_fail(f->diag, APUS_EFULL, "%s: holds %d tokens, the engine's context is %d",
                         f->path, (int)h->n_tok, e->size.ctx);
    expect(f, "turn", 0, h->n_tok, h->turn);
    expect(f, "snapshots", 0, shape->recur_floats ? AP_SNAPSHOTS : 0, h->n_snap);
    int all = f->err ? 0 : ap_kv_entries(h->n_tok);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        int most = shape->page_bytes[g] ? all : 0;
        expect(f, pages[g], g == AP_KV_FULL ? most : 0, most, h->n_page[g]);
    }
    expect(f, "pictures", 0, h->n_tok, h->n_span);
    expect(f, "places of pictures", h->n_span, h->n_tok, h->n_row);
    if (!f->err && h->n_span && !e->model->towers)
        f->err = ap_fail(f->diag, APUS_EUNSUPPORTED,
                         "%s: holds pictures; this model was opened without its towers "
                         "(apus_model_settings.towers)",
                         f->path);
    uint64_t bytes = 0;
    if (!f->err && (!file_bytes(h, &bytes) || bytes != f->size || bytes != h->file_bytes))
        f->err = ap_fail(f->diag, APUS_EFORMAT, "%s: size: expected %llu bytes, found %llu",
                         f->path, (unsigned long long)bytes, (unsigned long long)f->size);
}

static void read_tokens(ap_store *f, apus_session *s, const header *h)
{
    ap_store_read(f, s->tok, (size_t)h->n_tok * sizeof *s->tok);
}

/* The numbers of a span, all but its rows. */
static ap_span read_span(ap_store *f, const header *h, int first)
{
    int32_t number[SPAN_INTS];
    for (int k = 0; k < SPAN_INTS; k++) number[k] = (int32_t)ap_store_read_u32(f);
    ap_span x = {.pos = number[0],
                 .n = number[1],
                 .height = number[2],
                 .width = number[3],
                 .whole = number[4] != 0};
    expect(f, "a picture's place", first, h->n_tok - 1, x.pos);
    expect(f, "a picture's places", 1, f->err ? 1 : h->n_tok - x.pos, x.n);
    expect(f, "a picture's height", 0, x.n, x.height);
    int64_t area = x.height ? x.n : 0;
    expect(f, "a picture's area", area, area, (int64_t)x.height * x.width);
    expect(f, "a picture's kind", 0, 1, number[4]);
    return x;
}

static void read_rows(ap_store *f, const header *h, ap_span *x)
{
    if (f->err) return;
    f->err = ap_embeds_create(x->n, h->hidden, &x->embeds, f->diag);
    if (!f->err) ap_store_read(f, x->embeds->row, (size_t)x->n * (size_t)h->hidden * sizeof(float));
}

static void read_spans(ap_store *f, apus_session *s, const header *h)
{
    int end = 0, rows = 0;
    if (!h->n_span || f->err) return;
    ap_span *span = ap_calloc((size_t)h->n_span, sizeof *span);
    if (!span) f->err = ap_fail_nomem(f->diag, (size_t)h->n_span * sizeof *span, "pictures");
    if (!f->err) f->err = ap_spans_reserve(&s->spans, h->n_span, f->diag);
    for (int i = 0; i < h->n_span && !f->err; i++) {
        span[i] = read_span(f, h, end);
        end = span[i].pos + span[i].n;
        rows += span[i].n;
    }
    expect(f, "places of pictures", h->n_row, h->n_row, rows);
    for (int i = 0; i < h->n_span && !f->err; i++) read_rows(f, h, &span[i]);
    for (int i = 0; i < h->n_span && !f->err; i++) ap_spans_add(&s->spans, &span[i], NULL);
    for (int i = 0; span && i < h->n_span; i++) ap_embeds_drop(span[i].embeds);
    ap_free(span);
}

static void check_tokens(ap_store *f, const apus_session *s, const header *h)
{
    for (int i = 0; i < h->n_tok && !f->err; i++) {
        bool place = ap_spans_find(&s->spans, i) != NULL;
        expect(f, "a token", place ? INT32_MIN : 0, place ? -1 : s->engine->size.vocab - 1,
               s->tok[i]);
    }
}

static void read_page_numbers(ap_store *f, int32_t *number, const header *h, int group)
{
    int all = ap_kv_entries(h->n_tok), n = h->n_page[group];
    ap_store_read(f, number, (size_t)n * sizeof *number);
    for (int i = 0; i < n && !f->err; i++)
        expect(f, "a page number", i ? (int64_t)number[i - 1] + 1 : 0, all - 1, number[i]);
}

/* Memory of the device from the file, likewise; at NULL: read over. */
static void read_block(ap_store *f, ap_device *dev, void *at, size_t bytes, uint8_t *room)
{
    if (at && dev->is_host) {
        ap_store_read(f, at, bytes);
        return;
    }
    for (size_t i = 0, n; i < bytes && !f->err; i += n) {
        n = bytes - i < ROOM ? bytes - i : ROOM;
        ap_store_read(f, room, n);
        if (at) dev->op->put(dev, (uint8_t *)at + i, room, n);
    }
}

/* `bytes` of the file to a block of `have`: what the file has more is read over, what it has less is zero. */
static void read_part(ap_store *f, ap_device *dev, void *at, size_t bytes, size_t have,
                      uint8_t *room)
{
    size_t both = bytes < have ? bytes : have;
    read_block(f, dev, at, both, room);
    if (bytes > both) read_block(f, dev, NULL, bytes - both, room);
    if (!at || have == both || f->err) return;
    memset(room, 0, ROOM);
    for (size_t i = both, n; i < have; i += n) {
        n = have - i < ROOM ? have - i : ROOM;
        dev->op->put(dev, (uint8_t *)at + i, room, n);
    }
}

static void read_states(ap_store *f, apus_session *s, const int32_t *snap, const header *h,
                        uint8_t *room)
{
    ap_device *dev = s->engine->exec.dev;
    size_t bytes = (size_t)h->recur_floats * sizeof(float), have = s->recur.n_float * sizeof(float);
    if (!bytes) return;
    read_part(f, dev, ap_recur_live(&s->recur), bytes, have, room);
    for (int i = 0; i < h->n_snap && !f->err; i++) {
        float *state = ap_recur_put(&s->recur, snap[i]);
        if (state)
            read_part(f, dev, state, bytes, have, room);
        else
            f->err = ap_fail(f->diag, APUS_EINTERNAL, "%s: no room for a snapshot", f->path);
    }
}

/* The pages of a group. This engine may keep fewer old sliding pages than the one that saved: the
 * first `skip` ones are read over. */
static void read_pages(ap_store *f, ap_kv_table *t, const int32_t *number, int n, size_t bytes,
                       uint8_t *room)
{
    int skip = n > t->cap ? n - t->cap : 0;
    for (int i = 0; i < n && !f->err; i++) {
        uint8_t *page = i < skip ? NULL : ap_kv_put(t, number[i]);
        if (page || i < skip)
            read_part(f, t->slab->dev, page, bytes, t->slab->block_bytes, room);
        else
            f->err = ap_fail(f->diag, APUS_EINTERNAL, "%s: no room for a page", f->path);
    }
}

static apus_err read_body(ap_store *f, apus_session *s, const header *h, apus_diag *diag)
{
    int32_t *number[AP_KV_GROUPS] = {NULL}, snap[AP_SNAPSHOTS];
    uint8_t *room;
    f->err = take_room(&room, diag);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        number[g] = ap_malloc((size_t)h->n_page[g], sizeof **number);
    if (!f->err && (!number[AP_KV_FULL] || !number[AP_KV_SLIDING]))
        f->err = ap_fail_nomem(diag, (size_t)h->n_tok * sizeof **number, "loading a session");
    if (f->err) goto done;
    read_tokens(f, s, h);
    read_spans(f, s, h);
    check_tokens(f, s, h);
    for (int g = 0; g < AP_KV_GROUPS; g++) read_page_numbers(f, number[g], h, g);
    ap_store_read(f, snap, (size_t)h->n_snap * sizeof *snap);
    for (int i = 0; i < h->n_snap && !f->err; i++) {
        expect(f, "a snapshot", i ? (int64_t)snap[i - 1] + AP_PAGE : AP_PAGE, h->n_tok, snap[i]);
        expect(f, "a snapshot's place in its page", 0, 0, snap[i] % AP_PAGE);
    }
    read_states(f, s, snap, h, room);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        read_pages(f, &s->kv[g], number[g], h->n_page[g], (size_t)h->page_bytes[g], room);
    s->headless = h->page_bytes[AP_KV_FULL] < s->engine->size.shape.page_bytes[AP_KV_FULL];
    if (!f->err) f->err = s->engine->exec.dev->op->finish(s->engine->exec.dev, diag);
    ap_store_check(f);
    s->pos = h->n_tok;
    s->turn = h->turn;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        if (!f->err && !ap_kv_ready(&s->kv[g], s->pos))
            f->err = ap_fail(diag, APUS_EFORMAT, "%s: pages that the last token needs are missing",
                             f->path);
        ap_kv_mark(&s->kv[g], s->turn);
    }
done:
    ap_free(room);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_free(number[g]);
    return f->err;
}

/* Read everything and close f. */
static apus_err read_all(ap_store *f, apus_engine *e, apus_session **out, apus_diag *diag)
{
    header h = {.hidden = e->model->config.hidden};
    apus_session *s = NULL;
    read_header(f, &h);
    check_header(f, e, &h);
    if (!f->err) f->err = ap_session_take(e, &s, diag);
    if (!f->err) read_body(f, s, &h, diag);
    apus_err err = ap_store_close(f, 0);
    if (err)
        apus_session_free(s);
    else
        *out = s;
    return err;
}

apus_err apus_session_load(apus_engine *e, const char *path, apus_session **out, apus_diag *diag)
{
    if (!e || !path || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_session_load: engine, path and out are needed");
    ap_store f;
    apus_err err = check_idle(e, diag);
    if (!err) err = ap_store_open(&f, path, diag);
    return err ? err : read_all(&f, e, out, diag);
}

apus_err apus_session_load_memory(apus_engine *e, const void *data, size_t bytes,
                                  apus_session **out, apus_diag *diag)
{
    if (!e || !data || !out)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_session_load_memory: engine, data and out are needed");
    ap_store f;
    apus_err err = check_idle(e, diag);
    if (!err) err = ap_store_open_memory(&f, data, bytes, diag);
    return err ? err : read_all(&f, e, out, diag);
}
