/* A grammar or, by the first byte, a JSON schema; behind a zero byte a text that is read against it. Whatever is
 * read: a set's mask agrees with trying every token, and texts that end are found again from the start. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/matcher.h"

enum { MOST_GRAMMAR = 4096, MOST_TEXT = 200, N_TOKEN = 24 };

static void require(bool ok)
{
    if (!ok) abort();
}

static const char *const tokens[N_TOKEN] = {
    "a",    "b", "ab", "\"", "\"}", "{",  "}",    "[",    "]",        ",",    ":",    " ",
    "\n  ", "1", "12", "-",  ".",   "\\", "\xC3", "\xA9", "\xC3\xA9", "null", "true", "\",\""};

/* The bytes that may follow, by the machine; *n_ok of them. */
static void check_mask(ap_matcher *m, const ap_token_trie *t)
{
    uint32_t mask[1];
    if (!ap_matcher_mask(m, mask)) return;
    for (int id = 0; id < N_TOKEN; id++) {
        int32_t set = m->set[m->n];
        for (size_t i = 0; tokens[id][i] && set >= 0; i++)
            set = ap_machine_step(&m->machine, set, (uint8_t)tokens[id][i]);
        if (m->machine.failed) return;
        bool may = (mask[0] & (uint32_t)1 << id) != 0;
        require(may ? set >= 0 : set < 0);
    }
    (void)t;
}

static void walk(const ap_grammar *g, const uint8_t *text, size_t n)
{
    ap_token_trie trie;
    ap_token_masks masks;
    ap_matcher m;
    size_t len[N_TOKEN];
    for (int i = 0; i < N_TOKEN; i++) len[i] = strlen(tokens[i]);
    if (ap_token_trie_of(tokens, len, N_TOKEN, &trie, NULL)) return;
    bool ok = !ap_token_masks_open(&masks, g, &trie, NULL);
    if (ok && !ap_matcher_open(&m, &masks, NULL)) {
        for (size_t i = 0; i < n; i++) {
            check_mask(&m, &trie);
            if (!ap_matcher_push(&m, text[i] % N_TOKEN)) ap_matcher_back(&m, 1);
            if (text[i] >= 250) ap_matcher_back(&m, text[i] % 4);
            if (m.machine.failed) break;
        }
        ap_matcher_close(&m);
    }
    ap_token_masks_close(&masks);
    ap_token_trie_free(&trie);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > MOST_GRAMMAR) return 0;
    const char *text = (const char *)data + 1, *end = memchr(text, 0, size - 1);
    size_t n = end ? (size_t)(end - text) : size - 1, rest = size - 1 - n;
    ap_grammar g = {0};
    apus_diag d = {0};
    apus_err err =
        data[0] & 1 ? ap_json_schema_parse(text, n, &g, &d) : ap_gbnf_parse(text, n, &g, &d);
    require(!err || (d.code == err && d.text[0]));
    if (!err) walk(&g, data + 1 + n, rest < MOST_TEXT ? rest : MOST_TEXT);
    ap_grammar_free(&g);
    return 0;
}
