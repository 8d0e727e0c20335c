/* A config.json, and behind a zero byte the tensors of a file (folder.h): packed integers that were joined with
 * their scales and biases lie in the file and can be read to the last value. */
#include <stdlib.h>
#include <string.h>

#include "../folder.h"
#include "../fuzz.h"
#include "file/weights_impl.h"
#include "tensor/quant.h"

static void check_inside(const ap_weights *w, const void *p, size_t n)
{
    require(n == 0 || ap_map_holds(&w->shard[0].st.map, p, n));
}

/* All values of a row, in pieces of whole groups. */
static void read_row(const ap_tensor *t, int64_t row)
{
    enum { PIECE = 512 }; /* a multiple of every block and group */
    float values[PIECE];
    int64_t cols = t->shape[t->rank - 1];
    for (int64_t at = 0; at < cols; at += PIECE)
        ap_tensor_row_f32(t, row, at, cols - at < PIECE ? cols - at : PIECE, values);
}

static void check_tensor(const ap_weights *w, const ap_tensor *t)
{
    check_inside(w, t->data, ap_tensor_bytes(t));
    if (t->dtype < AP_MLX_AFFINE) return;
    require(t->scales && t->rank >= 2 && t->group > 0 && t->group_rows > 0 && t->bits > 0);
    require((t->dtype == AP_MLX_AFFINE) == (t->biases != NULL));
    check_inside(w, t->scales, ap_tensor_scale_bytes(t));
    if (t->biases) check_inside(w, t->biases, ap_tensor_scale_bytes(t));
    int64_t cols = t->shape[t->rank - 1], rows = cols ? ap_tensor_count(t) / cols : 0;
    if (rows) read_row(t, 0);
    if (rows) read_row(t, rows - 1);
}

/* The model's widths, if config.json is one. */
static bool make_table(const char *text, size_t len, ap_tensor_table *out)
{
    static ap_config c;
    apus_diag d;
    ap_config_text config = {"config.json", text, len};
    return !ap_config_parse(&config, NULL, &c, NULL, &d) && !ap_tensor_table_make(&c, out, &d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *zero = size ? memchr(data, 0, size) : NULL;
    size_t len = zero ? (size_t)(zero - text) : size;
    ap_quant_config q = {0};
    ap_tensor_table table = {0};
    ap_weights *w = NULL;
    apus_diag d = {0};
    folder_write_tensors("model.safetensors", zero ? zero + 1 : "", zero ? size - len - 1 : 0);
    bool widths = make_table(text, len, &table);
    apus_err err = ap_quant_config_parse(text, len, "config.json", &q, &d);
    if (!err) err = ap_weights_open(folder(), &w, NULL, &d);
    if (!err) err = ap_weights_join_quantised(w, &q, widths ? &table : NULL, &d);
    if (err) require(d.code == err && d.text[0]);
    for (size_t i = 0; !err && i < ap_weights_count(w); i++)
        check_tensor(w, ap_weights_at(w, i, NULL));
    ap_weights_close(w);
    ap_tensor_table_free(&table);
    ap_quant_config_free(&q);
    return 0;
}
