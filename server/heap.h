/* heap.h - the allocator's settings for a process of many threads that live shortly. */
#ifndef APUS_SERVER_HEAP_H
#define APUS_SERVER_HEAP_H

/* Before the first thread: what bodies and answers took goes back to the system when it is freed. */
void sv_heap_tame(void);

#endif
