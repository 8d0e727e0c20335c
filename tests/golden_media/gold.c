#include "gold.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"

int gold_fails;

void gold_fail(const char *fmt, ...)
{
    va_list ap;
    gold_fails++;
    printf("FAIL ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

void gold_need(apus_err err, const apus_diag *d)
{
    if (!err) return;
    fprintf(stderr, "golden_media: %s\n", d->text);
    exit(1);
}

/* ---------------------------------------------------------------- data */

void gold_open(gold *g, const char *folder)
{
    apus_diag d;
    char path[512];
    g->folder = folder;
    snprintf(path, sizeof path, "%s/gold.safetensors", folder);
    gold_need(ap_safetensors_open(path, &g->f, &d), &d);
}

const ap_tensor *gold_find(const gold *g, const char *name, int k)
{
    char full[64];
    snprintf(full, sizeof full, "%s_%d", name, k);
    for (size_t i = 0; i < g->f.n; i++)
        if (!strcmp(g->f.entry[i].name, full)) return &g->f.entry[i].tensor;
    return NULL;
}

void *gold_copy(const ap_tensor *t)
{
    size_t n = ap_tensor_bytes(t);
    void *p = malloc(n + 1);
    if (!p) exit(2);
    memcpy(p, t->data, n);
    return p;
}

bool gold_prompt(const gold *g, int k, prompt *p)
{
    const ap_tensor *ids = gold_find(g, "ids", k), *pos = gold_find(g, "pos", k);
    const ap_tensor *used = gold_find(g, "pictures", k), *logits = gold_find(g, "logits", k);
    const ap_tensor *rgap = gold_find(g, "rgap", k);
    if (!ids) return false;
    *p = (prompt){.ids = gold_copy(ids),
                  .pos = gold_copy(pos),
                  .used = gold_copy(used),
                  .logits = gold_copy(logits),
                  .rgap = rgap ? gold_copy(rgap) : NULL,
                  .n = (int)ids->shape[0],
                  .n_pos = (int)pos->shape[0],
                  .n_used = (int)used->shape[0]};
    return true;
}

void gold_prompt_free(prompt *p)
{
    free(p->ids);
    free(p->pos);
    free(p->used);
    free(p->logits);
    free(p->rgap);
}

/* ---------------------------------------------------------------- models and pictures */

/* All that the files hold. */
static unsigned towers_of(const char *folder)
{
    apus_diag d;
    apus_model *m;
    apus_model_settings s;
    apus_info info = {.size = sizeof info};
    apus_model_settings_default(&s);
    s.load = APUS_LOAD_INFO;
    gold_need(apus_model_open(folder, &s, &m, &d), &d);
    gold_need(apus_model_info(m, &info, &d), &d);
    apus_model_close(m);
    return info.towers;
}

apus_model *gold_model(const char *folder, const char *device, apus_precision precision)
{
    apus_diag d;
    apus_model *m;
    apus_model_settings s;
    apus_model_settings_default(&s);
    s.towers = towers_of(folder);
    s.precision = precision;
    s.device = device;
    gold_need(apus_model_open(folder, &s, &m, &d), &d);
    return m;
}

int gold_pictures(const gold *g, const apus_model *m, apus_media *out[MOST_PICTURES])
{
    apus_diag d;
    int n = 0;
    for (; n < MOST_PICTURES && gold_find(g, "rows", n); n++) {
        char path[512];
        snprintf(path, sizeof path, "%s/picture_%d.safetensors", g->folder, n);
        gold_need(apus_media_open(m, path, NULL, &out[n], &d), &d);
    }
    return n;
}

int gold_most_places(apus_media *const *media, int n)
{
    int most = 1;
    for (int i = 0; i < n; i++)
        if (apus_media_tokens(media[i]) > most) most = apus_media_tokens(media[i]);
    return most;
}
