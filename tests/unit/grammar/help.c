#include "help.h"

bool accepts(const ap_grammar *g, const char *text, size_t len)
{
    ap_machine m;
    assert_int_equal(ap_machine_open(&m, g, NULL), APUS_OK);
    int32_t set = ap_machine_start(&m);
    for (size_t i = 0; i < len; i++) set = ap_machine_step(&m, set, (uint8_t)text[i]);
    bool ends = ap_machine_ends(&m, set);
    assert_false(m.failed);
    ap_machine_close(&m);
    return ends;
}

ap_grammar read_grammar(reader read, const char *text)
{
    ap_grammar g = {0};
    apus_diag d = {0};
    if (read(text, strlen(text), &g, &d)) fail_msg("%.200s: %s", text, d.text);
    return g;
}

void check_texts(reader read, const char *grammar, const char *const *yes, const char *const *no)
{
    ap_grammar g = read_grammar(read, grammar);
    for (; *yes; yes++)
        if (!accepts(&g, *yes, strlen(*yes))) fail_msg("%s: refuses '%s'", grammar, *yes);
    for (; *no; no++)
        if (accepts(&g, *no, strlen(*no))) fail_msg("%s: accepts '%s'", grammar, *no);
    ap_grammar_free(&g);
}

void check_refused(reader read, const char *grammar, apus_err err, const char *word)
{
    ap_grammar g = {0};
    apus_diag d = {0};
    apus_err got = read(grammar, strlen(grammar), &g, &d);
    if (got != err || !strstr(d.text, word))
        fail_msg("%.200s: expected %d and '%s', found %d: %s", grammar, err, word, got, d.text);
    ap_grammar_free(&g);
}
