/* apus_set_allocator: everything comes from it and goes back, and what it refuses is ENOMEM. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "apus/apus.h"

#define MODEL "models/tiny-qwen"

/* Blocks carry their size, so that a pointer of another allocator shows. */
typedef struct block {
    size_t magic, bytes;
} block;

enum { MAGIC = 0x5a5a1234 };

typedef struct heap {
    long long blocks, bytes, most, limit;
} heap;

static heap h;
static apus_diag diag;

static bool account(size_t bytes)
{
    long long now = __atomic_add_fetch(&h.bytes, (long long)bytes, __ATOMIC_RELAXED);
    if (h.limit && now > h.limit) {
        __atomic_sub_fetch(&h.bytes, (long long)bytes, __ATOMIC_RELAXED);
        return false;
    }
    if (now > h.most) h.most = now;
    return true;
}

static void *allocate(void *ctx, size_t bytes)
{
    assert_ptr_equal(ctx, &h);
    if (!account(bytes)) return NULL;
    block *b = malloc(sizeof *b + bytes);
    *b = (block){MAGIC, bytes};
    memset(b + 1, 0xA5, bytes);
    __atomic_add_fetch(&h.blocks, 1, __ATOMIC_RELAXED);
    return b + 1;
}

static void release(void *ctx, void *p)
{
    assert_ptr_equal(ctx, &h);
    if (!p) return;
    block *b = (block *)p - 1;
    assert_true(b->magic == MAGIC);
    b->magic = 0;
    __atomic_sub_fetch(&h.bytes, (long long)b->bytes, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&h.blocks, 1, __ATOMIC_RELAXED);
    free(b);
}

static void *resize(void *ctx, void *p, size_t bytes)
{
    size_t old = p ? ((block *)p - 1)->bytes : 0;
    void *q = allocate(ctx, bytes);
    if (!q) return NULL;
    if (p) memcpy(q, p, old < bytes ? old : bytes);
    release(ctx, p);
    return q;
}

static void bad_allocators_are_refused(void **state)
{
    (void)state;
    apus_allocator a = {sizeof a, allocate, resize, release, &h};
    assert_int_equal(apus_set_allocator(NULL, &diag), APUS_EINVAL);
    a.size = 8;
    assert_int_equal(apus_set_allocator(&a, &diag), APUS_EINVAL);
    a.size = sizeof a;
    a.resize = NULL;
    assert_int_equal(apus_set_allocator(&a, &diag), APUS_EINVAL);
}

/* Load, answer with text and stop strings, save and load, and give all of it back. */
static apus_err whole_life(void)
{
    apus_model *m = NULL;
    apus_engine *e = NULL;
    apus_session *s = NULL, *again = NULL;
    apus_engine_settings es;
    int32_t *ids = NULL;
    void *data = NULL;
    char *text = NULL;
    size_t n = 0, len = 0;
    apus_engine_settings_default(&es);
    es.max_sessions = 2;
    es.ctx = 512;
    apus_err err = apus_model_open(MODEL, NULL, &m, &diag);
    if (!err) err = apus_engine_create(m, &es, &e, &diag);
    if (!err) err = apus_session_create(e, &s, &diag);
    if (!err)
        err = apus_chat_render(m, "[{\"role\":\"user\",\"content\":\"What is apus?\"}]", NULL, NULL,
                               &text, &len, &diag);
    if (!err) err = apus_tokenize(m, text, len, APUS_TOK_SPECIAL, &ids, &n, &diag);
    const char *stop[] = {"engine"};
    apus_generate_settings g;
    apus_generate_settings_default(&g);
    g.max_tokens = 20;
    g.stop_strings = stop;
    g.n_stop_strings = 1;
    if (!err) err = apus_generate(s, ids, (int)n, &g, NULL, &diag);
    if (!err) err = apus_session_save_memory(s, &data, &n, &diag);
    if (!err) err = apus_session_load_memory(e, data, n, &again, &diag);
    apus_free(data);
    apus_free(ids);
    apus_free(text);
    apus_engine_free(e);
    apus_model_close(m);
    return err;
}

static void everything_comes_from_it(void **state)
{
    (void)state;
    apus_allocator a = {sizeof a, allocate, resize, release, &h};
    assert_int_equal(apus_set_allocator(&a, &diag), APUS_OK);
    apus_err err = whole_life();
    if (err) fail_msg("%s", diag.text);
    assert_int_equal(h.blocks, 0);
    assert_int_equal(h.bytes, 0);
    assert_true(h.most > 11000000);                               /* the weights, too */
    assert_int_equal(apus_set_allocator(&a, &diag), APUS_EINVAL); /* too late */
}

static void what_it_refuses_is_no_memory(void **state)
{
    (void)state;
    const long long most = h.most;
    for (int part = 0; part < 16; part++) {
        h.limit = most * part / 16 + 1;
        assert_int_equal(whole_life(), APUS_ENOMEM);
        assert_int_equal(h.blocks, 0);
    }
    h.limit = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_allocators_are_refused),
        cmocka_unit_test(everything_comes_from_it),
        cmocka_unit_test(what_it_refuses_is_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
