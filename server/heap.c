#include "heap.h"

#include <stdlib.h> /* tells whether it is glibc */

#ifdef __GLIBC__
#include <malloc.h>
#endif

enum { ARENAS = 4, LARGE = 128 << 10 };

/* glibc gives threads up to 8 arenas per processor, and each keeps what its busiest moment took. The first large
 * block that is freed also raises the size from which blocks are the system's own, up to 32 MB: bodies and
 * pictures would stay in arenas after it. Naming a size keeps it. */
void sv_heap_tame(void)
{
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, ARENAS);
    mallopt(M_MMAP_THRESHOLD, LARGE);
    mallopt(M_TRIM_THRESHOLD, 2 * LARGE);
#endif
}
