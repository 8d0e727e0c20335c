#include "kl_base.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'A', 'P', 'U', 'S', 'K', 'L', '1', '\n'};

enum { STEPS = 2048, MOST = 65535, HEAD = 28, ROW_HEAD = 4 };

static bool fail(apus_diag *d, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->text, sizeof d->text, fmt, ap);
    va_end(ap);
    return false;
}

static uint8_t *put(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> 8 * i);
    return p + bytes;
}

static bool get(FILE *f, int bytes, uint64_t *out)
{
    *out = 0;
    for (int i = 0; i < bytes; i++) {
        int c = getc(f);
        if (c == EOF) return false;
        *out |= (uint64_t)c << 8 * i;
    }
    return true;
}

static bool start(kl_base *k, const char *path, const kl_text *t, apus_diag *d)
{
    memset(k, 0, sizeof *k);
    k->vocab = t->vocab;
    k->window = t->window;
    k->windows = t->windows;
    k->path = strdup(path);
    k->row = malloc(ROW_HEAD + (size_t)t->vocab * 2);
    return k->path && k->row ? true : fail(d, "out of memory");
}

static bool write_out(kl_base *k, const uint8_t *data, size_t n, apus_diag *d)
{
    if (apus_output_put(k->out, k->at, data, n, d)) return false;
    k->at += n;
    return true;
}

bool kl_base_create(kl_base *k, const char *path, apus_output *out, const kl_text *t, apus_diag *d)
{
    size_t n = t->windows * (size_t)t->window;
    if (!start(k, path, t, d)) return false;
    k->out = out;
    uint8_t *head = malloc(HEAD + 4 * n), *p = head;
    if (!head) return fail(d, "out of memory");
    memcpy(p, magic, sizeof magic);
    p = put(p + sizeof magic, (uint32_t)t->vocab, 4);
    p = put(p, (uint32_t)t->window, 4);
    p = put(p, t->windows, 8);
    p = put(p, (uint32_t)t->first, 4);
    for (size_t i = 0; i < n; i++) p = put(p, (uint32_t)t->ids[i], 4);
    bool ok = write_out(k, head, (size_t)(p - head), d);
    free(head);
    return ok;
}

static bool same_text(FILE *f, const kl_text *t)
{
    uint64_t v;
    if (!get(f, 4, &v) || v != (uint32_t)t->first) return false;
    for (size_t i = 0; i < t->windows * (size_t)t->window; i++)
        if (!get(f, 4, &v) || v != (uint32_t)t->ids[i]) return false;
    return true;
}

bool kl_base_open(kl_base *k, const char *path, const kl_text *t, apus_diag *d)
{
    char head[8];
    uint64_t vocab, window, windows;
    if (!start(k, path, t, d)) return false;
    k->f = fopen(path, "rb");
    if (!k->f) return fail(d, "cannot open %s: %s", path, strerror(errno));
    if (fread(head, 1, 8, k->f) != 8 || memcmp(head, magic, 8) || !get(k->f, 4, &vocab) ||
        !get(k->f, 4, &window) || !get(k->f, 8, &windows))
        return fail(d, "%s: not a file written by --kl-base", path);
    if (vocab != (uint64_t)t->vocab || window != (uint64_t)t->window || windows != t->windows)
        return fail(d,
                    "%s: is of %llu windows of %llu tokens and a vocabulary of %llu, expected %zu, "
                    "%d and %d",
                    path, (unsigned long long)windows, (unsigned long long)window,
                    (unsigned long long)vocab, t->windows, t->window, t->vocab);
    return same_text(k->f, t)
               ? true
               : fail(d, "%s: is of another text, or made with another tokenizer", path);
}

bool kl_base_write(kl_base *k, const float *logits, double log_sum, double nll, apus_diag *d)
{
    float short_nll = (float)nll;
    uint32_t bits;
    memcpy(&bits, &short_nll, 4);
    uint8_t *p = put(k->row, bits, ROW_HEAD);
    for (int i = 0; i < k->vocab; i++) {
        double steps = (log_sum - (double)logits[i]) * STEPS;
        long q = steps < MOST ? lrint(steps) : MOST;
        p = put(p, (uint64_t)(q > 0 ? q : 0), 2);
    }
    return write_out(k, k->row, (size_t)(p - k->row), d);
}

bool kl_base_read(kl_base *k, float *log_p, double *nll, apus_diag *d)
{
    uint64_t bits;
    float short_nll;
    size_t n = (size_t)k->vocab;
    if (!get(k->f, ROW_HEAD, &bits) || fread(k->row, 2, n, k->f) != n)
        return fail(d, "%s: ends too early", k->path);
    uint32_t narrow = (uint32_t)bits;
    memcpy(&short_nll, &narrow, 4);
    *nll = (double)short_nll;
    for (size_t i = 0; i < n; i++)
        log_p[i] = -(float)(k->row[2 * i] | k->row[2 * i + 1] << 8) / STEPS;
    return true;
}

void kl_base_close(kl_base *k)
{
    if (k->f) fclose(k->f);
    free(k->path);
    free(k->row);
    memset(k, 0, sizeof *k);
}
