/* machine.h - texts read against a grammar: a pushdown automaton with all of its stacks at once.
 *
 * Where a text can be read in several ways there are several states. States are kept as sets: pairs of a grammar's
 * state and a stack. Stacks share their lower parts, and stacks under the same state are one, a node with several
 * frames, so that a set never has more members than the grammar has states, however ambiguous it is. Sets and nodes
 * never change and are kept once, by number; equal numbers of one machine are equal sets. */
#ifndef AP_TEXT_GRAMMAR_MACHINE_H
#define AP_TEXT_GRAMMAR_MACHINE_H

#include "text/grammar/grammar.h"

#define AP_MACHINE_DEAD (-1) /* the set of a text that is none of the grammar's, nor begins one */

/* Where to go on when a rule has been read. */
typedef struct ap_frame {
    int32_t edge;  /* the RULE edge that it was read for; -1: all is read */
    int32_t need;  /* times that the rule must come still, this one included, at least 1 */
    int32_t room;  /* times that it may; -1 = any number */
    int32_t below; /* node */
} ap_frame;

typedef struct ap_member {
    int32_t state, node;
} ap_member;

/* A part of a pool that is kept once. */
typedef struct ap_interned {
    uint32_t begin, n; /* of its frames or members */
    uint32_t hash;
    int32_t next; /* with a like hash; -1 = none */
    bool ends;    /* sets: the text may end here */
} ap_interned;

typedef struct ap_interned_list {
    ap_interned *v;
    size_t n, cap;
    int32_t *bucket; /* [mask + 1] */
    size_t mask;
} ap_interned_list;

typedef struct ap_machine {
    const ap_grammar *g;
    ap_interned_list node, set;
    ap_frame *frame; /* of all nodes */
    size_t n_frame, frame_cap;
    ap_member *member; /* of all sets */
    size_t n_member, member_cap;

    /* of the step that runs */
    ap_member *now; /* [n_now]; node: list of what came in, then the node of all of it */
    size_t n_now, now_cap;
    struct ap_incoming {
        int32_t state, node, next;
    } * incoming; /* states reached with their nodes: first to last a queue */
    size_t n_incoming, incoming_cap;
    bool ends;
    int32_t *place; /* [states] where in `now`, if stamp agrees */
    int32_t *stamp; /* [states] */
    int32_t turn;
    struct ap_entry {
        ap_frame frame;
        int32_t next;
    } * entry; /* frames that rules are entered with, as lists */
    size_t n_entry, entry_cap;
    int32_t *entered;  /* [rules] list, or -1 */
    uint64_t *by_rank; /* bits of the ranks that are to be entered */
    ap_frame *gather;  /* of a node that is made */
    size_t gather_cap;
    bool failed; /* memory was out, or the machine grew too large: it is of no use any more */
} ap_machine;

/* Begin. The grammar is finished, and outlives the machine. ENOMEM. ap_machine_close is called in any case. */
apus_err ap_machine_open(ap_machine *m, const ap_grammar *g, apus_diag *diag);
void ap_machine_close(ap_machine *m);

/* The set of the empty text. */
int32_t ap_machine_start(ap_machine *m);
/* The set that a byte leads to; DEAD of DEAD. */
int32_t ap_machine_step(ap_machine *m, int32_t set, uint8_t byte);
/* The set where these frames have been reached: n of them on top of a stack. */
int32_t ap_machine_pop(ap_machine *m, const ap_frame *frame, size_t n);
/* The set of one member. */
int32_t ap_machine_single(ap_machine *m, int32_t state, int32_t node);
/* The node of these frames, which are put in order. */
int32_t ap_machine_node(ap_machine *m, ap_frame *frame, size_t n);

static inline bool ap_machine_ends(const ap_machine *m, int32_t set)
{
    return set >= 0 && m->set.v[set].ends;
}

/* What was made since the mark can be forgotten again; nothing of it may be in use. */
typedef struct ap_machine_mark {
    size_t n_node, n_set, n_frame, n_member;
} ap_machine_mark;
ap_machine_mark ap_machine_place(const ap_machine *m);
void ap_machine_forget(ap_machine *m, ap_machine_mark mark);

/* Keep only what these sets need; their numbers change: *set gets the new ones. */
void ap_machine_keep(ap_machine *m, int32_t *set, size_t n);

/* Bytes of memory that sets and nodes take. */
size_t ap_machine_size(const ap_machine *m);

#endif
