#include "kern/cpu/micro_elem.h"
#include "kern/cpu/ops.h"
#include "tensor/quant.h"

typedef struct embed_job {
    const ap_micro_elem *m;
    const ap_embed_args *a;
    int n_tasks;
} embed_job;

static void embed_task(void *arg, int task, int worker)
{
    const embed_job *j = arg;
    const ap_embed_args *a = j->a;
    (void)worker;
    size_t row_bytes = ap_tensor_row_bytes(a->table);
    bool quantised = ap_dtype_block(a->table->dtype) != 1;
    int end = ap_op_first(a->n_tok, task + 1, j->n_tasks);
    for (int t = ap_op_first(a->n_tok, task, j->n_tasks); t < end; t++) {
        float *out = a->out + (size_t)t * a->width;
        if (quantised) {
            ap_tensor_row_f32(a->table, a->tok[t], 0, a->width, out);
            j->m->widen(AP_F32, out, a->scale, out, a->width);
            continue;
        }
        const uint8_t *row = (const uint8_t *)a->table->data + (size_t)a->tok[t] * row_bytes;
        j->m->widen(a->table->dtype, row, a->scale, out, a->width);
    }
}

void ap_cpu_embed(const ap_kern *k, const ap_embed_args *a)
{
    const ap_micro *m = k->impl;
    embed_job j = {m->elem, a, ap_op_tasks(k, a->n_tok, a->width / 8)};
    ap_op_run(k, embed_task, &j, j.n_tasks);
}
