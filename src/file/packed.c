#include "file/packed.h"

#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/mem.h"

#define MAGIC    "APUSEXP1"
#define HEADER   40 /* bytes of it that mean something */
#define SUM_AT   32
#define MOST_ALL ((uint64_t)1 << 24) /* experts of a model */

static void put_u64(uint8_t *to, uint64_t v)
{
    for (int i = 0; i < 8; i++) to[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_u64(const uint8_t *from)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | from[i];
    return v;
}

static size_t n_of(const ap_packed *p)
{
    return (size_t)p->n_layer * (size_t)p->n_expert;
}

static size_t head_bytes(const ap_packed *p)
{
    return AP_PACKED_ALIGN + ap_round_up(n_of(p) * 16, AP_PACKED_ALIGN);
}

/* Of the header up to its sum, and of the table. */
static uint64_t sum_of(const ap_packed *p, const uint8_t *head)
{
    uint8_t part[16];
    put_u64(part, XXH3_64bits(head, SUM_AT));
    put_u64(part + 8, XXH3_64bits(head + AP_PACKED_ALIGN, n_of(p) * 16));
    return XXH3_64bits(part, sizeof part);
}

static apus_err parse(ap_packed *p, const uint8_t *d, size_t len, apus_diag *diag)
{
    if (len < AP_PACKED_ALIGN || memcmp(d, MAGIC, 8) != 0)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: is not a file of packed experts; 'apus repack' makes one", p->path);
    uint64_t layers = get_u64(d + 24) & UINT32_MAX, experts = get_u64(d + 24) >> 32;
    if (!layers || !experts || layers > MOST_ALL || experts > MOST_ALL / layers)
        return ap_fail(diag, APUS_EFORMAT, "%s: %llu layers of %llu experts cannot be", p->path,
                       (unsigned long long)layers, (unsigned long long)experts);
    p->fingerprint = get_u64(d + 8);
    p->form = get_u64(d + 16);
    p->n_layer = (int)layers;
    p->n_expert = (int)experts;
    if (len < head_bytes(p) || sum_of(p, d) != get_u64(d + SUM_AT))
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: the table of experts is damaged or cut; make the file again with 'apus "
                       "repack --force'",
                       p->path);
    size_t n = n_of(p);
    p->offset = ap_malloc(n, sizeof *p->offset);
    p->sum = ap_malloc(n, sizeof *p->sum);
    if (!p->offset || !p->sum) return ap_fail_nomem(diag, n * 16, "the table of experts");
    for (size_t i = 0; i < n; i++) {
        p->offset[i] = get_u64(d + AP_PACKED_ALIGN + i * 16);
        p->sum[i] = get_u64(d + AP_PACKED_ALIGN + i * 16 + 8);
    }
    return APUS_OK;
}

apus_err ap_packed_parse(const uint8_t *data, size_t len, const char *path, ap_packed *out,
                         apus_diag *diag)
{
    ap_packed p = {.path = ap_strdup(path)};
    if (!p.path) return ap_fail_nomem(diag, strlen(path), "a path");
    apus_err err = parse(&p, data, len, diag);
    if (err)
        ap_packed_close(&p);
    else
        *out = p;
    return err;
}

apus_err ap_packed_open(const char *path, ap_packed *out, apus_diag *diag)
{
    ap_map m;
    apus_err err = ap_map_open(path, &m, diag);
    if (err) return err;
    err = ap_packed_parse(m.data, m.len, path, out, diag);
    ap_map_close(&m);
    return err;
}

void ap_packed_close(ap_packed *p)
{
    ap_free(p->path);
    ap_free(p->offset);
    ap_free(p->sum);
    *p = (ap_packed){0};
}

apus_err ap_packed_check(const ap_packed *p, uint64_t fingerprint, uint64_t form, int n_layer,
                         int n_expert, const size_t *bytes, apus_diag *diag)
{
    ap_map m;
    if (p->fingerprint != fingerprint || p->n_layer != n_layer || p->n_expert != n_expert)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: has the experts of another model; make it again with 'apus repack "
                       "--force', or take it away",
                       p->path);
    if (p->form != form)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: is packed as another version or kind of machine does it; make it again "
                       "with 'apus repack --force'",
                       p->path);
    apus_err err = ap_map_open(p->path, &m, diag);
    if (err) return err;
    size_t n = n_of(p), len = m.len, first = head_bytes(p);
    ap_map_close(&m);
    for (size_t i = 0; i < n; i++) {
        uint64_t at = p->offset[i];
        if (!bytes[i] && !at) continue;
        if (bytes[i] && at >= first && at % AP_PACKED_ALIGN == 0 && at <= len &&
            bytes[i] <= len - at)
            continue;
        return ap_fail(
            diag, APUS_EFORMAT,
            "%s: the record of expert %d of layer %d does not lie in the file, which has "
            "%zu bytes; make it again with 'apus repack --force'",
            p->path, (int)(i % (size_t)n_expert), (int)(i / (size_t)n_expert), len);
    }
    return APUS_OK;
}

uint64_t ap_packed_lay_out(ap_packed *p, const size_t *bytes)
{
    uint64_t at = head_bytes(p);
    for (size_t i = 0; i < n_of(p); i++) {
        p->offset[i] = bytes[i] ? at : 0;
        if (bytes[i] > INT64_MAX - 2 * AP_PACKED_ALIGN - at) return 0;
        at += ap_round_up(bytes[i], AP_PACKED_ALIGN);
    }
    return at;
}

apus_err ap_packed_head(const ap_packed *p, uint8_t **data, size_t *len, apus_diag *diag)
{
    uint8_t *d = ap_calloc(1, head_bytes(p));
    if (!d) return ap_fail_nomem(diag, head_bytes(p), "the table of experts");
    memcpy(d, MAGIC, 8);
    put_u64(d + 8, p->fingerprint);
    put_u64(d + 16, p->form);
    put_u64(d + 24, (uint64_t)(uint32_t)p->n_layer | (uint64_t)(uint32_t)p->n_expert << 32);
    for (size_t i = 0; i < n_of(p); i++) {
        put_u64(d + AP_PACKED_ALIGN + i * 16, p->offset[i]);
        put_u64(d + AP_PACKED_ALIGN + i * 16 + 8, p->sum[i]);
    }
    put_u64(d + SUM_AT, sum_of(p, d));
    _Static_assert(HEADER == SUM_AT + 8, "the sum is the header's last number");
    *data = d;
    *len = head_bytes(p);
    return APUS_OK;
}
