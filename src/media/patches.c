#include <string.h>

#include <xxhash.h>

#include "base/mem.h"
#include "media/media.h"

void ap_patches_clear(ap_patches *p)
{
    ap_free(p->values);
    ap_free(p->pos);
    memset(p, 0, sizeof *p);
}

void ap_clip_clear(ap_clip *c)
{
    for (size_t i = 0; i < c->n; i++) ap_patches_clear(&c->part[i]);
    ap_free(c->part);
    memset(c, 0, sizeof *c);
}

void ap_patches_hash(ap_patches *p)
{
    XXH128_hash_t values = XXH3_128bits(p->values, p->n * p->width * sizeof *p->values);
    uint64_t all[] = {values.low64,
                      values.high64,
                      p->pos ? XXH3_64bits(p->pos, p->n * sizeof *p->pos) : 0,
                      p->n,
                      p->width,
                      p->padded,
                      p->soft_tokens,
                      XXH3_64bits(p->grid, sizeof p->grid)};
    XXH128_hash_t h = XXH3_128bits(all, sizeof all);
    p->hash[0] = h.low64;
    p->hash[1] = h.high64;
}
