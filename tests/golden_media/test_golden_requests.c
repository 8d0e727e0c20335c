/* test_golden_requests.c - pictures in requests: whatever the schedule, and whatever is cached of them in memory or on
 * the disk, each request gives what it gives alone.
 *
 *   test_golden_requests FOLDER [--device NAME]
 *
 * FOLDER as tools/goldens/make_media_goldens.py makes it. Exit: 0 good, 1 a check failed, 2 usage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus_unstable.h"
#include "gold.h"

enum { MOST_PROMPTS = 8, N_NEW = 6, CTX = 2048, PARALLEL = 3, PAGE = 64 };

/* A prompt, what it shows, and what comes of it. */
typedef struct ask {
    int32_t *ids;
    int n;
    int shows[MOST_PICTURES]; /* numbers of pictures */
    const apus_media *media[MOST_PICTURES];
    int n_media;
    int32_t want[N_NEW];
    int n_want;
} ask;

typedef struct bench {
    const apus_model *m;
    gold g;
    apus_media *picture[MOST_PICTURES];
    int n_picture, least_chunk;
    ask ask[MOST_PROMPTS];
    int n;
    char dir[32];
} bench;

/* ---------------------------------------------------------------- alone */

static bool keep(void *ctx, int32_t id)
{
    ask *a = ctx;
    a->want[a->n_want++] = id;
    return true;
}

/* With pictures of its own, so that no tower has run for the others. */
static void run_alone(const bench *b, ask *a)
{
    apus_diag d;
    apus_media *own[MOST_PICTURES];
    const apus_media *media[MOST_PICTURES];
    int n_own = gold_pictures(&b->g, b->m, own);
    for (int i = 0; i < a->n_media; i++) media[i] = own[a->shows[i]];
    apus_engine *e;
    apus_session *s;
    apus_sampling way;
    apus_engine_settings es;
    apus_generate_settings set;
    apus_engine_settings_default(&es);
    apus_generate_settings_default(&set);
    apus_sampling_default(&way);
    way.temperature = 0;
    es.ctx = CTX;
    set.sampling = &way;
    set.max_tokens = N_NEW;
    set.on_token = keep;
    set.ctx = a;
    set.media = media;
    set.n_media = a->n_media;
    a->n_want = 0;
    gold_need(apus_engine_create(b->m, &es, &e, &d), &d);
    gold_need(apus_session_create(e, &s, &d), &d);
    gold_need(apus_generate(s, a->ids, a->n, &set, NULL, &d), &d);
    apus_engine_free(e);
    for (int i = 0; i < n_own; i++) apus_media_free(own[i]);
}

/* ---------------------------------------------------------------- together */

static apus_scheduler *scheduler(const bench *b, int chunk, uint64_t media_bytes, const char *dir)
{
    apus_diag d;
    apus_scheduler *s;
    apus_engine_settings es;
    apus_scheduler_settings set;
    apus_engine_settings_default(&es);
    apus_scheduler_settings_default(&set);
    es.ctx = CTX;
    es.max_sessions = PARALLEL;
    es.prefill_chunk = chunk < b->least_chunk ? b->least_chunk : chunk;
    set.engine = &es;
    set.step_us = 500;
    set.cache_bytes = 64 << 20;
    set.cache_dir = dir;
    set.media_bytes = media_bytes;
    gold_need(apus_scheduler_create(b->m, &set, &s, &d), &d);
    return s;
}

static apus_request_settings settings_of(const ask *a, const apus_sampling *way)
{
    apus_request_settings set;
    apus_request_settings_default(&set);
    set.prompt = a->ids;
    set.n_prompt = a->n;
    set.media = a->media;
    set.n_media = a->n_media;
    set.sampling = way;
    set.max_tokens = N_NEW;
    set.no_text = true;
    return set;
}

static apus_request *submit(apus_scheduler *s, const ask *a)
{
    apus_diag d;
    apus_request *r;
    apus_sampling way;
    apus_sampling_default(&way);
    way.temperature = 0;
    apus_request_settings set = settings_of(a, &way);
    gold_need(apus_request_submit(s, &set, &r, &d), &d);
    return r;
}

/* Wait for it; returns what it found. */
static apus_usage finish(apus_request *r, const ask *a, const char *what)
{
    int32_t got[N_NEW];
    int n = 0;
    apus_usage usage = {0};
    apus_request_event ev = {.size = sizeof ev};
    while (apus_request_take(r, -1, &ev)) {
        for (int i = 0; i < ev.n_ids && n < N_NEW; i++) got[n++] = ev.ids[i];
        usage = *ev.usage;
        if (ev.kind == APUS_REQUEST_FINISHED && ev.finish > APUS_FINISH_LENGTH)
            gold_fail("%s: %s: %s", what, apus_finish_name(ev.finish),
                      ev.message ? ev.message : "");
    }
    if (n != a->n_want || memcmp(got, a->want, (size_t)n * sizeof *got))
        gold_fail("%s: another answer to a prompt of %d tokens, %d cached", what, a->n,
                  usage.n_cached);
    apus_request_free(r);
    return usage;
}

static apus_scheduler_stats stats_of(apus_scheduler *s)
{
    apus_scheduler_stats t = {.size = sizeof t};
    apus_scheduler_stats_get(s, &t);
    return t;
}

/* All prompts at once, two rounds of them; the second is cached up to its last page at least. */
static void check_together(bench *b, int chunk, uint64_t media_bytes)
{
    apus_scheduler *s = scheduler(b, chunk, media_bytes, NULL);
    apus_request *r[MOST_PROMPTS];
    uint64_t encoded = 0;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < b->n; i++) r[i] = submit(s, &b->ask[i]);
        for (int i = 0; i < b->n; i++) {
            apus_usage u = finish(r[i], &b->ask[i], round ? "warm" : "together");
            if (round && u.n_cached < (b->ask[i].n - 1) / PAGE * PAGE)
                gold_fail("warm: %d of %d tokens were cached", u.n_cached, b->ask[i].n);
        }
        if (!round) encoded = stats_of(s).media_encoded;
    }
    if (!encoded) gold_fail("no tower was run");
    if (media_bytes && stats_of(s).media_encoded != encoded)
        gold_fail("warm: towers were run again for %d pictures",
                  (int)(stats_of(s).media_encoded - encoded));
    apus_scheduler_free(s);
}

/* ---------------------------------------------------------------- another question */

/* The prompt up to the end of its last picture, and another question. */
static ask ask_else(const bench *b, const ask *from, int32_t seed, int *end)
{
    apus_diag d;
    int begins[MOST_PICTURES], ends[MOST_PICTURES];
    ask a = *from;
    gold_need(
        apus_media_find(b->m, from->ids, from->n, from->media, from->n_media, begins, ends, &d),
        &d);
    *end = 0;
    for (int i = 0; i < from->n_media; i++) *end = ends[i] > *end ? ends[i] : *end;
    a.n = *end + 5;
    a.ids = malloc((size_t)a.n * sizeof *a.ids);
    if (!a.ids) exit(2);
    memcpy(a.ids, from->ids, (size_t)*end * sizeof *a.ids);
    for (int i = 0; i < 5; i++) a.ids[*end + i] = (seed + 3 * i) % 20 + 1;
    run_alone(b, &a);
    return a;
}

/* It costs its own tokens alone, in memory and after a restart, and no tower. */
static void check_questions(const bench *b, const ask *from)
{
    int end = 0, have;
    ask first = ask_else(b, from, 1, &end), second = ask_else(b, from, 2, &end),
        third = ask_else(b, from, 3, &end);
    apus_scheduler *s = scheduler(b, 128, 0, b->dir);
    finish(submit(s, &first), &first, "a question");
    uint64_t encoded = stats_of(s).media_encoded;
    if (!encoded) gold_fail("a question: no tower was run");
    have = finish(submit(s, &second), &second, "another question").n_cached;
    if (have < end) gold_fail("another question: %d of %d tokens were cached", have, end);
    if (stats_of(s).media_encoded != encoded) gold_fail("another question: a tower was run");
    apus_scheduler_free(s);
    s = scheduler(b, 128, 0, b->dir);
    apus_usage u = finish(submit(s, &third), &third, "after a restart");
    if (u.n_cached < end || !u.n_disk)
        gold_fail("after a restart: %d of %d tokens were cached, %d of them on the disk",
                  u.n_cached, end, u.n_disk);
    if (stats_of(s).media_encoded) gold_fail("after a restart: a tower was run");
    apus_scheduler_free(s);
    free(first.ids);
    free(second.ids);
    free(third.ids);
}

/* Other pictures in the same places are others. */
static void check_others(const bench *b, const ask *from)
{
    ask a = *from;
    bool other = false;
    for (int i = 0; i < a.n_media; i++)
        for (int k = 0; k < b->n_picture; k++) {
            const apus_media *x = b->picture[k];
            if (x == from->media[i] || apus_media_tokens(x) != apus_media_tokens(from->media[i]))
                continue;
            a.media[i] = x;
            a.shows[i] = k;
            other = true;
        }
    if (!other) return;
    run_alone(b, &a);
    apus_scheduler *s = scheduler(b, 64, 1 << 20, NULL);
    for (int round = 0; round < 2; round++) {
        finish(submit(s, from), from, "one picture");
        finish(submit(s, &a), &a, "another in its place");
    }
    apus_scheduler_free(s);
}

/* Requests that leave at any moment do no harm to those that stay. */
static void check_leavers(const bench *b)
{
    for (int i = 0; i < 12; i++) {
        apus_scheduler *s = scheduler(b, 64, i % 2 ? 1 << 20 : 0, NULL);
        apus_request *leaves = submit(s, &b->ask[i % b->n]);
        apus_request *stays = submit(s, &b->ask[i % b->n]);
        usleep((useconds_t)i * 700);
        apus_request_free(leaves);
        finish(stays, &b->ask[i % b->n], "beside one that left");
        apus_scheduler_free(s);
    }
}

/* ---------------------------------------------------------------- refusals */

static void refuse(apus_scheduler *s, apus_request_settings set, apus_err want, const char *what)
{
    apus_diag d = {0};
    apus_request *r;
    apus_err err = apus_request_submit(s, &set, &r, &d);
    if (!err) apus_request_free(r);
    if (err != want) gold_fail("%s: %s: %s", what, apus_err_name(err), d.text);
}

static void check_refusals(const bench *b)
{
    const ask *a = &b->ask[0];
    apus_scheduler *s = scheduler(b, 64, 0, NULL);
    apus_sampling way;
    apus_sampling_default(&way);
    apus_request_settings good = settings_of(a, &way), set = good;
    const apus_media *more[MOST_PICTURES + 1];
    memcpy(more, a->media, sizeof a->media);
    more[a->n_media] = b->picture[0];
    set.media = more;
    set.n_media = a->n_media + 1;
    refuse(s, set, APUS_EINVAL, "a picture too many");
    set.n_media = a->n_media - 1;
    if (set.n_media) refuse(s, set, APUS_EINVAL, "a picture too few");
    set.n_media = -1;
    refuse(s, set, APUS_EINVAL, "a negative number of pictures");
    more[0] = NULL;
    set.n_media = a->n_media;
    refuse(s, set, APUS_EINVAL, "no picture");
    set.media = NULL;
    refuse(s, set, APUS_EINVAL, "no pictures");
    finish(submit(s, a), a, "after refusals");
    apus_scheduler_free(s);
}

/* ---------------------------------------------------------------- main */

static void read_asks(bench *b)
{
    prompt p;
    for (int k = 0; k < MOST_PROMPTS && gold_prompt(&b->g, k, &p); k++) {
        ask *a = &b->ask[b->n];
        if (p.n_used) {
            *a = (ask){.ids = p.ids, .n = p.n, .n_media = p.n_used};
            for (int i = 0; i < p.n_used; i++) {
                a->shows[i] = p.used[i];
                a->media[i] = b->picture[p.used[i]];
            }
            p.ids = NULL;
            run_alone(b, a);
            b->n++;
        }
        gold_prompt_free(&p);
    }
}

static void check_all(bench *b)
{
    for (int i = 0; i < 4; i++) {
        static const int chunks[] = {1, 7, 64, 1000};
        check_together(b, chunks[i], i % 2 ? 0 : 64 << 20);
    }
    for (int i = 0; i < b->n && i < 2; i++) {
        check_questions(b, &b->ask[i]);
        check_others(b, &b->ask[i]);
    }
    check_leavers(b);
    check_refusals(b);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: test_golden_requests FOLDER [--device NAME]\n");
        return 2;
    }
    char remove[64];
    apus_info info = {.size = sizeof info};
    bench b = {.dir = "/tmp/apus-test-XXXXXX"};
    if (!mkdtemp(b.dir)) return 2;
    gold_open(&b.g, argv[1]);
    apus_model *m = gold_model(argv[1], argc == 4 ? argv[3] : NULL, APUS_PRECISION_EXACT);
    b.m = m;
    b.n_picture = gold_pictures(&b.g, m, b.picture);
    apus_model_info(m, &info, NULL);
    if (!strncmp(info.architecture, "gemma", 5))
        b.least_chunk = gold_most_places(b.picture, b.n_picture) + PARALLEL - 1;
    read_asks(&b);
    check_all(&b);
    for (int i = 0; i < b.n_picture; i++) apus_media_free(b.picture[i]);
    for (int i = 0; i < b.n; i++) free(b.ask[i].ids);
    apus_model_close(m);
    ap_safetensors_close(&b.g.f);
    snprintf(remove, sizeof remove, "rm -r %s", b.dir);
    if (system(remove)) gold_fail("%s could not be removed", b.dir);
    printf("%d prompts, %d checks failed\n", b.n, gold_fails);
    return gold_fails != 0;
}
