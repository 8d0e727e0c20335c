/* Draft heads: what they guess for the tiny models of data/, against the reference's logits and chains of guesses, and
 * against themselves under other chunks of the prompt, batch neighbours, copies and ways back.
 *
 *   test_golden_draft FOLDER...      (tools/goldens/make_draft_goldens.py tells what a folder has) */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "file/safetensors.h"

#define PROMPTS 8
#define CHAIN   4
#define TOL     1e-3 /* of logits, to the reference */
#define NEAR    1e-3 /* best two logits closer than this: either may be guessed */

typedef struct prompt {
    const int32_t *ids, *bonus, *draft;
    const float *logits, *gap; /* f32 [CHAIN, V], [CHAIN] */
    int n;
} prompt;

/* What a session was fed and guesses. */
typedef struct guess {
    int32_t draft[CHAIN];
    float *logits; /* f32 [V] of the last one */
} guess;

typedef struct bench {
    const char *folder;
    ap_safetensors gold;
    prompt prompt[PROMPTS];
    int n, vocab, failures;
    double worst;
} bench;

static void fail(bench *b, const char *what, int k, const char *why)
{
    fprintf(stderr, "%s: prompt %d, %s: %s\n", b->folder, k, what, why);
    b->failures++;
}

static const ap_tensor *find(const bench *b, const char *name, int k)
{
    char full[64];
    snprintf(full, sizeof full, "%s_%d", name, k);
    for (size_t i = 0; i < b->gold.n; i++)
        if (!strcmp(b->gold.entry[i].name, full)) return &b->gold.entry[i].tensor;
    return NULL;
}

static bool read_gold(bench *b)
{
    char path[4096];
    apus_diag diag;
    snprintf(path, sizeof path, "%s/draft.safetensors", b->folder);
    if (ap_safetensors_open(path, &b->gold, &diag)) {
        fprintf(stderr, "%s\n", diag.text);
        return false;
    }
    for (int k = 0; k < PROMPTS && find(b, "ids", k); k++) {
        const ap_tensor *ids = find(b, "ids", k), *logits = find(b, "logits", k);
        b->vocab = (int)logits->shape[1];
        b->prompt[k] = (prompt){.ids = ids->data,
                                .bonus = find(b, "bonus", k)->data,
                                .draft = find(b, "draft", k)->data,
                                .logits = logits->data,
                                .gap = find(b, "gap", k)->data,
                                .n = (int)ids->shape[0]};
        b->n = k + 1;
    }
    return b->n > 0;
}

/* A session behind a prompt, with the token that follows. */
static apus_session *feed(bench *b, apus_engine *e, int k)
{
    const prompt *p = &b->prompt[k];
    apus_session *s = NULL;
    apus_diag diag = {0};
    float *logits = malloc((size_t)b->vocab * sizeof *logits);
    int best = 0;
    if (apus_session_create(e, &s, &diag) || apus_session_feed(s, p->ids, p->n, logits, &diag)) {
        fail(b, "feeding", k, diag.text);
        free(logits);
        return NULL;
    }
    for (int i = 1; i < b->vocab; i++)
        if (logits[i] > logits[best]) best = i;
    if (best != *p->bonus) fail(b, "feeding", k, "another token follows than the reference has");
    free(logits);
    return s;
}

/* CHAIN guesses of n sessions whose next tokens are their prompts' bonus. */
static void draft(bench *b, apus_engine *e, apus_session *const *s, const int *which, int n,
                  guess *out)
{
    int most[PROMPTS];
    apus_diag diag = {0};
    for (int i = 0; i < n; i++) {
        s[i]->tok[s[i]->pos] = *b->prompt[which[i]].bonus;
        most[i] = CHAIN;
    }
    if (ap_head_draft(e, s, most, n, &diag)) fail(b, "guessing", which[0], diag.text);
    for (int i = 0; i < n; i++) {
        if (most[i] != CHAIN) fail(b, "guessing", which[i], "fewer guesses than wanted");
        memcpy(out[i].draft, s[i]->tok + s[i]->pos + 1, sizeof out[i].draft);
        memcpy(out[i].logits, e->logits + (size_t)i * (size_t)b->vocab,
               (size_t)b->vocab * sizeof(float));
    }
}

/* Against the reference, guess by guess: each of them is made with those before it, which must be the same. */
static void check_reference(bench *b, apus_engine *e, apus_session *s, int k)
{
    const prompt *p = &b->prompt[k];
    size_t V = (size_t)b->vocab;
    for (int depth = 0; depth < CHAIN; depth++) {
        int most = depth + 1;
        apus_diag diag = {0};
        s->tok[s->pos] = *p->bonus;
        if (ap_head_draft(e, &s, &most, 1, &diag)) fail(b, "guessing", k, diag.text);
        double off = 0;
        for (size_t i = 0; i < V; i++)
            off = fmax(off, fabs((double)e->logits[i] - (double)p->logits[(size_t)depth * V + i]));
        b->worst = fmax(b->worst, off);
        char what[64];
        snprintf(what, sizeof what, "guess %d", depth);
        if (off > TOL) fail(b, what, k, "its logits are not the reference's");
        if (s->tok[s->pos + most] != p->draft[depth]) {
            if (p->gap[depth] > (float)NEAR) fail(b, what, k, "another token than the reference's");
            return;
        }
    }
}

static void check_same(bench *b, const char *what, int k, const guess *want, const guess *got)
{
    if (memcmp(want->draft, got->draft, sizeof want->draft) ||
        memcmp(want->logits, got->logits, (size_t)b->vocab * sizeof(float)))
        fail(b, what, k, "other guesses than of the same tokens fed at once");
}

static apus_engine *open_engine(bench *b, const apus_model *m, int chunk)
{
    apus_engine_settings es;
    apus_engine *e = NULL;
    apus_diag diag = {0};
    apus_engine_settings_default(&es);
    es.speculate = APUS_SPECULATE_MTP;
    es.kv = APUS_KV_F32;
    es.ctx = 512;
    es.max_sessions = chunk ? 1 : PROMPTS + 2;
    es.prefill_chunk = chunk;
    if (apus_engine_create(m, &es, &e, &diag)) fail(b, "making an engine", 0, diag.text);
    return e;
}

/* Copies, ways back and saved sessions guess what the session does that was fed at once. */
static void check_ways(bench *b, apus_engine *e, apus_session *s, int k, const guess *want,
                       guess *got)
{
    const prompt *p = &b->prompt[k];
    apus_session *other = NULL;
    apus_diag diag = {0};
    void *data = NULL;
    size_t bytes;
    if (apus_session_fork(s, &other, &diag)) fail(b, "copying", k, diag.text);
    draft(b, e, &other, &k, 1, got);
    check_same(b, "a copy", k, want, got);
    apus_session_free(other);
    if (apus_session_feed(s, p->draft, CHAIN, NULL, &diag) || apus_session_rewind(s, p->n, &diag))
        fail(b, "going back", k, diag.text);
    draft(b, e, &s, &k, 1, got);
    check_same(b, "gone back", k, want, got);
    if (apus_session_save_memory(s, &data, &bytes, &diag) ||
        apus_session_load_memory(e, data, bytes, &other, &diag))
        fail(b, "saving", k, diag.text);
    draft(b, e, &other, &k, 1, got);
    check_same(b, "saved", k, want, got);
    apus_session_free(other);
    apus_free(data);
}

static void check_model(bench *b, const apus_model *m)
{
    static const int chunks[] = {2, 7, 64};
    apus_engine *whole = open_engine(b, m, 0);
    apus_session *s[PROMPTS];
    guess want[PROMPTS], got[PROMPTS];
    int which[PROMPTS];
    if (!whole) return;
    for (int k = 0; k < b->n; k++) {
        want[k].logits = calloc((size_t)b->vocab, sizeof(float));
        got[k].logits = calloc((size_t)b->vocab, sizeof(float));
        which[k] = k;
        s[k] = feed(b, whole, k);
        if (!s[k]) exit(1);
        check_reference(b, whole, s[k], k);
        draft(b, whole, &s[k], &k, 1, &want[k]);
    }
    draft(b, whole, s, which, b->n, got);
    for (int k = 0; k < b->n; k++) check_same(b, "in a batch", k, &want[k], &got[k]);
    for (int k = 0; k < b->n; k++) check_ways(b, whole, s[k], k, &want[k], &got[k]);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        apus_engine *e = open_engine(b, m, chunks[i]);
        for (int k = 0; e && k < b->n; k++) {
            apus_session *x = feed(b, e, k);
            draft(b, e, &x, &k, 1, &got[k]);
            check_same(b, "in chunks", k, &want[k], &got[k]);
            apus_session_free(x);
        }
        apus_engine_free(e);
    }
    for (int k = 0; k < b->n; k++) {
        free(want[k].logits);
        free(got[k].logits);
    }
    apus_engine_free(whole);
}

static int check_folder(const char *folder)
{
    bench b = {.folder = folder};
    apus_model_settings ms;
    apus_engine_settings es;
    apus_model *m = NULL;
    apus_diag diag = {0};
    apus_model_settings_default(&ms);
    apus_engine_settings_default(&es);
    es.speculate = APUS_SPECULATE_MTP;
    es.ctx = 512;
    ms.engine = &es;
    ms.precision = APUS_PRECISION_EXACT;
    if (!read_gold(&b)) return 1;
    if (apus_model_open(folder, &ms, &m, &diag))
        fail(&b, "opening", 0, diag.text);
    else
        check_model(&b, m);
    printf("%s: %d prompts, logits %.1e from the reference, %d failures\n", folder, b.n, b.worst,
           b.failures);
    apus_model_close(m);
    ap_safetensors_close(&b.gold);
    return b.failures > 0;
}

int main(int argc, char **argv)
{
    int bad = 0;
    for (int i = 1; i < argc; i++) bad += check_folder(argv[i]);
    return bad > 0;
}
