/* runtime.cc - stands for the library of the toolkit: memory, a stream that does everything at once, recorded graphs. */
#include <cerrno>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "cuda_runtime.h"

/* ------------------------------------------------------------------ the card */

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int n)
{
    return n == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    const char *sm = getenv("EMULATE_MULTIPROCESSORS");
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated");
    p->major = EMULATE_ARCH / 10;
    p->minor = EMULATE_ARCH % 10;
    p->multiProcessorCount = sm ? atoi(sm) : 132;
    return cudaSuccess;
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess                 ? "no error"
           : e == cudaErrorMemoryAllocation ? "out of memory"
                                            : "error";
}

/* ------------------------------------------------------------------ memory */

static std::mutex lock;
static std::map<void *, std::pair<void *, size_t>> mapped;

/* Its end, rounded to 256 bytes, is followed by a page without access. */
cudaError_t cudaMalloc(void **p, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (bytes + 255) / 256 * 256;
    size_t size = (room + page - 1) / page * page + page;
    uint8_t *at = (uint8_t *)mmap(NULL, size, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at + size - page, page, PROT_NONE))
        return cudaErrorMemoryAllocation;
    *p = at + size - page - room;
    memset(*p, 0xff, room);
    std::lock_guard<std::mutex> hold(lock);
    mapped[*p] = {at, size};
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    std::lock_guard<std::mutex> hold(lock);
    auto it = mapped.find(p);
    if (it == mapped.end()) return cudaErrorInvalidValue;
    munmap(it->second.first, it->second.second);
    mapped.erase(it);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    return posix_memalign(p, 4096, bytes ? bytes : 1) ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *have, size_t *all)
{
    *have = *all = (size_t)8 << 30;
    return cudaSuccess;
}

/* ------------------------------------------------------------------ streams and graphs */

struct emulate_graph {
    std::vector<std::function<void()>> nodes;
};
struct emulate_stream {
    emulate_graph *recording;
};
struct emulate_event {
    int unused;
};

/* Now, or when the graph is launched. */
static cudaError_t enqueue(cudaStream_t s, std::function<void()> what)
{
    if (s && s->recording)
        s->recording->nodes.push_back(std::move(what));
    else
        what();
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int, cudaStream_t s)
{
    return enqueue(s, [=] { memcpy(to, from, bytes); });
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    return enqueue(s, [=] { memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    *s = new emulate_stream();
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    return s && s->recording ? cudaErrorNotSupported : cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, int)
{
    if (s->recording) return cudaErrorNotSupported;
    s->recording = new emulate_graph();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    *g = s->recording;
    s->recording = NULL;
    return *g ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long)
{
    *e = new emulate_graph(*g);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    if (s->recording) return cudaErrorNotSupported;
    for (auto &node : e->nodes) node();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new emulate_event();
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t)
{
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

/* ------------------------------------------------------------------ kernels */

static std::map<const void *, size_t> allowed; /* dynamic shared memory that was asked for */

cudaError_t cudaFuncSetAttribute(const void *kernel, int attribute, int value)
{
    std::lock_guard<std::mutex> hold(lock);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > EMULATE_SHARED) return cudaErrorInvalidValue;
    allowed[kernel] = (size_t)value;
    return cudaSuccess;
}

cudaError_t emulate_launch(const cudaLaunchConfig_t *c, const void *kernel,
                           std::function<void()> body)
{
    emulate_grid g = {{c->gridDim.x, c->gridDim.y, c->gridDim.z},
                      {c->blockDim.x, c->blockDim.y, c->blockDim.z},
                      1,
                      c->dynamicSmemBytes,
                      kernel,
                      NULL};
    for (int i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeClusterDimension)
            g.cluster = c->attrs[i].val.clusterDim.x;
    {
        std::lock_guard<std::mutex> hold(lock);
        auto it = allowed.find(kernel);
        if (g.shared > 48 * 1024 && (it == allowed.end() || it->second < g.shared))
            return cudaErrorInvalidValue;
    }
    return enqueue(c->stream, [g, body]() mutable {
        g.body = &body;
        emulate_run(g);
    });
}
