#include <string.h>

#include "kern/cpu/micro/micro_elem.h"
#include "kern/cpu/ops/ops.h"
#include "tensor/quant.h"

typedef struct embed_job {
    const ap_micro_elem *m;
    const ap_embed_args *a;
    int n_tasks;
} embed_job;

/* Row `row` of the table times scale. */
static void table_row(const ap_micro_elem *m, const ap_embed_args *a, int64_t row, float *out)
{
    const ap_tensor *t = &a->table->raw;
    if (ap_dtype_block(t->dtype) != 1) {
        ap_tensor_row_f32(t, row, 0, a->width, out);
        m->widen(AP_F32, out, a->scale, out, a->width);
        return;
    }
    m->widen(t->dtype, (const uint8_t *)t->data + (size_t)row * ap_tensor_row_bytes(t), a->scale,
             out, a->width);
}

static void embed_task(void *arg, int task, int worker)
{
    const embed_job *j = arg;
    const ap_embed_args *a = j->a;
    const ap_batch *b = a->batch;
    size_t width = (size_t)a->width;
    (void)worker;
    int end = ap_op_first(a->n_tok, task + 1, j->n_tasks);
    for (int t = ap_op_first(a->n_tok, task, j->n_tasks); t < end; t++) {
        float *out = a->out + (size_t)t * width;
        int at = a->begin + t, id = b->tok[at];
        int row = b->embed_row && !a->ignore_embed ? b->embed_row[at] : -1;
        if (row >= 0)
            memcpy(out, b->embed + (size_t)row * width, width * sizeof(float));
        else
            table_row(j->m, a, id < 0 ? b->sampled[-1 - id] : id, out);
    }
}

void ap_cpu_embed(const ap_exec *ex, const ap_embed_args *a)
{
    const ap_micro *m = ex->k->impl;
    embed_job j = {m->elem, a, ap_op_tasks(ex, a->n_tok, a->width / 8)};
    ap_op_run(ex, embed_task, &j, j.n_tasks);
}
