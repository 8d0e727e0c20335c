/* weights_gguf.c - the tensors of a GGUF file and its other parts, under their Hugging Face names. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "file/gguf_hf.h"
#include "file/weights_impl.h"

#define PART_TAIL "-00001-of-00001.gguf"

/* Number of parts by the name's tail -00001-of-000NN.gguf; 1 for any other name. */
static int parts_by_name(const char *path)
{
    size_t n = strlen(path), tail = sizeof PART_TAIL - 1;
    int first, count, used = 0;
    if (n <= tail || sscanf(path + n - tail, "-%5d-of-%5d.gguf%n", &first, &count, &used) != 2 ||
        used != (int)tail)
        return 1;
    return first == 1 && count > 1 ? count : 1;
}

static apus_err open_part(ap_weights *w, const char *name, int i, int count, apus_diag *diag)
{
    int64_t no = -1, of = -1;
    apus_err err = ap_weights_add_shard(w, name, diag);
    if (err) return err;
    ap_shard *s = &w->shard[i];
    if ((err = ap_gguf_open(s->path, &s->gguf, diag))) return err;
    const ap_gguf_value *v_no = ap_gguf_find(&s->gguf, "split.no"),
                        *v_of = ap_gguf_find(&s->gguf, "split.count");
    if (v_no) ap_gguf_int(v_no, 0, &no);
    if (v_of) ap_gguf_int(v_of, 0, &of);
    if (count > 1 ? no == i && of == count : of <= 1) return APUS_OK;
    if (count == 1)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: split.no and split.count say part %lld of %lld: open the first part, "
                       "under its own name "
                       "NAME-00001-of-%05lld.gguf",
                       s->path, (long long)no + 1, (long long)of, (long long)of);
    if (!v_no && !v_of)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: is a whole model (there is no split.no), expected part %d of %d by its "
                       "name",
                       s->path, i + 1, count);
    return ap_fail(
        diag, APUS_EFORMAT,
        "%s: split.no and split.count say part %lld of %lld, expected part %d of %d by its name",
        s->path, (long long)no + 1, (long long)of, i + 1, count);
}

/* The first part tells how many tensors all parts hold together. */
static apus_err check_parts(const ap_weights *w, apus_diag *diag)
{
    const ap_gguf_value *v = ap_gguf_find(&w->shard[0].gguf, "split.tensors.count");
    int64_t want = 0, have = 0;
    for (size_t p = 0; p < w->n_shards; p++) have += (int64_t)w->shard[p].gguf.n_tensors;
    if (w->n_shards == 1 || !v || (ap_gguf_int(v, 0, &want) && want == have)) return APUS_OK;
    return ap_fail(diag, APUS_EFORMAT,
                   "%s: split.tensors.count is %lld, but the %zu parts hold %lld tensors",
                   w->shard[0].path, (long long)want, w->n_shards, (long long)have);
}

static apus_err open_parts(ap_weights *w, const char *path, int count, apus_diag *diag)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t stem = strlen(base) - (count > 1 ? sizeof PART_TAIL - 1 : 0);
    if (stem > 400) return ap_fail(diag, APUS_EFILE, "%s: the file name is too long", path);
    w->dir = slash ? ap_strndup(path, (size_t)(slash - path)) : ap_strdup(".");
    if (!w->dir) return ap_fail_nomem(diag, strlen(path), "a path");
    apus_err err = APUS_OK;
    for (int i = 0; i < count && !err; i++) {
        char name[512];
        if (count > 1)
            snprintf(name, sizeof name, "%.*s-%05d-of-%05d.gguf", (int)stem, base, i + 1, count);
        else
            snprintf(name, sizeof name, "%s", base);
        err = open_part(w, name, i, count, diag);
    }
    return err;
}

/* The shared expert's gate is one row; converters squeeze it to a vector. */
static ap_tensor as_matrix(ap_tensor t, const char *name)
{
    if (t.rank == 1 && ap_ends_with(name, "shared_expert_gate.weight")) {
        t.rank = 2;
        t.shape[1] = t.shape[0];
        t.shape[0] = 1;
    }
    return t;
}

static apus_err name_tensors(ap_weights *w, const ap_family *f, apus_diag *diag)
{
    size_t n = 0;
    int head = -1;
    for (size_t p = 0; p < w->n_shards; p++) {
        n += w->shard[p].gguf.n_tensors;
        int first = ap_gguf_head_block(&w->shard[p].gguf);
        if (first >= 0 && (head < 0 || first < head)) head = first;
    }
    w->item = ap_malloc(n, sizeof *w->item);
    w->gguf = ap_malloc(w->n_shards, sizeof *w->gguf);
    if (!w->item || !w->gguf) return ap_fail_nomem(diag, n * sizeof *w->item, "the tensor list");
    for (size_t p = 0; p < w->n_shards; p++) {
        const ap_gguf *g = w->gguf[p] = &w->shard[p].gguf;
        for (size_t i = 0; i < g->n_tensors; i++) {
            const char *own = g->tensor[i].name;
            char name[512];
            if (!(head >= 0 && ap_gguf_head_name(own, head, f, name, sizeof name)) &&
                !ap_gguf_tensor_name(own, f, name, sizeof name))
                continue;
            size_t len = strlen(name);
            char *kept = ap_arena_strndup(&w->arena, name, len);
            if (!kept) return ap_fail_nomem(diag, len, "a tensor's name");
            ap_tensor t = as_matrix(g->tensor[i].tensor, name);
            apus_err err = ap_weights_add_item(w, kept, len, &t, p, diag);
            if (err) return err;
        }
    }
    return ap_weights_index(w, diag);
}

apus_err ap_weights_open_gguf(const char *path, ap_weights **out, apus_diag *diag)
{
    ap_weights *w = ap_calloc(1, sizeof *w);
    if (!w) return ap_fail_nomem(diag, sizeof *w, "the weights");
    ap_arena_init(&w->arena, 0);
    const ap_family *f = NULL;
    apus_err err = open_parts(w, path, parts_by_name(path), diag);
    if (!err) err = check_parts(w, diag);
    if (!err) err = ap_gguf_family_of(&w->shard[0].gguf, &f, diag);
    if (!err) err = name_tensors(w, f, diag);
    if (!err) err = ap_weights_find_prefix(w, diag);
    if (err) {
        ap_weights_close(w);
        return err;
    }
    w->traits = (ap_weights_traits){f->norm_offset, f->tiled_heads};
    *out = w;
    return APUS_OK;
}
