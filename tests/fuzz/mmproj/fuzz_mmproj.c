/* An mmproj file: its towers' configurations must be JSON, and its tensors have the numbers that their shapes say. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../fuzz.h"
#include "file/mmproj.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void check_json(const ap_buf *b)
{
    apus_diag d;
    ap_arena arena;
    ap_json *root;
    ap_arena_init(&arena, 1 << 20);
    require(!ap_json_parse(&arena, b->data, b->len, "fuzz", 0, &root, &d));
    ap_arena_free(&arena);
}

/* Every number is read. */
static void check_tensors(const ap_weights *w)
{
    for (size_t i = 0; i < ap_weights_count(w); i++) {
        const char *name;
        const ap_tensor *t = ap_weights_at(w, i, &name);
        const uint8_t *data = t->data;
        volatile uint8_t all = 0;
        require(ap_weights_find(w, name) == t);
        for (size_t k = 0; k < ap_tensor_bytes(t); k++) all = (uint8_t)(all ^ data[k]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apus_diag d = {0};
    ap_mmproj m;
    char path[64];
    int fd = memfd_create("mmproj", 0);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    apus_err err = ap_mmproj_open(path, &m, &d);
    if (err) {
        require(d.code == err && d.text[0]);
    } else {
        require(m.sees || m.hears);
        check_json(&m.config);
        check_json(&m.processor);
        check_tensors(m.weights);
    }
    ap_mmproj_close(&m);
    close(fd);
    return 0;
}
