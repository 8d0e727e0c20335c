/* Saving and loading: the continuation, other engines, damaged files, failed writes. */
#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "help.h"

static char dir[] = "/tmp/apus-session-file-XXXXXX";
static char path[64];

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/a.session", dir);
    return 0;
}

static int files_in_dir(void)
{
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *f; (f = readdir(d));)
        n += strcmp(f->d_name, ".") && strcmp(f->d_name, "..");
    closedir(d);
    return n;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir); /* fails if a temporary file was left behind */
}

static unsigned char *slurp(size_t *n)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *p = malloc(*n + 1);
    assert_int_equal(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}

static void spew(const unsigned char *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static const struct {
    bool full;
    int window;
    bool recur;
} kinds[] = {
    {true, 0, false}, {false, 70, false}, {true, 20, false}, {true, 0, true}, {true, 40, true}};

static void continuation_is_the_same(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        apus_model *m = fake_model(kinds[i].full, kinds[i].window, kinds[i].recur);
        /* the other engine keeps fewer pages */
        apus_engine *e = help_engine(m, 990, 60, 2), *other = help_engine(m, 700, 3, 1);
        pair p;
        ap_rng rng;
        ap_rng_seed(&rng, 31);
        pair_open(&p, e);
        static const int lengths[] = {0, 1, 62, 1, 64, 100, 1, 1, 60};
        for (int j = 0; j < 9; j++) {
            if (lengths[j]) pair_feed(&p, lengths[j], &rng);
            assert_ok(apus_session_save(p.s, path, &diag));
            assert_int_equal(files_in_dir(), 1);
            pair q = {0};
            help_poison(other);
            assert_ok(apus_session_load(other, path, &q.s, &diag));
            oracle_init(&q.o, 990);
            oracle_copy(&q.o, &p.o);
            pair_check(&q);
            pair_feed(&q, 40, &rng);
            pair_close(&q);
            pair_check(&p);
        }
        /* Snapshots and old pages are saved: going back after loading costs little. */
        pair_feed(&p, 1, &rng);
        assert_ok(apus_session_save(p.s, path, &diag));
        apus_session_free(p.s);
        help_poison(e);
        assert_ok(apus_session_load(e, path, &p.s, &diag));
        int before = fake.n_forward, back = p.o.pos - 4;
        assert_ok(apus_session_rewind(p.s, back, &diag));
        oracle_rewind(&p.o, back);
        assert_true(fake.n_forward - before <= 2);
        pair_check(&p);
        /* So it does after a long answer: where the prompt ended is known still. */
        pair_feed(&p, 70, &rng);
        int turn = p.o.pos;
        assert_ok(apus_session_save(p.s, path, &diag));
        apus_session_free(p.s);
        help_poison(e);
        assert_ok(apus_session_load(e, path, &p.s, &diag));
        while (apus_session_room(p.s) > 1) pair_feed(&p, 1, &rng);
        before = fake.n_forward;
        assert_ok(apus_session_rewind(p.s, turn - 1, &diag));
        oracle_rewind(&p.o, turn - 1);
        assert_true(fake.n_forward - before <= 2);
        pair_check(&p);
        pair_close(&p);
        apus_engine_free(e);
        apus_engine_free(other);
        fake_model_free(m);
    }
}

static void other_engines_are_refused(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 40, true);
    apus_engine *e = help_engine(m, 300, 64, 1);
    pair p;
    ap_rng rng;
    ap_rng_seed(&rng, 3);
    pair_open(&p, e);
    pair_feed(&p, 200, &rng);
    assert_ok(apus_session_save(p.s, path, &diag));
    apus_session *s = NULL;
    assert_int_equal(apus_session_load(e, path, &s, &diag), APUS_EFULL); /* no session left */
    assert_null(s);
    apus_engine *small = help_engine(m, 199, 64, 1);
    assert_int_equal(apus_session_load(small, path, &s, &diag), APUS_EFULL);
    assert_non_null(strstr(diag.text, "200"));
    assert_non_null(strstr(diag.text, "199"));
    apus_engine_free(small);
    pair_close(&p);
    m->fingerprint++;
    assert_int_equal(apus_session_load(e, path, &s, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "another model"));
    m->fingerprint--;
    e->size.kv = APUS_KV_Q8;
    assert_int_equal(apus_session_load(e, path, &s, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "bf16"));
    assert_non_null(strstr(diag.text, "q8"));
    e->size.kv = APUS_KV_BF16;
    e->exec.precision = APUS_PRECISION_FAST;
    assert_int_equal(apus_session_load(e, path, &s, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "precision high"));
    assert_non_null(strstr(diag.text, "fast"));
    e->exec.precision = APUS_PRECISION_HIGH;
    e->delta_form = AP_DELTA_CHUNKED;
    assert_int_equal(apus_session_load(e, path, &s, &diag), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "gdn_chunked"));
    e->delta_form = AP_DELTA_RECURRENT;
    assert_ok(apus_session_load(e, path, &s, &diag));
    apus_session_free(s);
    assert_int_equal(apus_session_load(e, "/nonexistent/x", &s, &diag), APUS_EFILE);
    assert_int_equal(apus_session_load(e, "/tmp", &s, &diag), APUS_EFILE);
    assert_int_equal(apus_session_load(e, "/dev/null", &s, &diag), APUS_EFILE);
    assert_int_equal(apus_session_load(e, NULL, &s, &diag), APUS_EINVAL);
    apus_engine_free(e);
    fake_model_free(m);
}

/* Without recurrent layers the form of the delta rule decides nothing. */
static void forms_of_what_is_not_there_are_equal(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 40, false);
    apus_engine *e = help_engine(m, 300, 64, 1);
    apus_session *s = NULL;
    assert_ok(apus_session_create(e, &s, &diag));
    assert_ok(apus_session_save(s, path, &diag));
    apus_session_free(s);
    e->delta_form = AP_DELTA_CHUNKED;
    assert_ok(apus_session_load(e, path, &s, &diag));
    apus_engine_free(e);
    fake_model_free(m);
}

/* Load what is at path: it must fail as a format error, and give its session back. */
static void expect_damaged(apus_engine *e)
{
    apus_session *s = NULL;
    apus_err err = apus_session_load(e, path, &s, &diag);
    if (err != APUS_EFORMAT && err != APUS_EFULL) fail_msg("%d: %s", err, diag.text);
    assert_null(s);
    assert_false(e->session[0].used);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        assert_int_equal(e->pages[g].n_free, e->pages[g].n_block);
    assert_int_equal(e->states.n_free, e->states.n_block);
}

static void sign(unsigned char *file, size_t n)
{
    uint64_t sum = XXH64(file, 96, 0);
    memcpy(file + 96, &sum, 8);
    sum = XXH64(file + 104, n - 104 - 8, 0);
    memcpy(file + n - 8, &sum, 8);
}

/* More snapshots than a session keeps, in a file that is right otherwise: a position and a state more. */
static void too_many_snapshots_are_refused(void **state)
{
    (void)state;
    enum { TOKENS = 64 * (AP_SNAPSHOTS + 1) + 10 };
    apus_model *m = fake_model(true, 0, true);
    apus_engine *e = help_engine(m, 400, 64, 1);
    pair p;
    ap_rng rng;
    ap_rng_seed(&rng, 3);
    pair_open(&p, e);
    pair_feed(&p, TOKENS, &rng);
    assert_int_equal(p.s->recur.n_snap, AP_SNAPSHOTS);
    size_t state_bytes = p.s->recur.n_float * sizeof(float), n;
    size_t at = 104 + 4 * (TOKENS + (size_t)p.s->kv[AP_KV_FULL].held); /* of the positions */
    assert_ok(apus_session_save(p.s, path, &diag));
    pair_close(&p);
    unsigned char *file = slurp(&n);
    size_t more = n + 4 + state_bytes, behind = at + 4 * AP_SNAPSHOTS + state_bytes;
    unsigned char *copy = malloc(more);
    memcpy(copy, file, at);
    for (int32_t i = 0; i <= AP_SNAPSHOTS; i++) {
        int32_t pos = AP_PAGE * (i + 1);
        memcpy(copy + at + 4 * (size_t)i, &pos, 4);
    }
    memcpy(copy + at + 4 * (AP_SNAPSHOTS + 1), file + at + 4 * AP_SNAPSHOTS, state_bytes);
    memcpy(copy + behind + 4, file + behind, state_bytes);
    memcpy(copy + behind + 4 + state_bytes, file + behind, n - behind);
    int32_t count = AP_SNAPSHOTS + 1;
    uint64_t size = more;
    memcpy(copy + 60, &count, 4);
    memcpy(copy + 72, &size, 8);
    sign(copy, more);
    spew(copy, more);
    expect_damaged(e);
    assert_non_null(strstr(diag.text, "snapshots: expected 0 to 4, found 5"));
    free(copy);
    free(file);
    apus_engine_free(e);
    fake_model_free(m);
}

/* Positions of snapshots that are not ascending ends of pages within the tokens; all else is right. */
static void misplaced_snapshots_are_refused(void **state)
{
    (void)state;
    static const int32_t places[][2] = {{0, 128}, {64, 64}, {128, 64}, {64, 192}, {64, 127}};
    apus_model *m = fake_model(true, 40, true);
    apus_engine *e = help_engine(m, 300, 64, 1);
    apus_session *s = NULL;
    pair p;
    ap_rng rng;
    ap_rng_seed(&rng, 3);
    pair_open(&p, e);
    pair_feed(&p, 130, &rng);
    assert_int_equal(p.s->recur.n_snap, 2);
    assert_ok(apus_session_save(p.s, path, &diag));
    pair_close(&p);
    size_t n;
    unsigned char *file = slurp(&n);
    int32_t pages[2], was[2];
    memcpy(pages, file + 64, sizeof pages);
    unsigned char *at = file + 104 + 4 * (130 + pages[0] + pages[1]);
    memcpy(was, at, sizeof was);
    assert_true(was[0] == 64 && was[1] == 128);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        memcpy(at, places[i], sizeof was);
        sign(file, n);
        spew(file, n);
        expect_damaged(e);
        assert_non_null(strstr(diag.text, "snapshot"));
    }
    memcpy(at, was, sizeof was);
    sign(file, n);
    spew(file, n);
    assert_ok(apus_session_load(e, path, &s, &diag));
    apus_session_free(s);
    free(file);
    apus_engine_free(e);
    fake_model_free(m);
}

static void damaged_files_are_refused(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 40, true);
    apus_engine *e = help_engine(m, 300, 64, 1);
    pair p;
    ap_rng rng;
    ap_rng_seed(&rng, 3);
    pair_open(&p, e);
    pair_feed(&p, 130, &rng);
    assert_ok(apus_session_save(p.s, path, &diag));
    pair_close(&p);
    size_t n;
    unsigned char *file = slurp(&n), *copy = malloc(n + 8);
    for (size_t at = 0; at < n; at += at < 300 || at + 200 > n ? 1 : 37) { /* one bit wrong */
        memcpy(copy, file, n);
        copy[at] ^= (unsigned char)(1 << (at % 8));
        spew(copy, n);
        expect_damaged(e);
    }
    for (size_t len = 0; len < n; len += len < 200 ? 1 : 61) { /* cut */
        spew(file, len);
        expect_damaged(e);
    }
    memcpy(copy, file, n);
    memset(copy + n, 0, 8);
    spew(copy, n + 8);
    expect_damaged(e);
    /* Hostile: sums are right, numbers are not. */
    for (size_t field = 48; field < 72; field += 4) {
        static const uint32_t values[] = {0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1000000, 301,
                                          131,        129,        0,          5};
        for (int v = 0; v < 9; v++) {
            memcpy(copy, file, n);
            if (memcmp(copy + field, &values[v], 4) == 0) continue;
            if (field == 56 && values[v] <= 130)
                continue; /* turn: any value up to the tokens is fine */
            memcpy(copy + field, &values[v], 4);
            sign(copy, n);
            spew(copy, n);
            expect_damaged(e);
        }
    }
    for (size_t field = 104; field < 104 + 4 * (130 + 3 + 2 + 2);
         field += 4) { /* ids, pages, snapshots */
        static const uint32_t values[] = {0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 97, 200};
        for (int v = 0; v < 5; v++) {
            memcpy(copy, file, n);
            memcpy(copy + field, &values[v], 4);
            sign(copy, n);
            spew(copy, n);
            expect_damaged(e);
        }
    }
    /* A page that the window needs is not there: its number and its bytes are cut out. */
    size_t number = 104 + 4 * (130 + 3 + 2), cut = n - 8 - 1024;
    memcpy(copy, file, number);
    memcpy(copy + number, file + number + 4, cut - number - 4);
    size_t less = n - 4 - 1024;
    const uint32_t two = 2;
    const uint64_t bytes = less;
    memcpy(copy + 68, &two, 4);
    memcpy(copy + 72, &bytes, 8);
    sign(copy, less);
    spew(copy, less);
    expect_damaged(e);
    assert_non_null(strstr(diag.text, "missing"));
    spew(file, n);
    apus_session *s = NULL;
    assert_ok(apus_session_load(e, path, &s, &diag));
    apus_session_free(s);
    free(file);
    free(copy);
    apus_engine_free(e);
    fake_model_free(m);
}

static void failed_saves_leave_nothing(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 40, true);
    apus_engine *e = help_engine(m, 900, 64, 1);
    pair p;
    ap_rng rng;
    ap_rng_seed(&rng, 3);
    pair_open(&p, e);
    pair_feed(&p, 100, &rng);
    assert_ok(apus_session_save(p.s, path, &diag));
    size_t n, after;
    unsigned char *old = slurp(&n);
    pair_feed(&p, 700, &rng);
    /* A full disk, as far as this process can tell. */
    struct rlimit limit, tight;
    getrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t bytes = 0; bytes < 6000; bytes += 1500) {
        tight = limit;
        tight.rlim_cur = bytes;
        setrlimit(RLIMIT_FSIZE, &tight);
        apus_err err = apus_session_save(p.s, path, &diag);
        setrlimit(RLIMIT_FSIZE, &limit);
        assert_int_equal(err, APUS_EFILE);
        assert_non_null(strstr(diag.text, path));
        assert_int_equal(files_in_dir(), 1);
    }
    unsigned char *now = slurp(&after);
    assert_int_equal(after, n);
    assert_memory_equal(now, old, n); /* the old file is untouched */
    free(now);
    free(old);
    assert_int_equal(apus_session_save(p.s, "/nonexistent/dir/x", &diag), APUS_EFILE);
    assert_int_equal(apus_session_save(p.s, dir, &diag), APUS_EFILE);
    assert_int_equal(apus_session_save(p.s, "/dev/null", &diag), APUS_EFILE);
    assert_int_equal(apus_session_save(p.s, "", &diag), APUS_EFILE);
    assert_int_equal(apus_session_save(NULL, path, &diag), APUS_EINVAL);
    assert_int_equal(files_in_dir(), 1);
    pair_check(&p);
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

/* Memory holds the bytes of the file; wherever they lie and whatever is cut off or added. */
static void memory_is_the_same_as_a_file(void **state)
{
    (void)state;
    apus_model *m = fake_model(true, 40, true);
    apus_engine *e = help_engine(m, 300, 64, 2);
    pair p, q = {0};
    ap_rng rng;
    ap_rng_seed(&rng, 4);
    pair_open(&p, e);
    pair_feed(&p, 200, &rng);
    void *data = NULL;
    size_t n, len;
    assert_ok(apus_session_save(p.s, path, &diag));
    assert_ok(apus_session_save_memory(p.s, &data, &len, &diag));
    unsigned char *file = slurp(&n);
    assert_int_equal(len, n);
    assert_memory_equal(data, file, n);
    char *odd = malloc(len + 2);
    memcpy(odd + 1, data, len);
    help_poison(e);
    assert_ok(apus_session_load_memory(e, odd + 1, len, &q.s, &diag));
    oracle_init(&q.o, 300);
    oracle_copy(&q.o, &p.o);
    pair_check(&q);
    pair_feed(&q, 40, &rng);
    pair_close(&q);
    for (size_t cut = 0; cut < len; cut += cut < 100 ? 1 : 97) {
        char *part = malloc(cut + 1); /* ends where the bytes end, for the address sanitizer */
        memcpy(part + 1, data, cut);
        assert_int_equal(apus_session_load_memory(e, part + 1, cut, &q.s, &diag), APUS_EFORMAT);
        assert_non_null(strstr(diag.text, "memory"));
        free(part);
    }
    odd[len + 1] = 0;
    assert_int_equal(apus_session_load_memory(e, odd + 1, len + 1, &q.s, &diag), APUS_EFORMAT);
    odd[1 + len / 2] ^= 1;
    assert_int_equal(apus_session_load_memory(e, odd + 1, len, &q.s, &diag), APUS_EFORMAT);
    assert_int_equal(apus_session_load_memory(e, NULL, len, &q.s, &diag), APUS_EINVAL);
    assert_int_equal(apus_session_load_memory(NULL, odd, len, &q.s, &diag), APUS_EINVAL);
    assert_int_equal(apus_session_save_memory(p.s, NULL, &len, &diag), APUS_EINVAL);
    assert_int_equal(apus_session_save_memory(NULL, &data, &len, &diag), APUS_EINVAL);
    free(odd);
    free(file);
    apus_free(data);
    pair_close(&p);
    apus_engine_free(e);
    fake_model_free(m);
}

int main(int argc, char **argv)
{
    help_args(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(continuation_is_the_same),
        cmocka_unit_test(other_engines_are_refused),
        cmocka_unit_test(forms_of_what_is_not_there_are_equal),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(too_many_snapshots_are_refused),
        cmocka_unit_test(misplaced_snapshots_are_refused),
        cmocka_unit_test(failed_saves_leave_nothing),
        cmocka_unit_test(memory_is_the_same_as_a_file),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
