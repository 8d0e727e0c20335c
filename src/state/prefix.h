/* prefix.h - the prefix cache: what sequences have computed, kept for others that begin with the same tokens.
 *
 * A tree whose nodes are pages: 64 tokens, the blocks that hold their keys and values, and recurrent states at
 * places in them. A path from the root is a prefix. Blocks are shared with sequences by reference count and read
 * only; a sequence that goes on in the middle of a page gets a copy of its own (state/kv.h).
 *
 * A sequence can begin at a position if the path reaches it, all K/V pages are there that a query at it sees, and,
 * of models with recurrent layers, a state was kept exactly there. So models with attention alone begin anywhere.
 *
 * With a disk (spill.h) nodes are written when there is time, and stay in the tree without blocks when these are given
 * back.
 *
 * Blocks of the tree that no sequence shares are given back when somebody needs a block (ap_slab.evict), the one
 * first that is worth least: tokens that it saves, over the time since it was of use. Of one owner and thread. */
#ifndef AP_STATE_PREFIX_H
#define AP_STATE_PREFIX_H

#include "state/kv.h"
#include "state/recur.h"

#define AP_NODE_STATES 4

typedef struct ap_node_state {
    int at;        /* tokens of the page that it has seen, 1 .. AP_PAGE */
    int32_t block; /* -1 = on the disk alone */
    bool stored;
    bool shared; /* a store of several processes was given it, or it came from there (remote.h) */
    uint64_t used;
} ap_node_state;

typedef struct ap_node ap_node;
struct ap_node {
    ap_node *parent, *child, *next; /* next: of the same parent */
    int32_t tok[AP_PAGE];
    int n_tok;                  /* below AP_PAGE: nothing follows yet */
    int32_t page[AP_KV_GROUPS]; /* -1 = not in memory */
    bool stored;                /* on the disk, with the pages of these groups */
    bool stored_page[AP_KV_GROUPS];
    bool shared; /* likewise its pages */
    ap_node_state state[AP_NODE_STATES];
    int n_state;
    uint64_t hash; /* of all tokens up to its end */
    uint64_t used; /* clock of the last use */
};

#define AP_PREFIX_GONE 1024

typedef struct ap_prefix {
    ap_slab *pages[AP_KV_GROUPS], *states; /* NULL = the model has no such layers */
    int window;                            /* of the sliding group; 0 = none */
    ap_node root;                          /* without tokens */
    uint64_t clock;
    int n_node;
    ap_node *pin;                          /* must not be given up now, nor what it needs */
    struct ap_spill *disk;                 /* NULL = memory alone (spill.h) */
    uint64_t gone[AP_PREFIX_GONE], n_gone; /* ring: hashes of the full pages given up last */
} ap_prefix;

/* What was found of a prompt. */
typedef struct ap_match {
    int pos;        /* a sequence can begin here; 0 = at the beginning alone */
    ap_node *node;  /* whose page holds the token before pos */
    int state;      /* of node->state, the recurrent state at pos; -1 = none needed */
    int known;      /* tokens that the tree has, pos or more */
    apus_miss miss; /* why no more, */
    int miss_pos;   /* and from where on; -1 = all that is known serves */
} ap_match;

void ap_prefix_open(ap_prefix *p, ap_slab *pages[AP_KV_GROUPS], ap_slab *states, int window);
void ap_prefix_clear(ap_prefix *p); /* of a zeroed struct too */

/* The longest prefix of tok [n] that a sequence can begin with, at most n - 1 tokens: something must be computed. */
ap_match ap_prefix_find(ap_prefix *p, const int32_t *tok, int n);
/* Let an empty sequence begin there: its tables share the pages, its state is a copy. What is on the disk alone is read;
 * *n_disk: tokens of such pages. False: it could not be, and what is there of the sequence is good for nothing; that
 * record is forgotten, so another search finds something else. */
bool ap_prefix_share(ap_prefix *p, const ap_match *m, ap_kv_table kv[AP_KV_GROUPS], ap_recur *r,
                     int *n_disk);

/* Keep what a sequence has computed of tok [n]: its pages, those that are not full only if `last`, and its recurrent
 * states: its snapshots, and if `last` the live one, which is that of n. Without memory for it less is kept. */
void ap_prefix_keep(ap_prefix *p, const int32_t *tok, int n, const ap_kv_table kv[AP_KV_GROUPS],
                    const ap_recur *r, bool last);

/* Give back a block of that slab that no sequence shares; false = there is none. Allocates nothing. */
bool ap_prefix_evict(ap_prefix *p, ap_slab *s);

/* A node of k tokens, without blocks, behind another one that is full. NULL = no memory. */
ap_node *ap_prefix_add(ap_prefix *p, ap_node *parent, const int32_t *tok, int k);
/* Keep a recurrent state at a place of a node: the block becomes one reference richer. */
void ap_prefix_add_state(ap_prefix *p, ap_node *n, int at, int32_t block);

/* Take a node out of the tree, and all that follow it. */
void ap_prefix_remove(ap_prefix *p, ap_node *n);
/* The hash of n tokens, at most a page, after those with the hash `before`. */
uint64_t ap_prefix_hash(uint64_t before, const int32_t *tok, int n);

/* Bytes of blocks that no sequence shares. */
uint64_t ap_prefix_bytes(const ap_prefix *p);

#endif
