/* emulate.cc - blocks of a card on the processor: fibers, barriers, late copies. See cuda_runtime.h. */
#include "emulate.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#include <vector>

#include "cuda_runtime.h"

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

/* The dynamic part of shared memory, under every name that a kernel gives it. */
enum { ROOM = EMULATE_SHARED + 4096, GUARD = 256 };
extern thread_local uint8_t shared[];
alignas(1024) thread_local uint8_t shared[ROOM];
#define NAMED(type, name) extern thread_local type name[] __attribute__((alias("shared")))
NAMED(uint8_t, mem);
NAMED(float, f);
NAMED(float, rows);
NAMED(float, chosen);
NAMED(int32_t, count);

namespace
{

/* ------------------------------------------------------------------ fibers */

extern "C" void emulate_switch(void **from, void *to);
asm(R"(
.text
.globl emulate_switch
.type emulate_switch, @function
emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

enum { STACK = 64 * 1024, MOST_THREADS = 1024, NAMED_BARRIERS = 16 };

struct copy {
    void *to;
    const void *from;
    int bytes, of;
};

struct warp {
    int count, phase, kind;
    uint32_t words[2][32][EMULATE_WORDS];
};

struct fiber {
    void *stack_pointer;
    dim3 place;
    int lane;
    warp *w;
    const volatile int *on; /* blocked while *on == value; NULL: wants to run */
    int value;
    int cluster_phase; /* that it has arrived in */
    bool done;
    std::deque<std::vector<copy>> groups;
    std::vector<copy> open;
};

struct meeting { /* of threads of a block */
    int count, phase, yes, told[2][2];
};

struct bulk {
    uint32_t barrier;
    uint8_t *to;
    const void *from;
    uint32_t bytes;
};

/* A barrier that counts bytes, in its 8 bytes of shared memory. */
struct counter {
    uint32_t phase : 1, made : 1, arrivals : 15, pending : 15;
    int32_t bytes;
};
static_assert(sizeof(counter) == 8);

struct cluster {
    std::atomic<int> arrived{0};
    volatile int phase = 0;
    int threads = 0;
    uint8_t *shared[EMULATE_MOST_CLUSTER];
};

struct block {
    fiber *me;
    void *scheduler;
    std::vector<fiber> fibers;
    std::vector<warp> warps;
    std::vector<uint8_t> stacks;
    int threads, live;
    meeting all, some[NAMED_BARRIERS];
    std::vector<bulk> copies;
    cluster *group;
    long events; /* anything that lets somebody go on */
    const emulate_grid *grid;
};
thread_local block *here;

[[noreturn]] void fail(const char *what)
{
    const fiber *m = here ? here->me : NULL;
    fflush(stdout);
    fprintf(stderr, "emulated card: %s", what);
    if (here)
        fprintf(stderr, " (grid %u,%u,%u of %d threads; block %u,%u,%u, thread %d)", gridDim.x,
                gridDim.y, gridDim.z, here->threads, blockIdx.x, blockIdx.y, blockIdx.z,
                m ? (int)(m - here->fibers.data()) : -1);
    fputc('\n', stderr);
    abort();
}

void yield()
{
    fiber *m = here->me;
    emulate_switch(&m->stack_pointer, here->scheduler);
}

/* Until *p is another value than v. */
void wait_while(const volatile int *p, int v)
{
    fiber *m = here->me;
    m->on = p;
    m->value = v;
    while (*p == v) yield();
    m->on = NULL;
}

void meet(meeting *m, int threads)
{
    m->told[m->phase & 1][0] = m->yes;
    m->told[m->phase & 1][1] = threads;
    m->count = m->yes = 0;
    m->phase++;
    here->events++;
}

void fiber_main()
{
    block *b = here;
    (*b->grid->body)();
    fiber *m = b->me;
    if (!m->open.empty() || !m->groups.empty()) {
        for (auto &g : m->groups)
            if (!g.empty()) fail("a thread ended before its copies");
        if (!m->open.empty()) fail("copies were never committed");
    }
    m->done = true;
    b->live--;
    b->events++;
    if (b->live && b->all.count == b->live)
        meet(&b->all, b->live); /* who has ended, is waited for no more */
    for (;;) yield();
}

void make_fiber(block *b, int i)
{
    fiber &f = b->fibers[i];
    unsigned x = b->grid->block[0], y = b->grid->block[1];
    f = fiber();
    f.place = dim3(i % x, i / x % y, i / (x * y));
    f.lane = i % 32;
    f.w = &b->warps[i / 32];
    uintptr_t top = (uintptr_t)(b->stacks.data() + (size_t)(i + 1) * STACK) & ~(uintptr_t)15;
    uint64_t *sp = (uint64_t *)top;
    *--sp = 0;
    *--sp = (uint64_t)(uintptr_t)fiber_main;
    sp -= 6;
    f.stack_pointer = sp;
}

/* ------------------------------------------------------------------ a block */

thread_local uint32_t luck; /* the order in which warps take turns */

uint32_t draw(uint32_t n)
{
    luck = luck * 1664525u + 1013904223u;
    return (luck >> 8) % n;
}

/* A warp's lanes until all of them wait. Did any run? */
bool run_warp(block *b, int first, int n)
{
    bool any = false;
    for (bool moved = true; moved;) {
        long before = b->events;
        for (int i = first; i < first + n; i++) {
            fiber &f = b->fibers[i];
            if (f.done || (f.on && *f.on == f.value)) continue;
            any = true;
            b->me = &f;
            threadIdx = f.place;
            emulate_switch(&b->scheduler, f.stack_pointer);
        }
        moved = b->events != before;
    }
    return any;
}

void clear_shared(size_t bytes)
{
    memset(shared, 0xff, bytes);
    memset(shared + bytes, 0xa5, GUARD);
}

void check_guard(size_t bytes)
{
    for (int i = 0; i < GUARD; i++)
        if (shared[bytes + i] != 0xa5) fail("a write behind the end of shared memory");
}

void run_block(const emulate_grid &g, unsigned index, cluster *group)
{
    static thread_local block b;
    here = &b;
    b.grid = &g;
    b.me = NULL;
    b.threads = b.live = (int)(g.block[0] * g.block[1] * g.block[2]);
    b.group = group;
    b.all = meeting();
    for (auto &s : b.some) s = meeting();
    b.copies.clear();
    int warps = (b.threads + 31) / 32;
    b.warps.assign(warps, warp());
    if ((int)b.fibers.size() < b.threads) b.fibers.resize(b.threads);
    if (b.stacks.size() < (size_t)b.threads * STACK) b.stacks.resize((size_t)b.threads * STACK);
    gridDim = dim3(g.grid[0], g.grid[1], g.grid[2]);
    blockDim = dim3(g.block[0], g.block[1], g.block[2]);
    blockIdx =
        dim3(index % g.grid[0], index / g.grid[0] % g.grid[1], index / (g.grid[0] * g.grid[1]));
    clear_shared(g.shared);
    for (int i = 0; i < b.threads; i++) make_fiber(&b, i);
    for (long idle = 0; b.live;) {
        long before = b.events;
        int first = (int)draw((uint32_t)warps);
        for (int w = 0; w < warps; w++) {
            int at = (first + w) % warps * 32;
            run_warp(&b, at, std::min(32, b.threads - at));
        }
        idle = b.events == before ? idle + 1 : 0;
        if (idle > 8 && g.cluster > 1) sched_yield();
        if (idle > (g.cluster > 1 ? 20000000 : 64))
            fail("all threads wait, and for nothing that will come");
    }
    check_guard(g.shared);
    if (!b.copies.empty()) fail("a copy to shared memory that nobody waited for");
    here = NULL;
}

/* ------------------------------------------------------------------ a grid: threads of the processor */

struct team {
    pthread_barrier_t together;
    unsigned index;
    cluster group;
};

struct pool {
    std::mutex lock;
    std::condition_variable work, idle;
    std::vector<pthread_t> threads;
    std::vector<team> teams;
    const emulate_grid *grid;
    std::atomic<unsigned> next;
    unsigned clusters, stride, workers, left;
    long turn;
};
pool &P = *new pool; /* its threads wait for work until the program ends */

/* Cluster `i` in the order of this run. */
unsigned shuffled(unsigned i)
{
    return (unsigned)((uint64_t)i * P.stride % P.clusters);
}

void take_blocks(unsigned me)
{
    const emulate_grid &g = *P.grid;
    unsigned size = g.cluster, rank = me % size;
    team &t = P.teams[me / size];
    for (;;) {
        if (rank == 0) t.index = P.next++;
        if (size > 1) pthread_barrier_wait(&t.together);
        unsigned i = t.index;
        if (i >= P.clusters) break;
        t.group.shared[rank] = shared;
        if (rank == 0) t.group.threads = (int)(size * g.block[0] * g.block[1] * g.block[2]);
        if (size > 1) pthread_barrier_wait(&t.together);
        run_block(g, shuffled(i) * size + rank, &t.group);
        if (size > 1)
            pthread_barrier_wait(&t.together); /* nobody's memory goes before all have ended */
    }
}

void *worker(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;
    long seen = 0;
    const char *seed = getenv("EMULATE_SEED");
    luck = me + (unsigned)(seed ? atoi(seed) : 1);
    for (;;) {
        std::unique_lock<std::mutex> hold(P.lock);
        P.work.wait(hold, [&] { return P.turn != seen; });
        seen = P.turn;
        bool mine = me < P.workers;
        hold.unlock();
        if (!mine) continue;
        take_blocks(me);
        hold.lock();
        if (--P.left == 0) P.idle.notify_all();
    }
    return NULL;
}

void start_threads()
{
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 8 << 20); /* thread_local variables lie there */
    unsigned n = std::max(EMULATE_MOST_CLUSTER * 1u, (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
    P.teams = std::vector<team>(n);
    P.threads.resize(n);
    for (unsigned i = 0; i < n; i++)
        if (pthread_create(&P.threads[i], &a, worker, (void *)(uintptr_t)i)) fail("no thread");
    pthread_attr_destroy(&a);
}

unsigned coprime(unsigned n)
{
    unsigned s = n > 2 ? n * 5 / 8 | 1 : 1;
    while (std::__gcd(s, n) != 1) s++;
    return s;
}

} // namespace

void emulate_run(const emulate_grid &g)
{
    unsigned threads = g.block[0] * g.block[1] * g.block[2],
             blocks = g.grid[0] * g.grid[1] * g.grid[2];
    if (threads > MOST_THREADS || threads == 0 || g.grid[1] > 65535 || g.grid[2] > 65535)
        fail("a grid that no card runs");
    if (g.shared > EMULATE_SHARED) fail("more shared memory than a block has");
    if (g.cluster > EMULATE_MOST_CLUSTER || g.grid[0] % g.cluster)
        fail("a grid that is not whole clusters");
    static std::mutex one; /* several devices of a process take turns */
    std::lock_guard<std::mutex> turn(one);
    if (P.threads.empty()) start_threads();
    unsigned n = (unsigned)P.threads.size(), cores = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    std::unique_lock<std::mutex> hold(P.lock);
    P.grid = &g;
    P.clusters = blocks / g.cluster;
    P.stride = coprime(P.clusters);
    P.next = 0;
    unsigned teams = std::max(1u, std::min(P.clusters, g.cluster > 1 ? n / g.cluster : cores));
    P.workers = P.left = teams * g.cluster;
    if (g.cluster > 1)
        for (unsigned i = 0; i < teams; i++)
            pthread_barrier_init(&P.teams[i].together, NULL, g.cluster);
    P.turn++;
    P.work.notify_all();
    P.idle.wait(hold, [] { return P.left == 0; });
    if (g.cluster > 1)
        for (unsigned i = 0; i < teams; i++) pthread_barrier_destroy(&P.teams[i].together);
}

/* ------------------------------------------------------------------ together */

int emulate_lane()
{
    return here->me->lane;
}

const uint32_t (*emulate_exchange(const uint32_t *v, int words, int kind))[EMULATE_WORDS]
{
    warp *w = here->me->w;
    int phase = w->phase, b = phase & 1;
    memcpy(w->words[b][here->me->lane], v, (size_t)words * 4);
    if (w->count && w->kind != kind) fail("lanes of a warp are at different operations");
    w->kind = kind;
    if (++w->count == 32) {
        w->count = 0;
        w->phase++;
        here->events++;
    } else {
        wait_while(&w->phase, phase);
    }
    return w->words[b];
}

emulate_votes emulate_sync_count(bool yes)
{
    meeting *m = &here->all;
    int phase = m->phase;
    m->yes += yes;
    if (++m->count == here->live)
        meet(m, here->live);
    else
        wait_while(&m->phase, phase);
    return {m->told[phase & 1][0], m->told[phase & 1][1]};
}

void emulate_sync_block()
{
    emulate_sync_count(false);
}

void emulate_sync_some(int number, int threads)
{
    meeting *m = &here->some[number];
    int phase = m->phase;
    if (++m->count == threads)
        meet(m, threads);
    else
        wait_while(&m->phase, phase);
}

void emulate_cluster_arrive()
{
    cluster *g = here->group;
    int phase = here->me->cluster_phase = g->phase;
    here->events++;
    if (++g->arrived == g->threads) {
        g->arrived = 0;
        __atomic_store_n(&g->phase, phase + 1, __ATOMIC_SEQ_CST);
    }
}

void emulate_cluster_wait()
{
    wait_while(&here->group->phase, here->me->cluster_phase);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ------------------------------------------------------------------ shared memory */

uint32_t emulate_address(const void *p)
{
    return (uint32_t)((const uint8_t *)p - shared);
}

void *emulate_pointer(uint32_t address)
{
    return shared + (int32_t)address;
}

void *emulate_pointer_in(const void *p, int rank)
{
    if (rank < 0 || (unsigned)rank >= here->grid->cluster) fail("a block outside of the cluster");
    return here->group->shared[rank] + ((const uint8_t *)p - shared);
}

/* ------------------------------------------------------------------ late copies */

void emulate_copy(void *to, const void *from, int bytes, int of)
{
    if ((uintptr_t)to % (unsigned)of || (uintptr_t)from % (unsigned)of || bytes < 0 || bytes > of)
        fail("a copy of addresses that it does not take");
    memset(to, 0xff, (size_t)of);
    here->me->open.push_back({to, from, bytes, of});
}

void emulate_copies_commit()
{
    fiber *m = here->me;
    m->groups.push_back(std::move(m->open));
    m->open.clear();
}

void emulate_copies_wait(int left)
{
    fiber *m = here->me;
    while ((int)m->groups.size() > left) {
        for (const copy &c : m->groups.front()) {
            memset(c.to, 0, (size_t)c.of);
            memcpy(c.to, c.from, (size_t)c.bytes);
        }
        m->groups.pop_front();
    }
}

static counter *counter_at(uint32_t at)
{
    counter *c = (counter *)emulate_pointer(at);
    if (at % 8) fail("a barrier whose address is not a multiple of 8");
    return c;
}

static void count_down(counter *c)
{
    if (c->pending || c->bytes) return;
    c->phase ^= 1;
    c->pending = c->arrivals;
    here->events++;
}

void emulate_barrier_make(uint32_t at, int arrivals)
{
    counter *c = counter_at(at);
    memset((void *)c, 0, sizeof *c);
    c->made = 1;
    c->arrivals = c->pending = (uint32_t)arrivals & 0x7fff;
}

void emulate_barrier_arrive(uint32_t at, uint32_t expected)
{
    counter *c = counter_at(at);
    if (!c->made || !c->pending) fail("one arrival too many at a barrier");
    c->bytes += (int32_t)expected;
    c->pending--;
    count_down(c);
}

static void finish_copies(uint32_t barrier)
{
    std::vector<bulk> &all = here->copies;
    for (size_t i = 0; i < all.size();) {
        bulk b = all[i];
        if (b.barrier != barrier) {
            i++;
            continue;
        }
        all.erase(all.begin() + (ptrdiff_t)i);
        memcpy(b.to, b.from, b.bytes);
        counter *c = counter_at(barrier);
        c->bytes -= (int32_t)b.bytes;
        count_down(c);
    }
}

void emulate_barrier_wait(uint32_t at, uint32_t parity)
{
    counter *c = counter_at(at);
    if (!c->made) fail("a wait at a barrier that was not made");
    for (int turns = 0; c->phase == parity; turns++) {
        if (turns > 1) finish_copies(at);
        if (c->phase == parity) yield();
    }
}

void emulate_copy_bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
    uint8_t *p = (uint8_t *)emulate_pointer(to);
    if (!bytes || bytes % 16 || (uintptr_t)p % 16 || (uintptr_t)from % 16)
        fail("a bulk copy of addresses or a size that it does not take");
    if (p < shared || p + bytes > shared + here->grid->shared)
        fail("a bulk copy outside of shared memory");
    for (const bulk &b : here->copies)
        if (p < b.to + b.bytes && b.to < p + bytes) fail("two copies to the same place");
    memset(p, 0xff, bytes);
    here->copies.push_back({barrier, p, from, bytes});
}
