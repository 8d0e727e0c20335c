/* device.cu - one NVIDIA GPU as a device: memory, copies, recorded steps, and its table of operations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.cuh"

extern "C" {
#include "base/mem.h"
#include "kern/cuda/device_cuda.h"
}

#define STAGING_BYTES                                                                              \
    ((size_t)64 << 20) /* pinned; two halves: one is copied while the other is filled */

static ap_cuda *cuda_of(ap_device *d)
{
    return (ap_cuda *)d;
}

/* ------------------------------------------------------------------ memory */

static void *dev_alloc(ap_device *d, size_t bytes)
{
    void *p = NULL;
    (void)d;
    if (cudaMalloc(&p, bytes ? bytes : 1) == cudaSuccess) return p;
    cudaGetLastError(); /* not an error of the stream: the caller has the answer */
    return NULL;
}

static void dev_free(ap_device *d, void *p, size_t bytes)
{
    (void)bytes;
    if (!p) return;
    cudaStreamSynchronize(cuda_of(d)->stream);
    ap_cuda_check(cuda_of(d), cudaFree(p), "freeing memory");
}

static void *dev_alloc_shared(ap_device *d, size_t bytes)
{
    void *p = NULL;
    (void)d;
    if (cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocMapped | cudaHostAllocPortable) ==
        cudaSuccess)
        return p;
    cudaGetLastError();
    return NULL;
}

static void dev_free_shared(ap_device *d, void *p, size_t bytes)
{
    (void)bytes;
    if (!p) return;
    cudaStreamSynchronize(cuda_of(d)->stream);
    ap_cuda_check(cuda_of(d), cudaFreeHost(p), "freeing memory");
}

/* Through pinned memory: half by half, each reused when its copies are done. */
static void dev_put(ap_device *d, void *dst, const void *src, size_t bytes)
{
    ap_cuda *c = cuda_of(d);
    const uint8_t *from = (const uint8_t *)src;
    uint8_t *to = (uint8_t *)dst;
    size_t half = STAGING_BYTES / 2;
    while (bytes && c->err == cudaSuccess) {
        size_t room = half - c->staging_used;
        if (!room) { /* the other half */
            ap_cuda_check(c, cudaEventRecord(c->staged[c->staging_half], c->stream), "an event");
            c->staging_half ^= 1;
            c->staging_used = 0;
            ap_cuda_check(c, cudaEventSynchronize(c->staged[c->staging_half]),
                          "copying to the device");
            continue;
        }
        size_t n = bytes < room ? bytes : room;
        uint8_t *at = c->staging + (size_t)c->staging_half * half + c->staging_used;
        memcpy(at, from, n);
        ap_cuda_check(c, cudaMemcpyAsync(to, at, n, cudaMemcpyHostToDevice, c->stream),
                      "copying to the device");
        size_t used = (n + 63) / 64 * 64;
        c->staging_used = c->staging_used + used < half ? c->staging_used + used : half;
        from += n;
        to += n;
        bytes -= n;
    }
}

static void dev_get(ap_device *d, void *dst, const void *src, size_t bytes)
{
    ap_cuda *c = cuda_of(d);
    ap_cuda_check(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->stream),
                  "copying from the device");
    ap_cuda_check(c, cudaStreamSynchronize(c->stream), "the device");
}

static void dev_copy(ap_device *d, void *dst, const void *src, size_t bytes)
{
    ap_cuda *c = cuda_of(d);
    ap_cuda_check(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, c->stream),
                  "copying on the device");
}

static void dev_zero(ap_device *d, void *dst, size_t bytes)
{
    ap_cuda *c = cuda_of(d);
    ap_cuda_check(c, cudaMemsetAsync(dst, 0, bytes, c->stream), "clearing memory");
}

static apus_err dev_finish(ap_device *d, apus_diag *diag)
{
    ap_cuda *c = cuda_of(d);
    ap_cuda_check(c, cudaStreamSynchronize(c->stream), "the device");
    ap_cuda_check(c, cudaGetLastError(), "the device");
    if (c->err == cudaSuccess) return APUS_OK;
    return ap_fail(diag, APUS_EDEVICE, "%s: %s failed: %s", c->name, c->what,
                   cudaGetErrorString(c->err));
}

static uint64_t dev_memory(ap_device *d, uint64_t *total)
{
    size_t have = 0, all = 0;
    ap_cuda_check(cuda_of(d), cudaMemGetInfo(&have, &all), "asking for memory");
    if (total) *total = all;
    return have;
}

/* ------------------------------------------------------------------ recorded steps */

static bool dev_replay(ap_device *d, const void *key, size_t key_bytes)
{
    ap_cuda *c = cuda_of(d);
    ap_cuda_record *oldest = &c->record[0];
    c->recording = NULL;
    if (key_bytes > sizeof oldest->key || c->err != cudaSuccess) return false;
    for (int i = 0; i < AP_CUDA_RECORDS; i++) {
        ap_cuda_record *r = &c->record[i];
        if (r->graph && r->key_bytes == key_bytes && !memcmp(r->key, key, key_bytes)) {
            r->used = ++c->clock;
            ap_cuda_check(c, cudaGraphLaunch(r->graph, c->stream), "a recorded step");
            return true;
        }
        if (!r->graph || (oldest->graph && r->used < oldest->used)) oldest = r;
    }
    if (oldest->graph) {
        cudaStreamSynchronize(c->stream);
        cudaGraphExecDestroy(oldest->graph);
        oldest->graph = NULL;
    }
    memset(oldest->key, 0, sizeof oldest->key);
    memcpy(oldest->key, key, key_bytes);
    oldest->key_bytes = key_bytes;
    oldest->used = ++c->clock;
    if (cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess)
        c->recording = oldest;
    else
        ap_cuda_check(c, cudaErrorUnknown, "recording a step");
    return false;
}

static void dev_recorded(ap_device *d)
{
    ap_cuda *c = cuda_of(d);
    ap_cuda_record *r = c->recording;
    cudaGraph_t graph = NULL;
    c->recording = NULL;
    if (!r) return;
    ap_cuda_check(c, cudaStreamEndCapture(c->stream, &graph), "recording a step");
    if (c->err == cudaSuccess)
        ap_cuda_check(c, cudaGraphInstantiate(&r->graph, graph, 0), "recording a step");
    if (graph) cudaGraphDestroy(graph);
    if (c->err == cudaSuccess)
        ap_cuda_check(c, cudaGraphLaunch(r->graph, c->stream), "a recorded step");
}

/* ------------------------------------------------------------------ the device */

static void dev_destroy(ap_device *d)
{
    ap_cuda *c = cuda_of(d);
    if (!c) return;
    if (c->stream) cudaStreamSynchronize(c->stream);
    for (int i = 0; i < AP_CUDA_RECORDS; i++)
        if (c->record[i].graph) cudaGraphExecDestroy(c->record[i].graph);
    for (int i = 0; i < 2; i++)
        if (c->staged[i]) cudaEventDestroy(c->staged[i]);
    if (c->staging) cudaFreeHost(c->staging);
    if (c->counter) cudaFree(c->counter);
    if (c->stream) cudaStreamDestroy(c->stream);
    ap_pool_free(c->dev.pool);
    free(c);
}

static const ap_device_ops ops = {
    dev_alloc, dev_free,   dev_alloc_shared, dev_free_shared, dev_put,    dev_get,     dev_copy,
    dev_zero,  dev_finish, dev_replay,       dev_recorded,    dev_memory, dev_destroy,
};

int ap_cuda_count(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    cudaGetLastError();
    return 0;
}

static cudaError_t set_up(ap_cuda *c, cudaDeviceProp *prop)
{
    cudaError_t e = cudaSetDevice(c->ordinal);
    if (e == cudaSuccess) e = cudaGetDeviceProperties(prop, c->ordinal);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    for (int i = 0; i < 2 && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&c->staged[i], cudaEventDisableTiming);
    if (e == cudaSuccess)
        e = cudaHostAlloc((void **)&c->staging, STAGING_BYTES, cudaHostAllocPortable);
    size_t bytes = AP_CUDA_COUNTERS * sizeof *c->counter;
    if (e == cudaSuccess) e = cudaMalloc((void **)&c->counter, bytes);
    if (e == cudaSuccess) e = cudaMemsetAsync(c->counter, 0, bytes, c->stream);
    return e;
}

apus_err ap_device_cuda(int ordinal, int threads, ap_device **out, apus_diag *diag)
{
    cudaDeviceProp prop;
    int n = ap_cuda_count();
    if (ordinal < 0 || ordinal >= n)
        return ap_fail(diag, APUS_EINVAL,
                       "cuda:%d: this machine has %d CUDA device%s that the driver offers", ordinal,
                       n, n == 1 ? "" : "s");
    ap_cuda *c = (ap_cuda *)calloc(1, sizeof *c);
    if (!c) return ap_fail_nomem(diag, sizeof *c, "the device");
    c->ordinal = ordinal;
    cudaError_t e = set_up(c, &prop);
    apus_err err = APUS_OK;
    if (e != cudaSuccess)
        err = ap_fail(diag, APUS_EDEVICE, "cuda:%d could not be opened: %s", ordinal,
                      cudaGetErrorString(e));
    if (!err && prop.major < 8)
        err = ap_fail(diag, APUS_EUNSUPPORTED,
                      "cuda:%d %s: compute capability 8.0 or newer is needed, found %d.%d", ordinal,
                      prop.name, prop.major, prop.minor);
    if (!err) err = ap_pool_create(threads, &c->dev.pool, diag);
    if (!err) {
        c->sm = prop.multiProcessorCount;
        c->arch = prop.major * 10 + prop.minor;
        snprintf(c->name, sizeof c->name, "cuda:%d %s", ordinal, prop.name);
        c->dev.op = &ops;
        c->dev.kern = ap_kern_cuda();
        c->dev.is_host = false;
        c->dev.name = c->name;
        *out = &c->dev;
        return APUS_OK;
    }
    dev_destroy(&c->dev);
    return err;
}

static const ap_kern *table(void)
{
    static ap_kern k; /* the same whoever fills it first */
    k.name = "cuda";
    k.level = APUS_CPU_AUTO;
    k.pack_bytes = ap_cuda_pack_bytes;
    k.pack = ap_cuda_pack;
    k.pack_mat = ap_cuda_pack_mat;
    k.mat_rows = ap_cuda_mat_rows;
    k.packed_tables = true;
    k.embed = ap_cuda_embed;
    k.norm = ap_cuda_norm;
    k.layer_norm = ap_cuda_layer_norm;
    k.blend = ap_cuda_blend;
    k.matmul = ap_cuda_matmul;
    k.glu = ap_cuda_glu;
    k.route = ap_cuda_route;
    k.moe_scratch_bytes = ap_cuda_moe_scratch_bytes;
    k.moe = ap_cuda_moe;
    k.rope = ap_cuda_rope;
    k.qkv = ap_cuda_qkv;
    k.attn_scratch_bytes = ap_cuda_attn_scratch_bytes;
    k.attn_fast_dim = ap_cuda_attn_fast_dim;
    k.attn = ap_cuda_attn;
    k.attn_near = ap_cuda_attn_near;
    k.conv = ap_cuda_conv;
    k.delta_scratch_bytes = ap_cuda_delta_scratch_bytes;
    k.delta = ap_cuda_delta;
    k.commit = ap_cuda_commit;
    k.carry = ap_cuda_carry;
    k.elem = ap_cuda_elem;
    k.project = ap_cuda_project;
    k.mix = ap_cuda_mix;
    k.recur = ap_cuda_recur;
    k.attend = ap_cuda_attend;
    k.sample_scratch_bytes = ap_cuda_sample_scratch_bytes;
    k.sample = ap_cuda_sample;
    return &k;
}

const ap_kern *ap_kern_cuda(void)
{
    return table();
}
