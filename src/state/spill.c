#include "state/spill.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/store.h"

#define VERSION 1
#define ROOM    ((size_t)1 << 20)
#define NAME    48

static const char page_magic[8] = "APUSPREF", state_magic[8] = "APUSSTAT";

/* magic, version, n tokens; key, hash before, hash; two flags; tokens; checksum */
enum {
    PAGE_HEADER = 8 + 4 + 4 + 3 * 8 + 2 * 4 + AP_PAGE * 4 + 8,
    STATE_HEADER = 8 + 4 + 4 + 2 * 8
};

/* ---------------------------------------------------------------- names and sizes */

static char *page_path(const ap_spill *s, uint64_t hash)
{
    char name[NAME];
    snprintf(name, sizeof name, "%016llx.page", (unsigned long long)hash);
    return ap_path_join(s->dir, name);
}

static char *state_path(const ap_spill *s, uint64_t hash, int at)
{
    char name[NAME];
    snprintf(name, sizeof name, "%016llx-%02d.state", (unsigned long long)hash, at);
    return ap_path_join(s->dir, name);
}

static uint64_t page_record(const ap_spill *s, const bool has[AP_KV_GROUPS])
{
    uint64_t sum = PAGE_HEADER + 8;
    for (int g = 0; g < AP_KV_GROUPS; g++) sum += has[g] ? s->page_bytes[g] : 0;
    return sum;
}

static uint64_t state_record(const ap_spill *s)
{
    return STATE_HEADER + s->state_bytes + 8;
}

static void remove_record(ap_spill *s, char *path, uint64_t bytes)
{
    if (path) ap_file_remove(path);
    ap_free(path);
    s->bytes -= bytes < s->bytes ? bytes : s->bytes;
}

void ap_spill_forget(ap_spill *s, ap_node *n)
{
    for (int i = 0; i < n->n_state; i++) {
        if (!n->state[i].stored) continue;
        remove_record(s, state_path(s, n->hash, n->state[i].at), state_record(s));
        n->state[i].stored = false;
    }
    if (n->stored) remove_record(s, page_path(s, n->hash), page_record(s, n->stored_page));
    n->stored = false;
    memset(n->stored_page, 0, sizeof n->stored_page);
    for (int i = n->n_state - 1; i >= 0; i--) /* what was there alone is nowhere now */
        if (n->state[i].block < 0) {
            n->n_state--;
            memmove(&n->state[i], &n->state[i + 1], (size_t)(n->n_state - i) * sizeof n->state[0]);
        }
}

/* ---------------------------------------------------------------- writing */

static void write_block(ap_spill *s, ap_store *f, const void *at, size_t bytes)
{
    if (s->dev->is_host) {
        ap_store_write(f, at, bytes);
        return;
    }
    for (size_t i = 0, n; i < bytes && !f->err; i += n) {
        n = bytes - i < ROOM ? bytes - i : ROOM;
        s->dev->op->get(s->dev, s->room, (const uint8_t *)at + i, n);
        ap_store_write(f, s->room, n);
    }
}

static bool finish_record(ap_spill *s, ap_store *f, uint64_t bytes)
{
    if (ap_store_close(f, 1)) {
        s->errors++;
        s->full =
            true; /* until the next start: a disk that is full or gone is not asked again and again */
        return false;
    }
    s->bytes += bytes;
    s->written += bytes;
    return true;
}

static bool write_pages(ap_spill *s, const ap_prefix *p, ap_node *n)
{
    ap_store f;
    bool has[AP_KV_GROUPS];
    int32_t tok[AP_PAGE] = {0};
    char *path = page_path(s, n->hash);
    for (int g = 0; g < AP_KV_GROUPS; g++) has[g] = n->page[g] >= 0;
    memcpy(tok, n->tok, (size_t)n->n_tok * sizeof *tok);
    if (!path || ap_store_create(&f, path, NULL)) {
        ap_free(path);
        s->errors++;
        s->full = true;
        return false;
    }
    ap_free(path);
    ap_store_write(&f, page_magic, sizeof page_magic);
    ap_store_write_u32(&f, VERSION);
    ap_store_write_u32(&f, (uint32_t)n->n_tok);
    ap_store_write_u64(&f, s->key);
    ap_store_write_u64(&f, n->parent->hash);
    ap_store_write_u64(&f, n->hash);
    for (int g = 0; g < AP_KV_GROUPS; g++) ap_store_write_u32(&f, has[g]);
    ap_store_write(&f, tok, sizeof tok);
    ap_store_sum(&f);
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (has[g]) write_block(s, &f, ap_slab_at(p->pages[g], n->page[g]), s->page_bytes[g]);
    ap_store_sum(&f);
    n->stored = finish_record(s, &f, page_record(s, has));
    if (n->stored) memcpy(n->stored_page, has, sizeof has);
    return n->stored;
}

static bool write_state(ap_spill *s, const ap_prefix *p, ap_node *n, ap_node_state *state)
{
    ap_store f;
    char *path = state_path(s, n->hash, state->at);
    if (!path || ap_store_create(&f, path, NULL)) {
        ap_free(path);
        s->errors++;
        s->full = true;
        return false;
    }
    ap_free(path);
    ap_store_write(&f, state_magic, sizeof state_magic);
    ap_store_write_u32(&f, VERSION);
    ap_store_write_u32(&f, (uint32_t)state->at);
    ap_store_write_u64(&f, s->key);
    ap_store_write_u64(&f, n->hash);
    write_block(s, &f, ap_slab_at(p->states, state->block), s->state_bytes);
    ap_store_sum(&f);
    state->stored = finish_record(s, &f, state_record(s));
    return state->stored;
}

/* The node after n, parents before their children; NULL after the last. */
static ap_node *after(const ap_prefix *p, ap_node *n)
{
    if (n->child) return n->child;
    while (n != &p->root && !n->next) n = n->parent;
    return n == &p->root ? NULL : n->next;
}

static bool has_page(const ap_node *n)
{
    bool any = false;
    for (int g = 0; g < AP_KV_GROUPS; g++) any = any || n->page[g] >= 0;
    return any;
}

/* Make room for a record: of what is on the disk alone and nothing follows, the oldest goes. */
static bool make_room(ap_spill *s, ap_prefix *p, uint64_t bytes)
{
    while (s->bytes + bytes > s->most) {
        ap_node *oldest = NULL;
        for (ap_node *n = p->root.child; n; n = after(p, n))
            if (n != p->pin && n->stored && !n->child && !has_page(n) &&
                (!oldest || n->used < oldest->used))
                oldest = n;
        s->crowded = !oldest;
        if (!oldest) return false;
        ap_spill_forget(s, oldest);
        ap_prefix_remove(p, oldest);
    }
    return true;
}

/* Write what a node has that is not on the disk: one record. False: nothing, or it could not be. */
static bool write_one(ap_spill *s, ap_prefix *p, ap_node *n)
{
    bool rooted = n->parent == &p->root || n->parent->stored;
    bool paged = p->pages[0] || p->pages[1];
    if (!rooted) return false;
    if (!n->stored && (has_page(n) || !paged)) {
        bool has[AP_KV_GROUPS];
        for (int g = 0; g < AP_KV_GROUPS; g++) has[g] = n->page[g] >= 0;
        return make_room(s, p, page_record(s, has)) && write_pages(s, p, n);
    }
    for (int i = 0; n->stored && i < n->n_state; i++)
        if (!n->state[i].stored && n->state[i].block >= 0)
            return make_room(s, p, state_record(s)) && write_state(s, p, n, &n->state[i]);
    return false;
}

bool ap_spill_write(ap_spill *s, ap_prefix *p)
{
    bool wrote = false;
    s->crowded = false;
    for (ap_node *n = p->root.child; n && !wrote && !s->full && !s->crowded; n = after(p, n)) {
        p->pin = n;
        wrote = write_one(s, p, n);
    }
    p->pin = NULL;
    return wrote;
}

/* ---------------------------------------------------------------- reading */

static void read_block(ap_spill *s, ap_store *f, void *at, size_t bytes)
{
    if (s->dev->is_host) {
        ap_store_read(f, at, bytes);
        return;
    }
    for (size_t i = 0, n; i < bytes && !f->err; i += n) {
        n = bytes - i < ROOM ? bytes - i : ROOM;
        ap_store_read(f, s->room, n);
        s->dev->op->put(s->dev, (uint8_t *)at + i, s->room, n);
    }
}

static bool is(ap_store *f, const char magic[8])
{
    char found[8];
    ap_store_read(f, found, sizeof found);
    return !f->err && !memcmp(found, magic, sizeof found) && ap_store_read_u32(f) == VERSION;
}

/* The header of a page record, as a node without blocks. The hash that it names as what is before: *before. */
static bool read_header(const ap_spill *s, ap_store *f, uint64_t hash, ap_node *n, uint64_t *before)
{
    if (!is(f, page_magic)) return false;
    n->n_tok = (int)ap_store_read_u32(f);
    bool ok = ap_store_read_u64(f) == s->key;
    *before = ap_store_read_u64(f);
    n->hash = ap_store_read_u64(f);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        uint32_t has = ap_store_read_u32(f);
        n->stored_page[g] = has == 1;
        ok = ok && has <= 1 && (!has || s->page_bytes[g]);
        n->page[g] = -1;
    }
    ap_store_read(f, n->tok, sizeof n->tok);
    ap_store_check(f);
    n->stored = true;
    ok = ok && !f->err && n->n_tok >= 1 && n->n_tok <= AP_PAGE && n->hash == hash;
    ok = ok && ap_prefix_hash(*before, n->tok, n->n_tok) == hash;
    return ok && (!s->page_bytes[0] || n->stored_page[0]) &&
           f->size == page_record(s, n->stored_page);
}

/* Blocks for the pages that the node has none of; false: there are none. */
static bool take_blocks(ap_prefix *p, const ap_node *n, int32_t block[AP_KV_GROUPS])
{
    bool ok = true;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        block[g] = -1;
        if (ok && n->stored_page[g] && n->page[g] < 0) {
            block[g] = ap_slab_take(p->pages[g]);
            ok = block[g] >= 0;
        }
    }
    return ok;
}

bool ap_spill_read_pages(ap_spill *s, ap_prefix *p, ap_node *n)
{
    ap_store f;
    ap_node found = {0};
    uint64_t before;
    int32_t block[AP_KV_GROUPS];
    bool ok = take_blocks(p, n, block);
    char *path = ok ? page_path(s, n->hash) : NULL;
    if (path && !ap_store_open(&f, path, NULL)) {
        ok = read_header(s, &f, n->hash, &found, &before) && before == n->parent->hash;
        ok = ok && !memcmp(found.tok, n->tok, (size_t)n->n_tok * sizeof *n->tok);
        for (int g = 0; g < AP_KV_GROUPS && ok; g++) {
            if (!found.stored_page[g]) continue;
            int32_t to = block[g] >= 0 ? block[g] : n->page[g]; /* the same bits once more */
            read_block(s, &f, ap_slab_at(p->pages[g], to), s->page_bytes[g]);
        }
        ap_store_check(&f);
        ok = !ap_store_close(&f, 0) && ok && !s->dev->op->finish(s->dev, NULL);
    } else {
        ok = false;
    }
    ap_free(path);
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        if (block[g] < 0) continue;
        if (ok)
            n->page[g] = block[g];
        else
            ap_slab_drop(p->pages[g], block[g]);
    }
    if (ok) s->restored += page_record(s, n->stored_page);
    if (!ok && path) {
        s->errors++;
        ap_spill_forget(s, n);
    }
    return ok;
}

bool ap_spill_read_state(ap_spill *s, ap_prefix *p, ap_node *n, int i, ap_recur *r)
{
    ap_store f;
    (void)p;
    char *path = state_path(s, n->hash, n->state[i].at);
    bool ok = path && !ap_store_open(&f, path, NULL);
    if (ok) {
        ok = is(&f, state_magic) && ap_store_read_u32(&f) == (uint32_t)n->state[i].at;
        ok = ok && ap_store_read_u64(&f) == s->key && ap_store_read_u64(&f) == n->hash;
        ok = ok && f.size == state_record(s);
        if (ok) read_block(s, &f, ap_recur_live(r), s->state_bytes);
        if (ok) ap_store_check(&f);
        ok = !ap_store_close(&f, 0) && ok && !s->dev->op->finish(s->dev, NULL);
    }
    if (ok) {
        s->restored += state_record(s);
        ap_free(path);
        return true;
    }
    s->errors++;
    n->state[i].stored = false;
    remove_record(s, path, state_record(s));
    return false;
}

/* ---------------------------------------------------------------- opening */

typedef struct record {
    ap_node *node;
    uint64_t before;
    int at; /* of a state; 0: pages */
    uint64_t hash;
} record;

typedef struct list {
    record *item;
    size_t n, cap;
} list;

static bool push(list *l, record r)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        record *p = ap_realloc(l->item, cap, sizeof *p);
        if (!p) return false;
        l->item = p;
        l->cap = cap;
    }
    l->item[l->n++] = r;
    return true;
}

/* "0123456789abcdef.page" or "0123456789abcdef-07.state"; false: none of ours. */
static bool parse_name(const char *name, uint64_t *hash, int *at)
{
    char again[NAME], *end;
    if (strlen(name) < 21) return false;
    *hash = strtoull(name, &end, 16);
    *at = *end == '-' ? atoi(end + 1) : 0;
    if (*at < 0 || *at > AP_PAGE) return false;
    if (*at)
        snprintf(again, sizeof again, "%016llx-%02d.state", (unsigned long long)*hash, *at);
    else
        snprintf(again, sizeof again, "%016llx.page", (unsigned long long)*hash);
    return !strcmp(name, again);
}

/* A record of a name: its node, or NULL: it is not good. */
static ap_node *open_pages(const ap_spill *s, const char *path, uint64_t hash, uint64_t *before)
{
    ap_store f;
    ap_node *n = ap_calloc(1, sizeof *n);
    if (!n || ap_store_open(&f, path, NULL)) {
        ap_free(n);
        return NULL;
    }
    bool ok = read_header(s, &f, hash, n, before);
    if (ap_store_close(&f, 0) || !ok) {
        ap_free(n);
        return NULL;
    }
    return n;
}

static bool read_folder(ap_spill *s, list *pages, list *states)
{
    DIR *d = opendir(s->dir);
    bool ok = d != NULL;
    for (struct dirent *e; ok && (e = readdir(d));) {
        record r = {0};
        if (!parse_name(e->d_name, &r.hash, &r.at)) continue;
        char *path = ap_path_join(s->dir, e->d_name);
        if (path && !r.at) r.node = open_pages(s, path, r.hash, &r.before);
        if (path && !r.at && !r.node) ap_file_remove(path);
        ok = path != NULL;
        if (ok && (r.at || r.node)) ok = push(r.at ? states : pages, r);
        if (!ok) ap_free(r.node);
        ap_free(path);
    }
    if (d) closedir(d);
    return ok;
}

static int by_hash(const void *a, const void *b)
{
    uint64_t x = ((const record *)a)->hash, y = ((const record *)b)->hash;
    return x < y ? -1 : x > y;
}

static ap_node *find(const list *l, uint64_t hash)
{
    record key = {.hash = hash};
    record *r = l->n ? bsearch(&key, l->item, l->n, sizeof *l->item, by_hash) : NULL;
    return r ? r->node : NULL;
}

/* Does the path of a node reach the root? */
static bool is_rooted(const ap_prefix *p, const ap_node *n, size_t most)
{
    for (size_t i = 0; i <= most && n; i++, n = n->parent)
        if (n == &p->root) return true;
    return false;
}

static void link_pages(ap_spill *s, ap_prefix *p, list *pages)
{
    if (pages->n) qsort(pages->item, pages->n, sizeof *pages->item, by_hash);
    for (size_t i = 0; i < pages->n; i++) {
        record *r = &pages->item[i];
        ap_node *before = r->before ? find(pages, r->before) : &p->root;
        r->node->parent =
            before && (before == &p->root || before->n_tok == AP_PAGE) ? before : NULL;
    }
    size_t n = 0;
    for (size_t i = 0; i < pages->n; i++)
        pages->item[i].at = is_rooted(p, pages->item[i].node, pages->n);
    for (size_t i = 0; i < pages->n; i++) {
        record r = pages->item[i];
        uint64_t bytes = page_record(s, r.node->stored_page);
        if (!r.at) {
            remove_record(s, page_path(s, r.hash), 0);
            ap_free(r.node);
            continue;
        }
        r.node->next = r.node->parent->child;
        r.node->parent->child = r.node;
        s->bytes += bytes;
        p->n_node++;
        pages->item[n++] = r;
    }
    pages->n = n;
}

static void link_states(ap_spill *s, ap_prefix *p, const list *pages, const list *states)
{
    for (size_t i = 0; i < states->n; i++) {
        const record *r = &states->item[i];
        ap_node *n = find(pages, r->hash);
        if (!n || !p->states || r->at > n->n_tok || n->n_state == AP_NODE_STATES) {
            remove_record(s, state_path(s, r->hash, r->at), 0);
            continue;
        }
        n->state[n->n_state++] = (ap_node_state){.at = r->at, .block = -1, .stored = true};
        s->bytes += state_record(s);
    }
}

static apus_err read_all(ap_spill *s, ap_prefix *p, apus_diag *diag)
{
    list pages = {0}, states = {0};
    bool ok = read_folder(s, &pages, &states);
    if (ok) {
        link_pages(s, p, &pages);
        link_states(s, p, &pages, &states);
    } else {
        for (size_t i = 0; i < pages.n; i++) ap_free(pages.item[i].node);
    }
    ap_free(pages.item);
    ap_free(states.item);
    return ok ? APUS_OK : ap_fail(diag, APUS_EFILE, "%s: the folder cannot be read", s->dir);
}

apus_err ap_spill_open(ap_spill *s, const char *dir, uint64_t key, uint64_t most, ap_device *dev,
                       ap_prefix *p, apus_diag *diag)
{
    char name[NAME];
    *s = (ap_spill){.key = key, .most = most, .dev = dev};
    for (int g = 0; g < AP_KV_GROUPS; g++)
        s->page_bytes[g] = p->pages[g] ? p->pages[g]->block_bytes : 0;
    s->state_bytes = p->states ? p->states->block_bytes : 0;
    snprintf(name, sizeof name, "prefix-%016llx", (unsigned long long)key);
    s->dir = ap_path_join(dir, name);
    s->room = dev->is_host ? NULL : ap_malloc(ROOM, 1);
    if (!s->dir || (!dev->is_host && !s->room))
        return ap_fail_nomem(diag, ROOM, "the prefix cache");
    apus_err err = ap_folder_make(dir, diag);
    if (!err) err = ap_folder_make(s->dir, diag);
    if (!err) err = read_all(s, p, diag);
    if (!err) p->disk = s;
    return err;
}

void ap_spill_close(ap_spill *s)
{
    ap_free(s->dir);
    ap_free(s->room);
    *s = (ap_spill){0};
}
