/* config.json, and behind a zero byte generation_config.json: what is accepted must hold what the
 * rest of the library relies on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "file/config.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void check_rope(const ap_rope *r)
{
    require(r->n_angle >= 0 && r->n_angle <= AP_MAX_ROT && isfinite(r->attention_factor));
    for (int i = 0; i < r->n_angle; i++) require(isfinite(r->inv_freq[i]));
}

static void check_layer(const ap_config *c, int l)
{
    const ap_layer_config *x = &c->layer[l], *donor = &c->layer[x->kv_donor];
    require(x->kv_donor >= 0 && x->kv_donor <= l && donor->kind == x->kind);
    require(donor->kv_donor == x->kv_donor && donor->n_kv_head == x->n_kv_head);
    require(x->ffn >= 0 && (x->ffn > 0 || x->moe) && (!x->moe || c->n_expert > 0));
    if (x->kind == AP_LAYER_LINEAR) {
        require(c->gdn_k_head > 0 && c->gdn_v_head % c->gdn_k_head == 0 && c->gdn_conv > 0);
        return;
    }
    require(x->n_kv_head > 0 && c->n_head % x->n_kv_head == 0 && x->head_dim > 0);
    const ap_rope *r = x->kind == AP_LAYER_FULL ? &c->rope_full : &c->rope_sliding;
    require(r->n_angle > 0 && r->n_angle <= r->pair_offset);
    require(r->pair_offset + r->n_angle <= x->head_dim);
    if (x->kind == AP_LAYER_SLIDING) require(c->window > 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ap_config c;
    apus_diag d = {0};
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    ap_config_text config = {"config.json", (const char *)data,
                             zero ? (size_t)(zero - data) : size};
    ap_config_text gen = {"generation_config.json", NULL, 0};
    if (zero) {
        gen.text = (const char *)zero + 1;
        gen.len = size - config.len - 1;
    }
    apus_err err = ap_config_parse(&config, zero ? &gen : NULL, &c, NULL, &d);
    if (err) {
        require(d.code == err && d.text[0]);
        return 0;
    }
    require(c.n_layer > 0 && c.n_layer <= AP_MAX_LAYERS && c.hidden > 0 && c.vocab > 0);
    require(c.n_expert_used <= c.n_expert && c.n_stop <= AP_MAX_STOP && c.bos < c.vocab);
    for (int i = 0; i < c.n_stop; i++) require(c.stop[i] >= 0 && c.stop[i] < c.vocab);
    check_rope(&c.rope_full);
    check_rope(&c.rope_sliding);
    for (int l = 0; l < c.n_layer; l++) check_layer(&c, l);
    return 0;
}
