#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "state.h"

struct sv_pool {
    const sv_settings *set;
    sv_served *item;
    sv_facts *facts;
    int n;
    pthread_mutex_t
        lock; /* of everything but what lies between COMING and LOADED, which is the loader's */
    pthread_cond_t changed;
    pthread_t loader;
    bool running, draining, ending;
    apus_scheduler_stats past; /* counters of those that were unloaded */
    apus_expert_stats past_experts;
};

/* ---------------------------------------------------------------- sums */

static void add_all(uint64_t *to, const uint64_t *from, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] += from[i];
}

static void add_counters(apus_scheduler_stats *a, const apus_scheduler_stats *b)
{
    a->submitted += b->submitted;
    a->rejected += b->rejected;
    add_all(a->finished, b->finished, sizeof a->finished / sizeof *a->finished);
    a->cancelled_in_queue += b->cancelled_in_queue;
    a->cancelled_in_prefill += b->cancelled_in_prefill;
    a->prompt_tokens += b->prompt_tokens;
    a->cached_tokens += b->cached_tokens;
    a->disk_tokens += b->disk_tokens;
    a->prefill_tokens += b->prefill_tokens;
    a->generated_tokens += b->generated_tokens;
    add_all(a->miss, b->miss, sizeof a->miss / sizeof *a->miss);
    a->steps += b->steps;
    a->step_us += b->step_us;
    a->step_rows += b->step_rows;
    a->step_lanes += b->step_lanes;
    a->prefill_us += b->prefill_us;
    a->decode_us += b->decode_us;
    a->disk_written_bytes += b->disk_written_bytes;
    a->disk_read_bytes += b->disk_read_bytes;
    a->disk_errors += b->disk_errors;
    a->store_tokens += b->store_tokens;
    a->store_read_bytes += b->store_read_bytes;
    a->store_written_bytes += b->store_written_bytes;
    a->store_errors += b->store_errors;
    a->store_late += b->store_late;
    a->media_encoded += b->media_encoded;
    a->media_reused += b->media_reused;
    a->media_us += b->media_us;
}

static void add_gauges(apus_scheduler_stats *a, const apus_scheduler_stats *b)
{
    a->waiting += b->waiting;
    a->running += b->running;
    a->prefilling += b->prefilling;
    a->lost |= b->lost;
    a->kv_bytes += b->kv_bytes;
    a->kv_used_bytes += b->kv_used_bytes;
    a->kv_cached_bytes += b->kv_cached_bytes;
    a->disk_bytes += b->disk_bytes;
}

void sv_pool_stats(sv_pool *p, apus_scheduler_stats *out)
{
    pthread_mutex_lock(&p->lock);
    *out = p->past;
    out->size = sizeof *out;
    for (int i = 0; i < p->n; i++) {
        apus_scheduler_stats st = {.size = sizeof st};
        if (p->item[i].state != SV_LOADED) continue;
        apus_scheduler_stats_get(p->item[i].scheduler, &st);
        add_counters(out, &st);
        add_gauges(out, &st);
    }
    pthread_mutex_unlock(&p->lock);
}

/* Counters; nothing of a model that has all of its experts in memory. */
static void add_experts(apus_expert_stats *a, const apus_expert_stats *b)
{
    if (!b->io) return;
    a->io = b->io;
    a->hits += b->hits;
    a->misses += b->misses;
    a->ahead += b->ahead;
    a->ahead_used += b->ahead_used;
    a->bytes_read += b->bytes_read;
    a->stall_us += b->stall_us;
    a->pack_us += b->pack_us;
}

static apus_expert_stats experts_of(const sv_served *s)
{
    apus_expert_stats st = {.size = sizeof st};
    if (apus_model_experts(s->model, &st, NULL)) st.io = NULL;
    return st;
}

bool sv_pool_experts(sv_pool *p, apus_expert_stats *out)
{
    pthread_mutex_lock(&p->lock);
    *out = p->past_experts;
    out->size = sizeof *out;
    for (int i = 0; i < p->n; i++) {
        if (p->item[i].state != SV_LOADED) continue;
        apus_expert_stats st = experts_of(&p->item[i]);
        add_experts(out, &st);
        if (!st.io) continue;
        out->experts += st.experts;
        out->resident += st.resident;
    }
    pthread_mutex_unlock(&p->lock);
    return out->io != NULL;
}

/* ---------------------------------------------------------------- loading and unloading */

void sv_facts_learn(sv_facts *f, const apus_info *i)
{
    *f = (sv_facts){.known = true,
                    .params = i->params_total,
                    .weight_bytes = i->weight_bytes,
                    .n_layers = i->n_layers,
                    .hidden = i->hidden,
                    .vocab = i->vocab,
                    .context = i->context,
                    .quantised = i->is_quantised,
                    .chats = i->has_chat_template,
                    .towers = i->towers};
    snprintf(f->architecture, sizeof f->architecture, "%s", i->architecture);
    snprintf(f->types, sizeof f->types, "%s", i->weight_types);
}

/* Without the lock. Returns -1, or the exit status; *why tells for clients what was told on stderr. */
static int load(sv_pool *p, sv_served *s, uint64_t others, apus_diag *why)
{
    apus_scheduler_settings set = p->set->scheduler;
    apus_plan plan = {.size = sizeof plan};
    *why = (apus_diag){.code = APUS_EFILE};
    s->model = NULL;
    s->scheduler = NULL;
    int rc = p->set->load(s->entry, others, &s->model, &set, why);
    if (rc >= 0) return rc;
    s->info = (apus_info){.size = sizeof s->info};
    apus_err err = apus_model_info(s->model, &s->info, why);
    if (!err) err = apus_engine_plan(s->model, set.engine, &plan, why);
    if (!err) err = apus_scheduler_create(s->model, &set, &s->scheduler, why);
    if (err) {
        sv_log(p->set, "error", "%s", why->text);
        apus_model_close(s->model);
        s->model = NULL;
        return 1;
    }
    s->ctx = plan.ctx;
    s->bytes = plan.total_bytes + plan.other_bytes + set.cache_bytes;
    return -1;
}

/* With the lock, which is left meanwhile. */
static void unload(sv_pool *p, sv_served *s)
{
    apus_scheduler_stats st = {.size = sizeof st};
    apus_scheduler_stats_get(s->scheduler, &st);
    add_counters(&p->past, &st);
    apus_expert_stats experts = experts_of(s);
    add_experts(&p->past_experts, &experts);
    s->state = SV_GOING;
    pthread_mutex_unlock(&p->lock);
    apus_scheduler_free(s->scheduler);
    if (p->set->unload) p->set->unload(s->model);
    apus_model_close(s->model);
    pthread_mutex_lock(&p->lock);
    s->scheduler = NULL;
    s->model = NULL;
    s->leaving = false;
    s->state = SV_ABSENT;
    if (!p->ending) sv_log(p->set, "info", "%s is unloaded", s->entry->name);
}

/* With the lock, which is left meanwhile. Returns as load does. */
static int bring(sv_pool *p, sv_served *s)
{
    apus_diag why;
    uint64_t others = 0;
    for (int i = 0; i < p->n; i++)
        if (p->item[i].state == SV_LOADED) others += p->item[i].bytes;
    s->state = SV_COMING;
    pthread_mutex_unlock(&p->lock);
    int rc = load(p, s, others, &why);
    pthread_mutex_lock(&p->lock);
    s->needs_room = false;
    if (rc < 0) {
        s->state = SV_LOADED;
        s->used_us = sv_now_us();
        s->wanted_us = 0;
        sv_facts_learn(&p->facts[s - p->item], &s->info);
        return rc;
    }
    s->state = SV_ABSENT;
    s->failure = why;
    return rc;
}

void sv_pool_tell_ready(const sv_pool *p, const sv_served *s)
{
    sv_log(p->set, "info", "%s is ready, context %d tokens", s->entry->name, s->ctx);
}

/* ---------------------------------------------------------------- who comes, who goes */

/* The one that is waited for longest. */
static sv_served *next_wanted(sv_pool *p)
{
    sv_served *best = NULL;
    for (int i = 0; i < p->n; i++) {
        sv_served *s = &p->item[i];
        if (!s->waiting) s->wanted_us = 0;
        if (s->wanted_us && s->state == SV_ABSENT && (!best || s->wanted_us < best->wanted_us))
            best = s;
    }
    return best;
}

static int count_loaded(const sv_pool *p)
{
    int n = 0;
    for (int i = 0; i < p->n; i++) n += p->item[i].state == SV_LOADED;
    return n;
}

/* Nobody has it, nor is about to: whoever it was loaded for takes it before it can go again. */
static bool is_idle(const sv_served *s)
{
    return !s->users && (s->leaving || !s->waiting);
}

/* One that is leaving already; else of those that are idle, or else of all, the one used longest ago. */
static sv_served *choose_victim(sv_pool *p)
{
    sv_served *best = NULL;
    for (int i = 0; i < p->n; i++) {
        sv_served *s = &p->item[i];
        if (s->state != SV_LOADED) continue;
        if (s->leaving) return s;
        bool idle = is_idle(s), was = best && is_idle(best);
        if (!best || (idle && !was) || (idle == was && s->used_us < best->used_us)) best = s;
    }
    return best;
}

static void let_stay(sv_pool *p)
{
    for (int i = 0; i < p->n; i++) p->item[i].leaving = false;
}

/* One thing that is to be done. false: there is nothing. */
static bool work(sv_pool *p)
{
    sv_served *s = next_wanted(p);
    int loaded = count_loaded(p);
    if (!s) {
        let_stay(p); /* whoever it was to make room for has left */
        return false;
    }
    if (loaded >= p->set->max_loaded || (s->needs_room && loaded)) {
        sv_served *victim = choose_victim(p);
        if (!victim->leaving && victim->waiting) return false;
        victim->leaving = true;
        if (victim->users) return false;
        unload(p, victim);
    } else if (bring(p, s) < 0) {
        sv_pool_tell_ready(p, s);
    } else {
        if (s->failure.code == APUS_ENOMEM && count_loaded(p)) {
            s->needs_room = true; /* again, when another one has gone */
        } else {
            s->failures++;
            s->wanted_us = 0;
        }
    }
    pthread_cond_broadcast(&p->changed);
    return true;
}

static void *loader(void *ctx)
{
    sv_pool *p = ctx;
    pthread_mutex_lock(&p->lock);
    while (!p->ending)
        if (p->draining || !work(p)) pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---------------------------------------------------------------- a life */

sv_pool *sv_pool_new(const sv_settings *set)
{
    sv_pool *p = calloc(1, sizeof *p);
    pthread_condattr_t monotonic;
    if (!p) return NULL;
    p->set = set;
    p->n = set->n_entries;
    p->item = calloc((size_t)p->n, sizeof *p->item);
    p->facts = calloc((size_t)p->n, sizeof *p->facts);
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (!p->item || !p->facts) {
        sv_pool_free(p);
        return NULL;
    }
    for (int i = 0; i < p->n; i++) {
        p->item[i].entry = &set->entries[i];
        p->facts[i] = set->entries[i].facts;
    }
    return p;
}

int sv_pool_load_first(sv_pool *p)
{
    pthread_mutex_lock(&p->lock);
    int rc = bring(p, &p->item[0]);
    pthread_mutex_unlock(&p->lock);
    return rc;
}

bool sv_pool_start(sv_pool *p)
{
    p->running = !pthread_create(&p->loader, NULL, loader, p);
    return p->running;
}

void sv_pool_drain(sv_pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->draining = true;
    for (int i = 0; i < p->n; i++)
        if (p->item[i].state == SV_LOADED) apus_scheduler_drain(p->item[i].scheduler);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

void sv_pool_free(sv_pool *p)
{
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    if (p->running) pthread_join(p->loader, NULL);
    pthread_mutex_lock(&p->lock);
    for (int i = 0; p->item && i < p->n; i++)
        if (p->item[i].state == SV_LOADED) unload(p, &p->item[i]);
    pthread_mutex_unlock(&p->lock);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p->item);
    free(p->facts);
    free(p);
}

/* ---------------------------------------------------------------- names */

int sv_pool_size(const sv_pool *p)
{
    return p->n;
}

sv_served *sv_pool_at(sv_pool *p, int i)
{
    return &p->item[i];
}

static bool is_called(const sv_entry *e, const char *name)
{
    size_t n = strlen(e->name);
    if (!strcmp(name, e->name)) return true;
    for (int i = 0; i < e->aliases.n; i++)
        if (!strcmp(name, e->aliases.item[i])) return true;
    return !strncmp(name, e->name, n) && !strcmp(name + n, ":latest"); /* Ollama's clients add it */
}

sv_served *sv_pool_find(sv_pool *p, const char *name)
{
    if (!name) return &p->item[0];
    for (int i = 0; i < p->n; i++)
        if (is_called(p->item[i].entry, name)) return &p->item[i];
    return NULL;
}

bool sv_pool_facts(sv_pool *p, const sv_served *s, sv_facts *out)
{
    pthread_mutex_lock(&p->lock);
    *out = p->facts[s - p->item];
    pthread_mutex_unlock(&p->lock);
    return out->known;
}

int sv_pool_context(sv_pool *p, const sv_served *s)
{
    pthread_mutex_lock(&p->lock);
    int ctx = s->state == SV_LOADED ? s->ctx : 0;
    pthread_mutex_unlock(&p->lock);
    return ctx;
}

bool sv_pool_is_loaded(sv_pool *p, const sv_served *s)
{
    pthread_mutex_lock(&p->lock);
    bool is = s->state == SV_LOADED;
    pthread_mutex_unlock(&p->lock);
    return is;
}

/* ---------------------------------------------------------------- leases */

void sv_pool_want(sv_pool *p, sv_served *s, sv_lease *l)
{
    pthread_mutex_lock(&p->lock);
    *l = (sv_lease){.served = s, .failures = s->failures};
    s->waiting++;
    pthread_mutex_unlock(&p->lock);
}

static sv_wait look(sv_pool *p, sv_lease *l, apus_diag *why)
{
    sv_served *s = l->served;
    if (p->draining) {
        *why = (apus_diag){.code = APUS_ECANCELLED};
        return SV_WAIT_FAILED;
    }
    if (s->state == SV_LOADED && !s->leaving) {
        s->waiting--;
        s->users++;
        s->used_us = sv_now_us();
        l->held = true;
        pthread_cond_broadcast(&p->changed); /* the loader may have waited for that */
        return SV_WAIT_HELD;
    }
    if (s->failures != l->failures) {
        *why = s->failure;
        return SV_WAIT_FAILED;
    }
    if (!s->wanted_us) {
        s->wanted_us = sv_now_us();
        pthread_cond_broadcast(&p->changed);
    }
    return SV_WAIT_MORE;
}

sv_wait sv_pool_wait(sv_pool *p, sv_lease *l, int ms, apus_diag *why)
{
    struct timespec until;
    sv_wait is;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&p->lock);
    while ((is = look(p, l, why)) == SV_WAIT_MORE)
        if (pthread_cond_timedwait(&p->changed, &p->lock, &until) == ETIMEDOUT) break;
    pthread_mutex_unlock(&p->lock);
    return is;
}

void sv_pool_give(sv_pool *p, sv_lease *l)
{
    if (!l->served) return;
    pthread_mutex_lock(&p->lock);
    if (l->held) {
        l->served->users--;
        l->served->used_us = sv_now_us();
    } else {
        l->served->waiting--;
    }
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    *l = (sv_lease){0};
}
