/* recall.c - which experts of a model are in memory, as bytes for a later run.
 *
 * magic, fingerprint, number; layer, expert, uses (as the bits of a double) of each, the most used first; checksum. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/store.h"
#include "engine/model.h"

#define MAGIC       "APUSEXP1"
#define HEAD_BYTES  (8 + 8 + 4)
#define ENTRY_BYTES (4 + 4 + 8)
#define SUM_BYTES   8
#define MOST_USES   1e6

static int by_uses(const void *a, const void *b)
{
    const ap_expert_use *x = a, *y = b;
    return (x->uses < y->uses) - (x->uses > y->uses);
}

static void write_list(ap_store *f, uint64_t fingerprint, const ap_expert_use *use, int n)
{
    ap_store_write(f, MAGIC, 8);
    ap_store_write_u64(f, fingerprint);
    ap_store_write_u32(f, (uint32_t)n);
    for (int i = 0; i < n; i++) {
        uint64_t bits;
        memcpy(&bits, &use[i].uses, sizeof bits);
        ap_store_write_u32(f, (uint32_t)use[i].layer);
        ap_store_write_u32(f, (uint32_t)use[i].expert);
        ap_store_write_u64(f, bits);
    }
    ap_store_sum(f);
}

static apus_err no_store(const char *what, apus_diag *diag)
{
    return ap_fail(diag, APUS_EUNSUPPORTED,
                   "%s: all of the model is in memory, or it has no experts", what);
}

apus_err apus_model_save_experts(const apus_model *m, void **data, size_t *bytes, apus_diag *diag)
{
    if (!m || !data || !bytes)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_model_save_experts: model, data and bytes are needed");
    if (!m->store) return no_store("apus_model_save_experts", diag);
    size_t slots = (size_t)ap_expert_store_slots(m->store);
    ap_expert_use *use = ap_calloc(slots, sizeof *use);
    if (!use) return ap_fail_nomem(diag, slots * sizeof *use, "a list of experts");
    int n = ap_expert_store_list(m->store, use);
    qsort(use, (size_t)n, sizeof *use, by_uses);
    ap_store f;
    size_t size = HEAD_BYTES + (size_t)n * ENTRY_BYTES + SUM_BYTES;
    apus_err err = ap_store_create_memory(&f, size, diag);
    if (!err) {
        write_list(&f, m->fingerprint, use, n);
        err = ap_store_close_memory(&f, data);
    }
    if (!err) *bytes = size;
    ap_free(use);
    return err;
}

static void read_use(ap_store *f, ap_expert_use *u)
{
    uint32_t layer = ap_store_read_u32(f), expert = ap_store_read_u32(f);
    uint64_t bits = ap_store_read_u64(f);
    memcpy(&u->uses, &bits, sizeof bits);
    if (layer > INT32_MAX || expert > INT32_MAX || !(u->uses >= 0 && u->uses <= MOST_USES))
        f->err = ap_fail(f->diag, APUS_EFORMAT, "the list of experts has impossible entries");
    u->layer = (int)layer;
    u->expert = (int)expert;
}

/* n: that many entries are there, as the size tells. */
static void read_list(ap_store *f, uint64_t fingerprint, ap_expert_use *use, size_t n)
{
    char magic[8];
    ap_store_read(f, magic, sizeof magic);
    if (!f->err && memcmp(magic, MAGIC, sizeof magic))
        f->err = ap_fail(f->diag, APUS_EFORMAT, "these bytes are no list of experts");
    if (ap_store_read_u64(f) != fingerprint && !f->err)
        f->err = ap_fail(f->diag, APUS_EFORMAT, "the list of experts is of another model");
    if (ap_store_read_u32(f) != n && !f->err)
        f->err = ap_fail(f->diag, APUS_EFORMAT, "the list of experts is cut off or too long");
    for (size_t i = 0; i < n && !f->err; i++) read_use(f, &use[i]);
    ap_store_check(f);
}

apus_err apus_model_recall_experts(apus_model *m, const void *data, size_t bytes,
                                   apus_progress_fn progress, void *ctx, apus_diag *diag)
{
    if (!m || !data)
        return ap_fail(diag, APUS_EINVAL, "apus_model_recall_experts: model and data are needed");
    if (!m->store) return no_store("apus_model_recall_experts", diag);
    size_t rest = bytes < HEAD_BYTES + SUM_BYTES ? 1 : bytes - HEAD_BYTES - SUM_BYTES;
    if (rest % ENTRY_BYTES || rest / ENTRY_BYTES > INT32_MAX)
        return ap_fail(diag, APUS_EFORMAT, "the list of experts has %zu bytes, which none has",
                       bytes);
    size_t n = rest / ENTRY_BYTES;
    ap_expert_use *use = ap_calloc(n ? n : 1, sizeof *use);
    if (!use) return ap_fail_nomem(diag, n * sizeof *use, "a list of experts");
    ap_store f;
    apus_err err = ap_store_open_memory(&f, data, bytes, diag);
    if (!err) {
        read_list(&f, m->fingerprint, use, n);
        err = ap_store_close(&f, 0);
    }
    if (!err) ap_expert_store_recall(m->store, use, (int)n, progress, ctx);
    ap_free(use);
    return err;
}
