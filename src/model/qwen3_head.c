/* qwen3_head.c - the head of a Qwen model for the tokens after the next one: a layer of its own behind the others, fed
 * with pairs of a token and the model's normed hidden row before it.
 *
 * The pair of the token at position p has its keys and values in p's place of the pages, where a part is the head's, so
 * that whatever happens to a page happens to them, too. Position 0 has no row before it: nobody sees its place. A
 * step fills the places of its tokens; drafting, which runs ahead of the session, writes to places that the tokens fill
 * again once they are fed. Source: the specification of the head, checked against the goldens in
 * tests/golden_draft. */
#include "base/mem.h"
#include "file/draft_head.h"
#include "model/model_impl.h"

struct ap_draft_head {
    ap_config config; /* the model's, but for its layers: one */
    ap_model_impl m;  /* with that layer; norm_out is the head's own */
    ap_layer layer;
    ap_mat fc;                             /* [H, 2*H]: of the token, of the hidden row */
    const float *norm_token, *norm_hidden; /* f32 [H] */
};

#define FIRST 1 /* position that has a row before it */

ap_draft_head *ap_draft_head_create(const ap_model_impl *m)
{
    ap_draft_head *h = ap_calloc(1, sizeof *h);
    if (!h) return NULL;
    ap_state_shape shape;
    h->config = *m->c;
    h->config.n_layer = 1;
    h->config.layer[0] = m->c->head;
    h->m = (ap_model_impl){.c = &h->config, .w = m->w, .dev = m->dev, .layer = &h->layer};
    for (int kv = APUS_KV_F32; kv < AP_KV_TYPES; kv++)
        if (ap_state_shape_of(m->c, (apus_kv)kv, false, &shape))
            h->layer.kv_offset[kv] = shape.page_bytes[AP_KV_FULL];
    if (m->c->head.moe) h->m.experts = ap_experts_create(1, m->c->n_expert);
    if (!m->c->head.moe || h->m.experts) return h;
    ap_draft_head_free(h);
    return NULL;
}

void ap_draft_head_free(ap_draft_head *h)
{
    if (h) ap_experts_free(h->m.experts);
    ap_free(h);
}

/* ---------------------------------------------------------------- binding */

/* Embedding and head: the model's, unless it has some of its own. */
static void bind_ends(ap_bind *b, ap_draft_head *h, const ap_model_impl *m, float add)
{
    const ap_config *c = b->c;
    int64_t shape[] = {c->vocab, c->hidden};
    h->m.embed = m->embed;
    h->m.head = m->head;
    h->m.norm_out = m->norm_out;
    if (ap_bind_has(b, "embed_tokens.weight")) {
        ap_tensor t = ap_bind_view(b, 2, shape, "embed_tokens.weight");
        if (!b->err) ap_bind_table(b, &h->m.embed, &t);
    }
    if (ap_bind_has(b, "lm_head.weight"))
        ap_bind_mat(b, &h->m.head, c->vocab, c->hidden, "lm_head.weight");
    if (ap_bind_has(b, "norm.weight"))
        ap_bind_vec(b, &h->m.norm_out, c->hidden, add, "norm.weight");
}

void ap_draft_head_bind(ap_bind *b, ap_model_impl *m)
{
    ap_draft_head *h = m->draft;
    const ap_config *whole = b->c;
    const char *prefix = b->prefix;
    int H = whole->hidden;
    float add = ap_draft_head_shifted(b->w) ? 0 : 1;
    b->c = &h->config;
    b->prefix = ap_draft_head_prefix(b->w);
    for (int i = 0; i < 2; i++) h->m.inv_freq[i] = m->inv_freq[i];
    bind_ends(b, h, m, add);
    ap_bind_mat(b, &h->fc, H, 2 * H, "fc.weight");
    ap_bind_vec(b, &h->norm_token, H, add, "pre_fc_norm_embedding.weight");
    ap_bind_vec(b, &h->norm_hidden, H, add, "pre_fc_norm_hidden.weight");
    ap_qwen3_bind_layer(b, &h->m, 0, add);
    b->c = whole;
    b->prefix = prefix;
}

/* ---------------------------------------------------------------- running */

/* Half of each pair. */
static void put_half(const ap_draft_head *h, const ap_exec *ex, const float *x, const float *norm,
                     float *half, int rows)
{
    int H = h->config.hidden;
    ex->k->norm(ex, &(ap_norm_args){.x = x,
                                    .weight = norm,
                                    .out = half,
                                    .ldx = H,
                                    .ldout = 2 * (int64_t)H,
                                    .rows = rows,
                                    .n = H,
                                    .eps = h->config.norm_eps});
}

/* w->x = the rows of the head's layer, of the step's tokens and the hidden rows before them. */
static void enter(const ap_draft_head *h, const ap_exec *ex, const ap_step *s, ap_work *w,
                  const float *before)
{
    int T = s->batch->n_tok, H = h->config.hidden;
    ap_embed_rows(&h->m, ex, s, &h->m.embed, 1.0f, w->x, H);
    put_half(h, ex, w->x, h->norm_token, w->pair, T);
    put_half(h, ex, before, h->norm_hidden, w->pair + H, T);
    ap_matmul(ex, w->pair, &h->fc, w->x, T);
}

void ap_draft_head_fill(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, ap_work *w)
{
    const ap_config *c = m->c;
    ap_carry_args carry = ap_step_carry(m, s);
    ap_norm(ex, w->x, m->norm_out, w->hidden, s->batch->n_tok, c->hidden, c->norm_eps);
    carry.what = AP_CARRY_ROWS;
    carry.x = w->hidden;
    carry.out = w->t;
    ex->k->carry(ex, &carry);
    enter(m->draft, ex, s, w, w->t);
    ap_qwen3_store(&m->draft->m, ex, s, w, 0);
}

void ap_model_draft(const ap_model_impl *m, const ap_exec *ex, const ap_step *s, float *hidden,
                    bool carried)
{
    const ap_draft_head *h = m->draft;
    int T = s->batch->n_tok, H = h->config.hidden;
    ap_work w;
    ap_exec run = *ex;
    ap_work_init(&w, m->c, ex, T, false, s->scratch);
    run.inputs = w.inputs;
    run.input_bytes = w.input_bytes;
    ap_step_angles(m, &run, s, &w);
    if (carried) {
        ap_carry_args look = ap_step_carry(m, s);
        look.what = AP_CARRY_LOOK;
        look.out = hidden;
        run.k->carry(&run, &look);
    }
    enter(h, &run, s, &w, hidden);
    ap_qwen3_attention(&h->m, &run, s, &w, 0, FIRST);
    ap_qwen3_feed_forward(&h->m, &run, s, &w, 0, NULL);
    ap_norm(&run, w.x, h->m.norm_out, hidden, T, H, h->config.norm_eps);
    ap_matmul(&run, hidden, &h->m.head, s->logits, T);
}
