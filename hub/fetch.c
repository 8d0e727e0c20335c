/* fetch.c - ranges side by side, written in order: what BLOB.incomplete holds is always a beginning of the
 * content, so that any program can go on from its length, and the hash is computed as it grows. */
#include "fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "digest.h"
#include "store.h"

enum { MAX_PARALLEL = 16, READ_BYTES = 1 << 20 };

typedef struct fetch fetch;

/* A range of the content that is on its way. The first of all writes to the file, the others wait in memory. */
typedef struct range {
    fetch *f;
    hub_request req;
    uint64_t from, to; /* of the content */
    uint64_t got;      /* bytes from `from` on */
    char *held;        /* those bytes; NULL: they are written */
    bool used, running, complete;
    bool direct;        /* sent to f->direct */
    int tries;          /* without a byte in between */
    int64_t not_before; /* ms */
} range;

struct fetch {
    const hub_fetch_job *job;
    apus_diag *why;
    hub_path partial;
    char direct[4096]; /* where the hub sent us for this file; "" = not known */
    int fd;
    hub_digest *digest;
    uint64_t written; /* bytes in the file, all of them hashed */
    uint64_t next;    /* where the next range begins */
    range *
        ranges; /* a ring in the order of the content; more than run at once, as the first may be slow */
    int n, head, used;
    bool parallel; /* the server does send ranges */
    bool broken;   /* with *why */
};

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static const char *file_name(const fetch *f)
{
    return f->job->file->name;
}

static bool broke(fetch *f)
{
    f->broken = true;
    return false;
}

/* ---------------------------------------------------------------- the file */

static bool put(fetch *f, const char *data, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t k = pwrite(f->fd, data + at, n - at, (off_t)(f->written + at));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) {
            hub_fail(f->why, "%s: %s%s", f->partial.s, strerror(errno),
                     errno == ENOSPC ? "; the same command goes on when there is room" : "");
            return broke(f);
        }
        at += (size_t)k;
    }
    if (!hub_digest_add(f->digest, data, n)) return hub_no_memory(f->why), broke(f);
    f->written += n;
    return true;
}

/* Hash what an earlier run left. */
static bool take_up(fetch *f)
{
    struct stat st;
    f->written = 0;
    if (!hub_digest_begin(f->digest)) return hub_no_memory(f->why);
    if (fstat(f->fd, &st)) return hub_fail(f->why, "%s: %s", f->partial.s, strerror(errno));
    if ((uint64_t)st.st_size > f->job->file->size && ftruncate(f->fd, 0))
        return hub_fail(f->why, "%s: %s", f->partial.s, strerror(errno));
    char *buf = malloc(READ_BYTES);
    if (!buf) return hub_no_memory(f->why);
    ssize_t k = 0;
    while (!hub_web_must_stop(f->job->web) &&
           (k = pread(f->fd, buf, READ_BYTES, (off_t)f->written)) > 0) {
        hub_digest_add(f->digest, buf, (size_t)k);
        f->written += (uint64_t)k;
        if (f->job->progress) f->job->progress(f->job->ctx, f->written);
    }
    free(buf);
    f->next = f->written;
    return k >= 0 || hub_fail(f->why, "%s: %s", f->partial.s, strerror(errno));
}

static bool open_partial(fetch *f)
{
    if (!hub_path_set(&f->partial, f->why, "%s.incomplete", f->job->blob)) return false;
    f->fd = open(f->partial.s, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    return f->fd >= 0 || hub_fail(f->why, "%s: %s", f->partial.s, strerror(errno));
}

/* ---------------------------------------------------------------- ranges */

static range *nth(fetch *f, int i)
{
    return &f->ranges[(f->head + i) % f->n];
}

static uint64_t in_memory(const fetch *f)
{
    uint64_t n = 0;
    for (int i = 0; i < f->n; i++)
        if (f->ranges[i].used && f->ranges[i].held) n += f->ranges[i].got;
    return n;
}

static bool refuse(hub_request *req, const char *fault)
{
    req->refused = true;
    snprintf(req->fault, sizeof req->fault, "%s", fault);
    return false;
}

static bool on_bytes(hub_request *req, const char *data, size_t n)
{
    range *r = req->ctx;
    fetch *f = r->f;
    if (req->whole && f->used > 1)
        return refuse(req, "parts of it came at first, and then the whole for a part");
    if (req->whole) r->to = f->next = f->job->file->size;
    r->tries = 0;
    if (n > r->to - r->from - r->got) return refuse(req, "more bytes came than were asked for");
    if (r->held)
        memcpy(r->held + r->got, data, n);
    else if (!put(f, data, n))
        return false;
    r->got += n;
    if (f->job->progress) f->job->progress(f->job->ctx, f->written + in_memory(f));
    return true;
}

static bool send_request(fetch *f, range *r)
{
    hub_request *q = &r->req;
    *q = (hub_request){
        .ranged = true, .from = r->from + r->got, .to = r->to, .body = on_bytes, .ctx = r};
    r->direct = *f->direct != 0;
    snprintf(q->url, sizeof q->url, "%s", r->direct ? f->direct : f->job->url);
    if (!hub_web_start(f->job->web, q, f->why)) return broke(f);
    r->running = true;
    return true;
}

/* A new range behind the others. */
static bool begin_range(fetch *f)
{
    range *r = nth(f, f->used);
    uint64_t size = f->job->file->size;
    *r = (range){.f = f, .used = true, .from = f->next};
    r->to = size - f->next > f->job->piece ? f->next + f->job->piece : size;
    if (f->used) {
        r->held = malloc((size_t)(r->to - r->from));
        if (!r->held) return hub_no_memory(f->why), broke(f);
    }
    f->next = r->to;
    f->used++;
    return send_request(f, r);
}

/* The first range is through: the next one writes what it holds, and goes on writing. */
static bool advance(fetch *f)
{
    while (f->used && nth(f, 0)->complete) {
        nth(f, 0)->used = false;
        f->head = (f->head + 1) % f->n;
        f->used--;
        range *r = nth(f, 0);
        if (!f->used) break;
        char *held = r->held;
        r->held = NULL;
        bool ok = put(f, held, (size_t)r->got);
        free(held);
        if (!ok) return false;
    }
    return true;
}

/* What the answer to a range says of the file must be what the list said. */
static bool fits_list(fetch *f, hub_request *q)
{
    uint64_t size = f->job->file->size;
    bool other =
        (q->total && q->total != size) || (q->whole && q->length_known && q->length != size);
    if (!other) return true;
    return hub_fail(f->why, "%s: %s: the hub lists %llu bytes and sends a file of %llu",
                    f->job->repo, file_name(f), (unsigned long long)size,
                    (unsigned long long)(q->whole ? q->length : q->total));
}

static bool ended(fetch *f, range *r)
{
    hub_request *q = &r->req;
    int wait;
    r->running = false;
    if (f->broken) return false;
    if (!fits_list(f, q)) return broke(f);
    if (!q->failed && r->got == r->to - r->from) {
        r->complete = true;
        return true;
    }
    if (!q->failed) { /* less than was asked for: as if the connection had been cut */
        q->status = 0;
        snprintf(q->fault, sizeof q->fault, "%llu bytes too few came",
                 (unsigned long long)(r->to - r->from - r->got));
    }
    /* Such addresses expire; the hub gives another one. */
    if (r->direct && q->status >= 400 && q->status < 500 && q->status != 429) {
        f->direct[0] = 0;
        f->parallel = false; /* until that one is known */
        q->status = 0;
    }
    if (!hub_web_must_stop(f->job->web) && hub_web_again(q, ++r->tries, &wait)) {
        r->not_before = now_ms() + (r->tries > 1 ? wait : 0);
        return true;
    }
    char what[600];
    snprintf(what, sizeof what, "%s: %s", f->job->repo, file_name(f));
    hub_web_explain(f->job->web, q, f->job->repo, what, f->why);
    return broke(f);
}

/* The first answer tells whether there can be others beside it, and where the bytes really are. */
static void learn(fetch *f, const hub_request *q)
{
    if (!q->begun || q->whole || !q->total) return;
    f->parallel = true;
    if (!q->hub && !*f->direct) strcpy(f->direct, q->url);
}

/* One look at all of them. */
static bool turn(fetch *f)
{
    int running = 0;
    hub_web_turn(f->job->web, 100);
    for (int i = 0; i < f->used; i++) {
        range *r = nth(f, i);
        if (r->running && !f->parallel) learn(f, &r->req);
        if (r->running && r->req.done && !ended(f, r)) return false;
        if (f->broken) return false;
        if (!r->running && !r->complete && now_ms() >= r->not_before && !send_request(f, r))
            return false;
        running += r->running;
    }
    if (!advance(f)) return false;
    int most = f->parallel ? f->n / 2 : 1;
    for (; running < most && f->used < f->n && f->next < f->job->file->size; running++)
        if (!begin_range(f)) return false;
    return true;
}

static void drop_ranges(fetch *f)
{
    for (int i = 0; i < f->n; i++) {
        hub_web_drop(f->job->web, &f->ranges[i].req);
        free(f->ranges[i].held);
        f->ranges[i] = (range){0};
    }
    f->head = f->used = 0;
}

static bool get_rest(fetch *f)
{
    uint64_t size = f->job->file->size;
    f->broken = f->parallel = false;
    bool ok = true;
    while (ok && f->written < size && !hub_web_must_stop(f->job->web)) ok = turn(f);
    if (f->written < size && hub_web_must_stop(f->job->web)) /* which ends requests, too */
        ok = hub_stopped(f->why, "%s: stopped at %.1f of %.1f MB of %s; the same command goes on",
                         f->job->repo, (double)f->written / 1e6, (double)size / 1e6, file_name(f));
    drop_ranges(f);
    return ok;
}

/* ---------------------------------------------------------------- whole and right */

static bool keep(fetch *f)
{
    if (fsync(f->fd) == 0 && rename(f->partial.s, f->job->blob) == 0) return true;
    return hub_fail(f->why, "%s: %s", f->job->blob, strerror(errno));
}

static bool get_right(fetch *f)
{
    for (int round = 0;; round++) {
        if (!take_up(f)) return false;
        bool resumed = f->written > 0;
        if (!get_rest(f)) return false;
        if (hub_digest_agrees(f->digest)) return keep(f);
        if (ftruncate(f->fd, 0)) return hub_fail(f->why, "%s: %s", f->partial.s, strerror(errno));
        if (!resumed || round) break;
        if (f->job->say)
            f->job->say(f->job->ctx, "what an earlier download left was damaged; once more");
    }
    unlink(f->partial.s);
    return hub_fail(f->why,
                    "%s: %s: what came has another checksum than the hub lists (%.12s...); it was "
                    "thrown away",
                    f->job->repo, file_name(f), f->job->file->etag);
}

bool hub_fetch(const hub_fetch_job *job, apus_diag *why)
{
    fetch f = {.job = job, .why = why, .fd = -1};
    f.n = 2 * (job->parallel < 1 ? 1 : job->parallel > MAX_PARALLEL ? MAX_PARALLEL : job->parallel);
    f.ranges = calloc((size_t)f.n, sizeof *f.ranges);
    f.digest = hub_digest_new(job->file->etag, job->file->size);
    bool ok = (f.ranges && f.digest) || hub_no_memory(why);
    ok = ok && open_partial(&f) && get_right(&f);
    if (f.fd >= 0) close(f.fd);
    hub_digest_free(f.digest);
    free(f.ranges);
    return ok;
}
