#include "fake.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/sysmem.h"
#include "kern/cpu/ops/ops.h"

fake_setup fake;
bool fake_host;

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2));
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static float logit(uint64_t h, int v)
{
    return (float)(mix(h, (uint64_t)v) >> 40) / (float)(1 << 24) * 8 - 4;
}

apus_model *fake_model(bool full, int window, bool recur)
{
    fake =
        (fake_setup){.full = full, .window = window, .recur = recur, .vocab = 97, .context = 1000};
    apus_model *m = ap_calloc(1, sizeof *m);
    m->config.vocab = fake.vocab;
    m->config.context = fake.context;
    m->config.window = window;
    m->config.temperature = m->config.top_p = m->config.min_p = -1;
    m->config.repetition_penalty = -1;
    m->config.top_k = -1;
    m->config.do_sample = true;
    m->impl = (ap_model_impl *)m; /* only looked at for NULL */
    if (ap_device_cpu(APUS_CPU_AUTO, 2, &m->dev, NULL)) abort();
    m->packed_bytes = 12345;
    m->fingerprint = 0x1234567890ABCDEFu;
    return m;
}

void fake_model_free(apus_model *m)
{
    m->dev->op->destroy(m->dev);
    ap_free(m);
}

/* ---------------------------------------------------------------- towers: there are none */

apus_err ap_tower_check(const ap_tower *t, const ap_patches *p, const char *name, ap_soft *out,
                        apus_diag *diag)
{
    (void)t, (void)p, (void)out;
    return ap_fail(diag, APUS_EINVAL, "%s: no tower here", name);
}

apus_err ap_tower_begin(const ap_tower *t, const ap_exec *ex, const ap_patches *p, float *out,
                        ap_tower_run **run, apus_diag *diag)
{
    (void)t, (void)ex, (void)p, (void)out, (void)run;
    return ap_fail(diag, APUS_EINVAL, "no tower here");
}

apus_err ap_tower_go(ap_tower_run *run, int64_t us, const volatile int *cancel, bool *done,
                     apus_diag *diag)
{
    (void)run, (void)us, (void)cancel, (void)done;
    return ap_fail(diag, APUS_EINVAL, "no tower here");
}

void ap_tower_end(ap_tower_run *run)
{
    (void)run;
}

apus_err ap_tower_encode(const ap_tower *t, const ap_exec *ex, const ap_patches *p, float *out,
                         const volatile int *cancel, apus_diag *diag)
{
    (void)t, (void)ex, (void)p, (void)out, (void)cancel;
    return ap_fail(diag, APUS_EINVAL, "no tower here");
}

apus_err ap_audio_tower_check(const ap_audio_tower *t, const ap_patches *p, const char *name,
                              int *n, apus_diag *diag)
{
    (void)t, (void)p, (void)n;
    return ap_fail(diag, APUS_EINVAL, "%s: no tower here", name);
}

apus_err ap_audio_tower_encode(const ap_audio_tower *t, const ap_exec *ex, const ap_patches *p,
                               float *out, const volatile int *cancel, apus_diag *diag)
{
    (void)t, (void)ex, (void)p, (void)out, (void)cancel;
    return ap_fail(diag, APUS_EINVAL, "no tower here");
}

apus_err apus_media_expand(const apus_model *m, const char *text, size_t len,
                           const apus_media *const *media, int n_media, char **out, size_t *out_len,
                           apus_diag *diag)
{
    (void)m, (void)text, (void)len, (void)media, (void)n_media, (void)out, (void)out_len;
    return ap_fail(diag, APUS_EUNSUPPORTED, "no pictures here");
}

/* ---------------------------------------------------------------- the device */

/* Added to the addresses of device memory, so that following one is a fault. */
#define BIAS ((uintptr_t)1 << 60)

void *fake_real(const void *device)
{
    uintptr_t p = (uintptr_t)device;
    if (p && !fake_host && p < BIAS) __atomic_fetch_add(&fake.faults, 1, __ATOMIC_RELAXED);
    return (void *)(p >= BIAS ? p - BIAS : p);
}

static const void *host(const void *p)
{
    if ((uintptr_t)p >= BIAS) __atomic_fetch_add(&fake.faults, 1, __ATOMIC_RELAXED);
    return p;
}

static void *fake_alloc(ap_device *d, size_t bytes)
{
    char *p = ap_big_alloc(bytes);
    (void)d;
    return p && !fake_host ? (void *)((uintptr_t)p + BIAS) : p;
}

static void fake_free(ap_device *d, void *p, size_t bytes)
{
    (void)d;
    ap_big_free(fake_real(p), bytes);
}

static void *fake_alloc_shared(ap_device *d, size_t bytes)
{
    (void)d;
    return ap_big_alloc(bytes);
}

static void fake_free_shared(ap_device *d, void *p, size_t bytes)
{
    (void)d;
    ap_big_free(p, bytes);
}

static void fake_put(ap_device *d, void *dst, const void *src, size_t bytes)
{
    (void)d;
    memcpy(fake_real(dst), host(src), bytes);
}

static void fake_get(ap_device *d, void *dst, const void *src, size_t bytes)
{
    (void)d, (void)host(dst);
    memcpy(dst, fake_real(src), bytes);
}

static void fake_copy(ap_device *d, void *dst, const void *src, size_t bytes)
{
    (void)d;
    fake.copied += bytes;
    memcpy(fake_real(dst), fake_real(src), bytes);
}

static void fake_zero(ap_device *d, void *dst, size_t bytes)
{
    (void)d;
    memset(fake_real(dst), 0, bytes);
}

static apus_err fake_finish(ap_device *d, apus_diag *dg)
{
    (void)d;
    return fake.lost ? ap_fail(dg, APUS_EDEVICE, "the device is lost") : APUS_OK;
}

static uint64_t fake_memory(ap_device *d, uint64_t *total)
{
    (void)d;
    if (total) *total = ap_memory_total();
    return ap_memory_available();
}

static void fake_destroy(ap_device *d)
{
    ap_pool_free(d->pool);
    ap_free(d);
}

static const ap_device_ops fake_ops = {
    .alloc = fake_alloc,
    .free = fake_free,
    .alloc_shared = fake_alloc_shared,
    .free_shared = fake_free_shared,
    .put = fake_put,
    .get = fake_get,
    .copy = fake_copy,
    .zero = fake_zero,
    .finish = fake_finish,
    .memory = fake_memory,
    .destroy = fake_destroy,
};

/* The CPU's own, with addresses that it can follow. */
static void fake_sample(const ap_exec *ex, const ap_sample_args *a)
{
    ap_sample_row row[64];
    ap_sample_args b = *a;
    fake.faults += a->n > 64;
    for (int i = 0; i < a->n && i < 64; i++) {
        row[i] = a->row[i];
        row[i].history = fake_real(row[i].history);
        row[i].mask = fake_real(row[i].mask);
        row[i].bias_id = fake_real(row[i].bias_id);
        row[i].bias = fake_real(row[i].bias);
    }
    b.row = row;
    b.logits = fake_real(a->logits);
    b.scratch = fake_real(a->scratch);
    ap_cpu_sample(ex, &b);
}

apus_err ap_device_cpu(apus_cpu level, int threads, ap_device **out, apus_diag *dg)
{
    static ap_kern kern = {
        .name = "fake", .sample_scratch_bytes = ap_cpu_sample_scratch_bytes, .sample = fake_sample};
    if (level == APUS_CPU_NEON) return ap_fail(dg, APUS_EINVAL, "this processor has no neon");
    kern.level = apus_cpu_best();
    ap_device *d = ap_calloc(1, sizeof *d);
    if (!d) return ap_fail_nomem(dg, sizeof *d, "the device");
    *d = (ap_device){.op = &fake_ops, .kern = &kern, .is_host = fake_host, .name = "fake"};
    apus_err err = ap_pool_create(threads, &d->pool, dg);
    if (err)
        ap_free(d);
    else
        *out = d;
    return err;
}

/* ---------------------------------------------------------------- what the engine calls */

/* The state travels as floats that hold 16 bits each, and three more that must come along. */
#define RECUR_FLOATS 7

static uint64_t state_get(const float *f)
{
    uint64_t v = 0;
    for (int i = 0; i < 4; i++) { /* a hostile file may hold anything */
        bool sane = f[i] >= 0 && f[i] < 65536;
        v |= (sane ? (uint64_t)f[i] : 0xFFFF) << (16 * i);
    }
    for (int i = 4; i < RECUR_FLOATS; i++)
        if (f[i] != f[i - 4] * 2) fake.faults += v != 0;
    return v;
}

static void state_set(float *f, uint64_t v)
{
    for (int i = 0; i < 4; i++) f[i] = (float)((v >> (16 * i)) & 0xFFFF);
    for (int i = 4; i < RECUR_FLOATS; i++) f[i] = f[i - 4] * 2;
}

bool ap_state_shape_of(const ap_config *c, apus_kv kv, bool head, ap_state_shape *out)
{
    (void)c, (void)kv, (void)head;
    *out = (ap_state_shape){.window = fake.window, .recur_floats = fake.recur ? RECUR_FLOATS : 0};
    if (fake.recur) out->kept_floats = RECUR_FLOATS;
    if (fake.full) out->page_bytes[AP_KV_FULL] = AP_PAGE * sizeof(uint64_t);
    if (fake.window) out->page_bytes[AP_KV_SLIDING] = AP_PAGE * sizeof(uint64_t) * 2;
    return true;
}

size_t ap_model_scratch_bytes(const ap_config *c, const ap_exec *ex, int n_tok, bool waves)
{
    (void)c, (void)ex, (void)waves;
    return (size_t)n_tok * 8;
}

size_t ap_model_packed_bytes(const ap_model_impl *m)
{
    (void)m;
    return 12345;
}

static uint64_t *slot(const ap_step *s, const ap_seq *q, int group, int pos)
{
    static uint64_t nothing[2];
    const int32_t *table = fake_real(s->batch->page[group]);
    int32_t page = table[q->table * s->batch->page_ld + pos / AP_PAGE];
    bool present = group == AP_KV_FULL ? fake.full : fake.window != 0;
    if (page < 0 || !present) {
        fake.faults++;
        return nothing;
    }
    size_t words = group == AP_KV_FULL ? 1 : 2;
    uint64_t *base = fake_real(s->kv_base[group]);
    return base + ((size_t)page * AP_PAGE + (size_t)(pos % AP_PAGE)) * words;
}

static float *state_of(const ap_step *s, const ap_seq *q)
{
    return (float *)fake_real(s->recur) + (size_t)q->state * s->recur_block_floats;
}

static void check_row(const ap_batch *b, int i, int t, int pos)
{
    const int32_t *at = fake_real(b->pos), *rope = fake_real(b->rope_pos),
                  *end = fake_real(b->see_end);
    const int32_t *seq = fake_real(b->seq_of);
    fake.faults += at[t] != pos || end[t] != pos + 1 || seq[t] != i;
    for (int axis = 0; axis < 3; axis++) fake.faults += rope[axis * b->n_tok + t] != pos;
}

static void check_step(const ap_step *s)
{
    const ap_batch *b = s->batch;
    const int32_t *out_row = fake_real(b->out_row);
    int row = 0;
    fake.faults += memcmp(b->seq, fake_real(b->seq_dev), (size_t)b->n_seq * sizeof *b->seq) != 0;
    for (int i = 0; i < b->n_seq; i++) {
        const ap_seq *q = &b->seq[i];
        fake.faults += q->begin != row || q->n_tok < 1;
        for (int j = 0; j < q->n_tok; j++) check_row(b, i, q->begin + j, q->pos + j);
        row += q->n_tok;
    }
    fake.faults += row != b->n_tok || b->embed_row != NULL;
    for (int i = 0; i < b->n_out; i++)
        fake.faults += out_row[i] < (i ? out_row[i - 1] + 1 : 0) || out_row[i] >= b->n_tok;
    memset(fake_real(s->scratch), 0xAB, (size_t)b->n_tok * 8);
}

/* Remember or put back what was in the odd rows of a sequence before the pass. */
static void swap_odd_rows(const ap_step *s, const ap_seq *q, bool remember)
{
    static uint64_t old[AP_KV_GROUPS][2048][2];
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        size_t bytes = g == AP_KV_FULL ? 8 : 16;
        if (g == AP_KV_FULL ? !fake.full : !fake.window) continue;
        for (int j = 0; j < q->n_tok; j++) {
            if (!((q->pos + j) & 1)) continue;
            if (remember)
                memcpy(old[g][j], slot(s, q, g, q->pos + j), bytes);
            else
                memcpy(slot(s, q, g, q->pos + j), old[g][j], bytes);
        }
    }
}

/* A sequence that keeps rows leaves its state alone; a kept row is the state behind it. */
static bool keeps(const ap_step *s, const ap_seq *q)
{
    return s->kept && q->keep >= 0;
}

static float *kept_row(const ap_step *s, const ap_seq *q, int i)
{
    fake.faults += (size_t)(q->keep + i) >= s->kept_rows;
    return (float *)fake_real(s->kept) + (size_t)(q->keep + i) * RECUR_FLOATS;
}

void ap_model_commit(const ap_model_impl *m, const ap_exec *ex, const ap_step *s)
{
    const ap_batch *b = s->batch;
    (void)m, (void)ex;
    fake.faults += memcmp(b->seq, fake_real(b->seq_dev), (size_t)b->n_seq * sizeof *b->seq) != 0;
    for (int i = 0; i < b->n_seq; i++) {
        const ap_seq *q = &b->seq[i];
        fake.faults += q->n_tok < 1 || q->keep < 0;
        state_set(state_of(s, q), state_get(kept_row(s, q, q->n_tok - 1)));
    }
}

/* A pass that is cancelled has written the pages of some layers and not of others: each value is
 * what was there or what belongs there. Here: even rows are written, odd ones are not. The
 * recurrent state and the logits are spoilt. */
apus_err ap_model_forward(const ap_model_impl *m, const ap_exec *ex, const ap_step *s,
                          const volatile int *cancel, apus_diag *dg)
{
    const ap_batch *b = s->batch;
    const int32_t *tok = fake_real(b->tok), *out_row = fake_real(b->out_row);
    bool direct = fake_host || (uintptr_t)s->logits < BIAS; /* to the caller */
    float *logits = direct ? s->logits : fake_real(s->logits);
    (void)m, (void)ex;
    fake.faults += direct && !fake_host;
    fake.n_forward++;
    if (b->n_tok > fake.max_tok) fake.max_tok = b->n_tok;
    if (b->n_seq > fake.max_seq) fake.max_seq = b->n_seq;
    check_step(s);
    if (fake.n_forward == fake.cancel_at) {
        if (fake.cancel_session)
            apus_session_cancel(fake.cancel_session);
        else
            apus_cancel(fake.cancel_engine);
    }
    bool stop = cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED);
    int out = 0;
    for (int i = 0; i < b->n_seq; i++) {
        const ap_seq *q = &b->seq[i];
        uint64_t r = fake.recur ? state_get(state_of(s, q)) : 0;
        if (stop) swap_odd_rows(s, q, true);
        for (int j = 0; j < q->n_tok; j++) {
            int p = q->pos + j, row = q->begin + j;
            uint64_t h = mix(r, (uint64_t)tok[row]);
            for (int t = 0; fake.full && t < p; t++) h = mix(h, *slot(s, q, AP_KV_FULL, t));
            int first = p - fake.window + 1 > 0 ? p - fake.window + 1 : 0;
            for (int t = first; fake.window && t < p; t++) {
                const uint64_t *v = slot(s, q, AP_KV_SLIDING, t);
                fake.faults += v[1] != ~v[0];
                h = mix(h, v[0]);
            }
            if (fake.full) *slot(s, q, AP_KV_FULL, p) = mix(h, 1);
            if (fake.window) {
                uint64_t *v = slot(s, q, AP_KV_SLIDING, p);
                v[0] = mix(h, 2);
                v[1] = ~v[0];
            }
            r = fake.recur ? mix(h, 3) : 0;
            if (fake.recur && keeps(s, q)) state_set(kept_row(s, q, j), stop ? 0xBADBAD : r);
            if (out < b->n_out && out_row[out] == row) {
                for (int v = 0; v < fake.vocab; v++)
                    logits[(size_t)out * (size_t)fake.vocab + (size_t)v] = stop ? -77 : logit(h, v);
                out++;
            }
        }
        if (stop) swap_odd_rows(s, q, false);
        if (fake.recur && !keeps(s, q)) state_set(state_of(s, q), stop ? 0xBADBAD : r);
    }
    if (fake.nan_at && fake.n_forward >= fake.nan_at && out) {
        logits[(size_t)out * (size_t)fake.vocab - 1] = fake.nan;
        fake.nan_at = 0;
    }
    return stop ? ap_fail(dg, APUS_ECANCELLED, "the step was cancelled") : APUS_OK;
}

/* ---------------------------------------------------------------- the oracle */

void oracle_init(oracle *o, int cap)
{
    size_t n = (size_t)cap + 1;
    *o = (oracle){.cap = cap};
    o->tok = calloc(n, sizeof *o->tok);
    o->full = calloc(n, sizeof *o->full);
    o->slide = calloc(n, sizeof *o->slide);
    o->recur_at = calloc(n, sizeof *o->recur_at);
}

void oracle_free(oracle *o)
{
    free(o->tok);
    free(o->full);
    free(o->slide);
    free(o->recur_at);
}

void oracle_push(oracle *o, int32_t tok)
{
    int p = o->pos;
    uint64_t h = mix(fake.recur ? o->recur_at[p] : 0, (uint64_t)tok);
    if (!fake.recur && p == 0) h = mix(0, (uint64_t)tok);
    for (int t = 0; fake.full && t < p; t++) h = mix(h, o->full[t]);
    int first = p - fake.window + 1 > 0 ? p - fake.window + 1 : 0;
    for (int t = first; fake.window && t < p; t++) h = mix(h, o->slide[t]);
    o->full[p] = mix(h, 1);
    o->slide[p] = mix(h, 2);
    o->tok[p] = tok;
    o->recur_at[p + 1] = mix(h, 3);
    o->h = h;
    o->pos++;
}

void oracle_rewind(oracle *o, int pos)
{
    if (pos == o->pos) return;
    int32_t last = pos ? o->tok[pos - 1] : 0;
    o->pos = pos ? pos - 1 : 0;
    if (pos) oracle_push(o, last);
}

void oracle_copy(oracle *dst, const oracle *src)
{
    size_t n = (size_t)src->cap + 1;
    memcpy(dst->tok, src->tok, n * sizeof *src->tok);
    memcpy(dst->full, src->full, n * sizeof *src->full);
    memcpy(dst->slide, src->slide, n * sizeof *src->slide);
    memcpy(dst->recur_at, src->recur_at, n * sizeof *src->recur_at);
    dst->pos = src->pos;
    dst->h = src->h;
}

void oracle_logits(const oracle *o, float *out)
{
    for (int v = 0; v < fake.vocab; v++) out[v] = logit(o->h, v);
}

/* No fake model has a head. */
void ap_model_draft(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, float *hidden,
                    bool carried)
{
    (void)m, (void)ex, (void)s, (void)hidden, (void)carried;
    fake.faults++;
}
