/* test_golden_media.c - towers and prompts with pictures and sounds against the reference, and against themselves under
 * other pieces, threads and session operations.
 *
 *   test_golden_media FOLDER [--device NAME]
 *
 * FOLDER as tools/goldens/make_media_goldens.py makes it. Exit: 0 good, 1 a check failed, 2 usage. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "gold.h"

#define ROW_TOL   1e-3
#define FAST_TOL  0.1 /* of the largest value, precision fast */
#define LOGIT_TOL 2e-3
#define NEAR_TIE  1e-6

/* ---------------------------------------------------------------- running */

typedef struct bench {
    const apus_model *m;
    gold g;
    int vocab, hidden;
    apus_media *picture[MOST_PICTURES];
    int n_picture;
} bench;

static apus_engine *engine(const bench *b, int chunk, int threads, int sessions)
{
    apus_diag d;
    apus_engine *e;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.prefill_chunk = chunk;
    s.threads = threads;
    s.max_sessions = sessions;
    s.ctx = 2048;
    gold_need(apus_engine_create(b->m, &s, &e, &d), &d);
    return e;
}

static void media_of(const bench *b, const prompt *p, const apus_media **out)
{
    for (int i = 0; i < p->n_used; i++) out[i] = b->picture[p->used[i]];
}

/* The prompt in one feed, its wanted rows. */
static void feed(const bench *b, apus_engine *e, apus_session *s, const prompt *p, float *logits)
{
    apus_diag d;
    const apus_media *media[MOST_PICTURES];
    media_of(b, p, media);
    apus_feed f = {.size = sizeof f,
                   .session = s,
                   .tok = p->ids,
                   .n = p->n,
                   .logits = logits,
                   .rows = p->pos,
                   .n_rows = p->n_pos,
                   .media = media,
                   .n_media = p->n_used};
    gold_need(apus_feed_batch(e, &f, 1, NULL, NULL, &d), &d);
}

static float *run(const bench *b, apus_engine *e, const prompt *p)
{
    apus_diag d;
    apus_session *s;
    float *out = calloc((size_t)p->n_pos * (size_t)b->vocab, sizeof *out);
    if (!out) exit(2);
    gold_need(apus_session_create(e, &s, &d), &d);
    feed(b, e, s, p, out);
    apus_session_free(s);
    return out;
}

static double worst(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most)) most = d;
    }
    return most;
}

/* ---------------------------------------------------------------- checks */

/* All parts of a video, one after the other. */
static double off_by(const apus_media *x, const float *want, size_t width)
{
    double most = 0;
    apus_media_part part = {.size = sizeof part};
    for (size_t i = 0; apus_media_part_at(x, i, &part); i++) {
        size_t n = (size_t)part.tokens * width;
        double delta = worst(apus_media_rows(x, i), want, n);
        if (!(delta <= most)) most = delta;
        want += n;
    }
    return most;
}

static void check_rows(const bench *b, apus_engine *e)
{
    apus_diag d;
    double most = 0;
    for (int i = 0; i < b->n_picture; i++) {
        const ap_tensor *t = gold_find(&b->g, "rows", i);
        float *want = gold_copy(t);
        gold_need(apus_media_encode(e, b->picture[i], &d), &d);
        if (apus_media_tokens(b->picture[i]) != t->shape[0])
            gold_fail("picture %d: %d rows, expected %lld", i, apus_media_tokens(b->picture[i]),
                      (long long)t->shape[0]);
        double delta = off_by(b->picture[i], want, (size_t)t->shape[1]);
        if (!(delta <= ROW_TOL)) gold_fail("picture %d: rows are off by %g", i, delta);
        most = fmax(most, delta);
        free(want);
    }
    printf("rows of %d pictures: off by at most %.1e\n", b->n_picture, most);
}

static void check_logits(const bench *b, const prompt *p, int k, const float *got)
{
    double most = 0;
    int left_out = 0;
    for (int i = 0; i < p->n_pos; i++) {
        size_t at = (size_t)i * (size_t)b->vocab;
        if (p->rgap && p->rgap[i] < NEAR_TIE) {
            left_out++;
            continue;
        }
        double delta = worst(got + at, p->logits + at, (size_t)b->vocab);
        if (!(delta <= LOGIT_TOL))
            gold_fail("prompt %d: logits at %d are off by %g", k, (int)p->pos[i], delta);
        most = fmax(most, delta);
    }
    printf("prompt %d of %d tokens, %d pictures: off by at most %.1e, %d left out\n", k, p->n,
           p->n_used, most, left_out);
}

static void same(const bench *b, const prompt *p, int k, const char *what, const float *got,
                 const float *want)
{
    size_t n = (size_t)p->n_pos * (size_t)b->vocab;
    if (memcmp(got, want, n * sizeof *got))
        gold_fail("prompt %d, %s: not bit-equal, off by %g", k, what, worst(got, want, n));
}

/* Other pieces and threads. least: the smallest chunk that takes every picture at once, or 1. */
static void check_pieces(const bench *b, const prompt *p, int k, int least, const float *want)
{
    const int chunks[] = {1, 7, 64, 1000};
    for (int i = 0; i < 4; i++) {
        char what[32];
        apus_engine *e = engine(b, chunks[i] < least ? least : chunks[i], 1 + i % 3, 1);
        float *got = run(b, e, p);
        snprintf(what, sizeof what, "chunk %d", chunks[i]);
        same(b, p, k, what, got, want);
        free(got);
        apus_engine_free(e);
    }
}

/* The prompt, then its last tokens again after going back behind its last picture; and from a copy, a saved and a
 * loaded session. */
static void check_session(const bench *b, const prompt *p, int k, const float *want)
{
    apus_diag d;
    apus_session *s, *fork, *loaded;
    void *data;
    size_t bytes, n = (size_t)b->vocab;
    apus_engine *e = engine(b, 0, 0, 3);
    float *all = calloc((size_t)p->n_pos * n, sizeof *all), *one = calloc(n, sizeof *one),
          *two = calloc(n, sizeof *two);
    if (!all || !one || !two) exit(2);
    gold_need(apus_session_create(e, &s, &d), &d);
    feed(b, e, s, p, all);
    same(b, p, k, "session", all, want);
    const int32_t *tok = apus_session_tokens(s), id = 7;
    for (int i = 0; i < p->n; i++)
        if (tok[i] != p->ids[i] && tok[i] >= 0)
            gold_fail("prompt %d: token %d became %d", k, i, tok[i]);
    gold_need(apus_session_save_memory(s, &data, &bytes, &d), &d);
    gold_need(apus_session_fork(s, &fork, &d), &d);
    gold_need(apus_session_load_memory(e, data, bytes, &loaded, &d), &d);
    gold_need(apus_session_feed(s, &id, 1, one, &d), &d);
    gold_need(apus_session_feed(fork, &id, 1, two, &d), &d);
    if (memcmp(one, two, n * sizeof *one)) gold_fail("prompt %d: a fork goes on otherwise", k);
    gold_need(apus_session_feed(loaded, &id, 1, two, &d), &d);
    if (memcmp(one, two, n * sizeof *one))
        gold_fail("prompt %d: a loaded session goes on otherwise", k);
    if (memcmp(apus_session_tokens(loaded), tok, (size_t)p->n * sizeof *tok))
        gold_fail("prompt %d: a loaded session has other tokens", k);
    apus_session *both[] = {s, loaded};
    for (int i = 0; i < 2;
         i++) { /* back to where all pictures must run again, in a session that fed none too */
        gold_need(apus_session_rewind(both[i], p->n, &d), &d);
        gold_need(apus_session_feed(both[i], &id, 1, two, &d), &d);
        if (memcmp(one, two, n * sizeof *one))
            gold_fail("prompt %d: other logits after going back", k);
    }
    gold_need(apus_session_rewind(s, 0, &d), &d);
    feed(b, e, s, p, all);
    same(b, p, k, "fed again", all, want);
    apus_free(data);
    apus_engine_free(e);
    free(all);
    free(one);
    free(two);
}

/* All prompts side by side. */
static void check_batch(const bench *b, const prompt *p, int n, float *const *want)
{
    apus_diag d;
    enum { MOST = 8 };
    apus_feed f[MOST];
    float *got[MOST];
    const apus_media *media[MOST][MOST_PICTURES];
    apus_engine *e = engine(b, 0, 0, n);
    for (int k = 0; k < n; k++) {
        got[k] = calloc((size_t)p[k].n_pos * (size_t)b->vocab, sizeof **got);
        if (!got[k]) exit(2);
        media_of(b, &p[k], media[k]);
        f[k] = (apus_feed){.size = sizeof(apus_feed),
                           .tok = p[k].ids,
                           .n = p[k].n,
                           .logits = got[k],
                           .rows = p[k].pos,
                           .n_rows = p[k].n_pos,
                           .media = media[k],
                           .n_media = p[k].n_used};
        gold_need(apus_session_create(e, &f[k].session, &d), &d);
    }
    gold_need(apus_feed_batch(e, f, n, NULL, NULL, &d), &d);
    for (int k = 0; k < n; k++) {
        same(b, &p[k], k, "batch", got[k], want[k]);
        free(got[k]);
    }
    apus_engine_free(e);
}

/* Places and pictures that do not agree. */
static void check_refusals(const bench *b, const prompt *p)
{
    apus_diag d;
    apus_session *s;
    apus_engine *e = engine(b, 0, 1, 1);
    const apus_media *media[MOST_PICTURES + 1];
    media_of(b, p, media);
    media[p->n_used] = b->picture[0];
    gold_need(apus_session_create(e, &s, &d), &d);
    apus_feed f = {.size = sizeof f, .session = s, .tok = p->ids, .n = p->n, .media = media};
    f.n_media = p->n_used + 1;
    if (apus_feed_batch(e, &f, 1, NULL, NULL, &d) != APUS_EINVAL)
        gold_fail("a picture too many was fed");
    f.n_media = p->n_used - 1;
    if (f.n_media > 0 && apus_feed_batch(e, &f, 1, NULL, NULL, &d) != APUS_EINVAL)
        gold_fail("a picture too few was fed");
    if (apus_session_pos(s) != 0) gold_fail("a refused feed moved the session");
    f.n_media = p->n_used;
    gold_need(apus_feed_batch(e, &f, 1, NULL, NULL, &d), &d);
    int begin[MOST_PICTURES], end[MOST_PICTURES];
    gold_need(apus_media_find(b->m, p->ids, p->n, media, p->n_used, begin, end, &d), &d);
    bool video =
        apus_media_type_of(media[0]) == APUS_MEDIA_VIDEO; /* with text between its frames */
    if (!video && end[0] - begin[0] != apus_media_tokens(media[0]))
        gold_fail("a picture has other places");
    if (end[0] - begin[0] > 1 && apus_session_rewind(s, begin[0] + 1, &d) != APUS_EINVAL)
        gold_fail("a session went back into a picture");
    gold_need(apus_session_rewind(s, begin[0], &d), &d);
    apus_engine_free(e);
}

/* ---------------------------------------------------------------- precision fast */

/* The largest difference, of the largest value. */
static double far_off(const gold *g, int i, const apus_media *x)
{
    const ap_tensor *t = gold_find(g, "rows", i);
    float *want = gold_copy(t);
    size_t n = (size_t)ap_tensor_count(t);
    double top = 0;
    for (size_t j = 0; j < n; j++)
        if (fabs((double)want[j]) > top) top = fabs((double)want[j]);
    double delta = off_by(x, want, (size_t)t->shape[1]) / top;
    free(want);
    return delta;
}

/* Products of 8 bits or bf16, heads filled with zeros for those: not equal but near. */
static void check_fast(const gold *g, const char *folder, const char *device)
{
    apus_diag d;
    apus_engine *e;
    apus_media *picture[MOST_PICTURES];
    apus_model *m = gold_model(folder, device, APUS_PRECISION_FAST);
    int n = gold_pictures(g, m, picture);
    double most = 0;
    gold_need(apus_engine_create(m, NULL, &e, &d), &d);
    for (int i = 0; i < n; i++) {
        gold_need(apus_media_encode(e, picture[i], &d), &d);
        double delta = far_off(g, i, picture[i]);
        if (!(delta <= FAST_TOL)) gold_fail("picture %d, fast: rows are off by %g", i, delta);
        most = fmax(most, delta);
        apus_media_free(picture[i]);
    }
    printf("fast: off by at most %.1e of the largest\n", most);
    apus_engine_free(e);
    apus_model_close(m);
}

/* ---------------------------------------------------------------- main */

static void check_all(bench *b)
{
    enum { MOST = 8 };
    prompt p[MOST];
    float *got[MOST];
    int n = 0;
    apus_info info = {.size = sizeof info};
    apus_model_info(b->m, &info, NULL);
    b->vocab = info.vocab;
    b->hidden = info.hidden;
    apus_engine *e = engine(b, 0, 0, 1);
    check_rows(b, e);
    int least =
        strncmp(info.architecture, "gemma", 5) ? 1 : gold_most_places(b->picture, b->n_picture);
    while (n < MOST && gold_prompt(&b->g, n, &p[n])) {
        got[n] = run(b, e, &p[n]);
        check_logits(b, &p[n], n, got[n]);
        check_pieces(b, &p[n], n, least, got[n]);
        check_session(b, &p[n], n, got[n]);
        n++;
    }
    apus_engine_free(e);
    check_batch(b, p, n, got);
    check_refusals(b, &p[0]);
    while (n-- > 0) {
        free(got[n]);
        gold_prompt_free(&p[n]);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: test_golden_media FOLDER [--device NAME]\n");
        return 2;
    }
    bench b = {0};
    bool device = argc == 4 && !strcmp(argv[2], "--device");
    gold_open(&b.g, argv[1]);
    apus_model *m = gold_model(argv[1], device ? argv[3] : NULL, APUS_PRECISION_EXACT);
    b.m = m;
    b.n_picture = gold_pictures(&b.g, m, b.picture);
    check_all(&b);
    for (int i = 0; i < b.n_picture; i++) apus_media_free(b.picture[i]);
    apus_model_close(m);
    check_fast(&b.g, argv[1], device ? argv[3] : NULL);
    ap_safetensors_close(&b.g.f);
    printf("%d checks failed\n", gold_fails);
    return gold_fails != 0;
}
