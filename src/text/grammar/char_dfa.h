/* char_dfa.h - sets of strings as deterministic automata over characters: what patterns, formats, lengths, names and
 * numbers of a JSON schema allow, put together before it becomes bytes. */
#ifndef AP_TEXT_GRAMMAR_CHAR_DFA_H
#define AP_TEXT_GRAMMAR_CHAR_DFA_H

#include <stddef.h>

#include "text/grammar/grammar.h"

#define AP_LAST_CHAR  0x10FFFF
#define AP_DFA_STATES 20000 /* at most */

typedef struct ap_char_edge {
    uint32_t lo, hi;
    int32_t to;
} ap_char_edge;

/* State 0 is where it starts. */
typedef struct ap_char_dfa {
    struct ap_char_state {
        size_t first, n; /* edges, ascending, which don't overlap */
        bool accepts;
    } * state;
    size_t n_state, state_cap;
    ap_char_edge *edge;
    size_t n_edge, edge_cap;
    bool full;   /* a bound was reached: it is of no use */
    bool failed; /* memory was out */
} ap_char_dfa;

void ap_char_dfa_free(ap_char_dfa *d);

/* Building: states in turn, each followed by its edges. */
int32_t ap_char_dfa_state(ap_char_dfa *d, bool accepts);
/* An edge of the newest state, behind its others. Joins the one before it where it can. */
void ap_char_dfa_edge(ap_char_dfa *d, uint32_t lo, uint32_t hi, int32_t to);

/* All strings of both; of min to max characters (max -1: any number); all other strings; n texts in UTF-8. Results go
 * to *out, which is empty. */
void ap_char_dfa_both(const ap_char_dfa *a, const ap_char_dfa *b, ap_char_dfa *out);
void ap_char_dfa_length(int64_t min, int64_t max, ap_char_dfa *out);
void ap_char_dfa_others(const ap_char_dfa *a, ap_char_dfa *out);
void ap_char_dfa_texts(const char *const *text, const size_t *len, size_t n, ap_char_dfa *out);

bool ap_char_dfa_accepts(const ap_char_dfa *d, const char *text, size_t len);
/* Is there no string? */
bool ap_char_dfa_empty(const ap_char_dfa *d);

/* How characters are written. */
typedef enum ap_writing {
    AP_WRITE_PLAIN, /* as they are */
    AP_WRITE_JSON /* inside a JSON string: those that must be, and those that are not ASCII may be, escaped */
} ap_writing;

/* Put the strings of an automaton into a grammar. */
void ap_char_dfa_put(const ap_char_dfa *d, ap_writing how, ap_grammar *g, int32_t from, int32_t to);
/* One character of lo .. hi inside a JSON string. */
void ap_json_chars(ap_grammar *g, int32_t from, int32_t to, uint32_t lo, uint32_t hi);
/* Any character inside a JSON string, written in any way. */
void ap_json_any_char(ap_grammar *g, int32_t from, int32_t to);

/* ---------------------------------------------------------------- from automata that are not deterministic */

typedef enum ap_char_step { AP_STEP_CHARS, AP_STEP_EMPTY, AP_STEP_BEGIN, AP_STEP_END } ap_char_step;

typedef struct ap_char_nfa {
    struct ap_nfa_edge {
        uint32_t lo, hi;
        int32_t to, next;
        ap_char_step kind; /* BEGIN, END: nothing, but only at the begin or end of the string */
    } * edge;
    size_t n_edge, edge_cap;
    int32_t *first; /* [n_state] edge, or -1 */
    size_t n_state, state_cap;
    bool full, failed;
} ap_char_nfa;

void ap_char_nfa_free(ap_char_nfa *a);
int32_t ap_char_nfa_state(ap_char_nfa *a);
void ap_char_nfa_edge(ap_char_nfa *a, int32_t from, int32_t to, ap_char_step kind, uint32_t lo,
                      uint32_t hi);
/* The strings that lead from start to end. */
void ap_char_nfa_determine(const ap_char_nfa *a, int32_t start, int32_t end, ap_char_dfa *out);

#endif
