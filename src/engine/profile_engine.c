/* profile_engine.c - timing the operations of an engine, for tools. */
#include "apus/apus_unstable.h"
#include "engine/engine.h"

apus_err apus_engine_profile(apus_engine *e, bool on, apus_diag *diag)
{
    if (!e) return ap_fail(diag, APUS_EINVAL, "apus_engine_profile: an engine is needed");
    if (e->busy)
        return ap_fail(diag, APUS_EINVAL, "a call is running on this engine; wait for its return");
    if (!on) {
        ap_profile_end(&e->exec);
        return APUS_OK;
    }
    if (!e->profile) e->profile = ap_calloc(1, sizeof *e->profile);
    if (!e->profile) return ap_fail_nomem(diag, sizeof *e->profile, "the profile");
    ap_profile_begin(e->profile, &e->exec);
    return APUS_OK;
}

int apus_engine_profile_read(const apus_engine *e, apus_profile *out, int cap)
{
    if (!e || !e->profile) return 0;
    const ap_profile *p = e->profile;
    for (int i = 0; i < p->n && i < cap; i++) {
        const ap_profile_entry *x = &p->entry[i];
        out[i] = (apus_profile){.op = x->op,
                                .type = x->type,
                                .rows = x->rows,
                                .cols = x->cols,
                                .head = x->rows && x->rows == e->model->config.vocab,
                                .unit = x->unit,
                                .calls = x->calls,
                                .tokens = x->tokens,
                                .seconds = (double)x->ns * 1e-9,
                                .flops = x->flops,
                                .bytes = x->bytes,
                                .experts = x->experts};
    }
    return p->n;
}
