#include "metrics.h"

#include <string.h>

#include "exchange.h"
#include "state.h"

static const double token_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                      0.075, 0.1,    0.25,  0.5,  1,     2.5};
static const double wait_bounds[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                     2.5,   5,    10,    20,   40,  80,   160, 640};

#define LEN(a) ((int)(sizeof(a) / sizeof *(a)))

void sv_metrics_init(sv_metrics *m)
{
    memset(m, 0, sizeof *m);
    m->between_tokens.bound = token_bounds;
    m->between_tokens.n = LEN(token_bounds);
    sv_histogram *const waits[] = {&m->first_token, &m->whole, &m->queue, &m->prefill};
    for (int i = 0; i < LEN(waits); i++) {
        waits[i]->bound = wait_bounds;
        waits[i]->n = LEN(wait_bounds);
    }
}

void sv_observe(sv_histogram *h, int64_t us, uint64_t times)
{
    int i = 0;
    while (i < h->n && (double)us / 1e6 > h->bound[i]) i++;
    atomic_fetch_add(&h->bucket[i], times);
    atomic_fetch_add(&h->sum_us, (uint64_t)us * times);
}

/* ---------------------------------------------------------------- writing */

static void head(sv_buf *b, const char *name, const char *type, const char *help)
{
    sv_buf_addf(b, "# HELP apus_%s %s\n# TYPE apus_%s %s\n", name, help, name, type);
}

static void put(sv_buf *b, const char *name, const char *type, const char *help, double v)
{
    head(b, name, type, help);
    sv_buf_addf(b, "apus_%s %.15g\n", name, v);
}

static void put_histogram(sv_buf *b, const char *name, const char *help, const sv_histogram *h)
{
    uint64_t sum = 0;
    head(b, name, "histogram", help);
    for (int i = 0; i <= h->n; i++) {
        sum += atomic_load(&h->bucket[i]);
        if (i < h->n)
            sv_buf_addf(b, "apus_%s_bucket{le=\"%g\"} %llu\n", name, h->bound[i],
                        (unsigned long long)sum);
    }
    sv_buf_addf(b, "apus_%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)sum);
    sv_buf_addf(b, "apus_%s_sum %.9g\n", name, (double)atomic_load(&h->sum_us) / 1e6);
    sv_buf_addf(b, "apus_%s_count %llu\n", name, (unsigned long long)sum);
}

static void put_labelled(sv_buf *b, const char *name, const char *label, const char *value,
                         uint64_t v)
{
    sv_buf_addf(b, "apus_%s{%s=\"%s\"} %llu\n", name, label, value, (unsigned long long)v);
}

static void put_server(sv_buf *b, const sv_server *s)
{
    const sv_metrics *m = &s->metrics;
    static const char *const classes[] = {"", "1xx", "2xx", "3xx", "4xx", "5xx"};
    head(b, "http_responses_total", "counter", "Answers by status.");
    for (int i = 2; i < 6; i++)
        put_labelled(b, "http_responses_total", "status", classes[i],
                     atomic_load(&m->responses[i]));
    put(b, "clients_gone_total", "counter", "Clients that left before their answer was through.",
        (double)atomic_load(&m->gone));
    put_histogram(b, "time_to_first_token_seconds", "From a request's arrival to its first token.",
                  &m->first_token);
    put_histogram(b, "inter_token_latency_seconds", "Between two tokens of an answer.",
                  &m->between_tokens);
    put_histogram(b, "e2e_request_latency_seconds", "From a request's arrival to its end.",
                  &m->whole);
    put_histogram(b, "request_queue_time_seconds", "Waiting for a place among those that run.",
                  &m->queue);
    put_histogram(b, "request_prefill_time_seconds", "Computing prompts.", &m->prefill);
}

static void put_finished(sv_buf *b, const apus_scheduler_stats *st)
{
    head(b, "requests_finished_total", "counter", "Requests by what ended them.");
    for (int i = 0; i <= APUS_FINISH_ERROR; i++)
        put_labelled(b, "requests_finished_total", "finish", apus_finish_name((apus_finish)i),
                     st->finished[i]);
    head(b, "requests_cancelled_total", "counter", "Cancelled requests by when.");
    put_labelled(b, "requests_cancelled_total", "phase", "queue", st->cancelled_in_queue);
    put_labelled(b, "requests_cancelled_total", "phase", "prefill", st->cancelled_in_prefill);
    put_labelled(b, "requests_cancelled_total", "phase", "decode",
                 st->finished[APUS_FINISH_CANCELLED] - st->cancelled_in_queue -
                     st->cancelled_in_prefill);
    head(b, "prefix_cache_requests_total", "counter",
         "Requests by why no more of the prompt was found in the cache.");
    for (int i = 0; i <= APUS_MISS_NO_STATE; i++)
        put_labelled(b, "prefix_cache_requests_total", "miss", apus_miss_name((apus_miss)i),
                     st->miss[i]);
}

static void put_scheduler(sv_buf *b, const apus_scheduler_stats *st)
{
    put(b, "requests_running", "gauge", "Requests that are computed.", st->running);
    put(b, "requests_waiting", "gauge", "Requests in the queue.", st->waiting);
    put(b, "requests_prefilling", "gauge", "Of the running ones, those in their prompt.",
        st->prefilling);
    put(b, "device_lost", "gauge", "1: the device failed, and nothing is computed any more.",
        st->lost);
    put(b, "requests_submitted_total", "counter", "Requests taken into the queue.",
        (double)st->submitted);
    put(b, "requests_rejected_total", "counter", "Requests that found the queue full.",
        (double)st->rejected);
    put_finished(b, st);
    put(b, "prompt_tokens_total", "counter", "Tokens of prompts.", (double)st->prompt_tokens);
    put(b, "generation_tokens_total", "counter", "Tokens of answers.",
        (double)st->generated_tokens);
    put(b, "prefill_tokens_total", "counter", "Tokens of prompts that were computed.",
        (double)st->prefill_tokens);
    head(b, "prefix_cache_tokens_total", "counter", "Tokens of prompts that were not, by tier.");
    put_labelled(b, "prefix_cache_tokens_total", "tier", "memory",
                 st->cached_tokens - st->disk_tokens);
    put_labelled(b, "prefix_cache_tokens_total", "tier", "disk", st->disk_tokens);
    put(b, "prompt_seconds_total", "counter", "Computing prompts.", (double)st->prefill_us / 1e6);
    put(b, "generation_seconds_total", "counter", "Computing answers.",
        (double)st->decode_us / 1e6);
    put(b, "draft_rounds_total", "counter", "Forward passes with guesses, of finished requests.",
        (double)st->draft_rounds);
    put(b, "drafted_tokens_total", "counter", "Tokens that were guessed.",
        (double)st->drafted_tokens);
    put(b, "accepted_tokens_total", "counter", "Of those, the ones that came true.",
        (double)st->accepted_tokens);
    put(b, "steps_total", "counter", "Forward passes.", (double)st->steps);
    put(b, "step_seconds_total", "counter", "Time in them.", (double)st->step_us / 1e6);
    put(b, "step_tokens_total", "counter", "Tokens in them.", (double)st->step_rows);
    put(b, "step_sequences_total", "counter", "Sequences in them.", (double)st->step_lanes);
    head(b, "kv_cache_bytes", "gauge", "Pages and states by use.");
    put_labelled(b, "kv_cache_bytes", "use", "all", st->kv_bytes);
    put_labelled(b, "kv_cache_bytes", "use", "used", st->kv_used_bytes);
    put_labelled(b, "kv_cache_bytes", "use", "cached", st->kv_cached_bytes);
    put(b, "prefix_cache_store_tokens_total", "counter", "Tokens that came from the shared store.",
        (double)st->store_tokens);
    put(b, "prefix_cache_store_read_bytes_total", "counter", "Read from there.",
        (double)st->store_read_bytes);
    put(b, "prefix_cache_store_written_bytes_total", "counter", "Handed over to it.",
        (double)st->store_written_bytes);
    put(b, "prefix_cache_store_errors_total", "counter",
        "Records that were not what they should be.", (double)st->store_errors);
    put(b, "prefix_cache_store_late_total", "counter",
        "Requests that did not wait for it any longer.", (double)st->store_late);
    put(b, "media_encoded_total", "counter", "Pictures that a tower was run for.",
        (double)st->media_encoded);
    put(b, "media_reused_total", "counter", "Pictures that it had been run for before.",
        (double)st->media_reused);
    put(b, "media_seconds_total", "counter", "Time of towers.", (double)st->media_us / 1e6);
    put(b, "prefix_cache_disk_bytes", "gauge", "Prefixes on the disk.", (double)st->disk_bytes);
    put(b, "prefix_cache_disk_written_bytes_total", "counter", "Written there.",
        (double)st->disk_written_bytes);
    put(b, "prefix_cache_disk_read_bytes_total", "counter", "Read from there.",
        (double)st->disk_read_bytes);
    put(b, "prefix_cache_disk_errors_total", "counter",
        "Records that could not be written or were damaged.", (double)st->disk_errors);
}

/* Of models with experts on the disk. */
static void put_experts(sv_buf *b, sv_pool *p)
{
    apus_expert_stats st;
    if (!sv_pool_experts(p, &st)) return;
    head(b, "experts", "gauge", "Experts of all layers, and how many memory has room for.");
    put_labelled(b, "experts", "tier", "disk", (uint64_t)st.experts);
    put_labelled(b, "experts", "tier", "memory", (uint64_t)st.resident);
    head(b, "experts_chosen_total", "counter", "Experts that a layer chose, by where they were.");
    put_labelled(b, "experts_chosen_total", "tier", "disk", st.misses);
    put_labelled(b, "experts_chosen_total", "tier", "memory", st.hits);
    head(b, "experts_read_ahead_total", "counter",
         "Experts that were read before their layer chose, by whether it chose them.");
    put_labelled(b, "experts_read_ahead_total", "chosen", "yes", st.ahead_used);
    put_labelled(b, "experts_read_ahead_total", "chosen", "no", st.ahead - st.ahead_used);
    put(b, "expert_read_bytes_total", "counter", "Bytes of experts read from the disk.",
        (double)st.bytes_read);
    put(b, "expert_wait_seconds_total", "counter",
        "Waiting for experts with nothing else to compute.", (double)st.stall_us / 1e6);
    put(b, "expert_pack_seconds_total", "counter",
        "Bringing experts that were read into the form that is computed with.",
        (double)st.pack_us / 1e6);
}

static void put_loaded(sv_buf *b, sv_pool *p)
{
    head(b, "model_loaded", "gauge", "1: the model is in memory.");
    for (int i = 0; i < sv_pool_size(p); i++) {
        const sv_served *s = sv_pool_at(p, i);
        put_labelled(b, "model_loaded", "model", s->entry->name, sv_pool_is_loaded(p, s));
    }
}

void sv_metrics_handle(sv_exchange *x)
{
    sv_buf *b = &x->out;
    x->status = 200;
    x->type = "text/plain; version=0.0.4; charset=utf-8";
    put(b, "up", "gauge", "1: models can be asked for.",
        atomic_load(&x->server->phase) != SV_LOADING);
    put_server(b, x->server);
    if (atomic_load(&x->server->phase) == SV_LOADING) return;
    apus_scheduler_stats st;
    sv_pool_stats(x->server->pool, &st);
    put_loaded(b, x->server->pool);
    put_scheduler(b, &st);
    put_experts(b, x->server->pool);
}
