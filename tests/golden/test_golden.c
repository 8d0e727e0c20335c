/* Whole-model nets: what apus computes for the tiny models of data/ against the reference's logits
 * and greedy tokens, and against itself under every chunking, thread count, processor level,
 * batch neighbour and session operation.
 *
 *   test_golden [--data DIR] [--model NAME] [--quick] [--cpumask LEVEL | --device NAME] [--verbose]
 *
 * With --device: one line a model. A device keeps the promises of the CPU to itself, to the bit, but with rounded
 * pages for pieces of a text of up to 8 tokens, which it may compute in another form; to the reference within a
 * share of the logits.
 *
 * Uses the public interface only, but for few_slots.c. Exit status 0: all passed; 1: a check failed; 2: usage. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runner.h"

/* Distance to f32 pages, as a share of the logits: some three times the most that was measured. */
#define KV_BF16 0.03
#define KV_Q8   0.15

/* Fill base[] and hold it against the reference. */
static int check_reference(bench *b)
{
    rig e;
    report *r = b->r;
    int rc = 0;
    if (rig_open(b->r, b->folder, &b->g, plain(b), &e) != 0) return -1;
    apus_info info = {.size = sizeof info};
    if (apus_model_info(e.model, &info, NULL) == APUS_OK && info.vocab != b->g.vocab) {
        fail(b->r, "vocabulary %d, golden has %d", info.vocab, b->g.vocab);
        rc = -1;
    }
    for (int k = 0; k < b->g.n_prompt && rc == 0; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        if (!selected(b, k, 1 << 30)) continue;
        rc = run_prompt(b->r, &e, &b->g, p, 0, &b->base[k]);
        if (rc != 0) break;
        double d =
            compare_gold(r, &b->g, k, "reference", &b->base[k], &r->near_token, &r->near_router);
        r->gold = fmax(r->gold, d);
        r->rows += p->n_pos;
        for (int i = 0; i < p->n_pos; i++) r->noise = fmax(r->noise, (double)p->noise[i]);
    }
    rig_close(&e);
    if (!r->device)
        printf("%-14s logits %.1e over %d rows (the reference's own noise %.1e), near ties: %d "
               "tokens, "
               "%d router\n",
               r->name, r->gold, r->rows, r->noise, r->near_token, r->near_router);
    return rc;
}

/* The same prompts with another engine, or fed in pieces. Engines with slots for experts are to use them. */
static void check_variant(bench *b, const char *what, rig_spec spec, int piece, int limit,
                          bool exact)
{
    rig e;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        if (selected(b, k, limit) &&
            run_prompt(b->r, &e, &b->g, &b->g.prompt[k], piece, &b->work[k]) == 0)
            compare_self(b->r, &b->g, k, what, &b->base[k], &b->work[k], 0, GOLD_GREEDY, exact);
    }
    if (spec.expert_slots && (!e.slots || !few_slots_read(e.slots)))
        fail(b->r, "%s: no expert went through a slot", what);
    rig_close(&e);
}

static void check_chunks(bench *b)
{
    static const int sizes[] = {1, 7, 64, 512};
    bool exact = b->o->device != NULL; /* one device has one order */
    char what[64];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (b->o->quick && sizes[i] != 7) continue;
        rig_spec spec = plain(b);
        snprintf(what, sizeof what, "fed in pieces of %d", sizes[i]);
        check_variant(b, what, spec, sizes[i], 1 << 30, exact);
        spec.chunk = sizes[i];
        snprintf(what, sizeof what, "prefill chunk %d", sizes[i]);
        check_variant(b, what, spec, 0, 1 << 30, exact);
    }
    if (!b->o->quick) {
        rig_spec spec = plain(b);
        spec.chunk = 4096;
        check_variant(b, "prefill chunk 4096", spec, 0, 1 << 30, exact);
    }
}

/* Every level of this processor; expert_slots as in rig_spec. */
static void check_levels(bench *b, int expert_slots)
{
    static const apus_cpu levels[] = {APUS_CPU_REF,  APUS_CPU_AVX2, APUS_CPU_AVX512, APUS_CPU_AMX,
                                      APUS_CPU_NEON, APUS_CPU_DOT,  APUS_CPU_I8MM};
    apus_cpu best = apus_cpu_best();
    apus_cpu lowest = best >= APUS_CPU_NEON ? APUS_CPU_NEON : APUS_CPU_AVX2;
    char what[64];
    if (b->o->cpu != APUS_CPU_AUTO || b->o->device) return; /* one level was asked for */
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        apus_cpu level = levels[i];
        bool has = level == APUS_CPU_REF || (level >= lowest && level <= best);
        if (!has) continue;
        rig_spec spec = plain(b);
        spec.cpu = level;
        spec.threads = 2;
        spec.expert_slots = expert_slots;
        snprintf(what, sizeof what, "level %s, %d expert slots", apus_cpu_name(level),
                 expert_slots);
        check_variant(b, what, spec, 0, level == APUS_CPU_REF ? 70 : 1 << 30, expert_slots > 0);
    }
}

/* A call that cannot read an expert fails with the file's name, and the session is where it was. */
static void cannot_feed(bench *b, const rig *e, apus_session *s, const int32_t *tok, int n)
{
    apus_diag d = {0};
    int pos = apus_session_pos(s);
    few_slots_cut(e->slots);
    apus_err err = apus_session_feed(s, tok, n, NULL, &d);
    b->r->checks++;
    if (err != APUS_EFILE || !strstr(d.text, "few_slots_") || apus_session_pos(s) != pos)
        fail(b->r, "a read that failed: code %d, position %d of %d: %s", (int)err,
             apus_session_pos(s), pos, d.text);
    few_slots_mend(e->slots);
}

/* Reads fail in a prompt and between the tokens of an answer; what follows has the bits of a run without. */
static void check_read_errors(bench *b)
{
    rig e;
    rig_spec spec = plain(b);
    spec.expert_slots = 1;
    spec.own_files = true;
    if (b->o->device || rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        size_t v = (size_t)b->g.vocab;
        if (!selected(b, k, 200)) continue;
        apus_session *s = open_session(b->r, &e);
        int32_t *rows = need((size_t)p->n_pos * sizeof *rows);
        apus_feed f;
        bool ok = s != NULL;
        for (int at = 0, to; ok && at < p->n; at = to) {
            to = at + (p->n + 1) / 2 < p->n ? at + (p->n + 1) / 2 : p->n;
            cannot_feed(b, &e, s, p->ids + at, to - at);
            share(&b->g, p, at, to, rows, &b->work[k], s, &f);
            ok = apus_feed_batch(e.engine, &f, 1, NULL, NULL, NULL) == APUS_OK;
        }
        if (ok)
            memcpy(b->work[k].steps, b->work[k].rows + (size_t)(p->n_pos - 1) * v,
                   v * sizeof(float));
        for (int i = 1; ok && i < GOLD_GREEDY; i++) {
            cannot_feed(b, &e, s, &p->greedy[i - 1], 1);
            ok = apus_session_feed(s, &p->greedy[i - 1], 1, b->work[k].steps + (size_t)i * v,
                                   NULL) == APUS_OK;
        }
        if (!ok) fail(b->r, "prompt %d cannot go on after reads that failed", k);
        if (ok)
            compare_self(b->r, &b->g, k, "after reads that failed", &b->base[k], &b->work[k], 0,
                         GOLD_GREEDY, true);
        free(rows);
        apus_session_free(s);
    }
    rig_close(&e);
}

/* The chunk form of the delta rule: held to the reference, not to our bits. */
static void check_gdn_chunked(bench *b)
{
    rig e;
    rig_spec spec = plain(b);
    int near_token = 0, near_router = 0;
    double worst = 0;
    spec.gdn_chunked = true;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        if (!selected(b, k, 1 << 30) ||
            run_prompt(b->r, &e, &b->g, &b->g.prompt[k], 0, &b->work[k]) != 0)
            continue;
        double d = compare_gold(b->r, &b->g, k, "chunked delta rule", &b->work[k], &near_token,
                                &near_router);
        worst = d > worst ? d : worst;
    }
    if (!b->r->device)
        printf("  chunked delta rule: %.1e to the reference, near ties: %d tokens, %d router\n",
               worst, near_token, near_router);
    rig_close(&e);
}

/* Distance of two runs over the same prompts, as a share of the logits' size. */
static double distance(const bench *b, const trace *want, const trace *got)
{
    double off = 0, size = 0;
    for (int k = 0; k < b->g.n_prompt; k++) {
        size_t n = (size_t)b->g.prompt[k].n_pos * (size_t)b->g.vocab;
        if (!selected(b, k, 1 << 30)) continue;
        for (size_t i = 0; i < n; i++) {
            double d = (double)got[k].rows[i] - (double)want[k].rows[i];
            off += d * d;
            size += (double)want[k].rows[i] * (double)want[k].rows[i];
        }
    }
    return sqrt(off / size);
}

/* Rounded keys and values: near f32 ones, and the same bits however the text is cut, on every level
 * and thread count. */
static void check_kv(bench *b, apus_kv type, double most)
{
    bench *alt = need(sizeof *alt);
    rig_spec spec = plain(b);
    rig e;
    char what[64];
    *alt = *b;
    spec.kv = type;
    for (int k = 0; k < b->g.n_prompt; k++) alt->base[k] = trace_new(&b->g, &b->g.prompt[k]);
    if (rig_open(b->r, b->folder, &b->g, spec, &e) == 0) {
        for (int k = 0; k < b->g.n_prompt; k++)
            if (selected(b, k, 1 << 30))
                run_prompt(b->r, &e, &b->g, &b->g.prompt[k], 0, &alt->base[k]);
        rig_close(&e);
        double off = distance(b, b->base, alt->base);
        b->r->kv[type - 1] = off;
        if (!b->r->device)
            printf("  %s pages: %.1e of the logits away from f32 pages\n", apus_kv_name(type), off);
        if (!(off <= most))
            fail(b->r, "%s pages: logits are off by %.1e, expected at most %.1e",
                 apus_kv_name(type), off, most);
        int piece = b->r->device ? 50 : 7; /* of devices none of so few tokens: see above */
        spec.threads = 2;
        snprintf(what, sizeof what, "%s pages, two threads, pieces of %d", apus_kv_name(type),
                 piece);
        check_variant(alt, what, spec, piece, 1 << 30, true);
        if (b->o->cpu == APUS_CPU_AUTO && !b->r->device) {
            spec.cpu = APUS_CPU_REF;
            snprintf(what, sizeof what, "%s pages, level ref", apus_kv_name(type));
            check_variant(alt, what, spec, 0, 70, true);
        }
    }
    for (int k = 0; k < b->g.n_prompt; k++) trace_free(&alt->base[k]);
    free(alt);
}

/* All prompts in one ragged batch, then 31 steps in one batch each. While some decode, prompt 0's
 * session also takes several tokens at once, as a newcomer's prefill would. */
static void check_neighbours(bench *b)
{
    rig e;
    rig_spec spec = plain(b);
    int which[GOLD_MAX_PROMPTS], n = 0, rc = 0;
    apus_session *s[GOLD_MAX_PROMPTS + 1] = {0};
    int32_t *rows[GOLD_MAX_PROMPTS] = {0};
    apus_feed f[GOLD_MAX_PROMPTS + 1];
    size_t v = (size_t)b->g.vocab;
    spec.sessions = GOLD_MAX_PROMPTS + 1;
    spec.threads = 2;
    spec.chunk = 100; /* pieces of several sequences share a step */
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = b->g.n_prompt - 1; k >= 0; k--) /* longest first, so that order differs */
        if (selected(b, k, 1 << 30)) which[n++] = k;
    for (int i = 0; i < n && rc == 0; i++) {
        const gold_prompt *p = &b->g.prompt[which[i]];
        rows[i] = need((size_t)p->n_pos * sizeof(int32_t));
        s[i] = open_session(b->r, &e);
        rc = s[i] == NULL ? -1 : 0;
        share(&b->g, p, 0, p->n, rows[i], &b->work[which[i]], s[i], &f[i]);
    }
    if (rc == 0) rc = (s[n] = open_session(b->r, &e)) == NULL ? -1 : 0;
    apus_diag d = {0};
    if (rc == 0 && apus_feed_batch(e.engine, f, n, NULL, NULL, &d) != APUS_OK) {
        fail(b->r, "batch of %d prompts: %s", n, d.text);
        rc = -1;
    }
    for (int i = 0; i < n && rc == 0; i++) {
        const trace *t = &b->work[which[i]];
        const gold_prompt *p = &b->g.prompt[which[i]];
        memcpy(t->steps, t->rows + (size_t)(p->n_pos - 1) * v, v * sizeof(float));
    }
    const gold_prompt *extra = &b->g.prompt[which[0]];
    for (int step = 1, fed = 0; step < GOLD_GREEDY && rc == 0; step++) {
        int m = n;
        for (int i = 0; i < n; i++) {
            const gold_prompt *p = &b->g.prompt[which[i]];
            f[i] = (apus_feed){.size = sizeof(apus_feed),
                               .session = s[i],
                               .tok = &p->greedy[step - 1],
                               .n = 1,
                               .logits = b->work[which[i]].steps + (size_t)step * v};
        }
        int more = step % 4 < extra->n - fed ? step % 4 : extra->n - fed;
        if (more > 0) {
            f[m++] = (apus_feed){
                .size = sizeof(apus_feed), .session = s[n], .tok = extra->ids + fed, .n = more};
            fed += more;
        }
        if (apus_feed_batch(e.engine, f, m, NULL, NULL, &d) != APUS_OK) {
            fail(b->r, "batched step %d: %s", step, d.text);
            rc = -1;
        }
    }
    for (int i = 0; i < n && rc == 0; i++)
        compare_self(b->r, &b->g, which[i], "in a batch", &b->base[which[i]], &b->work[which[i]], 0,
                     GOLD_GREEDY, true);
    for (int i = 0; i <= n; i++) apus_session_free(s[i]);
    for (int i = 0; i < n; i++) free(rows[i]);
    rig_close(&e);
}

/* First of the golden's rows at or after position `from`. */
static int row_from(const gold_prompt *p, int from)
{
    int i = 0;
    while (i < p->n_pos && p->pos[i] < from) i++;
    return i;
}

/* Run to the end and beyond, go back to several places, and come again. */
static void check_rewind(bench *b)
{
    rig e;
    if (rig_open(b->r, b->folder, &b->g, plain(b), &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        const int back[] = {p->n - 1, p->n / 2, p->n > 3 ? 3 : 0, 0, p->n - p->n / 4};
        if (!selected(b, k, 1 << 30)) continue;
        apus_session *s = open_session(b->r, &e);
        int rc = s == NULL ? -1 : feed_prompt(b->r, &e, &b->g, p, 0, 0, s, &b->work[k]);
        if (rc == 0) rc = walk(b->r, &b->g, p, GOLD_GREEDY, s, &b->work[k]);
        for (size_t i = 0; i < sizeof back / sizeof *back && rc == 0; i++) {
            apus_diag d = {0};
            char what[64];
            snprintf(what, sizeof what, "rewound to %d", back[i]);
            if (apus_session_rewind(s, back[i], &d) != APUS_OK) {
                fail(b->r, "apus_session_rewind to %d: %s", back[i], d.text);
                break;
            }
            if (apus_session_pos(s) != back[i])
                fail(b->r, "%s: apus_session_pos is %d", what, apus_session_pos(s));
            rc = feed_prompt(b->r, &e, &b->g, p, back[i], 0, s, &b->work[k]);
            if (rc == 0) rc = walk(b->r, &b->g, p, 8, s, &b->work[k]);
            if (rc == 0)
                compare_self(b->r, &b->g, k, what, &b->base[k], &b->work[k], row_from(p, back[i]),
                             8, true);
        }
        apus_session_free(s);
    }
    rig_close(&e);
}

/* Fork half-way; the parent goes astray and is freed while the fork goes on. */
static void check_fork(bench *b)
{
    rig e;
    rig_spec spec = plain(b);
    spec.sessions = 2;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        apus_diag d = {0};
        apus_session *child = NULL;
        int half = p->n / 2, rc = 0;
        if (!selected(b, k, 1 << 30) || half == 0) continue;
        apus_session *s = open_session(b->r, &e);
        if (s == NULL || apus_session_feed(s, p->ids, half, NULL, &d) != APUS_OK ||
            apus_session_fork(s, &child, &d) != APUS_OK) {
            fail(b->r, "fork at %d: %s", half, d.text);
            rc = -1;
        }
        if (rc == 0 && apus_session_feed(s, p->greedy, GOLD_GREEDY, NULL, &d) != APUS_OK) {
            fail(b->r, "parent of a fork at %d: %s", half, d.text);
            rc = -1;
        }
        if (rc == 0) rc = feed_prompt(b->r, &e, &b->g, p, half, 0, child, &b->work[k]);
        apus_session_free(s);
        if (rc == 0) rc = walk(b->r, &b->g, p, GOLD_GREEDY, child, &b->work[k]);
        if (rc == 0)
            compare_self(b->r, &b->g, k, "forked", &b->base[k], &b->work[k], row_from(p, half),
                         GOLD_GREEDY, true);
        apus_session_free(child);
    }
    rig_close(&e);
}

/* Continue a loaded session of prompt k at `half`. */
static void check_loaded(bench *b, rig *e, int k, int half, const char *path, const char *what)
{
    const gold_prompt *p = &b->g.prompt[k];
    apus_diag d = {0};
    apus_session *s = NULL;
    if (apus_session_load(e->engine, path, &s, &d) != APUS_OK) {
        fail(b->r, "%s: apus_session_load: %s", what, d.text);
        return;
    }
    if (apus_session_pos(s) != half ||
        memcmp(apus_session_tokens(s), p->ids, (size_t)half * sizeof(int32_t)) != 0)
        fail(b->r, "%s: other tokens than were saved", what);
    else if (feed_prompt(b->r, e, &b->g, p, half, 0, s, &b->work[k]) == 0 &&
             walk(b->r, &b->g, p, GOLD_GREEDY, s, &b->work[k]) == 0)
        compare_self(b->r, &b->g, k, what, &b->base[k], &b->work[k], row_from(p, half), GOLD_GREEDY,
                     true);
    apus_session_free(s);
}

/* Save half-way, load into the same engine and into a fresh one. */
static void check_save(bench *b)
{
    rig e, fresh;
    rig_spec spec = plain(b);
    char path[] = "/tmp/apus_golden_XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) {
        fail(b->r, "cannot make a temporary file");
        return;
    }
    close(fd);
    spec.sessions = 2;
    if (rig_open(b->r, b->folder, &b->g, spec, &e) != 0) goto done;
    spec.threads = 2;
    spec.chunk = 48;
    if (rig_open(b->r, b->folder, &b->g, spec, &fresh) != 0) {
        rig_close(&e);
        goto done;
    }
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        apus_diag d = {0};
        int half = p->n - p->n / 3 - 1;
        if (!selected(b, k, 1 << 30) || half <= 0) continue;
        apus_session *s = open_session(b->r, &e);
        if (s == NULL || apus_session_feed(s, p->ids, half, NULL, &d) != APUS_OK ||
            apus_session_save(s, path, &d) != APUS_OK) {
            fail(b->r, "save at %d: %s", half, d.text);
        } else {
            check_loaded(b, &e, k, half, path, "loaded");
            check_loaded(b, &fresh, k, half, path, "loaded into a fresh engine");
        }
        apus_session_free(s);
    }
    rig_close(&fresh);
    rig_close(&e);
done:
    remove(path);
}

/* Experts in waves of one up to all: the bits of the resident ones. */
static void check_slots(bench *b)
{
    static const int slots[] = {1, 2, 3, 256};
    char what[64];
    if (b->o->device) return; /* no waves there */
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        rig_spec spec = plain(b);
        spec.expert_slots = slots[i];
        snprintf(what, sizeof what, "%d expert slots", slots[i]);
        check_variant(b, what, spec, i == 1 ? 7 : 0, 1 << 30, true);
    }
    check_levels(b, 1);
    b->expert_slots = 2;
    check_neighbours(b);
    check_rewind(b);
    check_random_walk(b);
    check_cancel(b);
    b->expert_slots = 0;
}

typedef struct collector {
    int32_t ids[GOLD_GREEDY];
    int n;
} collector;

static bool collect(void *ctx, int32_t id)
{
    collector *c = ctx;
    if (c->n < GOLD_GREEDY) c->ids[c->n++] = id;
    return true;
}

/* apus_generate with temperature 0 must take the largest logit, as long as our own path and the
 * golden's agree (after a near tie they part). */
static void check_generate(bench *b)
{
    rig e;
    size_t v = (size_t)b->g.vocab;
    if (rig_open(b->r, b->folder, &b->g, plain(b), &e) != 0) return;
    for (int k = 0; k < b->g.n_prompt; k++) {
        const gold_prompt *p = &b->g.prompt[k];
        apus_generate_settings set;
        apus_generate_result res = {.size = sizeof res};
        apus_diag d = {0};
        collector c = {.n = 0};
        if (!selected(b, k, 200)) continue;
        apus_sampling greedy;
        apus_sampling_default(&greedy);
        greedy.temperature = 0;
        apus_generate_settings_default(&set);
        set.sampling = &greedy;
        set.max_tokens = GOLD_GREEDY;
        set.ignore_eos = true;
        set.on_token = collect;
        set.progress = NULL;
        set.ctx = &c;
        apus_session *s = open_session(b->r, &e);
        if (s == NULL || apus_generate(s, p->ids, p->n, &set, &res, &d) != APUS_OK) {
            fail(b->r, "apus_generate, prompt %d: %s", k, d.text);
        } else if (c.n != GOLD_GREEDY || res.n_generated != GOLD_GREEDY || res.n_prompt != p->n) {
            fail(b->r, "apus_generate, prompt %d: %d tokens reported, result says %d after %d", k,
                 c.n, res.n_generated, res.n_prompt);
        } else {
            b->r->checks++;
            for (int i = 0; i < GOLD_GREEDY; i++) {
                int want = argmax(b->base[k].steps + (size_t)i * v, b->g.vocab);
                if (c.ids[i] != want) {
                    fail(b->r, "apus_generate, prompt %d: token %d is %d, expected %d", k, i,
                         c.ids[i], want);
                    break;
                }
                if (want != p->greedy[i]) break;
            }
        }
        apus_session_free(s);
    }
    rig_close(&e);
}

static apus_info info_of(const char *folder)
{
    apus_model_settings ms;
    apus_model *m = NULL;
    apus_info info = {.size = sizeof info};
    apus_model_settings_default(&ms);
    ms.load = APUS_LOAD_INFO;
    if (apus_model_open(folder, &ms, &m, NULL) == APUS_OK) apus_model_info(m, &info, NULL);
    apus_model_close(m);
    return info;
}

/* Do the heads fit pages of other types than f32? */
static bool has_rounded_pages(const char *folder)
{
    apus_model_settings ms;
    apus_model *m = NULL;
    apus_plan plan = {.size = sizeof plan};
    apus_model_settings_default(&ms);
    ms.load = APUS_LOAD_INFO;
    ms.precision = APUS_PRECISION_HIGH;
    if (apus_model_open(folder, &ms, &m, NULL) != APUS_OK) return false;
    bool yes = apus_engine_plan(m, NULL, &plan, NULL) == APUS_OK && plan.kv != APUS_KV_F32;
    apus_model_close(m);
    return yes;
}

static void print_model(const report *r)
{
    if (r->device)
        printf("%-14s %s: logits %.1e from the reference (its noise %.1e), pages bf16 %.1e q8 %.1e "
               "from f32, near "
               "ties %d, ",
               r->name, r->device, r->gold, r->noise, r->kv[APUS_KV_BF16 - 1],
               r->kv[APUS_KV_Q8 - 1], r->near_token + r->near_router);
    else
        printf("%-14s ", r->name);
    printf("%d checks, %d failures, %d not bit-equal%s\n", r->checks, r->failures, r->not_bit_equal,
           r->device ? "" : " within tolerance");
}

static int check_model(const options *o, const char *folder, const char *name)
{
    report r = {.name = name, .verbose = o->verbose, .device = o->device};
    bench *b = need(sizeof *b);
    b->r = &r;
    b->o = o;
    b->folder = folder;
    if (gold_read(folder, &b->g) != 0) {
        free(b);
        return 1;
    }
    for (int k = 0; k < b->g.n_prompt; k++) {
        b->base[k] = trace_new(&b->g, &b->g.prompt[k]);
        b->work[k] = trace_new(&b->g, &b->g.prompt[k]);
    }
    if (check_reference(b) == 0) {
        rig_spec two = plain(b);
        check_chunks(b);
        two.threads = 2;
        check_variant(b, "two threads", two, 0, 1 << 30, true);
        two.threads = 3;
        check_variant(b, "three threads, pieces of 33", two, 33, 1 << 30, true);
        check_levels(b, 0);
        if (info_of(folder).n_recurrent > 0) check_gdn_chunked(b);
        if (info_of(folder).n_moe > 0) {
            check_slots(b);
            check_read_errors(b);
        }
        if (has_rounded_pages(folder)) {
            check_kv(b, APUS_KV_BF16, KV_BF16);
            check_kv(b, APUS_KV_Q8, KV_Q8);
        }
        check_neighbours(b);
        check_rewind(b);
        check_fork(b);
        check_save(b);
        check_generate(b);
        check_random_walk(b);
        check_cancel(b);
    }
    print_model(&r);
    for (int k = 0; k < b->g.n_prompt; k++) {
        trace_free(&b->base[k]);
        trace_free(&b->work[k]);
    }
    gold_free(&b->g);
    free(b);
    return r.failures > 0;
}

/* ---------------------------------------------------------------- command line */

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Every folder of `data` with a golden, in order of names. */
static int check_all(const options *o)
{
    char *names[512];
    int n = 0, bad = 0;
    DIR *dir = opendir(o->data);
    if (dir == NULL) {
        fprintf(stderr, "cannot open %s\n", o->data);
        return 2;
    }
    for (struct dirent *e; (e = readdir(dir)) != NULL && n < 512;)
        if (e->d_name[0] != '.' && (o->model == NULL || strcmp(o->model, e->d_name) == 0))
            names[n++] = strdup(e->d_name);
    closedir(dir);
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 0; i < n; i++) {
        char folder[4096];
        snprintf(folder, sizeof folder, "%s/%s", o->data, names[i]);
        bad += check_model(o, folder, names[i]);
        fflush(stdout);
        free(names[i]);
    }
    if (n == 0) {
        fprintf(stderr, "no model%s%s in %s\n", o->model ? " " : "", o->model ? o->model : "",
                o->data);
        return 2;
    }
    printf("%d of %d models passed\n", n - bad, n);
    return bad > 0;
}

int main(int argc, char **argv)
{
    options o = {.data = "tests/golden/data"};
    for (int i = 1; i < argc; i++) {
        apus_diag d = {0};
        if (strcmp(argv[i], "--quick") == 0) {
            o.quick = true;
        } else if (strcmp(argv[i], "--verbose") == 0) {
            o.verbose = true;
        } else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc) {
            o.data = argv[++i];
        } else if (strcmp(argv[i], "--model") == 0 && i + 1 < argc) {
            o.model = argv[++i];
        } else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc) {
            o.device = argv[++i];
        } else if (strcmp(argv[i], "--cpumask") == 0 && i + 1 < argc) {
            if (apus_cpu_parse(argv[++i], &o.cpu, &d) != APUS_OK) {
                fprintf(stderr, "%s\n", d.text);
                return 2;
            }
        } else {
            fprintf(stderr, "usage: test_golden [--data DIR] [--model NAME] [--quick] "
                            "[--cpumask LEVEL | --device NAME] [--verbose]\n");
            return 2;
        }
    }
    return check_all(&o);
}
