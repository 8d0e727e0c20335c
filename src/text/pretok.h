/* pretok.h - splitting normalised text into the words that are encoded one by one. */
#ifndef AP_TEXT_PRETOK_H
#define AP_TEXT_PRETOK_H

#include "text/normalizer.h"

typedef enum ap_split_rule {
    AP_SPLIT_REMOVED,
    AP_SPLIT_ISOLATED,
    AP_SPLIT_PREVIOUS, /* a delimiter joins what is before it */
    AP_SPLIT_NEXT,
    AP_SPLIT_CONTIGUOUS
} ap_split_rule;

typedef struct ap_pretok {
    struct ap_pretok_step {
        enum {
            AP_PRETOK_SPLIT,
            AP_PRETOK_BYTES, /* ByteLevel: prefix, optional regex; the alphabet is for the model */
            AP_PRETOK_DIGITS,
            AP_PRETOK_METASPACE,
            AP_PRETOK_WORDS, /* Whitespace: runs of \w, runs of other non-spaces */
            AP_PRETOK_SPACES /* WhitespaceSplit */
        } kind;
        ap_split_rule rule;
        bool invert;
        char *what; /* text to find; METASPACE: the replacement character */
        size_t what_len;
        ap_regex *regex;
        enum { AP_PREFIX_NEVER, AP_PREFIX_ALWAYS, AP_PREFIX_FIRST } prefix;
        bool split; /* METASPACE */
    } * steps;
    size_t n, cap;
    bool bytes; /* words stand for their bytes in the GPT-2 alphabet */
} ap_pretok;

/* Read the "pre_tokenizer" of a tokenizer file; NULL or JSON null is none.
 * Split, ByteLevel (last), Digits, Metaspace, Whitespace, WhitespaceSplit, Sequence.
 * Returns OK; EFORMAT; EUNSUPPORTED by component; ENOMEM. */
apus_err ap_pretok_parse(const ap_json *j, const char *name, ap_pretok *out, apus_diag *diag);
void ap_pretok_free(ap_pretok *p);

/* Scratch of one thread; all zero to begin with. */
typedef struct ap_pretok_work {
    ap_buf buf[2];
    ap_spans words[2], found;
    struct ap_pretok_part {
        size_t off, end;
        bool match;
    } * parts;
    size_t parts_cap, n_parts;
    ap_regex_work regex;
} ap_pretok_work;
void ap_pretok_work_free(ap_pretok_work *w);

/* Split valid UTF-8. text and *words (spans of *text, none empty) live in w or s until the next use.
 *   at_start  s begins the whole input (Metaspace may add a prefix only there) */
apus_err ap_pretok_run(const ap_pretok *p, ap_pretok_work *w, const char *s, size_t n,
                       bool at_start, const char **text, const ap_spans **words, apus_diag *diag);

#endif
