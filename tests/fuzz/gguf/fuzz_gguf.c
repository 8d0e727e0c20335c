/* A GGUF file: what is accepted must hold what the rest of the library relies on, and what is told of
 * it as config.json, tokenizer.json and tokenizer_config.json must be JSON. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "base/json.h"
#include "base/mem.h"
#include "file/config.h"
#include "file/gguf.h"
#include "file/gguf_hf.h"
#include "tensor/quant.h"
#include "text/tokenizer.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void check_tensor(const ap_gguf_tensor *t, const uint8_t *data, size_t size,
                         const ap_family *f)
{
    float row[512];
    char name[64];
    require(t->begin <= t->end && t->end <= size && t->tensor.data == data + t->begin);
    require(t->end - t->begin == ap_tensor_bytes(&t->tensor));
    require(t->tensor.rank >= 0 && t->tensor.rank <= 4);
    if (ap_gguf_tensor_name(t->name, f, name, sizeof name)) require(strlen(name) < sizeof name);
    if (!ap_dtype_is_weight(t->tensor.dtype) || t->tensor.rank == 0) return;
    int64_t cols = t->tensor.shape[t->tensor.rank - 1], rows = ap_tensor_count(&t->tensor) / cols;
    int64_t block = ap_dtype_block(t->tensor.dtype), n = cols < 512 ? cols : 512;
    ap_tensor_row_f32(&t->tensor, 0, 0, n, row);
    ap_tensor_row_f32(&t->tensor, rows - 1, cols - block, block, row);
}

static void check_values(const ap_gguf *g)
{
    for (size_t i = 0; i < g->n_values; i++) {
        const ap_gguf_value *v = &g->value[i];
        const uint8_t *at = v->data;
        const char *s;
        size_t n;
        int64_t whole;
        double number;
        require(ap_gguf_find(g, v->key) == v);
        uint64_t count = 0;
        while (ap_gguf_next_string(v, &at, &s, &n)) {
            require((const uint8_t *)s + n <= v->end);
            count++;
        }
        require(v->type != AP_GGUF_STRING || (count == v->count && at == v->end));
        if (v->count && ap_gguf_int(v, v->count - 1, &whole))
            require(ap_gguf_num(v, v->count - 1, &number));
        require(!ap_gguf_int(v, v->count, &whole) && !ap_gguf_num(v, v->count, &number));
    }
}

/* Is it JSON that reads without a complaint? */
static void check_json(const ap_buf *b)
{
    ap_arena tree;
    ap_json *root = NULL;
    apus_diag d = {0};
    ap_arena_init(&tree, 0);
    require(ap_json_parse(&tree, b->data, b->len, "made", 0, &root, &d) == APUS_OK);
    require(root->type == AP_JSON_OBJECT);
    ap_arena_free(&tree);
}

static void check_config(const ap_gguf *g)
{
    static ap_config c;
    ap_buf b = {0}, advice = {0};
    ap_notes notes = {0};
    apus_diag d = {0};
    require(ap_gguf_generation_json(g, &advice, &notes, &d) == APUS_OK);
    check_json(&advice);
    apus_err err = ap_gguf_config_json(&g, 1, &b, &d);
    if (err) {
        require(d.code == err && d.text[0]);
    } else {
        check_json(&b);
        err = ap_config_parse(&(ap_config_text){"f.gguf", b.data, b.len},
                              &(ap_config_text){"f.gguf", advice.data, advice.len}, &c, &notes, &d);
        if (err) require(d.code == err && d.text[0]);
    }
    ap_buf_free(&b);
    ap_buf_free(&advice);
    ap_notes_free(&notes);
}

static void check_tokenizer(const ap_gguf *g)
{
    ap_buf json = {0}, config = {0};
    apus_diag d = {0};
    ap_notes notes = {0};
    ap_tokenizer *t = NULL;
    apus_err err = ap_gguf_tokenizer_json(g, &json, &notes, &d);
    if (!err && json.len) {
        check_json(&json);
        err = ap_tokenizer_parse(json.data, json.len, "f.gguf", &t, &d);
        ap_tokenizer_free(t);
    }
    if (err) require(d.code == err && d.text[0]);
    err = ap_gguf_tokenizer_config_json(g, NULL, 0, &config, &d);
    if (!err && config.len) check_json(&config);
    ap_buf_free(&json);
    ap_buf_free(&config);
    ap_notes_free(&notes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ap_gguf g;
    apus_diag d = {0};
    const ap_family *f = NULL;
    apus_err err = ap_gguf_parse(data, size, "f.gguf", &g, &d);
    if (err) {
        require(d.code == err && d.text[0]);
        return 0;
    }
    if (ap_gguf_family_of(&g, &f, &d)) f = ap_family_of(AP_ARCH_QWEN3_5);
    for (size_t i = 0; i < g.n_tensors; i++) check_tensor(&g.tensor[i], data, size, f);
    check_values(&g);
    check_config(&g);
    check_tokenizer(&g);
    ap_gguf_close(&g);
    return 0;
}
