#include "gold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Read a whole file; the header's 8 bytes and its padding keep every tensor 4-byte aligned. */
static char *slurp(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL) return NULL;
    char *data = NULL;
    if (fseek(f, 0, SEEK_END) == 0) {
        long n = ftell(f);
        rewind(f);
        data = n > 8 ? malloc((size_t)n) : NULL;
        if (data != NULL && fread(data, 1, (size_t)n, f) != (size_t)n) {
            free(data);
            data = NULL;
        }
        *len = (size_t)n;
    }
    fclose(f);
    return data;
}

/* Find `name_k` in the header.
 *   dtype  expected, such as "I32"
 *   shape  out, up to two sizes
 * Returns the data, or NULL if the tensor is absent or of another kind. */
static const void *tensor(const gold *g, size_t len, const char *name, int k, const char *dtype,
                          long shape[2])
{
    const char *file = g->data;
    uint64_t head = 0;
    memcpy(&head, file, 8);
    if (head > len - 8) return NULL;
    char key[64];
    snprintf(key, sizeof key, "\"%s_%d\":{", name, k);
    const char *at = NULL;
    for (const char *p = file + 8; p + strlen(key) < file + 8 + head; p++) {
        if (memcmp(p, key, strlen(key)) == 0) {
            at = p;
            break;
        }
    }
    if (at == NULL) return NULL;
    char entry[256], type[8];
    size_t n = (size_t)(file + 8 + head - at);
    n = n < sizeof entry - 1 ? n : sizeof entry - 1;
    memcpy(entry, at, n);
    entry[n] = '\0';
    const char *t = strstr(entry, "\"dtype\":\""), *s = strstr(entry, "\"shape\":[");
    const char *o = strstr(entry, "\"data_offsets\":[");
    unsigned long long begin = 0, end = 0;
    shape[0] = shape[1] = 1;
    if (t == NULL || s == NULL || o == NULL || sscanf(t + 9, "%7[A-Z0-9]", type) != 1 ||
        strcmp(type, dtype) != 0 || sscanf(s + 9, "%ld,%ld", &shape[0], &shape[1]) < 1 ||
        sscanf(o + 16, "%llu,%llu", &begin, &end) != 2 || end > len - 8 - head ||
        end - begin != (unsigned long long)(shape[0] * shape[1]) * 4)
        return NULL;
    return file + 8 + head + begin;
}

int gold_read(const char *folder, gold *g)
{
    char path[4096];
    size_t len = 0;
    memset(g, 0, sizeof *g);
    snprintf(path, sizeof path, "%s/logits.safetensors", folder);
    g->data = slurp(path, &len);
    if (g->data == NULL) {
        fprintf(stderr, "cannot read %s\n", path);
        return -1;
    }
    for (int k = 0; k < GOLD_MAX_PROMPTS; k++) {
        gold_prompt *p = &g->prompt[k];
        long a[2], b[2], c[2], d[2], e[2], f[2], h[2];
        p->ids = tensor(g, len, "ids", k, "I32", a);
        if (p->ids == NULL) break;
        p->pos = tensor(g, len, "pos", k, "I32", b);
        p->logits = tensor(g, len, "logits", k, "F32", c);
        p->noise = tensor(g, len, "noise", k, "F32", d);
        p->greedy = tensor(g, len, "greedy", k, "I32", e);
        p->gap = tensor(g, len, "gap", k, "F32", f);
        p->rgap = tensor(g, len, "rgap", k, "F32", h);
        if (p->pos == NULL || p->logits == NULL || p->noise == NULL || p->greedy == NULL ||
            p->gap == NULL || c[0] != b[0] || d[0] != b[0] || e[0] != GOLD_GREEDY ||
            f[0] != GOLD_GREEDY || p->pos[b[0] - 1] != a[0] - 1 ||
            (p->rgap != NULL && h[0] != a[0] + GOLD_GREEDY - 1)) {
            fprintf(stderr, "%s: prompt %d is incomplete\n", path, k);
            gold_free(g);
            return -1;
        }
        p->n = (int)a[0];
        p->n_pos = (int)b[0];
        g->vocab = (int)c[1];
        g->max_n = p->n > g->max_n ? p->n : g->max_n;
        g->n_prompt = k + 1;
    }
    if (g->n_prompt == 0) {
        fprintf(stderr, "%s: no prompts\n", path);
        gold_free(g);
        return -1;
    }
    return 0;
}

void gold_free(gold *g)
{
    free(g->data);
    memset(g, 0, sizeof *g);
}
