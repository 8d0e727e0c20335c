#include "state/slab.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

apus_err ap_slab_create(ap_slab *s, ap_device *dev, int n_block, size_t block_bytes,
                        const char *what, apus_diag *diag)
{
    *s = (ap_slab){.what = what};
    size_t bytes;
    if (!ap_mul_size((size_t)n_block, block_bytes, &bytes))
        return ap_fail(diag, APUS_ENOMEM, "%s: %d blocks of %zu bytes exceed the address space",
                       what, n_block, block_bytes);
    s->free = ap_calloc((size_t)n_block, sizeof *s->free);
    s->refs = ap_calloc((size_t)n_block, sizeof *s->refs);
    s->dev = dev;
    s->base = dev->op->alloc(dev, bytes);
    s->mem_bytes = bytes;
    if (!s->free || !s->refs || !s->base) {
        ap_slab_destroy(s);
        return ap_fail_nomem(diag, bytes, what);
    }
    s->block_bytes = block_bytes;
    s->n_block = s->n_free = n_block;
    for (int i = 0; i < n_block; i++) s->free[i] = n_block - 1 - i;
    return APUS_OK;
}

void ap_slab_destroy(ap_slab *s)
{
    ap_free(s->free);
    ap_free(s->refs);
    if (s->base) s->dev->op->free(s->dev, s->base, s->mem_bytes);
    memset(s, 0, sizeof *s);
}

int32_t ap_slab_take(ap_slab *s)
{
    if (s->n_free == 0 && !(s->evict && s->evict(s->evict_ctx, s))) return -1;
    int32_t block = s->free[--s->n_free];
    assert(s->refs[block] == 0);
    s->refs[block] = 1;
    return block;
}

void ap_slab_share(ap_slab *s, int32_t block)
{
    assert(block >= 0 && block < s->n_block && s->refs[block] > 0);
    s->refs[block]++;
}

void ap_slab_drop(ap_slab *s, int32_t block)
{
    assert(block >= 0 && block < s->n_block && s->refs[block] > 0);
    if (--s->refs[block] == 0) s->free[s->n_free++] = block;
}

apus_err ap_slab_short(const ap_slab *s, int missing, apus_diag *diag)
{
    return ap_fail(diag, APUS_ENOMEM,
                   "%s: %d more needed of %.3f MB each, but %d of all %d are in use; end or rewind "
                   "sessions, or make the engine with more kv_bytes",
                   s->what, missing, (double)s->block_bytes * 1e-6, s->n_block - s->n_free,
                   s->n_block);
}
