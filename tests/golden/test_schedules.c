/* test_schedules.c - random schedules of requests on tiny models: whoever else runs, waits, leaves or has run before,
 * and wherever a prefix comes from, each request gives to the bit what it gives alone.
 *
 *   test_schedules FOLDER...
 *
 * APUS_SCHEDULES: how many in all (default: a few for each folder); APUS_SEED: the first one's. Exit: 0 good, 1 a
 * difference, 2 usage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus.h"
#include "base/rng.h"

enum {
    CTX = 400,
    MOST_NEW = 24,
    TOPS = 2,      /* log probabilities of so many best ones are compared, too */
    DECK = 24,     /* requests that schedules are dealt from ... */
    PER_DECK = 40, /* ... so often */
    MOST_ASKS = 12,
    MOST_RECORDS = 256,
    DEFAULT_EACH = 20
};

/* ---------------------------------------------------------------- requests and what comes of them */

typedef struct answer {
    int32_t ids[MOST_NEW];
    float p[MOST_NEW][1 + TOPS];
    int n;
    apus_finish finish;
} answer;

typedef enum form { FREE, MASKED, GRAMMAR } form;

typedef struct ask {
    int32_t prompt[CTX];
    int n, max_tokens;
    form form;
    apus_sampling way;
    answer alone;
} ask;

typedef struct bench {
    const char *folder;
    apus_model *m;
    apus_info info;
    ap_rng rng;
    uint64_t seed; /* of the schedule that runs */
    ask deck[DECK];
    int n_deck;
    char dir[40];
    long n, requests, cut, cached, restored, drafted, accepted;
    int failures;
} bench;

static void need(apus_err err, const apus_diag *d)
{
    if (!err) return;
    fprintf(stderr, "%s\n", d->text);
    exit(1);
}

static int pick(ap_rng *r, int lo, int hi)
{
    return lo + (int)(ap_rng_next(r) % (uint64_t)(hi - lo + 1));
}

static bool one_in(ap_rng *r, int n)
{
    return pick(r, 1, n) == 1;
}

/* A mask that depends on nothing but the answer so far. */
static int mask(void *ctx, const int32_t *ids, int n, uint32_t *allowed)
{
    const bench *b = ctx;
    uint32_t h = (uint32_t)(n ? ids[n - 1] : 7) * 2654435761u + (uint32_t)n;
    for (int i = 0; i < (b->info.vocab + 31) / 32; i++) {
        h = h * 1664525u + 1013904223u;
        allowed[i] &= h | 1u;
    }
    return 1;
}

static apus_request *submit(apus_scheduler *s, bench *b, const ask *a, bool no_cache, ap_rng *rng)
{
    apus_diag d;
    apus_request *r;
    apus_request_settings set;
    apus_constraint c;
    int32_t branch = rng ? pick(rng, 0, a->n) : 0;
    apus_request_settings_default(&set);
    apus_constraint_default(&c);
    c.grammar = "root ::= [a-f]{1,4} (\" \" [0-9]+){2,5}";
    set.prompt = a->prompt;
    set.n_prompt = a->n;
    set.max_tokens = a->max_tokens;
    set.sampling = &a->way;
    set.no_text = true;
    set.no_cache = no_cache;
    set.logprobs = TOPS;
    if (a->form == MASKED) set.mask = mask;
    set.mask_ctx = b;
    if (a->form == GRAMMAR) set.constraint = &c;
    if (rng) {
        set.priority = pick(rng, -1, 1);
        set.client = (uint64_t)pick(rng, 0, 2);
        set.branch = &branch;
        set.n_branch = pick(rng, 0, 1);
        if (one_in(rng, 12)) set.deadline_us = pick(rng, 1, 4000);
    }
    need(apus_request_submit(s, &set, &r, &d), &d);
    return r;
}

/* Take one event; false: none in that time, or all were taken. */
static bool hear(apus_request *r, answer *a, apus_usage *u, int64_t us)
{
    apus_request_event ev = {.size = sizeof ev};
    if (!apus_request_take(r, us, &ev)) return false;
    *u = *ev.usage;
    if (ev.kind == APUS_REQUEST_FINISHED) {
        a->finish = ev.finish;
        if (ev.finish == APUS_FINISH_ERROR) printf("  error: %s\n", ev.message);
    }
    for (int i = 0; ev.kind == APUS_REQUEST_TOKENS && i < ev.n_ids && a->n < MOST_NEW;
         i++, a->n++) {
        a->ids[a->n] = ev.ids[i];
        memcpy(a->p[a->n], ev.logprob + i * (1 + TOPS), sizeof a->p[0]);
    }
    return true;
}

/* ---------------------------------------------------------------- a deck */

static void make_ask(bench *b, ask *a)
{
    ap_rng *r = &b->rng;
    memset(a, 0, sizeof *a);
    a->n = one_in(r, 3) ? pick(r, 64, CTX - MOST_NEW) : pick(r, 1, 70);
    for (int i = 0; i < a->n; i++) a->prompt[i] = pick(r, 0, b->info.vocab - 1);
    if (b->n_deck && !one_in(r, 4)) { /* it goes on like another one, up to some token */
        const ask *from = &b->deck[pick(r, 0, b->n_deck - 1)];
        int held = from->n + from->alone.n, n = one_in(r, 2) ? held : pick(r, 1, held);
        int32_t all[CTX + MOST_NEW];
        memcpy(all, from->prompt, (size_t)from->n * sizeof *all);
        memcpy(all + from->n, from->alone.ids, (size_t)from->alone.n * sizeof *all);
        n = n < CTX - MOST_NEW ? n : CTX - MOST_NEW;
        memcpy(a->prompt, all, (size_t)n * sizeof *all);
        a->n = n + pick(r, 0, CTX - MOST_NEW - n < 20 ? CTX - MOST_NEW - n : 20);
    }
    /* what repeats is guessed */
    for (int i = a->n / 2; one_in(r, 2) && i < a->n && a->n > 12; i++)
        a->prompt[i] = a->prompt[i % 6];
    a->max_tokens = pick(r, 0, MOST_NEW);
    a->form = one_in(r, 5) ? MASKED : b->info.has_tokenizer && one_in(r, 4) ? GRAMMAR : FREE;
    apus_sampling_default(&a->way);
    a->way.temperature = one_in(r, 2) ? 0 : 1.2f;
    a->way.repetition_penalty = one_in(r, 4) ? 1.2f : 1;
    a->way.seed = ap_rng_next(r);
}

/* Each by itself, with nothing to begin from and no guesses. */
static void deal(bench *b)
{
    apus_diag d;
    apus_scheduler *s;
    apus_engine_settings es;
    apus_scheduler_settings set;
    apus_engine_settings_default(&es);
    apus_scheduler_settings_default(&set);
    es.ctx = CTX;
    es.max_sessions = es.threads = 1;
    es.speculate = APUS_SPECULATE_OFF;
    set.engine = &es;
    set.step_us = 0;
    need(apus_scheduler_create(b->m, &set, &s, &d), &d);
    for (b->n_deck = 0; b->n_deck < DECK; b->n_deck++) {
        ask *a = &b->deck[b->n_deck];
        apus_usage u;
        make_ask(b, a);
        apus_request *r = submit(s, b, a, true, NULL);
        while (hear(r, &a->alone, &u, -1)) {}
        apus_request_free(r);
    }
    apus_scheduler_free(s);
}

/* ---------------------------------------------------------------- a store in memory, not a good one */

static struct record {
    char name[37];
    unsigned char *data;
    size_t bytes;
} records[MOST_RECORDS];
static int n_records;

static struct record *find(const char *name)
{
    for (int i = 0; i < n_records; i++)
        if (!strcmp(records[i].name, name)) return &records[i];
    return NULL;
}

static bool store_has(void *ctx, const char *const *names, int n, bool *there)
{
    (void)ctx;
    for (int i = 0; i < n; i++) there[i] = find(names[i]) != NULL;
    return n_records % 7 != 6; /* now and then it does not answer */
}

/* One in five comes damaged. */
static size_t store_get(void *ctx, const char *name, void *data, size_t cap)
{
    const struct record *r = find(name);
    (void)ctx;
    if (!r || r->bytes > cap) return 0;
    memcpy(data, r->data, r->bytes);
    if (name[0] % 5 == 0) ((unsigned char *)data)[r->bytes / 2] ^= 16;
    return r->bytes;
}

static void store_put(void *ctx, const char *name, const void *data, size_t bytes)
{
    (void)ctx;
    if (find(name) || n_records == MOST_RECORDS) return;
    struct record *r = &records[n_records];
    r->data = malloc(bytes);
    if (!r->data) return;
    snprintf(r->name, sizeof r->name, "%s", name);
    memcpy(r->data, data, bytes);
    r->bytes = bytes;
    n_records++;
}

static void forget_records(void)
{
    while (n_records) free(records[--n_records].data);
}

static void make_dir(bench *b)
{
    strcpy(b->dir, "/tmp/apus-schedules-XXXXXX");
    if (!mkdtemp(b->dir)) exit(1);
}

static void remove_dir(const bench *b)
{
    char cmd[80];
    snprintf(cmd, sizeof cmd, "rm -r %s", b->dir);
    if (system(cmd)) exit(1);
}

/* ---------------------------------------------------------------- a schedule */

/* Memory that one full request and the states of all fit into, and seldom all. */
static uint64_t some_bytes(const bench *b, apus_engine_settings es, ap_rng *r)
{
    apus_diag d;
    apus_plan all = {.size = sizeof all}, one = {.size = sizeof one};
    need(apus_engine_plan(b->m, &es, &all, &d), &d);
    es.max_sessions = 1;
    need(apus_engine_plan(b->m, &es, &one, &d), &d);
    return all.state_bytes + one.kv_bytes +
           (all.kv_bytes - one.kv_bytes) * (uint64_t)pick(r, 0, 8) / 16;
}

static apus_scheduler *open_scheduler(bench *b, ap_rng *r)
{
    static const int chunks[] = {1, 3, 17, 63, 64, 65, 200, 512, 4096};
    static const apus_store store = {sizeof store, NULL, store_has, store_get, store_put};
    apus_diag d;
    apus_scheduler *s;
    apus_engine_settings es;
    apus_scheduler_settings set;
    apus_engine_settings_default(&es);
    apus_scheduler_settings_default(&set);
    es.ctx = CTX;
    es.threads = one_in(r, 8) ? 2 : 1;
    es.prefill_chunk = chunks[pick(r, 0, (int)(sizeof chunks / sizeof *chunks) - 1)];
    es.speculate = one_in(r, 2) ? APUS_SPECULATE_NGRAM : APUS_SPECULATE_OFF;
    if (es.speculate == APUS_SPECULATE_NGRAM) es.n_draft = pick(r, 0, 14);
    es.max_sessions = pick(r, 1, 6);
    if (one_in(r, 2)) es.kv_bytes = some_bytes(b, es, r);
    set.engine = &es;
    set.step_us = pick(r, 0, 2) * 100;
    if (one_in(r, 3)) set.cache_bytes = 1 << 20;
    if (one_in(r, 3)) set.cache_dir = b->dir;
    set.cache_dir_bytes = 2 << 20;
    if (one_in(r, 3)) set.store = &store;
    set.store_wait_us = pick(r, 0, 1) * 20000;
    need(apus_scheduler_create(b->m, &set, &s, &d), &d);
    return s;
}

static void compare(bench *b, const ask *a, const answer *got)
{
    const answer *want = &a->alone;
    bool cut = got->finish == APUS_FINISH_CANCELLED || got->finish == APUS_FINISH_DEADLINE;
    size_t n = (size_t)got->n;
    b->requests++;
    b->cut += cut;
    bool same = got->n <= want->n && !memcmp(got->ids, want->ids, n * sizeof *got->ids) &&
                !memcmp(got->p, want->p, n * sizeof *got->p);
    if (!cut) same = same && got->n == want->n && got->finish == want->finish;
    if (same) return;
    b->failures++;
    int i = 0;
    while (i < got->n && i < want->n && got->ids[i] == want->ids[i]) i++;
    printf("%s: schedule %llu: a prompt of %d tokens: %d tokens (%s), alone %d (%s), the same up "
           "to %d\n",
           b->folder, (unsigned long long)b->seed, a->n, got->n, apus_finish_name(got->finish),
           want->n, apus_finish_name(want->finish), i);
}

static void count(bench *b, const apus_scheduler *s)
{
    apus_scheduler_stats t = {.size = sizeof t};
    apus_scheduler_stats_get(s, &t);
    b->cached += (long)t.cached_tokens;
    b->restored += (long)(t.disk_tokens + t.store_tokens);
    b->drafted += (long)t.drafted_tokens;
    b->accepted += (long)t.accepted_tokens;
}

static void schedule(bench *b)
{
    ap_rng rng, *r = &rng;
    const ask *a[MOST_ASKS];
    apus_request *req[MOST_ASKS];
    answer got[MOST_ASKS] = {0};
    apus_usage u;
    ap_rng_seed(r, b->seed);
    apus_scheduler *s = open_scheduler(b, r);
    int n = pick(r, 2, MOST_ASKS);
    for (int i = 0; i < n; i++) {
        a[i] = &b->deck[pick(r, 0, DECK - 1)];
        req[i] = submit(s, b, a[i], one_in(r, 8), r);
        int j = pick(r, 0, i);
        if (one_in(r, 4)) usleep((unsigned)pick(r, 1, 1500));
        if (one_in(r, 8)) apus_request_cancel(req[j]);
        if (one_in(r, 3)) hear(req[j], &got[j], &u, 0);
    }
    bool early = one_in(r, 8);
    if (early) apus_scheduler_free(s);
    for (int i = 0; i < n; i++) {
        while (hear(req[i], &got[i], &u, -1)) {}
        apus_request_free(req[i]);
        compare(b, a[i], &got[i]);
    }
    if (early) return;
    count(b, s);
    apus_scheduler_free(s);
}

static void run(bench *b, long n, uint64_t seed)
{
    apus_diag d;
    apus_model_settings ms;
    apus_model_settings_default(&ms);
    ms.threads = 1;
    ms.device = "cpu";
    b->info = (apus_info){.size = sizeof b->info};
    need(apus_model_open(b->folder, &ms, &b->m, &d), &d);
    need(apus_model_info(b->m, &b->info, &d), &d);
    for (long i = 0; i < n; i++) {
        if (i % PER_DECK ==
            0) { /* what is kept of a deck is of use to the schedules dealt from it */
            ap_rng_seed(&b->rng, seed + (uint64_t)(i / PER_DECK));
            deal(b);
            if (i) remove_dir(b);
            make_dir(b);
            forget_records();
        }
        b->seed = seed + (uint64_t)i;
        schedule(b);
        b->n++;
    }
    if (n) remove_dir(b);
    forget_records();
    apus_model_close(b->m);
    printf("%s: %ld schedules, %ld requests (%ld cut short), %ld tokens from a cache, %ld of them "
           "restored, %ld guessed, %ld of them right: %d differ\n",
           b->folder, b->n, b->requests, b->cut, b->cached, b->restored, b->drafted, b->accepted,
           b->failures);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *wish = getenv("APUS_SCHEDULES"), *from = getenv("APUS_SEED");
    int folders = argc - 1, failures = 0;
    if (folders < 1) {
        fprintf(stderr, "usage: test_schedules FOLDER...\n");
        return 2;
    }
    long all = wish ? atol(wish) : (long)DEFAULT_EACH * folders;
    uint64_t seed = from ? strtoull(from, NULL, 10) : 1;
    for (int i = 0; i < folders; i++) {
        static bench b;
        b = (bench){.folder = argv[i + 1]};
        run(&b, all / folders + (i < all % folders), seed);
        failures += b.failures;
    }
    return failures ? 1 : 0;
}
