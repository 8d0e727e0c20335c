/* device_cpu.c - the CPU as a device: its memory is the host's, and what is enqueued is done at once. */
#include <string.h>

#include "base/mem.h"
#include "base/sysmem.h"
#include "kern/kern.h"

#define PIECE ((size_t)1 << 20) /* bytes that one task moves */

static void *cpu_alloc(ap_device *d, size_t bytes)
{
    (void)d;
    return ap_big_alloc(bytes);
}

static void cpu_free(ap_device *d, void *p, size_t bytes)
{
    (void)d;
    ap_big_free(p, bytes);
}

typedef struct move_job {
    uint8_t *dst;
    const uint8_t *src; /* NULL = zeros */
    size_t bytes;
} move_job;

static void move_piece(void *arg, int task, int worker)
{
    const move_job *j = arg;
    size_t begin = (size_t)task * PIECE, n = j->bytes - begin < PIECE ? j->bytes - begin : PIECE;
    (void)worker;
    if (j->src)
        memcpy(j->dst + begin, j->src + begin, n);
    else
        memset(j->dst + begin, 0, n);
}

/* States have tens of megabytes: one core alone would not use the memory's bandwidth. */
static void cpu_copy(ap_device *d, void *dst, const void *src, size_t bytes)
{
    move_job j = {dst, src, bytes};
    if (bytes) ap_pool_run(d->pool, move_piece, &j, (int)((bytes + PIECE - 1) / PIECE));
}

static void cpu_zero(ap_device *d, void *dst, size_t bytes)
{
    cpu_copy(d, dst, NULL, bytes);
}

static apus_err cpu_finish(ap_device *d, apus_diag *diag)
{
    (void)d, (void)diag;
    return APUS_OK;
}

static bool cpu_replay(ap_device *d, const void *key, size_t key_bytes)
{
    (void)d, (void)key, (void)key_bytes;
    return false;
}

static void cpu_recorded(ap_device *d)
{
    (void)d;
}

static uint64_t cpu_memory(ap_device *d, uint64_t *total)
{
    (void)d;
    if (total) *total = ap_memory_total();
    return ap_memory_available();
}

static void cpu_destroy(ap_device *d)
{
    if (!d) return;
    ap_pool_free(d->pool);
    ap_free(d);
}

static const ap_device_ops ops = {
    .alloc = cpu_alloc,
    .free = cpu_free,
    .alloc_shared = cpu_alloc,
    .free_shared = cpu_free,
    .put = cpu_copy,
    .get = cpu_copy,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .finish = cpu_finish,
    .replay = cpu_replay,
    .recorded = cpu_recorded,
    .memory = cpu_memory,
    .destroy = cpu_destroy,
};

apus_err ap_device_cpu(apus_cpu level, int threads, ap_device **out, apus_diag *diag)
{
    const ap_kern *k;
    apus_err err = ap_kern_cpu(level, &k, diag);
    if (err) return err;
    ap_device *d = ap_calloc(1, sizeof *d);
    if (!d) return ap_fail_nomem(diag, sizeof *d, "the device");
    *d = (ap_device){.op = &ops, .kern = k, .is_host = true, .name = "cpu"};
    err = ap_pool_create(threads, &d->pool, diag);
    if (err) {
        ap_free(d);
        return err;
    }
    *out = d;
    return APUS_OK;
}
