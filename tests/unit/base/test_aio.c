/* Reads under way at once: contents, the end of a file, errors, by io_uring and by threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/aio.h"
#include "base/rng.h"

enum { BLOCKS = 300, TAIL = 1234, DEPTH = 8, READS = 500 };

typedef struct fixture {
    char path[64];
    uint8_t *bytes; /* [size] of the file */
    size_t size;
    ap_read_file file;
    ap_aio *aio; /* NULL: not in this build or kernel */
} fixture;

static int open_kind(void **state, ap_aio_kind kind)
{
    fixture *f = calloc(1, sizeof *f);
    ap_rng rng;
    apus_diag d;
    *state = f;
    ap_rng_seed(&rng, 7);
    f->size = (size_t)BLOCKS * AP_IO_ALIGN + TAIL;
    f->bytes = malloc(f->size);
    for (size_t i = 0; i < f->size; i++) f->bytes[i] = (uint8_t)(ap_rng_next(&rng) >> 56);
    snprintf(f->path, sizeof f->path, "aio_test_XXXXXX"); /* not /tmp, which may be in memory */
    int fd = mkstemp(f->path);
    if (fd < 0 || write(fd, f->bytes, f->size) != (ssize_t)f->size || close(fd)) return -1;
    if (ap_read_file_open(f->path, &f->file, &d)) return -1;
    apus_err err = ap_aio_create(kind, DEPTH, &f->aio, &d);
    return err && err != APUS_EUNSUPPORTED ? -1 : 0;
}

static int open_uring(void **state)
{
    return open_kind(state, AP_AIO_URING);
}

static int open_threads(void **state)
{
    return open_kind(state, AP_AIO_THREADS);
}

static int shut(void **state)
{
    fixture *f = *state;
    ap_aio_free(f->aio);
    ap_read_file_close(&f->file);
    remove(f->path);
    free(f->bytes);
    free(f);
    return 0;
}

#define SKIP_WITHOUT_AIO(f)                                                                        \
    if (!(f)->aio) skip()

/* Many reads of random places into a few buffers, as many at once as there is room for. */
static void test_contents(void **state)
{
    fixture *f = *state;
    SKIP_WITHOUT_AIO(f);
    enum { MOST = 20 };
    uint8_t *mem = aligned_alloc(AP_IO_ALIGN, (size_t)DEPTH * MOST * AP_IO_ALIGN);
    ap_read read[DEPTH] = {{0}};
    ap_rng rng;
    int begun = 0, ended = 0;
    ap_rng_seed(&rng, 3);
    ap_aio_register(f->aio, mem, (size_t)DEPTH * MOST * AP_IO_ALIGN, MOST * AP_IO_ALIGN);
    bool busy[DEPTH] = {false};
    while (ended < READS) {
        for (int i = 0; i < DEPTH && begun < READS && ap_aio_room(f->aio); i++) {
            if (busy[i]) continue;
            size_t at = ap_rng_next(&rng) % BLOCKS, n = 1 + ap_rng_next(&rng) % MOST;
            read[i] = (ap_read){.file = &f->file,
                                .offset = at * AP_IO_ALIGN,
                                .to = mem + (size_t)i * MOST * AP_IO_ALIGN,
                                .bytes = n * AP_IO_ALIGN,
                                .tag = (uint64_t)i};
            memset(read[i].to, 0xee, read[i].bytes);
            busy[i] = true;
            ap_aio_begin(f->aio, &read[i]);
            begun++;
        }
        ap_read_done done[3];
        int n = ap_aio_collect(f->aio, done, 3, true);
        assert_true(n > 0);
        for (int i = 0; i < n; i++) {
            const ap_read *r = &read[done[i].tag];
            size_t left = f->size - r->offset, want = left < r->bytes ? left : r->bytes;
            assert_true(busy[done[i].tag]);
            assert_int_equal(done[i].error, 0);
            assert_int_equal(done[i].got, want);
            assert_memory_equal(r->to, f->bytes + r->offset, want);
            busy[done[i].tag] = false;
            ended++;
        }
    }
    ap_read_done none;
    assert_int_equal(ap_aio_collect(f->aio, &none, 1, true), 0);
    free(mem);
}

/* Behind the end nothing is read; of a file that cannot be read there is an error, and the next read is well. */
static void test_end_and_errors(void **state)
{
    fixture *f = *state;
    SKIP_WITHOUT_AIO(f);
    uint8_t *mem = aligned_alloc(AP_IO_ALIGN, 4 * AP_IO_ALIGN);
    ap_read_file bad = {.fd = 9999};
    ap_read r = {
        .file = &f->file, .offset = (BLOCKS + 5) * AP_IO_ALIGN, .to = mem, .bytes = AP_IO_ALIGN};
    ap_read_done d;
    ap_aio_begin(f->aio, &r);
    assert_int_equal(ap_aio_collect(f->aio, &d, 1, true), 1);
    assert_int_equal(d.error, 0);
    assert_int_equal(d.got, 0);
    r.file = &bad;
    r.offset = 0;
    ap_aio_begin(f->aio, &r);
    assert_int_equal(ap_aio_collect(f->aio, &d, 1, true), 1);
    assert_int_equal(d.error, EBADF);
    r.file = &f->file;
    ap_aio_begin(f->aio, &r);
    assert_int_equal(ap_aio_collect(f->aio, &d, 1, true), 1);
    assert_int_equal(d.error, 0);
    assert_memory_equal(mem, f->bytes, AP_IO_ALIGN);
    free(mem);
}

/* Freed while reads are under way: they end first. */
static void test_free_waits(void **state)
{
    fixture *f = *state;
    SKIP_WITHOUT_AIO(f);
    uint8_t *mem = aligned_alloc(AP_IO_ALIGN, (size_t)DEPTH * 64 * AP_IO_ALIGN);
    for (size_t i = 0; i < DEPTH; i++)
        ap_aio_begin(f->aio, &(ap_read){.file = &f->file,
                                        .to = mem + i * 64 * AP_IO_ALIGN,
                                        .bytes = 64 * AP_IO_ALIGN});
    ap_aio_free(f->aio);
    f->aio = NULL;
    for (size_t i = 0; i < DEPTH; i++)
        assert_memory_equal(mem + i * 64 * AP_IO_ALIGN, f->bytes, 64 * AP_IO_ALIGN);
    free(mem);
}

static void test_missing_file(void **state)
{
    (void)state;
    ap_read_file f = {.fd = -1};
    apus_diag d;
    assert_int_equal(ap_read_file_open("no/such/file", &f, &d), APUS_EFILE);
    assert_non_null(strstr(d.text, "no/such/file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_contents, open_uring, shut),
        cmocka_unit_test_setup_teardown(test_contents, open_threads, shut),
        cmocka_unit_test_setup_teardown(test_end_and_errors, open_uring, shut),
        cmocka_unit_test_setup_teardown(test_end_and_errors, open_threads, shut),
        cmocka_unit_test_setup_teardown(test_free_waits, open_uring, shut),
        cmocka_unit_test_setup_teardown(test_free_waits, open_threads, shut),
        cmocka_unit_test(test_missing_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
