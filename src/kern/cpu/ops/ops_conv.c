/* ops_conv.c - causal depthwise convolution with carried state. */
#include <string.h>

#include "kern/cpu/micro/micro.h"
#include "kern/cpu/ops/delta.h"
#include "kern/cpu/ops/ops.h"
#include "kern/cpu/ops/ops_state.h"

#define BLOCK   256 /* channels of a task: the rows of all taps stay in L1 */
#define MAX_TAP 64

typedef struct job {
    const ap_conv_args *a;
    const ap_micro_recur *m;
    int n_block;
} job;

/* The last n_tap - 1 rows of [state; x], oldest first. Rows are read before they are
 * overwritten. */
static void carry(const ap_conv_args *a, const ap_seq *s, float *state, int c, int n)
{
    int64_t C = a->n_channel;
    for (int i = 0; i < a->n_tap - 1; i++) {
        int from = i + s->n_tok;
        const float *row = from < a->n_tap - 1 ? state + from * C
                                               : a->x + (s->begin + from - (a->n_tap - 1)) * a->ldx;
        memmove(state + i * C + c, row + c, (size_t)n * sizeof(float));
    }
}

/* Row t of a sequence, t >= -(n_tap - 1), from channel c on. */
static const float *row_at(const ap_conv_args *a, const ap_seq *s, const float *state, int t, int c)
{
    return t < 0 ? state + (int64_t)(a->n_tap - 1 + t) * a->n_channel + c
                 : a->x + (s->begin + t) * a->ldx + c;
}

/* The rows of a sequence that keeps them. */
static void keep(const ap_conv_args *a, const ap_seq *s, int c, int n)
{
    for (int i = 0; i < s->n_tok; i++)
        memcpy(ap_kept_row(&a->kept, s, i) + c, a->x + (s->begin + i) * a->ldx + c,
               (size_t)n * sizeof(float));
}

void ap_conv_channels(const ap_micro_recur *m, const ap_conv_args *a, const ap_seq *s, int c, int n)
{
    float *state = ap_recur_state(&a->state, s);
    int64_t C = a->n_channel;
    if (s->n_tok <= 0) return;
    for (int t = 0; t < s->n_tok; t += AP_CONV_TOKENS) {
        const float *row[AP_CONV_TOKENS + MAX_TAP];
        int n_tok = s->n_tok - t < AP_CONV_TOKENS ? s->n_tok - t : AP_CONV_TOKENS;
        for (int i = 0; i < n_tok + a->n_tap - 1; i++)
            row[i] = row_at(a, s, state, t + i - (a->n_tap - 1), c);
        /* rows lie far apart, which the processor's own prefetch does not follow */
        for (int i = t + n_tok; i < t + n_tok + AP_CONV_TOKENS && i < s->n_tok; i++)
            ap_prefetch_row(row_at(a, s, state, i, c), n);
        m->conv(row, n_tok, a->n_tap, a->weight + c, C, n, a->plain,
                a->out + (s->begin + t) * C + c, C);
    }
    if (ap_kept_row(&a->kept, s, 0))
        keep(a, s, c, n);
    else
        carry(a, s, state, c, n);
}

static void conv_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_conv_args *a = j->a;
    int c = task % j->n_block * BLOCK;
    (void)worker;
    ap_conv_channels(j->m, a, &a->state.batch->seq[task / j->n_block], c,
                     a->n_channel - c < BLOCK ? a->n_channel - c : BLOCK);
}

void ap_cpu_conv(const ap_exec *ex, const ap_conv_args *a)
{
    job j = {a, ((const ap_micro *)ex->k->impl)->recur, (a->n_channel + BLOCK - 1) / BLOCK};
    ap_op_run(ex, conv_task, &j, a->state.batch->n_seq * j.n_block);
}
