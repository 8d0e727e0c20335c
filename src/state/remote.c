#include "state/remote.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"

#define NAME 40 /* of ap_parcel */
/* What a wish may bring at most: it lies in memory until the tree has it. */
#define MOST_BYTES ((size_t)1 << 30)

enum { FULL, SLIDING }; /* groups, as in ap_kv_group */

apus_err ap_remote_open(ap_remote *r, uint64_t key, ap_device *dev, const ap_prefix *p,
                        apus_diag *diag)
{
    *r = (ap_remote){0};
    return ap_record_form_open(&r->form, key, dev, p, diag);
}

void ap_remote_close(ap_remote *r)
{
    ap_record_form_close(&r->form);
}

static void page_name(char out[NAME], uint64_t key, uint64_t hash)
{
    snprintf(out, NAME, "%016llx:%016llx.p", (unsigned long long)key, (unsigned long long)hash);
}

static void state_name(char out[NAME], uint64_t key, uint64_t hash)
{
    snprintf(out, NAME, "%016llx:%016llx.s", (unsigned long long)key, (unsigned long long)hash);
}

/* The node of a full page behind another one; NULL = none. */
static ap_node *full_child(const ap_node *n, const int32_t *tok)
{
    for (ap_node *c = n->child; c; c = c->next)
        if (c->n_tok == AP_PAGE && !memcmp(c->tok, tok, sizeof c->tok)) return c;
    return NULL;
}

static bool has_pages(const ap_prefix *p, const ap_node *n)
{
    return !p->pages[FULL] || n->page[FULL] >= 0 || n->stored_page[FULL];
}

/* ---------------------------------------------------------------- wishes */

/* Full pages at the front of tok that the tree has. */
static int count_have(const ap_prefix *p, const int32_t *tok, int n)
{
    const ap_node *node = &p->root;
    int i = 0;
    while (i < n && (node = full_child(node, tok + (size_t)i * AP_PAGE)) && has_pages(p, node)) i++;
    return i;
}

ap_wish *ap_wish_make(const ap_remote *r, ap_prefix *p, const int32_t *tok, int n)
{
    static const bool both[AP_KV_GROUPS] = {true, true};
    int pages = (n - 1) / AP_PAGE, from = ap_prefix_find(p, tok, n).pos / AP_PAGE;
    if (from >= pages) return NULL;
    ap_wish *w = ap_calloc(1, sizeof *w);
    if (!w) return NULL;
    w->key = r->form.key;
    w->n = pages;
    w->from = from;
    w->wants_pages = p->pages[FULL] || p->pages[SLIDING];
    w->wants_states = p->states != NULL;
    w->have = count_have(p, tok, pages);
    w->end = w->have;
    w->page_cap = (size_t)ap_record_page_bytes(&r->form, both);
    w->state_cap = (size_t)ap_record_state_bytes(&r->form);
    w->hash = ap_calloc((size_t)pages, sizeof *w->hash);
    w->page = ap_calloc((size_t)pages, sizeof *w->page);
    w->page_bytes = ap_calloc((size_t)pages, sizeof *w->page_bytes);
    if (!w->hash || !w->page || !w->page_bytes) {
        ap_wish_free(w);
        return NULL;
    }
    uint64_t before = 0;
    for (int i = 0; i < pages; i++)
        before = w->hash[i] = ap_prefix_hash(before, tok + (size_t)i * AP_PAGE, AP_PAGE);
    return w;
}

void ap_wish_free(ap_wish *w)
{
    if (!w) return;
    for (int i = 0; w->page && i < w->n; i++) ap_free(w->page[i]);
    ap_free(w->page);
    ap_free(w->page_bytes);
    ap_free(w->hash);
    ap_free(w->state);
    ap_free(w);
}

/* How far the pages of the store go on behind those that are there. */
static int pages_until(const ap_wish *w, const apus_store *store)
{
    char(*name)[NAME];
    int n = w->n - w->have, most = (int)(MOST_BYTES / w->page_cap), i = 0;
    if (!w->wants_pages) return w->n;
    if (n > most) n = most;
    const char **list = n > 0 ? ap_calloc((size_t)n, sizeof *list) : NULL;
    bool *there = n > 0 ? ap_calloc((size_t)n, sizeof *there) : NULL;
    name = n > 0 ? ap_calloc((size_t)n, sizeof *name) : NULL;
    if (list && there && name) {
        for (int k = 0; k < n; k++) {
            page_name(name[k], w->key, w->hash[w->have + k]);
            list[k] = name[k];
        }
        if (store->has(store->ctx, list, n, there))
            while (i < n && there[i]) i++;
    }
    ap_free(list);
    ap_free(there);
    ap_free(name);
    return w->have + i;
}

/* The last page before `until` whose end has a state in the store, and that helps; -1 = none. */
static int last_state(const ap_wish *w, const apus_store *store, int until)
{
    int n = until - w->from, found = -1;
    if (n <= 0) return -1;
    const char **list = ap_calloc((size_t)n, sizeof *list);
    bool *there = ap_calloc((size_t)n, sizeof *there);
    char(*name)[NAME] = ap_calloc((size_t)n, sizeof *name);
    if (list && there && name) {
        for (int k = 0; k < n; k++) {
            state_name(name[k], w->key, w->hash[w->from + k]);
            list[k] = name[k];
        }
        if (store->has(store->ctx, list, n, there))
            for (int k = 0; k < n; k++)
                if (there[k]) found = w->from + k;
    }
    ap_free(list);
    ap_free(there);
    ap_free(name);
    return found;
}

/* One record of at most cap bytes; NULL = it did not come. */
static void *get(const apus_store *store, const char *name, size_t cap, size_t *bytes)
{
    void *data = ap_malloc(cap, 1);
    *bytes = data ? store->get(store->ctx, name, data, cap) : 0;
    if (*bytes && *bytes <= cap) return data;
    ap_free(data);
    return NULL;
}

void ap_wish_fetch(ap_wish *w, const apus_store *store, const volatile int *stop)
{
    char name[NAME];
    int until = pages_until(w, store);
    if (w->wants_states) {
        int last = last_state(w, store, until);
        if (last < 0) return;
        state_name(name, w->key, w->hash[last]);
        w->state = get(store, name, w->state_cap, &w->state_bytes);
        if (!w->state) return;
        until = last + 1;
    }
    if (!w->wants_pages) w->end = until;
    while (w->wants_pages && w->end < until && !__atomic_load_n(stop, __ATOMIC_RELAXED)) {
        int i = w->end - w->have;
        page_name(name, w->key, w->hash[w->end]);
        w->page[i] = get(store, name, w->page_cap, &w->page_bytes[i]);
        if (!w->page[i]) return;
        w->end++;
    }
}

/* ---------------------------------------------------------------- adopting */

/* Blocks for what the record has and the node behind `before` lacks. Sliding pages only where a query at the end of
 * all that came sees them. */
static bool take_blocks(ap_prefix *p, const bool has[AP_KV_GROUPS], const ap_node *there,
                        bool in_window, int32_t block[AP_KV_GROUPS])
{
    bool ok = true;
    for (int g = 0; g < AP_KV_GROUPS; g++) {
        block[g] = -1;
        if (!ok || !has[g] || (there && there->page[g] >= 0) || (g == SLIDING && !in_window))
            continue;
        block[g] = ap_slab_take(p->pages[g]);
        ok = block[g] >= 0;
    }
    return ok;
}

static void drop_blocks(ap_prefix *p, const int32_t block[AP_KV_GROUPS])
{
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (block[g] >= 0) ap_slab_drop(p->pages[g], block[g]);
}

/* The page `tok` behind `before` from a record; NULL = the record is not good, or there is no room. */
static ap_node *adopt_page(ap_remote *r, ap_prefix *p, ap_node *before, const int32_t *tok,
                           bool in_window, const void *data, size_t bytes, uint64_t hash)
{
    ap_store f;
    ap_node head = {0}, *n = full_child(before, tok);
    uint64_t says;
    int32_t block[AP_KV_GROUPS];
    void *to[AP_KV_GROUPS] = {0};
    if (ap_store_open_memory(&f, data, bytes, NULL)) return NULL;
    bool ok = ap_record_read_head(&r->form, &f, hash, &head, &says);
    ok = ok && says == before->hash && head.n_tok == AP_PAGE;
    ok = ok && !memcmp(head.tok, tok, sizeof head.tok);
    r->refused += !ok;
    bool room = ok && take_blocks(p, head.stored_page, n, in_window, block);
    if (!room) {
        if (ok) drop_blocks(p, block);
        ap_store_close(&f, 0);
        return NULL;
    }
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (block[g] >= 0) to[g] = ap_slab_at(p->pages[g], block[g]);
    ok = ap_record_read_blocks(&r->form, &f, head.stored_page, to);
    ok = !ap_store_close(&f, 0) && ok;
    r->refused += !ok;
    if (ok && !n) n = ap_prefix_add(p, before, tok, AP_PAGE);
    if (!ok || !n) {
        drop_blocks(p, block);
        return NULL;
    }
    for (int g = 0; g < AP_KV_GROUPS; g++)
        if (block[g] >= 0) n->page[g] = block[g];
    n->shared = true;
    r->tokens += AP_PAGE;
    r->bytes += bytes;
    return n;
}

/* The state at the end of n. False: its record is not good, or there is no room. */
static bool adopt_state(ap_remote *r, ap_prefix *p, ap_node *n, const ap_wish *w)
{
    ap_store f;
    int32_t block = ap_slab_take(p->states);
    if (block < 0) return false;
    bool ok = !ap_store_open_memory(&f, w->state, w->state_bytes, NULL);
    if (ok) {
        void *to = ap_slab_at(p->states, block);
        ok = ap_record_read_state(&r->form, &f, n->hash, AP_PAGE, to);
        ok = !ap_store_close(&f, 0) && ok;
    }
    r->refused += !ok;
    if (ok) ap_prefix_add_state(p, n, AP_PAGE, block);
    if (ok) r->bytes += w->state_bytes;
    if (ok && !w->wants_pages) r->tokens += (uint64_t)(w->end - w->from) * AP_PAGE;
    ap_slab_drop(p->states, block);
    return ok;
}

void ap_remote_adopt(ap_remote *r, ap_prefix *p, const int32_t *tok, const ap_wish *w)
{
    ap_node *n = &p->root, *added = NULL; /* without pages, good for the state alone */
    int i = 0;
    p->clock++;
    for (; i < w->end; i++) {
        const int32_t *page = tok + (size_t)i * AP_PAGE;
        bool in_window = !p->window || (i + 1) * AP_PAGE > w->end * AP_PAGE - p->window;
        ap_node *c = full_child(n, page);
        bool lacks =
            !c || !has_pages(p, c) || (p->pages[SLIDING] && in_window && c->page[SLIDING] < 0);
        p->pin = n;
        if (i >= w->have && w->wants_pages && lacks)
            c = adopt_page(r, p, n, page, in_window, w->page[i - w->have],
                           w->page_bytes[i - w->have], w->hash[i]);
        else if (!c && !w->wants_pages)
            c = ap_prefix_add(p, n, page, AP_PAGE);
        if (!c) break;
        if (!w->wants_pages && !added && !c->child && !c->n_state) added = c;
        c->used = p->clock;
        n = c;
    }
    p->pin = n;
    bool whole = w->state && i && i == w->end && adopt_state(r, p, n, w);
    p->pin = NULL;
    if (added && !whole) ap_prefix_remove(p, added);
}

/* ---------------------------------------------------------------- packing */

static ap_node *after(const ap_prefix *p, ap_node *n)
{
    if (n->child) return n->child;
    while (n != &p->root && !n->next) n = n->parent;
    return n == &p->root ? NULL : n->next;
}

static ap_parcel *seal(ap_store *f, ap_parcel *a, size_t bytes)
{
    a->bytes = bytes;
    if (!ap_store_close_memory(f, &a->data)) return a;
    ap_free(a);
    return NULL;
}

static ap_parcel *pack_page(ap_remote *r, ap_prefix *p, ap_node *n)
{
    ap_store f;
    bool has[AP_KV_GROUPS];
    for (int g = 0; g < AP_KV_GROUPS; g++) has[g] = n->page[g] >= 0;
    size_t bytes = (size_t)ap_record_page_bytes(&r->form, has);
    ap_parcel *a = ap_calloc(1, sizeof *a);
    n->shared = true;
    if (!a || ap_store_create_memory(&f, bytes, NULL)) {
        ap_free(a);
        return NULL;
    }
    page_name(a->name, r->form.key, n->hash);
    ap_record_write_page(&r->form, &f, p, n);
    return seal(&f, a, bytes);
}

static ap_parcel *pack_state(ap_remote *r, ap_prefix *p, const ap_node *n, ap_node_state *state)
{
    ap_store f;
    size_t bytes = (size_t)ap_record_state_bytes(&r->form);
    ap_parcel *a = ap_calloc(1, sizeof *a);
    state->shared = true;
    if (!a || ap_store_create_memory(&f, bytes, NULL)) {
        ap_free(a);
        return NULL;
    }
    state_name(a->name, r->form.key, n->hash);
    ap_record_write_state(&r->form, &f, p, n, state);
    return seal(&f, a, bytes);
}

ap_parcel *ap_remote_pack(ap_remote *r, ap_prefix *p)
{
    bool paged = p->pages[FULL] || p->pages[SLIDING];
    for (ap_node *n = p->root.child; n; n = after(p, n)) {
        bool in_memory = n->page[p->pages[FULL] ? FULL : SLIDING] >= 0;
        if (n->n_tok < AP_PAGE) continue;
        if (paged && !n->shared && in_memory) return pack_page(r, p, n);
        for (int i = 0; i < n->n_state; i++) {
            ap_node_state *s = &n->state[i];
            if (s->at == AP_PAGE && s->block >= 0 && !s->shared) return pack_state(r, p, n, s);
        }
    }
    return NULL;
}

void ap_parcel_free(ap_parcel *a)
{
    if (!a) return;
    ap_free(a->data);
    ap_free(a);
}
