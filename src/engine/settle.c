/* settle.c - rows that a step has run before it was known whether they count: guesses, and the token ahead of them.
 *
 * Such a step leaves the session where it is. Its keys and values lie behind the session's position, where nobody looks;
 * its recurrent states are as before, and its rows are kept beside them (kern.h). As tokens turn out to be the ones
 * that are chosen, rows are counted; settling replays the counted ones and forgets the others. */
#include "engine/engine.h"

void ap_session_count(apus_session *s, int n)
{
    s->pos += n;
    s->ahead -= n;
    s->counted += n;
}

/* Counted rows up to the next place for a snapshot, or all. */
static int part_of(const apus_session *s)
{
    int begin = s->pos - s->counted, place = (begin / AP_PAGE + 1) * AP_PAGE;
    return place < s->pos ? place - begin : s->counted;
}

/* The states of those sessions that have counted rows take a part of them. */
static void replay(apus_engine *e, apus_session *const *session, int n)
{
    int n_seq = 0;
    for (int i = 0; i < n; i++) n_seq += session[i]->counted > 0;
    ap_rows_begin(&e->rows, 0, n_seq, 0);
    for (int i = 0, at = 0; i < n; i++) {
        const apus_session *s = session[i];
        if (!s->counted) continue;
        e->rows.seq[at++] = (ap_seq){.n_tok = part_of(s), .state = s->recur.live, .keep = s->kept};
    }
    ap_rows_put(&e->rows);
    ap_step st = ap_step_of_rows(e);
    st.kept = e->kept;
    st.kept_rows = (size_t)e->size.kept_rows;
    ap_model_commit(e->model->impl, &e->exec, &st);
}

/* Each session has taken its part: snapshots where there is a place for one; false: all is done. */
static bool move_on(apus_session *const *session, int n)
{
    bool more = false;
    for (int i = 0; i < n; i++) {
        apus_session *s = session[i];
        int part = s->counted ? part_of(s) : 0, pos = s->pos - s->counted + part;
        if (part && pos % AP_PAGE == 0 && !s->keeps_nothing)
            ap_recur_snapshot(&s->recur, pos, s->turn);
        s->kept += part;
        s->counted -= part;
        more = more || s->counted;
    }
    return more;
}

void ap_sessions_settle(apus_engine *e, apus_session *const *session, int n)
{
    bool any = false;
    for (int i = 0; i < n; i++) {
        apus_session *s = session[i];
        if (ap_session_settled(s)) continue;
        for (int g = 0; g < AP_KV_GROUPS; g++) ap_kv_truncate(&s->kv[g], s->pos);
        s->ahead = 0;
        if (!s->recur.slab) s->counted = 0;
        any = any || s->counted;
    }
    while (any) {
        replay(e, session, n);
        any = move_on(session, n);
    }
}
