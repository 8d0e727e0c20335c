/* ops_conv.c - causal depthwise convolution with carried state. */
#include <string.h>

#include "kern/cpu/micro.h"
#include "kern/cpu/micro_recur.h"
#include "kern/cpu/ops.h"
#include "kern/cpu/ops_state.h"

#define BLOCK 256 /* channels of a task: the rows of all taps stay in L1 */

typedef struct job {
    const ap_conv_args *a;
    const ap_micro_recur *m;
    int n_block;
} job;

/* The last n_tap - 1 rows of [state; x], oldest first. Rows are read before they are
 * overwritten. */
static void carry(const ap_conv_args *a, const ap_recur_seq *s, int c, int n)
{
    int64_t C = a->n_channel;
    for (int i = 0; i < a->n_tap - 1; i++) {
        int from = i + s->n_tok;
        const float *row = from < a->n_tap - 1 ? s->conv_state + from * C
                                               : a->x + (s->begin + from - (a->n_tap - 1)) * a->ldx;
        memmove(s->conv_state + i * C + c, row + c, (size_t)n * sizeof(float));
    }
}

static void conv_task(void *arg, int task, int worker)
{
    const job *j = arg;
    const ap_conv_args *a = j->a;
    const ap_recur_seq *s = &a->seq[task / j->n_block];
    int64_t C = a->n_channel;
    int c = task % j->n_block * BLOCK, old = a->n_tap - 1;
    int n = a->n_channel - c < BLOCK ? a->n_channel - c : BLOCK;
    (void)worker;
    if (s->n_tok <= 0) return;
    for (int t = 0; t < s->n_tok; t++) {
        int n_old = old - t > 0 ? old - t : 0, n_new = a->n_tap - n_old;
        const float *x = a->x + (s->begin + t - n_new + 1) * a->ldx + c;
        const float *state = n_old > 0 ? s->conv_state + t * C + c : x;
        j->m->conv(state, n_old, C, x, n_new, a->ldx, a->weight + c, n,
                   a->out + (s->begin + t) * C + c);
    }
    carry(a, s, c, n);
}

void ap_cpu_conv(const ap_kern *k, const ap_conv_args *a)
{
    job j = {a, ((const ap_micro *)k->impl)->recur, (a->n_channel + BLOCK - 1) / BLOCK};
    ap_op_run(k, conv_task, &j, a->n_seq * j.n_block);
}
