#include "kl_base.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char magic[8] = {'A', 'P', 'U', 'S', 'K', 'L', '1', '\n'};

enum { STEPS = 2048, MOST = 65535 };

static void put(FILE *f, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) putc((int)(v >> 8 * i & 255), f);
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

static bool start(kl_base *k, const char *path, const kl_text *t)
{
    memset(k, 0, sizeof *k);
    k->vocab = t->vocab;
    k->window = t->window;
    k->windows = t->windows;
    k->path = strdup(path);
    k->row = malloc((size_t)t->vocab * sizeof *k->row);
    return k->path && k->row;
}

bool kl_base_create(kl_base *k, const char *path, const kl_text *t, char *why, size_t cap)
{
    size_t n = strlen(path);
    snprintf(why, cap, "out of memory");
    if (!start(k, path, t) || !(k->part = malloc(n + sizeof ".part"))) return false;
    memcpy(k->part, path, n);
    memcpy(k->part + n, ".part", sizeof ".part");
    k->f = fopen(k->part, "wbx");
    if (!k->f) {
        snprintf(why, cap, "cannot create %s: %s", k->part, strerror(errno));
        free(k->part);
        k->part = NULL; /* not ours to remove */
        return false;
    }
    fwrite(magic, 1, sizeof magic, k->f);
    put(k->f, (uint32_t)t->vocab, 4);
    put(k->f, (uint32_t)t->window, 4);
    put(k->f, t->windows, 8);
    put(k->f, (uint32_t)t->first, 4);
    for (size_t i = 0; i < t->windows * (size_t)t->window; i++) put(k->f, (uint32_t)t->ids[i], 4);
    return true;
}

static bool same_text(FILE *f, const kl_text *t)
{
    uint64_t v;
    if (!get(f, 4, &v) || v != (uint32_t)t->first) return false;
    for (size_t i = 0; i < t->windows * (size_t)t->window; i++)
        if (!get(f, 4, &v) || v != (uint32_t)t->ids[i]) return false;
    return true;
}

bool kl_base_open(kl_base *k, const char *path, const kl_text *t, char *why, size_t cap)
{
    char head[8];
    uint64_t vocab, window, windows;
    snprintf(why, cap, "out of memory");
    if (!start(k, path, t)) return false;
    k->f = fopen(path, "rb");
    if (!k->f) {
        snprintf(why, cap, "cannot open %s: %s", path, strerror(errno));
        return false;
    }
    if (fread(head, 1, 8, k->f) != 8 || memcmp(head, magic, 8) || !get(k->f, 4, &vocab) ||
        !get(k->f, 4, &window) || !get(k->f, 8, &windows)) {
        snprintf(why, cap, "%s: not a file written by --kl-base", path);
        return false;
    }
    if (vocab != (uint64_t)t->vocab || window != (uint64_t)t->window || windows != t->windows) {
        snprintf(why, cap,
                 "%s: is of %llu windows of %llu tokens and a vocabulary of %llu, expected %zu, %d "
                 "and %d",
                 path, (unsigned long long)windows, (unsigned long long)window,
                 (unsigned long long)vocab, t->windows, t->window, t->vocab);
        return false;
    }
    if (same_text(k->f, t)) return true;
    snprintf(why, cap, "%s: is of another text, or made with another tokenizer", path);
    return false;
}

bool kl_base_write(kl_base *k, const float *logits, double log_sum, double nll)
{
    float short_nll = (float)nll;
    uint32_t bits;
    memcpy(&bits, &short_nll, 4);
    put(k->f, bits, 4);
    for (int i = 0; i < k->vocab; i++) {
        double steps = (log_sum - (double)logits[i]) * STEPS;
        long q = steps < MOST ? lrint(steps) : MOST;
        uint8_t *p = (uint8_t *)&k->row[i];
        q = q > 0 ? q : 0;
        p[0] = (uint8_t)q;
        p[1] = (uint8_t)(q >> 8);
    }
    size_t n = (size_t)k->vocab;
    return fwrite(k->row, sizeof *k->row, n, k->f) == n;
}

bool kl_base_read(kl_base *k, float *log_p, double *nll)
{
    uint64_t bits;
    float short_nll;
    size_t n = (size_t)k->vocab;
    if (!get(k->f, 4, &bits) || fread(k->row, sizeof *k->row, n, k->f) != n) return false;
    uint32_t narrow = (uint32_t)bits;
    memcpy(&short_nll, &narrow, 4);
    *nll = (double)short_nll;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = (const uint8_t *)&k->row[i];
        log_p[i] = -(float)(p[0] | p[1] << 8) / STEPS;
    }
    return true;
}

bool kl_base_close(kl_base *k, bool keep)
{
    bool ok = true;
    if (k->f) {
        ok = !ferror(k->f);
        ok = fclose(k->f) == 0 && ok;
    }
    if (k->part && (!keep || !ok || rename(k->part, k->path))) {
        ok = ok && !keep;
        unlink(k->part);
    }
    free(k->path);
    free(k->part);
    free(k->row);
    memset(k, 0, sizeof *k);
    return ok;
}
