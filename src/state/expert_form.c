#include "state/expert_form.h"

#include <string.h>
#include <xxhash.h>

#include "base/mem.h"

#define MATS      3
#define PACK_ROWS 128 /* of a task: whole panels, whole FP8 blocks */

static const ap_tensor *mat_of(const ap_expert_view *v, int i)
{
    return i == 0 ? &v->gate : i == 1 ? &v->up : &v->down;
}

/* What a matrix without a packed form takes, used as the file has it: data, scales, biases. */
static size_t raw_bytes(const ap_tensor *t)
{
    size_t scales = ap_round_up(ap_tensor_scale_bytes(t), AP_ALIGN);
    return ap_round_up(ap_tensor_bytes(t), AP_ALIGN) + scales * (t->biases ? 2 : 1);
}

static size_t mat_bytes(const ap_kern *k, const ap_tensor *t)
{
    size_t packed = k->pack_bytes(k, t);
    return packed ? ap_round_up(packed, AP_ALIGN) : raw_bytes(t);
}

size_t ap_expert_bytes(const ap_kern *k, const ap_expert_view *v)
{
    size_t n = 0;
    for (int i = 0; i < MATS && v->gate.rank; i++) n += mat_bytes(k, mat_of(v, i));
    return n;
}

/* t with its parts at `at`, one behind the other. */
static ap_tensor raw_at(const ap_tensor *t, uint8_t *at)
{
    ap_tensor out = *t;
    out.data = at;
    at += ap_round_up(ap_tensor_bytes(t), AP_ALIGN);
    if (t->scales) out.scales = at;
    at += ap_round_up(ap_tensor_scale_bytes(t), AP_ALIGN);
    if (t->biases) out.biases = at;
    return out;
}

void ap_expert_at(const ap_kern *k, const ap_expert_view *v, uint8_t *at, ap_expert *out)
{
    ap_mat *mat[MATS] = {&out->gate, &out->up, &out->down};
    for (int i = 0; i < MATS; i++) {
        const ap_tensor *t = mat_of(v, i);
        ap_tensor here = raw_at(t, at);
        k->pack_mat(k, k->pack_bytes(k, t) ? t : &here, at, mat[i]);
        at += mat_bytes(k, t);
    }
}

void ap_expert_parts(const ap_expert_view *v, ap_expert_part out[AP_EXPERT_PARTS])
{
    for (int i = 0; i < MATS; i++) {
        const ap_tensor *t = mat_of(v, i);
        *out++ = (ap_expert_part){t->data, ap_tensor_bytes(t)};
        *out++ = (ap_expert_part){t->scales, ap_tensor_scale_bytes(t)};
        *out++ = (ap_expert_part){t->biases, t->biases ? ap_tensor_scale_bytes(t) : 0};
    }
}

void ap_expert_moved(ap_expert_view *v, void *const at[AP_EXPERT_PARTS])
{
    ap_tensor *mat[MATS] = {&v->gate, &v->up, &v->down};
    for (int i = 0; i < MATS; i++) {
        mat[i]->data = at[3 * i];
        mat[i]->scales = at[3 * i + 1];
        mat[i]->biases = at[3 * i + 2];
    }
}

static int mat_tasks(const ap_tensor *t)
{
    return (int)((t->shape[0] + PACK_ROWS - 1) / PACK_ROWS);
}

/* At most PACK_ROWS rows of a matrix to where its packed or raw form is. */
static void pack_rows(const ap_kern *k, const ap_tensor *t, int64_t begin, uint8_t *dst)
{
    int64_t end = begin + PACK_ROWS < t->shape[0] ? begin + PACK_ROWS : t->shape[0];
    ap_tensor before = ap_tensor_rows(t, 0, begin), rows = ap_tensor_rows(t, begin, end);
    if (k->pack_bytes(k, t)) {
        k->pack(k, &rows, dst + (begin ? k->pack_bytes(k, &before) : 0));
    } else if (begin == 0) {
        ap_tensor to = raw_at(t, dst);
        memcpy((void *)(uintptr_t)to.data, t->data, ap_tensor_bytes(t));
        if (t->scales) memcpy((void *)(uintptr_t)to.scales, t->scales, ap_tensor_scale_bytes(t));
        if (t->biases) memcpy((void *)(uintptr_t)to.biases, t->biases, ap_tensor_scale_bytes(t));
    }
}

int ap_expert_tasks(const ap_expert_view *v)
{
    int n = 0;
    for (int i = 0; i < MATS; i++) n += mat_tasks(mat_of(v, i));
    return n;
}

void ap_expert_task(const ap_kern *k, const ap_expert_view *v, int task, uint8_t *at)
{
    int i = 0;
    for (; task >= mat_tasks(mat_of(v, i)); i++) {
        task -= mat_tasks(mat_of(v, i));
        at += mat_bytes(k, mat_of(v, i));
    }
    pack_rows(k, mat_of(v, i), (int64_t)task * PACK_ROWS, at);
}

/* Counted up when a packed form or the layout of an expert changes. */
#define FORM 1

uint64_t ap_expert_form(const ap_kern *k)
{
    uint32_t one = 1;
    uint8_t first;
    memcpy(&first, &one, 1); /* the order of bytes */
    const unsigned char what[] = {FORM, AP_PANEL, PACK_ROWS, first};
    return XXH3_64bits_withSeed(k->name, strlen(k->name), XXH3_64bits(what, sizeof what));
}
