#include "state/spill.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/store.h"

#define NAME 48

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
        remove_record(s, state_path(s, n->hash, n->state[i].at), ap_record_state_bytes(&s->form));
        n->state[i].stored = false;
    }
    if (n->stored)
        remove_record(s, page_path(s, n->hash), ap_record_page_bytes(&s->form, n->stored_page));
    n->stored = false;
    memset(n->stored_page, 0, sizeof n->stored_page);
    for (int i = n->n_state - 1; i >= 0; i--) /* what was there alone is nowhere now */
        if (n->state[i].block < 0) {
            n->n_state--;
            memmove(&n->state[i], &n->state[i + 1], (size_t)(n->n_state - i) * sizeof n->state[0]);
        }
}

/* ---------------------------------------------------------------- writing */

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
    char *path = page_path(s, n->hash);
    for (int g = 0; g < AP_KV_GROUPS; g++) has[g] = n->page[g] >= 0;
    if (!path || ap_store_create(&f, path, NULL)) {
        ap_free(path);
        s->errors++;
        s->full = true;
        return false;
    }
    ap_free(path);
    ap_record_write_page(&s->form, &f, p, n);
    n->stored = finish_record(s, &f, ap_record_page_bytes(&s->form, has));
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
    ap_record_write_state(&s->form, &f, p, n, state);
    state->stored = finish_record(s, &f, ap_record_state_bytes(&s->form));
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
        return make_room(s, p, ap_record_page_bytes(&s->form, has)) && write_pages(s, p, n);
    }
    for (int i = 0; n->stored && i < n->n_state; i++)
        if (!n->state[i].stored && n->state[i].block >= 0)
            return make_room(s, p, ap_record_state_bytes(&s->form)) &&
                   write_state(s, p, n, &n->state[i]);
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
        void *to[AP_KV_GROUPS] = {0};
        ok = ap_record_read_head(&s->form, &f, n->hash, &found, &before);
        ok = ok && before == n->parent->hash && found.n_tok == n->n_tok;
        ok = ok && !memcmp(found.tok, n->tok, (size_t)n->n_tok * sizeof *n->tok);
        for (int g = 0; g < AP_KV_GROUPS && ok; g++) {
            if (!found.stored_page[g]) continue;
            int32_t block_of = block[g] >= 0 ? block[g] : n->page[g]; /* the same bits once more */
            ok = block_of >= 0;
            if (ok) to[g] = ap_slab_at(p->pages[g], block_of);
        }
        ok = ok && ap_record_read_blocks(&s->form, &f, found.stored_page, to);
        ok = !ap_store_close(&f, 0) && ok;
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
    if (ok) s->restored += ap_record_page_bytes(&s->form, n->stored_page);
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
        ok = ap_record_read_state(&s->form, &f, n->hash, n->state[i].at, ap_recur_live(r));
        ok = !ap_store_close(&f, 0) && ok;
    }
    if (ok) {
        s->restored += ap_record_state_bytes(&s->form);
        ap_free(path);
        return true;
    }
    s->errors++;
    n->state[i].stored = false;
    remove_record(s, path, ap_record_state_bytes(&s->form));
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
    bool ok = ap_record_read_head(&s->form, &f, hash, n, before);
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
        uint64_t bytes = ap_record_page_bytes(&s->form, r.node->stored_page);
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
        s->bytes += ap_record_state_bytes(&s->form);
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
    *s = (ap_spill){.most = most};
    snprintf(name, sizeof name, "prefix-%016llx", (unsigned long long)key);
    s->dir = ap_path_join(dir, name);
    if (!s->dir) return ap_fail_nomem(diag, strlen(dir), "the prefix cache");
    apus_err err = ap_record_form_open(&s->form, key, dev, p, diag);
    if (!err) err = ap_folder_make(dir, diag);
    if (!err) err = ap_folder_make(s->dir, diag);
    if (!err) err = read_all(s, p, diag);
    if (!err) p->disk = s;
    return err;
}

void ap_spill_close(ap_spill *s)
{
    ap_free(s->dir);
    ap_record_form_close(&s->form);
    *s = (ap_spill){0};
}
