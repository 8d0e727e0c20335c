/* sched_encode.c - what requests show: the tower works on one picture at a time, in slices between steps, for whoever
 * is next to need it, so that decoding goes on meanwhile. A prompt waits before the first picture that is not ready;
 * pictures that its prefix has need not be. */
#include "engine/sched.h"

#include "base/file.h"

#define SLICE_US 50000 /* between two looks at the mailbox, when nobody waits for a step */

apus_err ap_sched_show(apus_request *r, apus_diag *diag)
{
    ap_spans *spans = &r->gen.session->spans;
    apus_err err = ap_spans_reserve(spans, r->n_sight, diag);
    for (int i = 0; i < r->n_sight && !err; i++) ap_spans_add(spans, &r->sight[i].span, NULL);
    return err;
}

/* Rows that are there already go to everybody who needs them. */
static void hand_out(apus_scheduler *s, ap_embeds *e)
{
    for (int i = 0; i < s->n_run; i++) {
        const apus_request *r = s->run[i];
        ap_spans *spans = &r->gen.session->spans;
        for (int k = 0; k < r->n_sight; k++) {
            const uint64_t *hash = r->sight[k].part->hash;
            bool needed = spans->at[k].pos + spans->at[k].n > r->gen.session->pos;
            if (needed && !spans->at[k].embeds && hash[0] == e->hash[0] && hash[1] == e->hash[1])
                ap_spans_give(spans, k, e);
        }
    }
}

/* The first span that a request has no rows for, kept ones taken; -1: none. */
static int lacking(apus_scheduler *s, apus_request *r)
{
    ap_spans *spans = &r->gen.session->spans;
    int i;
    while ((i = ap_spans_lacking(spans, r->gen.session->pos)) >= 0) {
        ap_embeds *e = ap_encoder_find(&s->encoder, r->sight[i].part->hash);
        if (!e) break;
        ap_spans_give(spans, i, e);
        ap_embeds_drop(e);
    }
    return i;
}

/* Where its prompt waits for a picture, -1: nowhere. */
static int blind_at(const apus_request *r)
{
    const apus_session *s = r->gen.session;
    int i = r->n_sight ? ap_spans_lacking(&s->spans, s->pos) : -1;
    if (i < 0) return -1;
    return s->spans.at[i].pos > s->pos ? s->spans.at[i].pos : s->pos;
}

void ap_sched_blind(const apus_request *r, ap_lane *l)
{
    int pos = blind_at(r);
    l->waits = pos == r->gen.session->pos;
    l->blind = pos > 0 ? pos : 0;
}

int ap_sched_whole(const apus_request *r)
{
    const apus_session *s = r->gen.session;
    const ap_span *x = ap_spans_find(&s->spans, s->pos);
    return x && x->whole && x->embeds ? x->pos + x->n - s->pos : 0;
}

void ap_sched_unshow(apus_scheduler *s, const apus_request *r)
{
    for (int i = 0; i < r->n_sight; i++)
        if (r->sight[i].part == s->encoder.part) {
            ap_encoder_stop(&s->encoder);
            s->shows = NULL;
        }
}

/* Take up the next picture: of the request that is first in line. */
static apus_err take_up(apus_scheduler *s, apus_diag *diag)
{
    for (int i = 0; i < s->n_run; i++) {
        apus_request *r = s->who[i];
        int k = r->n_sight ? lacking(s, r) : -1;
        if (k < 0) continue;
        s->shows = r;
        return ap_encoder_begin(&s->encoder, &r->sight[k], diag);
    }
    s->shows = NULL;
    return APUS_OK;
}

/* Could a step run anything meanwhile? */
static bool others_wait(const apus_scheduler *s)
{
    for (int i = 0; i < s->n_run; i++)
        if (blind_at(s->run[i]) != s->run[i]->gen.session->pos) return true;
    return s->n_waiting > 0;
}

apus_err ap_sched_encode(apus_scheduler *s, int64_t *us, apus_diag *diag)
{
    ap_embeds *e = NULL;
    int64_t begin = ap_time_us(), slice = s->step_us && others_wait(s) ? s->step_us / 2 : SLICE_US;
    *us = 0;
    for (int i = 0; i < s->n_run; i++)
        if (s->run[i]->n_sight)
            ap_spans_seen(&s->run[i]->gen.session->spans, s->run[i]->gen.session->pos);
    apus_err err = s->encoder.part ? APUS_OK : take_up(s, diag);
    if (!err && s->encoder.part)
        err = ap_encoder_go(&s->encoder, slice, &s->shows->cancel, &e, diag);
    if (e) hand_out(s, e);
    ap_embeds_drop(e);
    *us = ap_time_us() - begin;
    return err;
}
