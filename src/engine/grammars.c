#include "engine/grammars.h"

#include <string.h>

#include "base/mem.h"
#include "engine/model.h"

struct ap_grammars {
    ap_mutex lock;
    ap_token_trie trie; /* made when it is first needed */
    bool has_trie;
    ap_compiled *first;
    int n; /* that nobody uses */
    uint64_t stamp;
};

ap_grammars *ap_grammars_open(void)
{
    ap_grammars *all = ap_calloc(1, sizeof *all);
    if (all) ap_mutex_init(&all->lock);
    return all;
}

static void free_compiled(ap_compiled *c)
{
    if (!c) return;
    if (c->masks_open) ap_token_masks_close(&c->masks);
    ap_grammar_free(&c->grammar);
    ap_free(c->key);
    ap_free(c);
}

void ap_grammars_close(ap_grammars *all)
{
    if (!all) return;
    while (all->first) {
        ap_compiled *c = all->first;
        all->first = c->next;
        free_compiled(c);
    }
    if (all->has_trie) ap_token_trie_free(&all->trie);
    ap_mutex_destroy(&all->lock);
    ap_free(all);
}

static bool is_stop(const void *ctx, int32_t id)
{
    const apus_model *m = ctx;
    return ap_config_is_stop(&m->config, id);
}

/* The lock is held. */
static apus_err need_trie(const apus_model *m, apus_diag *diag)
{
    ap_grammars *all = m->grammars;
    if (all->has_trie) return APUS_OK;
    apus_err err = ap_token_trie_make(m->tokenizer, m->config.vocab, is_stop, m, &all->trie, diag);
    all->has_trie = !err;
    return err;
}

const ap_token_trie *ap_grammars_trie(const apus_model *m)
{
    ap_mutex_lock(&m->grammars->lock);
    const ap_token_trie *t = m->grammars->has_trie ? &m->grammars->trie : NULL;
    ap_mutex_unlock(&m->grammars->lock);
    return t;
}

/* ---------------------------------------------------------------- kept ones */

/* One more use of the grammar of a key, or NULL. The lock is held. */
static ap_compiled *find(ap_grammars *all, const char *key, size_t len, uint64_t hash)
{
    for (ap_compiled *c = all->first; c; c = c->next) {
        if (c->hash != hash || c->key_len != len || memcmp(c->key, key, len) != 0) continue;
        all->n -= c->uses == 0;
        c->uses++;
        c->stamp = ++all->stamp;
        return c;
    }
    return NULL;
}

/* Free what was not used for longest, while there are too many. The lock is held. */
static void shrink(ap_grammars *all)
{
    while (all->n > AP_GRAMMARS_KEPT) {
        ap_compiled **oldest = NULL;
        for (ap_compiled **at = &all->first; *at; at = &(*at)->next)
            if (!(*at)->uses && (!oldest || (*at)->stamp < (*oldest)->stamp)) oldest = at;
        ap_compiled *c = *oldest;
        *oldest = c->next;
        all->n--;
        free_compiled(c);
    }
}

static apus_err compile(const apus_model *m, const char *key, size_t len, ap_grammar_maker make,
                        const void *ctx, ap_compiled **out, apus_diag *diag)
{
    ap_compiled *c = ap_calloc(1, sizeof *c);
    if (!c) return ap_fail_nomem(diag, sizeof *c, "a grammar");
    c->key = ap_malloc(len, 1);
    apus_err err =
        c->key ? make(key, len, ctx, &c->grammar, diag) : ap_fail_nomem(diag, len, "a grammar");
    if (!err) {
        memcpy(c->key, key, len);
        c->key_len = len;
        c->masks_open = true;
        err = ap_token_masks_open(&c->masks, &c->grammar, &m->grammars->trie, diag);
    }
    if (err)
        free_compiled(c);
    else
        *out = c;
    return err;
}

static uint64_t hash_of(const char *s, size_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * UINT64_C(0x100000001b3);
    return h;
}

apus_err ap_grammars_take(const apus_model *m, const char *key, size_t len, ap_grammar_maker make,
                          const void *ctx, ap_compiled **out, apus_diag *diag)
{
    ap_grammars *all = m->grammars;
    uint64_t hash = hash_of(key, len);
    ap_mutex_lock(&all->lock);
    ap_compiled *c = find(all, key, len, hash), *twin = NULL;
    apus_err err = c ? APUS_OK : need_trie(m, diag);
    ap_mutex_unlock(&all->lock);
    if (!err && !c) { /* without the lock: this may take a while */
        err = compile(m, key, len, make, ctx, &c, diag);
        if (err) return err;
        c->hash = hash;
        c->uses = 1;
        ap_mutex_lock(&all->lock);
        twin = find(all, key, len, hash); /* somebody else was faster */
        if (!twin) {
            c->stamp = ++all->stamp;
            c->next = all->first;
            all->first = c;
        }
        ap_mutex_unlock(&all->lock);
    }
    if (twin) free_compiled(c);
    if (!err) *out = twin ? twin : c;
    return err;
}

void ap_grammars_drop(const apus_model *m, ap_compiled *c)
{
    if (!c) return;
    ap_grammars *all = m->grammars;
    ap_mutex_lock(&all->lock);
    all->n += --c->uses == 0;
    shrink(all);
    ap_mutex_unlock(&all->lock);
}
