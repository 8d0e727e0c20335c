/* metrics.h - what the server counts by itself; the scheduler counts the rest. */
#ifndef APUS_SERVER_METRICS_H
#define APUS_SERVER_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

enum { SV_BUCKETS = 16 };

/* Seconds; buckets are not cumulative here. */
typedef struct sv_histogram {
    const double *bound; /* ascending, `n` of them; beyond the last one: bucket[n] */
    int n;
    _Atomic uint64_t bucket[SV_BUCKETS + 1];
    _Atomic uint64_t sum_us;
} sv_histogram;

typedef struct sv_metrics {
    sv_histogram first_token, between_tokens, whole, queue, prefill;
    _Atomic uint64_t responses[6]; /* by the status' first digit */
    _Atomic uint64_t gone;         /* clients that left before their answer was through */
} sv_metrics;

void sv_metrics_init(sv_metrics *m);
void sv_observe(sv_histogram *h, int64_t us, uint64_t times);

struct sv_exchange;
/* GET /metrics: the text format of Prometheus. */
void sv_metrics_handle(struct sv_exchange *x);

#endif
