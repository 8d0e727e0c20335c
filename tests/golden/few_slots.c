#include "few_slots.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "engine/model.h"

struct few_slots {
    const apus_model *model;
    ap_model_impl *outline;
    ap_expert_store *store;
    const char **path; /* [n] */
    size_t n;
    bool copies; /* the paths are ours */
    ap_packed packed;
    ap_expert_records records;
};

static void *must(void *p)
{
    if (p) return p;
    fprintf(stderr, "slots for experts: out of memory, or of places for files\n");
    exit(2);
}

static bool where(const void *ctx, const void *p, size_t n, size_t *file, uint64_t *offset)
{
    return ap_weights_where(ctx, p, n, file, offset);
}

static few_slots *make(apus_model *m, int n, bool threads, few_slots *f)
{
    apus_diag d;
    size_t bytes;
    apus_err err = ap_model_measure(&m->config, m->weights, m->dev, false, &bytes, &f->outline, &d);
    if (!err)
        err =
            ap_expert_store_create(&(ap_expert_spec){.n_layer = m->config.n_layer,
                                                     .n_expert = m->config.n_expert,
                                                     .view = ap_model_views(f->outline),
                                                     .dev = m->dev,
                                                     .path = f->path,
                                                     .n_file = (int)f->n,
                                                     .where = where,
                                                     .ctx = m->weights,
                                                     .records = f->packed.path ? &f->records : NULL,
                                                     .io = threads ? AP_AIO_THREADS : AP_AIO_BEST,
                                                     .n_slot = n},
                                   &f->store, &d);
    if (err) {
        fprintf(stderr, "slots for experts: %s\n", d.text);
        exit(2);
    }
    m->experts = ap_expert_store_source(f->store);
    return f;
}

/* Without a store. */
static few_slots *begin(const apus_model *m)
{
    few_slots *f = must(calloc(1, sizeof *f));
    f->model = m;
    f->n = ap_weights_files(m->weights);
    f->path = must(calloc(f->n, sizeof *f->path));
    for (size_t i = 0; i < f->n; i++) f->path[i] = ap_weights_path(m->weights, i);
    return f;
}

few_slots *few_slots_make(apus_model *m, int n, bool threads)
{
    return m->config.n_expert ? make(m, n, threads, begin(m)) : NULL;
}

few_slots *few_slots_make_copy(apus_model *m, int n)
{
    if (!m->config.n_expert) return NULL;
    few_slots *f = begin(m);
    f->copies = true;
    for (size_t i = 0; i < f->n; i++) {
        char *path = must(strdup("few_slots_XXXXXX"));
        int fd = mkstemp(path);
        must(fd < 0 ? NULL : path);
        close(fd);
        f->path[i] = path;
    }
    few_slots_mend(f);
    return make(m, n, false, f);
}

few_slots *few_slots_make_packed(apus_model *m, int n)
{
    apus_diag d;
    char path[] = "few_slots_XXXXXX";
    apus_repack_settings s;
    if (!m->config.n_expert) return NULL;
    few_slots *f = begin(m);
    int fd = mkstemp(path);
    must(fd < 0 ? NULL : path);
    close(fd);
    apus_repack_settings_default(&s);
    s.force = true;
    if (apus_repack(m->dir, path, &s, &d) || ap_packed_open(path, &f->packed, &d)) {
        fprintf(stderr, "packed experts: %s\n", d.text);
        exit(2);
    }
    f->records = (ap_expert_records){f->packed.path, f->packed.offset, f->packed.sum};
    make(m, n, false, f);
    remove(path);
    return f;
}

void few_slots_cut(const few_slots *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (truncate(f->path[i], 0)) must(NULL);
}

void few_slots_mend(const few_slots *f)
{
    for (size_t i = 0; i < f->n; i++) {
        char buffer[65536];
        size_t n;
        FILE *in = must(fopen(ap_weights_path(f->model->weights, i), "rb"));
        FILE *out = must(fopen(f->path[i], "wb"));
        while ((n = fread(buffer, 1, sizeof buffer, in)) > 0)
            if (fwrite(buffer, 1, n, out) != n) must(NULL);
        fclose(in);
        if (fclose(out)) must(NULL);
    }
}

void few_slots_free(few_slots *f)
{
    if (!f) return;
    ap_expert_store_free(f->store);
    ap_model_free(f->outline);
    for (size_t i = 0; i < f->n && f->copies; i++) {
        remove(f->path[i]);
        free((char *)(uintptr_t)f->path[i]);
    }
    ap_packed_close(&f->packed);
    free(f->path);
    free(f);
}

unsigned long few_slots_read(const few_slots *f)
{
    return (unsigned long)ap_expert_store_counts(f->store).misses;
}
