#include "help.h"

#include "base/rng.h"

apus_diag diag;

void help_args(int argc, char **argv)
{
    fake_host = argc > 1 && !strcmp(argv[1], "host");
}

int random_int(ap_rng *rng, int low, int high)
{
    return low + (int)(ap_rng_next(rng) % (uint64_t)(high - low + 1));
}

apus_engine *help_engine(const apus_model *m, int ctx, int chunk, int sessions)
{
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.ctx = ctx;
    s.prefill_chunk = chunk;
    s.max_sessions = sessions;
    s.threads = 2;
    apus_engine *e = NULL;
    assert_ok(apus_engine_create(m, &s, &e, &diag));
    return e;
}

static void poison_slab(ap_slab *s)
{
    for (int i = 0; i < s->n_free; i++)
        memset(fake_real(ap_slab_at(s, s->free[i])), 0xEE, s->block_bytes);
}

void help_poison(apus_engine *e)
{
    for (int g = 0; g < AP_KV_GROUPS; g++) poison_slab(&e->pages[g]);
    poison_slab(&e->states);
}

void pair_open(pair *p, apus_engine *e)
{
    assert_ok(apus_session_create(e, &p->s, &diag));
    oracle_init(&p->o, e->size.ctx);
}

void pair_close(pair *p)
{
    apus_session_free(p->s);
    oracle_free(&p->o);
    p->s = NULL;
}

static void compare_logits(const pair *p, const float *got)
{
    float want[256];
    oracle_logits(&p->o, want);
    assert_int_equal(fake.faults, 0);
    assert_memory_equal(got, want, (size_t)fake.vocab * sizeof(float));
}

void pair_feed(pair *p, int n, ap_rng *rng)
{
    int32_t *tok = calloc((size_t)n, sizeof *tok);
    float logits[256];
    for (int i = 0; i < n; i++) tok[i] = random_int(rng, 0, fake.vocab - 1);
    assert_ok(apus_session_feed(p->s, tok, n, logits, &diag));
    for (int i = 0; i < n; i++) oracle_push(&p->o, tok[i]);
    compare_logits(p, logits);
    free(tok);
}

void pair_check(pair *p)
{
    assert_int_equal(apus_session_pos(p->s), p->o.pos);
    if (p->o.pos)
        assert_memory_equal(apus_session_tokens(p->s), p->o.tok,
                            (size_t)p->o.pos * sizeof(int32_t));
    if (apus_session_room(p->s) == 0) return;
    /* One token more, and back. */
    int pos = p->o.pos;
    int32_t tok = 5;
    float logits[256];
    assert_ok(apus_session_feed(p->s, &tok, 1, logits, &diag));
    oracle_push(&p->o, tok);
    compare_logits(p, logits);
    assert_ok(apus_session_rewind(p->s, pos, &diag));
    oracle_rewind(&p->o, pos);
}
