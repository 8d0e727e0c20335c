#include "model/experts.h"

#include "base/mem.h"

struct ap_experts {
    int n_layer, n_expert;
    ap_expert slot[];
};

ap_experts *ap_experts_create(int n_layer, int n_expert)
{
    size_t n, bytes;
    if (!ap_mul_size((size_t)n_layer, (size_t)n_expert, &n) ||
        !ap_mul_size(n, sizeof(ap_expert), &bytes) ||
        !ap_add_size(bytes, sizeof(ap_experts), &bytes))
        return NULL;
    ap_experts *e = ap_calloc(1, bytes);
    if (!e) return NULL;
    e->n_layer = n_layer;
    e->n_expert = n_expert;
    return e;
}

void ap_experts_free(ap_experts *e)
{
    ap_free(e);
}

ap_expert *ap_experts_slot(ap_experts *e, int layer, int expert)
{
    return &e->slot[(size_t)layer * (size_t)e->n_expert + (size_t)expert];
}

const ap_expert *ap_experts_of(const ap_experts *e, int layer)
{
    return &e->slot[(size_t)layer * (size_t)e->n_expert];
}
