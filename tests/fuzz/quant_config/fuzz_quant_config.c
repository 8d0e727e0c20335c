/* config.json as the table of quantised modules: every mode that comes out is one that exists. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "file/quant_config.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void check_mode(ap_quant_mode m)
{
    switch (m.dtype) {
    case AP_F32:
        require(m.bits == 0 && m.group == 0);
        break;
    case AP_MLX_AFFINE:
        require((m.bits == 0 || m.bits >= 2) && m.bits <= 8 && m.bits != 7 && m.group_rows == 1);
        require(m.group == 32 || m.group == 64 || m.group == 128);
        break;
    case AP_MLX_MXFP4:
        require(m.bits == 4 && m.group == 32 && m.group_rows == 1);
        break;
    case AP_MLX_NVFP4:
        require(m.bits == 4 && m.group == 16 && m.group_rows == 1);
        break;
    case AP_MLX_MXFP8:
        require(m.bits == 8 && m.group == 32 && m.group_rows == 1);
        break;
    case AP_FP8_BLOCK:
        require(m.bits == 8 && m.group == 128 && m.group_rows == 128);
        break;
    default:
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ap_quant_config c;
    apus_diag d = {0};
    apus_err err = ap_quant_config_parse((const char *)data, size, "config.json", &c, &d);
    if (err) {
        require(d.code == err && d.text[0] && !c.n && !c.mode);
        return 0;
    }
    if (c.present) check_mode(c.standard);
    for (size_t i = 0; i < c.n; i++) {
        const ap_name *n = &c.overrides.item[i];
        check_mode(ap_quant_config_of(&c, n->s, n->len));
    }
    check_mode(ap_quant_config_of(&c, "model.layers.0.mlp.down_proj", 28));
    ap_quant_config_free(&c);
    return 0;
}
