/* A safetensors file: whatever is accepted must lie inside it and cover it exactly. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "file/safetensors.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static volatile uint64_t byte_sum; /* so that the reading is not left out */

static uint64_t read_all(const ap_tensor *t, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((const uint8_t *)t->data)[i];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ap_safetensors st;
    apus_diag d = {0};
    apus_err err = ap_safetensors_parse(data, size, "input", &st, &d);
    if (err) {
        require(d.code == err && d.text[0]);
        return 0;
    }
    size_t total = 0;
    for (size_t i = 0; i < st.n; i++) {
        const ap_st_entry *e = &st.entry[i];
        size_t n = (size_t)ap_tensor_count(&e->tensor) * ap_dtype_bytes(e->tensor.dtype);
        require(n == e->end - e->begin && strlen(e->name) == e->name_len);
        require(n == 0 || ((const uint8_t *)e->tensor.data >= data &&
                           (const uint8_t *)e->tensor.data + n <= data + size));
        byte_sum += read_all(&e->tensor, n);
        total += n;
    }
    size_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | data[i];
    require(total == size - 8 - header);
    ap_safetensors_close(&st);
    return 0;
}
