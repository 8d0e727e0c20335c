#include <string.h>

#include "text/tokenizer_impl.h"

struct ap_detok {
    const ap_tokenizer *t;
    bool skip_special;
    ap_decoding state;
};

/* Push one id through the decoder. Ids that name no token decode to nothing, as in the library. */
static apus_err push(const ap_tokenizer *t, ap_decoding *s, int32_t id, bool skip_special,
                     apus_diag *diag)
{
    if (id < 0 || id >= t->n_ids)
        return ap_fail(diag, APUS_EINVAL, "token id %d is outside the tokenizer's 0 to %d", id,
                       t->n_ids - 1);
    size_t len;
    const char *text = ap_tokenizer_text(t, id, &len);
    if (!text || (skip_special && t->special[id])) return APUS_OK;
    if (!ap_decoding_push(&t->decoder, s, text, len))
        return ap_fail(diag, APUS_ENOMEM, "out of memory while decoding tokens");
    return APUS_OK;
}

apus_err ap_tokenizer_decode(const ap_tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                             char **text, size_t *len, apus_diag *diag)
{
    ap_decoding s = {0};
    apus_err err = APUS_OK;
    for (size_t i = 0; i < n && !err; i++) err = push(t, &s, ids[i], skip_special, diag);
    if (!err) {
        ap_buf_add(&s.out, "", 0); /* zero-terminated even if nothing came */
        if (!ap_decoding_end(&t->decoder, &s) || !s.out.data)
            err = ap_fail(diag, APUS_ENOMEM, "out of memory while decoding tokens");
    }
    if (!err) {
        *text = s.out.data;
        *len = s.out.len;
        memset(&s.out, 0, sizeof s.out);
    }
    ap_decoding_free(&s);
    return err;
}

apus_err ap_detok_create(const ap_tokenizer *t, bool skip_special, ap_detok **out, apus_diag *diag)
{
    ap_detok *d = ap_calloc(1, sizeof *d);
    if (!d) return ap_fail_nomem(diag, sizeof *d, "a detokenizer");
    d->t = t;
    d->skip_special = skip_special;
    *out = d;
    return APUS_OK;
}

apus_err ap_detok_push(ap_detok *d, int32_t id, const char **piece, size_t *len, apus_diag *diag)
{
    d->state.out.len = 0;
    apus_err err = push(d->t, &d->state, id, d->skip_special, diag);
    if (err) return err;
    *piece = d->state.out.data ? d->state.out.data : "";
    *len = d->state.out.len;
    return APUS_OK;
}

apus_err ap_detok_finish(ap_detok *d, const char **piece, size_t *len)
{
    d->state.out.len = 0;
    if (!ap_decoding_end(&d->t->decoder, &d->state)) return APUS_ENOMEM;
    *piece = d->state.out.data ? d->state.out.data : "";
    *len = d->state.out.len;
    return APUS_OK;
}

void ap_detok_free(ap_detok *d)
{
    if (!d) return;
    ap_decoding_free(&d->state);
    ap_free(d);
}
