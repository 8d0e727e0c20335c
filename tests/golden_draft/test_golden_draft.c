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

/* Between values of two rows; NaN if it is among them. */
static double farthest(const float *a, const float *b, size_t n)
{
    double off = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= off)) off = d;
        if (isnan(off)) break;
    }
    return off;
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
        double off = farthest(e->logits, p->logits + (size_t)depth * V, V);
        b->worst = fmax(b->worst, off);
        char what[64];
        snprintf(what, sizeof what, "guess %d", depth);
        if (!(off <= TOL)) fail(b, what, k, "its logits are not the reference's");
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

static apus_engine *open_engine(bench *b, const apus_model *m, apus_speculate how, int n_draft,
                                int chunk)
{
    apus_engine_settings es;
    apus_engine *e = NULL;
    apus_diag diag = {0};
    apus_engine_settings_default(&es);
    es.speculate = how;
    es.n_draft = n_draft;
    es.kv = APUS_KV_F32;
    es.threads = 2;
    es.ctx = 512;
    es.max_sessions = chunk && !n_draft ? 1 : PROMPTS + 2;
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
    apus_engine *whole = open_engine(b, m, APUS_SPECULATE_MTP, 0, 0);
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
        apus_engine *e = open_engine(b, m, APUS_SPECULATE_MTP, 0, chunks[i]);
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

/* ---------------------------------------------------------------- texts */

#define TOKENS 70

typedef struct text {
    int32_t id[TOKENS];
    int n;
    void *saved; /* the session behind it */
    size_t bytes;
    apus_generate_result res;
} text;

static bool on_token(void *ctx, int32_t id)
{
    text *t = ctx;
    t->id[t->n++] = id;
    return true;
}

/* Two prompts at once, greedily and not; their sessions are saved. A head that guesses rightly by chance needs many
 * tokens, so one at a time is what most rounds bring. */
static void write_texts(bench *b, apus_engine *e, int most, text out[2])
{
    static const int which[2] = {2, 3};
    apus_generation list[2];
    apus_generate_settings set[2];
    apus_sampling how[2];
    apus_session *s[2];
    apus_diag diag = {0};
    for (int i = 0; i < 2; i++) {
        out[i] = (text){.res.size = sizeof out[i].res};
        apus_generate_settings_default(&set[i]);
        apus_sampling_default(&how[i]);
        how[i].temperature = i ? 0.7f : 0;
        how[i].repetition_penalty = i ? 1.1f : 1;
        how[i].seed = 5;
        set[i].sampling = &how[i];
        set[i].max_tokens = most;
        set[i].ignore_eos = true;
        set[i].on_token = on_token;
        set[i].ctx = &out[i];
        if (apus_session_create(e, &s[i], &diag)) fail(b, "a session", i, diag.text);
        list[i] = (apus_generation){.size = sizeof list[i],
                                    .session = s[i],
                                    .prompt = b->prompt[which[i]].ids,
                                    .n = b->prompt[which[i]].n,
                                    .settings = &set[i],
                                    .result = &out[i].res};
    }
    if (apus_generate_batch(e, list, 2, &diag)) fail(b, "a text", 0, diag.text);
    for (int i = 0; i < 2; i++) {
        if (apus_session_save_memory(s[i], &out[i].saved, &out[i].bytes, &diag))
            fail(b, "saving a text", i, diag.text);
        apus_session_free(s[i]);
    }
}

static void free_texts(text t[2])
{
    for (int i = 0; i < 2; i++) apus_free(t[i].saved);
}

static void check_texts(bench *b, const char *what, const text want[2], const text got[2],
                        bool saved)
{
    for (int i = 0; i < 2; i++) {
        if (want[i].n != got[i].n ||
            memcmp(want[i].id, got[i].id, (size_t)want[i].n * sizeof *want[i].id))
            fail(b, what, i, "another text than without guesses");
        if (saved &&
            (want[i].bytes != got[i].bytes || memcmp(want[i].saved, got[i].saved, want[i].bytes)))
            fail(b, what, i, "another session than without guesses");
    }
}

/* What is guessed by order: the known text, wrong from some place on. */
typedef struct forced {
    const text *truth; /* [2] */
    const bench *b;
    int most, right;
} forced;

static int force(void *ctx, const apus_session *s, int n, int most, int32_t *out)
{
    const forced *f = ctx;
    int i = s->tok[0] == f->b->prompt[3].ids[0] && n > f->b->prompt[3].n;
    int at = n - f->b->prompt[i + 2].n, k = most < f->most ? most : f->most;
    for (int j = 0; j < k; j++) {
        bool known = at + j < f->truth[i].n;
        out[j] = known ? f->truth[i].id[at + j] : 0;
        if (j >= f->right) out[j] = (out[j] + 1) % f->b->vocab;
    }
    return k;
}

static int nothing(void *ctx, const apus_session *s, int n, int most, int32_t *out)
{
    (void)ctx, (void)s, (void)n, (void)most, (void)out;
    return 0;
}

/* The texts of an engine of its own, whose pages nobody has written to before. */
static bool write_guided(bench *b, const apus_model *m, forced *f, text out[2])
{
    apus_engine *e = open_engine(b, m, APUS_SPECULATE_MTP, 14, 0);
    if (!e) return false;
    e->guess = f ? force : nothing;
    e->guess_ctx = f;
    write_texts(b, e, TOKENS, out);
    apus_engine_free(e);
    return true;
}

/* Every count of right and wrong guesses leaves the states, pages and head's rows of decoding one by one. */
static void check_forced(bench *b, const apus_model *m, const text plain[2])
{
    text alone[2], got[2];
    if (!write_guided(b, m, NULL, alone)) return;
    check_texts(b, "with a head that is only fed", plain, alone, false);
    for (int most = 1; most <= 5; most += 2)
        for (int right = 0; right <= most; right++) {
            forced f = {alone, b, most, right};
            if (!write_guided(b, m, &f, got)) return;
            check_texts(b, "with forced guesses", alone, got, true);
            free_texts(got);
        }
    free_texts(alone);
}

/* A session goes on in an engine without the head, and one without its rows in an engine with it. */
static void check_crossing(bench *b, const apus_model *m, apus_speculate from, apus_speculate to,
                           const text *plain)
{
    apus_engine *a = open_engine(b, m, from, 0, 0), *c = open_engine(b, m, to, 3, 0);
    text first[2], then = {.res.size = sizeof then.res};
    apus_session *s = NULL, *again = NULL;
    apus_generate_settings set;
    apus_sampling greedy;
    apus_diag diag = {0};
    void *data = NULL;
    size_t bytes = 0;
    if (!a || !c) return;
    write_texts(b, a, 20, first);
    apus_generate_settings_default(&set);
    apus_sampling_default(&greedy);
    greedy.temperature = 0;
    set = (apus_generate_settings){.size = set.size,
                                   .sampling = &greedy,
                                   .max_tokens = TOKENS - 20,
                                   .ignore_eos = true,
                                   .on_token = on_token,
                                   .ctx = &then};
    if (apus_session_load_memory(c, first[0].saved, first[0].bytes, &s, &diag) ||
        apus_generate(s, &first[0].id[19], 1, &set, &then.res, &diag))
        fail(b, "a session of another engine", 0, diag.text);
    if (then.n != TOKENS - 20 || memcmp(then.id, plain->id + 20, sizeof *then.id * (TOKENS - 20)))
        fail(b, "a session of another engine", 0, "another text");
    if (s && (apus_session_save_memory(s, &data, &bytes, &diag) ||
              apus_session_load_memory(c, data, bytes, &again, &diag)))
        fail(b, "a session of another engine, saved", 0, diag.text);
    apus_free(data);
    free_texts(first);
    apus_engine_free(a);
    apus_engine_free(c);
}

static void check_guesses(bench *b, const apus_model *m)
{
    static const struct {
        apus_speculate how;
        int n_draft, chunk;
    } ways[] = {{APUS_SPECULATE_MTP, 0, 0},
                {APUS_SPECULATE_MTP, 1, 0},
                {APUS_SPECULATE_MTP, 14, 16},
                {APUS_SPECULATE_AUTO, 4, 0},
                {APUS_SPECULATE_AUTO, 0, 0}};
    apus_engine *off = open_engine(b, m, APUS_SPECULATE_OFF, 0, 0);
    text plain[2], got[2];
    if (!off) return;
    write_texts(b, off, TOKENS, plain);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        apus_engine *e = open_engine(b, m, ways[i].how, ways[i].n_draft, ways[i].chunk);
        if (!e) continue;
        write_texts(b, e, TOKENS, got);
        check_texts(b, "with guesses", plain, got, false);
        if (ways[i].n_draft && got[0].res.n_drafted < TOKENS / 2)
            fail(b, "with guesses", 0, "there were hardly any");
        free_texts(got);
        apus_engine_free(e);
    }
    check_forced(b, m, plain);
    check_crossing(b, m, APUS_SPECULATE_OFF, APUS_SPECULATE_MTP, plain);
    check_crossing(b, m, APUS_SPECULATE_MTP, APUS_SPECULATE_OFF, plain);
    check_crossing(b, m, APUS_SPECULATE_MTP, APUS_SPECULATE_MTP, plain);
    free_texts(plain);
    apus_engine_free(off);
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
        check_model(&b, m), check_guesses(&b, m);
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
