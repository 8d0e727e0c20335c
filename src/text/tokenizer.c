#include "text/tokenizer.h"

#include <string.h>

#include "base/utf8.h"
#include "text/guard.h"
#include "text/tokenizer_impl.h"

void ap_tokenizer_free(ap_tokenizer *t)
{
    if (!t) return;
    ap_bpe_free(&t->bpe);
    ap_added_free(&t->added);
    ap_normalizer_free(&t->normalizer);
    ap_pretok_free(&t->pretok);
    ap_decoder_free(&t->decoder);
    ap_free(t->before.v);
    ap_free(t->after.v);
    ap_free(t->special);
    ap_free(t);
}

apus_err ap_tokenizer_finish(ap_tokenizer *t, const char *name, apus_diag *diag)
{
    int32_t top = t->added.top_id + 1;
    t->n_ids = top > t->bpe.vocab.n_ids ? top : t->bpe.vocab.n_ids;
    ap_free(t->special);
    t->special = ap_calloc((size_t)t->n_ids, 1);
    if (!t->special) return ap_fail_nomem(diag, (size_t)t->n_ids, "a tokenizer");
    /* The library asks for the text that decoding sees, which for normalised tokens is another. */
    for (size_t i = 0; i < t->added.n_tokens; i++) {
        const ap_added_token *tok = &t->added.tokens[i];
        t->special[tok->id] = ap_added_special(&t->added, tok->norm, tok->norm_len);
    }
    return ap_added_finish(&t->added, name, diag);
}

int ap_tokenizer_vocab(const ap_tokenizer *t)
{
    return t->n_ids;
}

int32_t ap_tokenizer_id(const ap_tokenizer *t, const char *token, size_t len)
{
    int32_t id = ap_added_id(&t->added, token, len);
    return id >= 0 ? id : ap_vocab_find(&t->bpe.vocab, token, len);
}

int32_t ap_tokenizer_eos(const ap_tokenizer *t)
{
    return t->eos;
}

bool ap_tokenizer_is_special(const ap_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_ids && t->special[id];
}

const char *ap_tokenizer_text(const ap_tokenizer *t, int32_t id, size_t *len)
{
    const ap_added_token *a = ap_added_token_of(&t->added, id);
    if (!a) return ap_vocab_text(&t->bpe.vocab, id, len);
    *len = a->norm_len;
    return a->norm;
}

/* ---------------------------------------------------------------- encoding */

typedef struct encoding {
    const ap_tokenizer *t;
    ap_added_which which;
    const char *text;   /* the input, valid UTF-8 */
    const char *normal; /* the piece at hand, normalised */
    bool at_start;
    bool guarded; /* guards are dropped */
    ap_buf clean; /* the piece at hand without them */
    ap_norm_work norm;
    ap_pretok_work pretok;
    ap_bpe_work bpe;
    ap_ids ids;
    apus_diag *diag;
} encoding;

static apus_err no_memory(apus_diag *diag)
{
    return ap_fail(diag, APUS_ENOMEM, "out of memory while encoding text");
}

/* An added token whose text was used up by a neighbour's stripping is dropped, as in the library. */
static apus_err add_token(encoding *e, int32_t id, size_t from, size_t to)
{
    return to <= from || ap_ids_add(&e->ids, id) ? APUS_OK : no_memory(e->diag);
}

static apus_err on_normal(void *ctx, int32_t id, size_t from, size_t to)
{
    encoding *e = ctx;
    if (id >= 0) return add_token(e, id, from, to);
    const char *text, *piece = e->normal + from;
    const ap_spans *words;
    size_t len = to - from;
    if (e->guarded) {
        e->clean.len = 0;
        ap_guard_drop(&e->clean, piece, len);
        if (e->clean.failed) return no_memory(e->diag);
        piece = e->clean.data;
        len = e->clean.len;
    }
    apus_err err = ap_pretok_run(&e->t->pretok, &e->pretok, piece, len, e->at_start && from == 0,
                                 &text, &words, e->diag);
    for (size_t i = 0; !err && i < words->n; i++)
        err = ap_bpe_encode(&e->t->bpe, &e->bpe, text + words->v[i].off, words->v[i].len,
                            e->t->pretok.bytes, &e->ids, e->diag);
    return err;
}

static apus_err on_raw(void *ctx, int32_t id, size_t from, size_t to)
{
    encoding *e = ctx;
    if (id >= 0) return add_token(e, id, from, to);
    size_t len;
    apus_err err = ap_normalize(&e->t->normalizer, &e->norm, e->text + from, to - from, &e->normal,
                                &len, e->diag);
    if (err) return err;
    e->at_start = from == 0;
    return ap_added_split(&e->t->added, true, e->which, e->normal, len, on_normal, e);
}

/* Invalid sequences become U+FFFD. */
static bool repaired(const char *s, size_t n, ap_buf *out)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = ap_utf8_decode(s + i, n - i, &cp);
        if (cp == 0xFFFD)
            ap_buf_add(out, "\xEF\xBF\xBD", 3);
        else
            ap_buf_add(out, s + i, len);
        i += len;
    }
    return !out->failed;
}

static bool add_ids(ap_ids *to, const ap_ids *from)
{
    for (size_t i = 0; i < from->n; i++)
        if (!ap_ids_add(to, from->v[i])) return false;
    return true;
}

apus_err ap_tokenizer_encode(const ap_tokenizer *t, const char *text, size_t len, unsigned flags,
                             int32_t **ids, size_t *n, apus_diag *diag)
{
    if (flags & APUS_TOK_SPECIAL && flags & APUS_TOK_PLAIN)
        return ap_fail(diag, APUS_EINVAL,
                       "tokenize: APUS_TOK_SPECIAL and APUS_TOK_PLAIN exclude each other");
    encoding e = {.t = t, .text = text, .guarded = (flags & APUS_TOK_GUARDED) != 0, .diag = diag};
    e.which = flags & APUS_TOK_SPECIAL ? AP_ADDED_ALL
              : flags & APUS_TOK_PLAIN ? AP_ADDED_UNMARKED
                                       : AP_ADDED_ORDINARY;
    ap_buf copy = {0};
    apus_err err = APUS_OK;
    if (!ap_utf8_valid(text, len)) {
        if (!repaired(text, len, &copy)) err = no_memory(diag);
        e.text = copy.data;
        len = copy.len;
    }
    if (!err && !ap_vec_reserve(&e.ids.v, &e.ids.cap, 1, sizeof *e.ids.v)) err = no_memory(diag);
    if (!err && flags & APUS_TOK_BOS && !add_ids(&e.ids, &t->before)) err = no_memory(diag);
    if (!err && len) err = ap_added_split(&t->added, false, e.which, e.text, len, on_raw, &e);
    if (!err && flags & APUS_TOK_BOS && !add_ids(&e.ids, &t->after)) err = no_memory(diag);
    ap_norm_work_free(&e.norm);
    ap_pretok_work_free(&e.pretok);
    ap_bpe_work_free(&e.bpe);
    ap_buf_free(&copy);
    ap_buf_free(&e.clean);
    if (err) {
        ap_free(e.ids.v);
        return err;
    }
    *ids = e.ids.v;
    *n = e.ids.n;
    return APUS_OK;
}
