#include "state/record.h"

#include <string.h>

#include "base/mem.h"

#define VERSION 1
#define ROOM    ((size_t)1 << 20)

static const char page_magic[8] = "APUSPREF", state_magic[8] = "APUSSTAT";

/* magic, version, n tokens; key, hash before, hash; two flags; tokens; checksum */
enum {
    PAGE_HEADER = 8 + 4 + 4 + 3 * 8 + 2 * 4 + AP_PAGE * 4 + 8,
    STATE_HEADER = 8 + 4 + 4 + 2 * 8
};

apus_err ap_record_form_open(ap_record_form *r, uint64_t key, ap_device *dev, const ap_prefix *p,
                             apus_diag *diag)
{
    *r = (ap_record_form){.key = key, .dev = dev};
    for (int g = 0; g < AP_KV_GROUPS; g++)
        r->page_bytes[g] = p->pages[g] ? p->pages[g]->block_bytes : 0;
    r->state_bytes = p->states ? p->states->block_bytes : 0;
    if (dev->is_host) return APUS_OK;
    r->room = ap_malloc(ROOM, 1);
    return r->room ? APUS_OK : ap_fail_nomem(diag, ROOM, "the prefix cache");
}

void ap_record_form_close(ap_record_form *r)
{
    ap_free(r->room);
    *r = (ap_record_form){0};
}

uint64_t ap_record_page_bytes(const ap_record_form *r, const bool has[AP_KV_GROUPS])
{
    uint64_t sum = PAGE_HEADER + 8;
    for (int g = 0; g < AP_KV_GROUPS; g++) sum += has[g] ? r->page_bytes[g] : 0;
    return sum;
}

uint64_t ap_record_state_bytes(const ap_record_form *r)
{
    return STATE_HEADER + r->state_bytes + 8;
}

/* ---------------------------------------------------------------- writing */

static void write_block(const ap_record_form *r, ap_store *f, const void *at, size_t bytes)
{
    if (r->dev->is_host) {
        ap_store_write(f, at, bytes);
        return;
    }
    for (size_t i = 0, n; i < bytes && !f->err; i += n) {
        n = bytes - i < ROOM ? bytes - i : ROOM;
        r->dev->op->get(r->dev, r->room, (const uint8_t *)at + i, n);
        ap_store_write(f, r->room, n);
    }
}

void ap_record_write_page(const ap_record_form *r, ap_store *f, const ap_prefix *p,
                          const ap_node *n)
{
    int32_t tok[AP_PAGE] = {0};
    memcpy(tok, n->tok, (size_t)n->n_tok * sizeof *tok);
    ap_store_write(f, page_magic, sizeof page_magic);
    ap_store_write_u32(f, VERSION);
    ap_store_write_u32(f, (uint32_t)n->n_tok);
    ap_store_write_u64(f, r->key);
    ap_store_write_u64(f, n->parent->hash);
    ap_store_write_u64(f, n->hash);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_store_write_u32(f, n->page[g] >= 0);
    ap_store_write(f, tok, sizeof tok);
    ap_store_sum(f);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (n->page[g] >= 0)
            write_block(r, f, ap_slab_at(p->pages[g], n->page[g]), r->page_bytes[g]);
    ap_store_sum(f);
}

void ap_record_write_state(const ap_record_form *r, ap_store *f, const ap_prefix *p,
                           const ap_node *n, const ap_node_state *state)
{
    ap_store_write(f, state_magic, sizeof state_magic);
    ap_store_write_u32(f, VERSION);
    ap_store_write_u32(f, (uint32_t)state->at);
    ap_store_write_u64(f, r->key);
    ap_store_write_u64(f, n->hash);
    write_block(r, f, ap_slab_at(p->states, state->block), r->state_bytes);
    ap_store_sum(f);
}

/* ---------------------------------------------------------------- reading */

static void read_block(const ap_record_form *r, ap_store *f, void *at, size_t bytes)
{
    if (r->dev->is_host) {
        ap_store_read(f, at, bytes);
        return;
    }
    for (size_t i = 0, n; i < bytes && !f->err; i += n) {
        n = bytes - i < ROOM ? bytes - i : ROOM;
        ap_store_read(f, r->room, n);
        r->dev->op->put(r->dev, (uint8_t *)at + i, r->room, n);
    }
}

static bool is(ap_store *f, const char magic[8])
{
    char found[8];
    ap_store_read(f, found, sizeof found);
    return !f->err && !memcmp(found, magic, sizeof found) && ap_store_read_u32(f) == VERSION;
}

bool ap_record_read_head(const ap_record_form *r, ap_store *f, uint64_t hash, ap_node *n,
                         uint64_t *before)
{
    if (!is(f, page_magic)) return false;
    n->n_tok = (int)ap_store_read_u32(f);
    bool ok = ap_store_read_u64(f) == r->key;
    *before = ap_store_read_u64(f);
    n->hash = ap_store_read_u64(f);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        uint32_t has = ap_store_read_u32(f);
        n->stored_page[g] = has == 1;
        ok = ok && has <= 1 && (!has || r->page_bytes[g]);
        n->page[g] = -1;
    }
    ap_store_read(f, n->tok, sizeof n->tok);
    ap_store_check(f);
    n->stored = true;
    ok = ok && !f->err && n->n_tok >= 1 && n->n_tok <= AP_PAGE && n->hash == hash;
    ok = ok && ap_prefix_hash(*before, n->tok, n->n_tok) == hash;
    return ok && (!r->page_bytes[0] || n->stored_page[0]) &&
           f->size == ap_record_page_bytes(r, n->stored_page);
}

static void skip_block(ap_store *f, size_t bytes)
{
    uint8_t rest[4096];
    for (size_t i = 0, n; i < bytes && !f->err; i += n) {
        n = bytes - i < sizeof rest ? bytes - i : sizeof rest;
        ap_store_read(f, rest, n);
    }
}

bool ap_record_read_blocks(const ap_record_form *r, ap_store *f, const bool has[AP_KV_GROUPS],
                           void *const to[AP_KV_GROUPS])
{
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        if (has[g] && to[g]) read_block(r, f, to[g], r->page_bytes[g]);
        if (has[g] && !to[g]) skip_block(f, r->page_bytes[g]);
    }
    ap_store_check(f);
    return !f->err && !r->dev->op->finish(r->dev, NULL);
}

bool ap_record_read_state(const ap_record_form *r, ap_store *f, uint64_t hash, int at, void *to)
{
    bool ok = is(f, state_magic) && ap_store_read_u32(f) == (uint32_t)at;
    ok = ok && ap_store_read_u64(f) == r->key && ap_store_read_u64(f) == hash;
    ok = ok && f->size == ap_record_state_bytes(r);
    if (ok) read_block(r, f, to, r->state_bytes);
    if (ok) ap_store_check(f);
    return ok && !f->err && !r->dev->op->finish(r->dev, NULL);
}
