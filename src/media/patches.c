#include <string.h>

#include "base/mem.h"
#include "media/media.h"

void ap_patches_clear(ap_patches *p)
{
    ap_free(p->values);
    ap_free(p->pos);
    memset(p, 0, sizeof *p);
}
