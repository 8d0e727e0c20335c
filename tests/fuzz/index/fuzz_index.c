/* model.safetensors.index.json beside two files of weights: whatever is accepted finds all of their tensors, and
 * what is missing is told by name. */
#include <stdlib.h>
#include <string.h>

#include "../folder.h"
#include "../fuzz.h"
#include "file/weights_impl.h"

static const char config_text[] =
    "{\"model_type\":\"qwen3\",\"num_hidden_layers\":1,\"hidden_size\":32,\"vocab_size\":16,"
    "\"intermediate_size\":32,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,"
    "\"rms_norm_eps\":1e-6,\"max_position_embeddings\":64,\"rope_theta\":1e4,"
    "\"tie_word_embeddings\":true}";
static const char first[] = "BF16 16,32 model.embed_tokens.weight\nBF16 32 model.norm.weight";
static const char second[] = "BF16 32 model.layers.0.input_layernorm.weight\nF32 4 vision.x";

static ap_tensor_table table;

static void make(void)
{
    static ap_config c;
    apus_diag d;
    ap_config_text text = {"config.json", config_text, sizeof config_text - 1};
    require(ap_config_parse(&text, NULL, &c, NULL, &d) == APUS_OK);
    require(ap_tensor_table_make(&c, &table, &d) == APUS_OK);
    folder_write_tensors("model-00001-of-00002.safetensors", first, sizeof first - 1);
    folder_write_tensors("model-00002-of-00002.safetensors", second, sizeof second - 1);
}

static void check(const ap_weights *w)
{
    size_t n = ap_weights_count(w);
    require(w->n_shards >= 1 && w->n_shards <= 2 && n == 2 * w->n_shards);
    for (size_t i = 0; i < n; i++) {
        const char *name;
        const ap_tensor *t = ap_weights_at(w, i, &name);
        require(ap_weights_find(w, name) == t);
    }
    apus_diag d = {0};
    apus_err err = ap_weights_check(w, &table, &d);
    require(!err || ((err == APUS_EFILE || err == APUS_EFORMAT) && d.text[0] && w->absent.n));
    for (size_t i = 0; i < w->absent.n; i++) require(!ap_weights_find(w, w->absent.item[i].s));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ap_weights *w = NULL;
    apus_diag d = {0};
    ap_notes notes = {0};
    if (!table.names.n) make();
    folder_write("model.safetensors.index.json", data, size);
    apus_err err = ap_weights_open(folder(), &w, &notes, &d);
    require(!err == (w != NULL) && (!err || (d.code == err && d.text[0])));
    if (w) check(w);
    ap_weights_close(w);
    ap_notes_free(&notes);
    return 0;
}
