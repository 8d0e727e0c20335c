/* device.h - where operations run and their memory is: the CPU, or one accelerator.
 *
 * A device belongs to a model, which keeps its weights there, and is lent to the model's engines. Work is
 * done in the order it was enqueued; on the CPU it is done when a call returns. One thread at a time. */
#ifndef AP_KERN_DEVICE_H
#define AP_KERN_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/pool.h"

typedef struct ap_kern ap_kern; /* kern.h */
typedef struct ap_device ap_device;

typedef struct ap_device_ops {
    /* Device memory, 256-byte aligned, contents undefined; NULL when there is none left. free needs the
     * same size and waits for what was enqueued. */
    void *(*alloc)(ap_device *d, size_t bytes);
    void (*free)(ap_device *d, void *p, size_t bytes);
    /* Memory that host and device both address: for staging and small results. */
    void *(*alloc_shared)(ap_device *d, size_t bytes);
    void (*free_shared)(ap_device *d, void *p, size_t bytes);

    /* Enqueued copies. put: src, host memory, may change once it has returned. get waits until dst, host
     * memory, is there. */
    void (*put)(ap_device *d, void *dst, const void *src, size_t bytes);
    void (*get)(ap_device *d, void *dst, const void *src, size_t bytes);
    void (*copy)(ap_device *d, void *dst, const void *src, size_t bytes);
    void (*zero)(ap_device *d, void *dst, size_t bytes);

    /* Wait for everything. EDEVICE: something failed since the last time; the device is lost. */
    apus_err (*finish)(ap_device *d, apus_diag *diag);

    /* A step that runs again and again with the same launches (only the contents of its batch differ):
     * replay enqueues the one recorded under key and returns true; false: what follows, up to
     * `recorded`, is recorded under key (key_bytes <= 64) and enqueued there. */
    bool (*replay)(ap_device *d, const void *key, size_t key_bytes);
    void (*recorded)(ap_device *d);

    uint64_t (*memory)(ap_device *d, uint64_t *total); /* bytes free now; the CPU: of the system */
    void (*destroy)(ap_device *d);
} ap_device_ops;

struct ap_device {
    const ap_device_ops *op;
    const ap_kern *kern;
    ap_pool *pool; /* host workers: the CPU's operations run on them, and packing */
    bool
        is_host; /* device memory is host memory: addresses may be followed, pack may write there */
    const char *name; /* "cpu", "cuda:0 NVIDIA H200" */
    int lent;         /* engines that it is lent to; accessed with __atomic builtins */
};

/* The device that a setting names: "cpu", "cuda" or "cuda:N"; NULL or "auto" = the best there is.
 *   level, threads  of the CPU, and of the host's workers beside another device
 * EINVAL: no such name; EUNSUPPORTED: this build or this machine has no such device. */
apus_err ap_device_open(const char *name, apus_cpu level, int threads, ap_device **out,
                        apus_diag *diag);

/* The CPU with a level's operations; owns its pool. d is freed by op->destroy. */
apus_err ap_device_cpu(apus_cpu level, int threads, ap_device **out, apus_diag *diag);

#endif
