/* pace.c - how many rows of prefill a step takes, so that those who decode do not wait for long. */
#include "engine/sched.h"

#define FIRST_ROWS 64 /* before anything was learnt */
#define LEAST_ROWS 16 /* of prefill: it has to get on */
#define WEIGHT     0.25

int ap_pace_rows(const ap_pace *p, int decoding, int chunk, int step_us)
{
    double rows = FIRST_ROWS;
    if (p->row_us > 0) rows = ((double)step_us - (decoding ? p->decode_us : 0)) / p->row_us;
    if (rows < LEAST_ROWS) rows = LEAST_ROWS;
    rows += decoding;
    return rows < chunk ? (int)rows : chunk;
}

static double blend(double old, double now)
{
    return old > 0 ? old + WEIGHT * (now - old) : now;
}

void ap_pace_learn(ap_pace *p, int rows, int decoding, int64_t us)
{
    int prefill = rows - decoding;
    if (prefill <= 0) {
        p->decode_us = blend(p->decode_us, (double)us);
        return;
    }
    double each = ((double)us - (decoding ? p->decode_us : 0)) / prefill;
    p->row_us = blend(p->row_us, each > 0.01 ? each : 0.01);
}
