/* grammar.h - a context-free grammar over bytes, as one automaton per rule.
 *
 * A rule is a graph of states. An edge reads a byte of a range, or nothing, or all of another rule, several times
 * over if need be. Grammars are built state by state, by the readers of GBNF and JSON Schema, then finished: what
 * can't lead to an end is removed, rules that can be empty are entered only where they are not, and each rule's graph
 * is made deterministic as far as that does not blow it up. A finished grammar is only read.
 *
 * Texts are UTF-8. A byte that no UTF-8 has, AP_MARKER_BYTE, begins the four bytes that stand for a special token
 * (token_trie.h): they come into a text only where a rule asks for them.
 *
 * Grammars come from clients: everything that grows has a bound. A grammar that reaches one stays usable and says so
 * when it is finished. */
#ifndef AP_TEXT_GRAMMAR_H
#define AP_TEXT_GRAMMAR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define AP_MARKER_BYTE       0xFF
#define AP_GRAMMAR_STATES    (1 << 19)
#define AP_GRAMMAR_EDGES     (1 << 20)
#define AP_GRAMMAR_RULES     (1 << 16)
#define AP_GRAMMAR_MOST_REPS 1000000000 /* in one edge */

typedef enum ap_edge_kind { AP_EDGE_BYTES, AP_EDGE_EMPTY, AP_EDGE_RULE } ap_edge_kind;

typedef struct ap_edge {
    int32_t to;           /* a state */
    int32_t next;         /* edge of the same state; -1 = none */
    int32_t rule;         /* RULE */
    int32_t min, max;     /* RULE: how often it comes, one behind the other; max -1 = any number */
    uint8_t kind, lo, hi; /* BYTES: lo to hi */
} ap_edge;

typedef struct ap_rule {
    int32_t start,
        end; /* states; end has no edges. After finishing: any state that `accepts` ends the rule */
    int32_t rank;       /* after finishing: above that of each rule that can begin with this one */
    char *name;         /* for errors; or NULL */
    uint32_t follow[8]; /* after finishing: set of the bytes that can stand behind it */
} ap_rule;

typedef struct ap_grammar {
    ap_edge *edge;
    size_t n_edge, edge_cap;
    struct ap_state {
        int32_t first; /* edge, or -1 */
        int32_t owner; /* rule */
        bool accepts;  /* after finishing: the rule may end here */
        bool reads;    /* after finishing: it has an edge of bytes */
    } * state;
    size_t n_state, state_cap;
    ap_rule *rule;
    size_t n_rule, rule_cap;
    int32_t root;    /* a rule */
    int32_t *ranked; /* after finishing: [n_rule] rules by rank */
    int32_t at;      /* while it is built: the rule that new states belong to */
    bool full;       /* a bound was reached */
    bool failed;     /* memory was out */
} ap_grammar;

/* A zeroed grammar is an empty one. */
void ap_grammar_free(ap_grammar *g);

/* ---------------------------------------------------------------- building
 * All of these do nothing of use once the grammar is full or memory was out; they may be called still. */

/* A new rule with its two states. name: for errors, copied; may be NULL. */
int32_t ap_grammar_rule(ap_grammar *g, const char *name, size_t len);
/* A new state of rule g->at. */
int32_t ap_grammar_state(ap_grammar *g);
void ap_grammar_bytes(ap_grammar *g, int32_t from, int32_t to, uint8_t lo, uint8_t hi);
void ap_grammar_empty(ap_grammar *g, int32_t from, int32_t to);
/* min, max: 0 <= min <= max; max -1 = any number */
void ap_grammar_call(ap_grammar *g, int32_t from, int32_t to, int32_t rule, int32_t min,
                     int32_t max);
/* One text. */
void ap_grammar_text(ap_grammar *g, int32_t from, int32_t to, const char *s, size_t n);
/* One character of lo .. hi in UTF-8; surrogates are left out. */
void ap_grammar_chars(ap_grammar *g, int32_t from, int32_t to, uint32_t lo, uint32_t hi);
/* The special token of that id. */
void ap_grammar_token(ap_grammar *g, int32_t from, int32_t to, int32_t id);

/* Make a built grammar ready to be used.
 *   what  what to call it in errors
 * Returns OK; EUNSUPPORTED: it is too large, or a rule begins with itself; EINVAL: no text is of it; ENOMEM. */
apus_err ap_grammar_finish(ap_grammar *g, const char *what, apus_diag *diag);

/* Bytes of memory that it takes. */
size_t ap_grammar_size(const ap_grammar *g);

#endif
