/* Experts from files: what arrives, in slots of any number; and reads that fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "state/expert_store.h"

enum { LAYERS = 3, EXPERTS = 8, H = 256, F = 160, BYTES = LAYERS * EXPERTS * 3 * H * F * 2 };

typedef struct fixture {
    char path[64];
    const char *paths[1];
    uint8_t *file;                         /* [BYTES] as it is on the disk, which views point to */
    ap_expert_view view[LAYERS * EXPERTS]; /* layer 1 has none */
    ap_device *dev;
    ap_exec ex;
    ap_expert_store *store;
} fixture;

static bool where(const void *ctx, const void *p, size_t n, size_t *file, uint64_t *offset)
{
    const fixture *f = ctx;
    const uint8_t *at = p;
    if (at < f->file || at + n > f->file + BYTES) return false;
    *file = 0;
    *offset = (uint64_t)(at - f->file);
    return true;
}

static ap_tensor matrix(const uint8_t **at, int rows, int cols)
{
    ap_tensor t = {.data = *at, .dtype = AP_BF16, .rank = 2, .shape = {rows, cols}};
    *at += ap_tensor_bytes(&t);
    return t;
}

static void write_file(fixture *f, size_t bytes)
{
    FILE *out = fopen(f->path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(f->file, 1, bytes, out), bytes);
    fclose(out);
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    ap_rng rng;
    apus_diag d;
    *state = f;
    ap_rng_seed(&rng, 11);
    f->file = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i += 2) { /* bf16 between 1 and 2 */
        uint16_t v = (uint16_t)(0x3f80 | (ap_rng_next(&rng) & 0x7f));
        memcpy(f->file + i, &v, 2);
    }
    const uint8_t *at = f->file;
    for (int i = 0; i < LAYERS * EXPERTS; i++) {
        if (i / EXPERTS == 1) continue;
        f->view[i].gate = matrix(&at, F, H);
        f->view[i].up = matrix(&at, F, H);
        f->view[i].down = matrix(&at, H, F);
    }
    snprintf(f->path, sizeof f->path, "experts_test_XXXXXX");
    int fd = mkstemp(f->path);
    if (fd < 0) return -1;
    close(fd);
    f->paths[0] = f->path;
    write_file(f, BYTES);
    if (ap_device_cpu(APUS_CPU_REF, 2, &f->dev, &d)) return -1;
    f->ex = (ap_exec){.k = f->dev->kern, .dev = f->dev};
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    ap_expert_store_free(f->store);
    f->dev->op->destroy(f->dev);
    remove(f->path);
    free(f->file);
    free(f);
    return 0;
}

static void open_store(fixture *f, int slots, ap_aio_kind io)
{
    apus_diag d;
    ap_expert_spec spec = {.n_layer = LAYERS,
                           .n_expert = EXPERTS,
                           .view = f->view,
                           .dev = f->dev,
                           .path = f->paths,
                           .n_file = 1,
                           .where = where,
                           .ctx = f,
                           .io = io,
                           .n_slot = slots};
    ap_expert_store_free(f->store);
    f->store = NULL;
    apus_err err = ap_expert_store_create(&spec, &f->store, &d);
    if (err) fail_msg("%s", d.text);
}

static void check_mat(const fixture *f, const ap_tensor *t, const ap_mat *m)
{
    size_t bytes = f->dev->kern->pack_bytes(f->dev->kern, t);
    uint8_t *want = aligned_alloc(64, (bytes + 63) / 64 * 64);
    f->dev->kern->pack(f->dev->kern, t, want);
    assert_int_equal(m->rows, t->shape[0]);
    assert_int_equal(m->cols, t->shape[1]);
    assert_memory_equal(m->data, want, bytes);
    free(want);
}

static void check_expert(const fixture *f, int layer, int id, const ap_expert *e)
{
    const ap_expert_view *v = &f->view[layer * EXPERTS + id];
    check_mat(f, &v->gate, &e->gate);
    check_mat(f, &v->up, &e->up);
    check_mat(f, &v->down, &e->down);
}

/* A layer asks for experts, looks at every wave whole, and says done. */
static apus_err ask(fixture *f, int layer, const int32_t *ids, int n, apus_diag *d)
{
    ap_expert_source *s = ap_expert_store_source(f->store);
    bool had[EXPERTS] = {false};
    ap_wave w;
    int given = 0;
    s->op->want(s, layer, ids, n);
    apus_err err = s->op->get(s, &f->ex, &w, d);
    while (!err && w.n) {
        for (int i = 0; i < w.n; i++) {
            assert_false(had[w.id[i]]);
            had[w.id[i]] = true;
            check_expert(f, layer, w.id[i], &w.expert[i]);
        }
        given += w.n;
        err = s->op->get(s, &f->ex, &w, d);
    }
    s->op->done(s);
    if (!err) assert_int_equal(given, n);
    for (int i = 0; i < n && !err; i++) assert_true(had[ids[i]]);
    return err;
}

static int choose(ap_rng *rng, int32_t *ids)
{
    int n = 0;
    for (int e = 0; e < EXPERTS; e++)
        if (ap_rng_next(rng) % 2) ids[n++] = e;
    return n;
}

static void experts_arrive(void **state)
{
    fixture *f = *state;
    static const int slots[] = {1, 2, 5, 16, 99};
    ap_rng rng;
    apus_diag d;
    ap_rng_seed(&rng, 2);
    for (int i = 0; i < 10; i++) {
        open_store(f, slots[i / 2], i % 2 ? AP_AIO_THREADS : AP_AIO_BEST);
        uint64_t wanted = 0;
        for (int step = 0; step < 30; step++)
            for (int l = 0; l < LAYERS; l += 2) {
                int32_t ids[EXPERTS];
                int n = choose(&rng, ids);
                wanted += (uint64_t)n;
                assert_int_equal(ask(f, l, ids, n, &d), APUS_OK);
            }
        ap_expert_counts c = ap_expert_store_counts(f->store);
        assert_int_equal(c.hits + c.misses, wanted);
        assert_true(c.bytes >= c.misses * 3 * H * F * 2);
        if (slots[i / 2] >= 16) assert_true(c.misses <= 16); /* each once */
    }
}

/* A layer that wants nearly all of its experts has the next one's begun: they count as its misses, and none is read
 * twice. */
static void read_ahead(void **state)
{
    fixture *f = *state;
    apus_diag d;
    const int32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int i = 0; i < 8; i++) {
        int slots = i / 2 == 0 ? 3 : i / 2 == 1 ? 6 : i / 2 == 2 ? 12 : 40;
        open_store(f, slots, i % 2 ? AP_AIO_THREADS : AP_AIO_BEST);
        for (int step = 1; step <= 3; step++) {
            assert_int_equal(ask(f, 0, all, step == 2 ? 7 : 8, &d), APUS_OK);
            assert_int_equal(ask(f, 2, all, 8, &d), APUS_OK);
        }
        ap_expert_counts c = ap_expert_store_counts(f->store);
        uint64_t most = (uint64_t)(slots / 4 < EXPERTS ? slots / 4 : EXPERTS);
        assert_int_equal(c.hits + c.misses, 47);
        assert_int_equal(c.ahead_used, c.ahead);
        assert_true(c.ahead <= 3 * most && (c.ahead > 0) == (most > 0));
        if (slots == 40) assert_true(c.misses == 16 && c.ahead == EXPERTS);
    }
}

/* The layer before said what this one will choose: right ones are there, wrong ones cost a read and nothing else. */
static apus_err ask_after_guess(fixture *f, const int32_t *guess, const int32_t *ids, int n)
{
    ap_expert_source *s = ap_expert_store_source(f->store);
    apus_diag d;
    ap_wave w;
    s->op->want(s, 0, (const int32_t[]){0}, 1);
    if (s->op->next(s) == 2) s->op->guess(s, guess, n);
    do {
        assert_int_equal(s->op->get(s, &f->ex, &w, &d), APUS_OK);
    } while (w.n);
    s->op->done(s);
    return ask(f, 2, ids, n, &d);
}

static void guesses(void **state)
{
    fixture *f = *state;
    const int32_t even[] = {0, 2, 4, 6}, odd[] = {1, 3, 5, 7};
    open_store(f, 6, AP_AIO_BEST);
    assert_int_equal(ask_after_guess(f, even, even, 4), APUS_OK);
    ap_expert_counts c = ap_expert_store_counts(f->store);
    assert_int_equal(c.ahead, 1); /* of the slots a quarter at most */
    assert_int_equal(c.ahead_used, 1);
    assert_int_equal(c.misses, 5);
    /* those that never come true are given up after a while */
    uint64_t before = 0;
    for (int i = 0; i < 400; i++) {
        if (i == 200) before = ap_expert_store_counts(f->store).ahead;
        assert_int_equal(ask_after_guess(f, odd, even, 4), APUS_OK);
    }
    c = ap_expert_store_counts(f->store);
    assert_true(c.ahead_used == 1 && c.ahead > 20);
    assert_int_equal(c.ahead, before);
}

/* What was read ahead from a file that was cut in between is no error of who did not ask for it. */
static void ahead_of_a_cut(void **state)
{
    fixture *f = *state;
    apus_diag d;
    const int32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int i = 0; i < 4; i++) {
        write_file(f, BYTES);
        open_store(f, 4 + 10 * (i / 2), i % 2 ? AP_AIO_THREADS : AP_AIO_BEST);
        assert_int_equal(truncate(f->path, EXPERTS * 3 * H * F * 2), 0); /* layer 2 is gone */
        assert_int_equal(ask(f, 0, all, 8, &d), APUS_OK);
        assert_int_equal(ask(f, 0, all, 8, &d), APUS_OK);
        assert_int_equal(ask(f, 2, all, 8, &d), APUS_EFILE);
        assert_non_null(strstr(d.text, "of layer 2"));
        assert_int_equal(ask(f, 0, all, 8, &d), APUS_OK);
        write_file(f, BYTES);
        assert_int_equal(ask(f, 2, all, 8, &d), APUS_OK);
    }
}

/* A list of what is in memory brings it back into another store, the most used first. */
static void recall(void **state)
{
    fixture *f = *state;
    apus_diag d;
    ap_expert_use use[20] = {{0}};
    open_store(f, 9, AP_AIO_BEST);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ask(f, 2, (const int32_t[]){1, 3}, 2, &d), APUS_OK);
    assert_int_equal(ask(f, 0, (const int32_t[]){0, 5}, 2, &d), APUS_OK);
    assert_int_equal(ap_expert_store_list(f->store, use), 4);
    assert_true(use[0].layer == 0 && use[0].expert == 0 && use[0].uses == 1);
    assert_true(use[2].layer == 2 && use[2].expert == 1 && use[2].uses > 2);
    use[4] = use[0];                   /* twice */
    use[5] = (ap_expert_use){1, 0, 1}; /* a layer without experts, and what there is not */
    use[6] = (ap_expert_use){-1, 0, 1};
    use[7] = (ap_expert_use){0, EXPERTS, 1};
    for (int slots = 2; slots < 8; slots += 4) {
        open_store(f, slots, AP_AIO_THREADS);
        ap_expert_store_recall(f->store, use, 8, NULL, NULL);
        assert_int_equal(ask(f, 2, (const int32_t[]){1, 3}, 2, &d), APUS_OK);
        assert_int_equal(ask(f, 0, (const int32_t[]){0, 5}, 2, &d), APUS_OK);
        ap_expert_counts c = ap_expert_store_counts(f->store);
        assert_true(slots == 2 ? c.misses > 0 : c.misses == 0 && c.hits == 4);
    }
    assert_int_equal(truncate(f->path, 0), 0); /* left out; nothing else happens */
    open_store(f, 6, AP_AIO_BEST);
    ap_expert_store_recall(f->store, use, 8, NULL, NULL);
    assert_int_equal(ap_expert_store_list(f->store, use), 0);
    write_file(f, BYTES);
    assert_int_equal(ask(f, 2, (const int32_t[]){1, 3}, 2, &d), APUS_OK);
}

/* What lies in no file is taken from memory. */
static void parts_in_memory(void **state)
{
    fixture *f = *state;
    apus_diag d;
    uint8_t *copy = malloc(H * F * 2);
    memcpy(copy, f->view[5].up.data, H * F * 2);
    f->view[5].up.data = copy;
    open_store(f, 3, AP_AIO_BEST);
    assert_int_equal(ask(f, 0, (const int32_t[]){4, 5, 6}, 3, &d), APUS_OK);
    free(copy);
}

/* A file that was cut: the ask fails with file and place, and nothing else does, neither before nor after. */
static void a_cut_file(void **state)
{
    fixture *f = *state;
    apus_diag d;
    const int32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int i = 0; i < 6; i++) {
        write_file(f, BYTES);
        open_store(f, i < 2 ? 1 : i < 4 ? 4 : 20, i % 2 ? AP_AIO_THREADS : AP_AIO_BEST);
        assert_int_equal(ask(f, 2, all, 8, &d), APUS_OK);
        assert_int_equal(ask(f, 0, all, 3, &d), APUS_OK);
        size_t expert = 3 * H * F * 2, keep = (EXPERTS + 5) * expert + 1000; /* of layer 2: five */
        assert_int_equal(truncate(f->path, (off_t)keep), 0);
        apus_err err = ask(f, 2, all, 8, &d);
        if (i < 4) {
            assert_int_equal(err, APUS_EFILE);
            assert_non_null(strstr(d.text, f->path));
            assert_non_null(strstr(d.text, "of layer 2"));
        } else {
            assert_int_equal(err, APUS_OK); /* all of them were in memory */
        }
        assert_int_equal(ask(f, 2, all, 5, &d), APUS_OK);
        assert_int_equal(ask(f, 0, all, 8, &d), APUS_OK);
        write_file(f, BYTES);
        assert_int_equal(ask(f, 2, all, 8, &d), APUS_OK);
    }
}

/* Given up half-way, as when an engine is cancelled. */
static void given_up(void **state)
{
    fixture *f = *state;
    apus_diag d;
    const int32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7};
    ap_wave w;
    for (int slots = 1; slots < 12; slots += 3)
        for (int gets = 0; gets < 3; gets++) {
            open_store(f, slots, AP_AIO_BEST);
            assert_int_equal(ask(f, 0, all, 4, &d), APUS_OK);
            ap_expert_source *s = ap_expert_store_source(f->store);
            s->op->want(s, 0, all, 8);
            for (int i = 0; i < gets; i++) assert_int_equal(s->op->get(s, &f->ex, &w, &d), APUS_OK);
            s->op->done(s);
            assert_int_equal(ask(f, 0, all, 8, &d), APUS_OK);
            assert_int_equal(ask(f, 2, all, 8, &d), APUS_OK);
        }
}

static void a_missing_file(void **state)
{
    fixture *f = *state;
    apus_diag d;
    remove(f->path);
    ap_expert_spec spec = {.n_layer = LAYERS,
                           .n_expert = EXPERTS,
                           .view = f->view,
                           .dev = f->dev,
                           .path = f->paths,
                           .n_file = 1,
                           .where = where,
                           .ctx = f,
                           .n_slot = 2};
    assert_int_equal(ap_expert_store_create(&spec, &f->store, &d), APUS_EFILE);
    assert_non_null(strstr(d.text, f->path));
    assert_null(f->store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(experts_arrive, setup, teardown),
        cmocka_unit_test_setup_teardown(read_ahead, setup, teardown),
        cmocka_unit_test_setup_teardown(guesses, setup, teardown),
        cmocka_unit_test_setup_teardown(ahead_of_a_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(recall, setup, teardown),
        cmocka_unit_test_setup_teardown(parts_in_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(a_cut_file, setup, teardown),
        cmocka_unit_test_setup_teardown(given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(a_missing_file, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
