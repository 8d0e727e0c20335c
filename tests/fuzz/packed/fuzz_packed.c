/* Packed experts: a table that is accepted has an entry for each expert, and a file made of it is the same. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "base/mem.h"
#include "file/packed.h"

static void require(bool ok)
{
    if (!ok) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ap_packed p;
    apus_diag d = {0};
    uint8_t *head;
    size_t len;
    apus_err err = ap_packed_parse(data, size, "input", &p, &d);
    if (err) {
        require(d.code == err && d.text[0]);
        return 0;
    }
    require(p.n_layer > 0 && p.n_expert > 0);
    require(ap_packed_head(&p, &head, &len, &d) == APUS_OK && len <= size);
    require(memcmp(head, data, 40) == 0);
    require(memcmp(head + 4096, data + 4096, (size_t)p.n_layer * (size_t)p.n_expert * 16) == 0);
    ap_free(head);
    ap_packed_close(&p);
    return 0;
}
