/* harness.c - memory between canaries, inputs, comparisons. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "harness.h"

#define GUARD 256 /* bytes of canary on either side */
#define BIG   ((size_t)2 << 20)
#define CHUNK                                                                                      \
    ((size_t)64                                                                                    \
     << 20) /* of a device's memory: a call for each of many thousand blocks takes minutes */
#define CANARY    0xA7
#define POISON    0x7fc5a5a5u /* a quiet NaN that no kernel makes */
#define MAX_SHOWN 8           /* failures printed per slot */

struct kc_block {
    struct kc_block *next;
    uint8_t *base;
    size_t n, total;
};

void kc_case(kc *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->where, sizeof c->where, fmt, ap);
    va_end(ap);
    c->loose = KC_LOOSE;
    c->part = KC_PART;
    c->mag = NULL;
}

void kc_finish(const ap_exec *ex)
{
    apus_diag diag;
    if (!ex->dev->op->finish(ex->dev, &diag)) return;
    fprintf(stderr, "kcheck: %s\n", diag.text);
    exit(2);
}

void kc_fail(kc *c, const char *fmt, ...)
{
    va_list ap;
    if (c->fails++ >= MAX_SHOWN) return;
    printf("  FAIL %s (%s): ", c->slot, c->where);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

/* ------------------------------------------------------------------ memory */

struct kc_chunk {
    struct kc_chunk *next;
    uint8_t *mem;
    size_t bytes, used;
};

static uint8_t *take_of_chunk(kc *c, size_t bytes)
{
    struct kc_chunk *k = c->chunks;
    if (!k || k->bytes - k->used < bytes) {
        if (!(k = malloc(sizeof *k))) return NULL;
        *k = (struct kc_chunk){.next = c->chunks, .bytes = bytes > CHUNK ? bytes : CHUNK};
        if (!(k->mem = c->dev->op->alloc_shared(c->dev, k->bytes))) {
            free(k);
            return NULL;
        }
        c->chunks = k;
    }
    k->used += bytes;
    return k->mem + k->used - bytes;
}

/* Large ones as the engine has its weights; small ones on the host where a sanitizer sees them. */
static uint8_t *take(kc *c, size_t bytes)
{
    if (!c->dev->is_host) return take_of_chunk(c, bytes);
    return bytes < BIG ? aligned_alloc(64, bytes) : c->dev->op->alloc_shared(c->dev, bytes);
}

static void give_back(kc *c, uint8_t *p, size_t bytes)
{
    if (!c->dev->is_host) return; /* with the chunks */
    if (bytes < BIG)
        free(p);
    else
        c->dev->op->free_shared(c->dev, p, bytes);
}

static void free_chunks(kc *c)
{
    while (c->chunks) {
        struct kc_chunk *k = c->chunks;
        c->chunks = k->next;
        c->dev->op->free_shared(c->dev, k->mem, k->bytes);
        free(k);
    }
}

void *kc_bytes(kc *c, size_t n)
{
    struct kc_block *b = malloc(sizeof *b);
    size_t total = ap_round_up(n + 2 * GUARD, 64);
    if (!b || !(b->base = take(c, total))) {
        fprintf(stderr, "kcheck: out of memory\n");
        exit(2);
    }
    b->n = n;
    b->total = total;
    memset(b->base, CANARY, total);
    b->next = c->blocks;
    c->blocks = b;
    return b->base + GUARD;
}

static bool intact(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != CANARY) return false;
    return true;
}

void kc_release(kc *c)
{
    while (c->blocks) {
        struct kc_block *b = c->blocks;
        if (!intact(b->base, GUARD)) kc_fail(c, "wrote before a buffer of %zu bytes", b->n);
        if (!intact(b->base + GUARD + b->n, b->total - GUARD - b->n))
            kc_fail(c, "wrote behind a buffer of %zu bytes", b->n);
        c->blocks = b->next;
        give_back(c, b->base, b->total);
        free(b);
    }
    free_chunks(c);
}

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

void kc_poison(float *p, size_t n)
{
    const uint32_t u = POISON;
    for (size_t i = 0; i < n; i++) memcpy(&p[i], &u, 4);
}

float *kc_out(kc *c, size_t n)
{
    float *p = kc_bytes(c, n * sizeof(float));
    kc_poison(p, n);
    return p;
}

/* ------------------------------------------------------------------ inputs */

int kc_int(kc *c, int lo, int hi)
{
    return lo + (int)(ap_rng_next(&c->rng) % (uint64_t)(hi - lo + 1));
}

static float value(kc *c, double scale)
{
    uint64_t r = ap_rng_next(&c->rng) % 128;
    double v = ap_rng_normal(&c->rng);
    if (r == 0) return 0.0f;
    if (r == 1) return -0.0f;
    if (r == 2 && !c->bench) return (float)(v * 1e-40); /* denormal */
    if (r == 3) return (float)(v * scale * 100.0);
    return (float)(v * scale);
}

void kc_fill(kc *c, float *p, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++) p[i] = value(c, scale);
}

float *kc_in(kc *c, size_t n, double scale)
{
    float *p = (float *)kc_bytes(c, (n + 1) * sizeof(float)) + 1;
    kc_fill(c, p, n, scale);
    return p;
}

float *kc_copy(kc *c, const float *p, size_t n)
{
    float *q = kc_bytes(c, n * sizeof(float));
    if (n) memcpy(q, p, n * sizeof(float));
    return q;
}

double *kc_f64(kc *c, size_t n)
{
    double *p = kc_bytes(c, n * sizeof(double));
    memset(p, 0, n * sizeof(double));
    return p;
}

ap_tensor kc_tensor(kc *c, ap_dtype t, int rows, int cols, double scale, float **values)
{
    size_t n = (size_t)rows * (size_t)cols, size = ap_dtype_bytes(t);
    uint8_t *data = (uint8_t *)kc_bytes(c, n * size + 1) + 1;
    float *v = kc_in(c, n, scale);
    for (size_t i = 0; i < n; i++) {
        uint16_t h = 0;
        if (t == AP_BF16) {
            h = ap_f32_to_bf16(v[i]);
            v[i] = ap_bf16_to_f32(h);
        } else if (t == AP_F16) {
            h = ap_f32_to_f16(v[i]);
            v[i] = ap_f16_to_f32(h);
        }
        if (t == AP_F32)
            memcpy(data + i * 4, &v[i], 4);
        else
            memcpy(data + i * 2, &h, 2);
    }
    if (values) *values = v;
    return (ap_tensor){.data = data, .dtype = t, .rank = 2, .shape = {rows, cols}};
}

ap_mat kc_mat(kc *c, const ap_exec *ex, const ap_tensor *t)
{
    ap_mat m = {0};
    size_t bytes = ex->k->pack_bytes(ex->k, t);
    void *dst = kc_bytes(c, bytes);
    if (bytes) ex->k->pack(ex->k, t, dst);
    ex->k->pack_mat(ex->k, t, dst, &m);
    return m;
}

ap_mat kc_mat_of(kc *c, const kc_kern *kern, const ap_tensor *t, const ap_mat *ref)
{
    return kern->exact ? *ref : kc_mat(c, &kern->x, t);
}

/* ------------------------------------------------------------------ batches */

/* An empty batch with arrays for n_tok rows of n_seq sequences. */
static ap_batch *new_batch(kc *c, int n_seq, int n_tok)
{
    size_t T = (size_t)n_tok;
    ap_batch *b = kc_bytes(c, sizeof *b);
    int32_t *i = kc_bytes(c, 7 * T * sizeof *i);
    ap_seq *seq = kc_bytes(c, (size_t)n_seq * sizeof *seq);
    memset(i, 0, 7 * T * sizeof *i);
    *b = (ap_batch){.n_tok = n_tok,
                    .n_seq = n_seq,
                    .seq = seq,
                    .seq_dev = seq,
                    .tok = i,
                    .pos = i + T,
                    .see_end = i + 2 * T,
                    .seq_of = i + 3 * T,
                    .rope_pos = i + 4 * T};
    return b;
}

static void fill_row(ap_batch *b, int t, int seq, int pos, int see_end)
{
    ((int32_t *)b->pos)[t] = pos;
    ((int32_t *)b->see_end)[t] = see_end;
    ((int32_t *)b->seq_of)[t] = seq;
    for (int axis = 0; axis < 3; axis++) ((int32_t *)b->rope_pos)[axis * b->n_tok + t] = pos;
}

ap_batch *kc_batch(kc *c, int n_seq, const int *pos, const int *n_tok, const int32_t *page,
                   int page_ld)
{
    int T = 0, t = 0;
    for (int i = 0; i < n_seq; i++) T += n_tok[i];
    ap_batch *b = new_batch(c, n_seq, T);
    for (int g = 0; g < AP_KV_GROUPS; g++) b->page[g] = page;
    b->page_ld = page_ld;
    for (int i = 0; i < n_seq; i++) {
        ((ap_seq *)b->seq)[i] =
            (ap_seq){.begin = t, .n_tok = n_tok[i], .pos = pos[i], .table = i, .state = i};
        for (int j = 0; j < n_tok[i]; j++, t++) fill_row(b, t, i, pos[i] + j, pos[i] + j + 1);
    }
    return b;
}

ap_batch *kc_piece(kc *c, const ap_batch *b, int i, int t, int n)
{
    ap_batch *p = new_batch(c, 1, n);
    int row = b->seq[i].begin + t;
    for (int g = 0; g < AP_KV_GROUPS; g++) p->page[g] = b->page[g];
    p->page_ld = b->page_ld;
    ap_seq *s = (ap_seq *)p->seq;
    *s = b->seq[i];
    s->begin = 0;
    s->n_tok = n;
    s->pos += t;
    for (int j = 0; j < n; j++) fill_row(p, j, 0, b->pos[row + j], b->see_end[row + j]);
    return p;
}

void kc_spans(kc *c, ap_batch *b)
{
    int32_t *end = (int32_t *)b->see_end;
    for (int i = 0; i < b->n_seq; i++) {
        const ap_seq *s = &b->seq[i];
        for (int t = 0, n; t < s->n_tok; t += n) {
            n = kc_int(c, 1, kc_int(c, 0, 1) ? 3 : 90);
            if (n > s->n_tok - t) n = s->n_tok - t;
            bool span = kc_int(c, 0, 2) > 0;
            for (int j = t; j < t + n && span; j++) end[s->begin + j] = s->pos + t + n;
        }
    }
}

/* ------------------------------------------------------------------ comparing */

void kc_written(kc *c, const char *what, const float *p, int64_t rows, int64_t n, int64_t ld)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < (r + 1 < rows ? ld : n); i++) {
            bool poison = bits(p[r * ld + i]) == POISON;
            if (poison == (i < n)) {
                kc_fail(c, "%s[%lld, %lld] was %s", what, (long long)r, (long long)i,
                        poison ? "not written" : "written but is not ours");
                return;
            }
        }
}

/* How far a row's values may be off, beside their own part of c->mag. */
static double room_of(const kc *c, const float *want, int64_t n)
{
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(want[i])) most = fmax(most, fabs((double)want[i]));
    return c->loose * most + 1e-30;
}

static bool agree(float got, float want, double room)
{
    if (bits(got) == POISON) return false;
    if (bits(got) == bits(want) || (isnan(got) && isnan(want))) return true;
    return room > 0 && fabs((double)got - (double)want) <= room;
}

static void report_value(kc *c, const kc_kern *who, const char *what, int64_t r, int64_t i,
                         float got, float want)
{
    kc_fail(c, "%s: %s[%lld, %lld] = %.9g (%08x), expected %.9g (%08x)", who ? who->name : "ref",
            what, (long long)r, (long long)i, (double)got, bits(got), (double)want, bits(want));
}

void kc_same(kc *c, const kc_kern *who, const char *what, const float *got, int64_t ldgot,
             const float *want, int64_t ldwant, int64_t rows, int64_t n)
{
    bool exact = !who || who->exact;
    for (int64_t r = 0; r < rows; r++) {
        double room = exact ? 0 : room_of(c, want + r * ldwant, n);
        for (int64_t i = 0; i < n; i++) {
            float g = got[r * ldgot + i], w = want[r * ldwant + i];
            double part = exact || !c->mag ? 0 : c->part * c->mag[r * n + i];
            c->values++;
            if (agree(g, w, room + part)) continue;
            report_value(c, who, what, r, i, g, w);
            return;
        }
    }
}

void kc_again(kc *c, const kc_kern *who, const char *what, const float *got, int64_t ldgot,
              const float *first, int64_t ldfirst, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) {
            float g = got[r * ldgot + i], w = first[r * ldfirst + i];
            c->values++;
            if (agree(g, w, 0)) continue;
            report_value(c, who, what, r, i, g, w);
            return;
        }
}

const float *kc_first(kc *c, const kc_kern *who, const float *own, const float *ref, size_t n)
{
    return who->exact ? ref : kc_copy(c, own, n);
}

double kc_loose_of(apus_precision p)
{
    return p == APUS_PRECISION_FAST ? KC_LOOSE_FAST : 2 * KC_LOOSE;
}

apus_precision kc_fine_precision(apus_precision p)
{
    return p == APUS_PRECISION_FAST ? APUS_PRECISION_HIGH : p;
}

bool kc_needs_fine(const kc *c, apus_precision p)
{
    bool exact = true;
    for (int k = 0; k < c->n_kern; k++) exact &= c->kern[k].exact;
    return !exact && p == APUS_PRECISION_FAST;
}

bool kc_tells(const kc_kern *who, double loose, int n)
{
    return !who || who->exact || loose < KC_LOOSE_FAST || n >= 15;
}

void kc_close(kc *c, const char *what, kc_tol tol, const float *got, int64_t ld, const double *want,
              const double *mag, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++) {
            double g = (double)got[r * ld + i], w = want[r * n + i];
            double room = tol.rel * fabs(w) + tol.abs + (mag ? tol.sum * mag[r * n + i] : 0.0);
            c->values++;
            if (fabs(g - w) <= room || (isnan(g) && isnan(w)) || (float)w == got[r * ld + i])
                continue;
            kc_fail(c, "%s[%lld, %lld] = %.9g, oracle %.9g, off by %.3g, allowed %.3g", what,
                    (long long)r, (long long)i, g, w, fabs(g - w), room);
            return;
        }
}

float kc_dot(const float *x, const float *w, int n)
{
    float total = 0;
    for (int k0 = 0; k0 < n; k0 += AP_K_BLOCK) {
        float acc = 0;
        for (int k = k0; k < n && k < k0 + AP_K_BLOCK; k++) acc = fmaf(x[k], w[k], acc);
        total = k0 ? total + acc : acc;
    }
    return total;
}
