/* JSON text to a tree, and every string of it through quoting and parsing again. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "base/json.h"
#include "base/utf8.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void check_string(const char *s, size_t n)
{
    require(ap_utf8_valid(s, n) && s[n] == 0);
    for (int ascii = 0; ascii < 2; ascii++) {
        ap_buf b = {0};
        ap_json_quote(&b, s, n, ascii);
        ap_arena a;
        ap_json *v = NULL;
        ap_arena_init(&a, 0);
        require(!b.failed && !ap_json_parse(&a, b.data, b.len, "quoted", 0, &v, NULL));
        require(v->type == AP_JSON_STRING && v->len == n && !memcmp(v->str, s, n));
        ap_arena_free(&a);
        ap_buf_free(&b);
    }
}

static void check_tree(const ap_json *v, int depth)
{
    require(depth <= AP_JSON_MAX_DEPTH);
    if (v->type == AP_JSON_STRING) check_string(v->str, v->len);
    size_t n = 0;
    for (const ap_json *c = v->first; c; c = c->next, n++) {
        if (v->type == AP_JSON_OBJECT) {
            check_string(c->key, c->key_len);
            require(strlen(c->key) != c->key_len || ap_json_get(v, c->key) != NULL);
        }
        check_tree(c, depth + 1);
    }
    require(v->type == AP_JSON_STRING || v->type == AP_JSON_INT || v->type == AP_JSON_DOUBLE ||
            n == v->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (unsigned flags = 0; flags < 2; flags++) {
        ap_arena a;
        apus_diag d = {0};
        ap_json *v = NULL;
        ap_arena_init(&a, (size_t)64 << 20);
        apus_err err = ap_json_parse(&a, (const char *)data, size, "input", flags, &v, &d);
        require(err ? d.code == err && d.text[0] : v != NULL);
        if (!err) check_tree(v, 0);
        ap_arena_free(&a);
    }
    return 0;
}
