/* A tokenizer file and a text for it.
 *   input  JSON text, a zero byte, a byte of flags (APUS_TOK_*), text; without the zero byte a fixed
 *          text is encoded
 * Besides not crashing: ids decode (or are refused), whole and streamed text agree, text is UTF-8. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

static void check(int ok)
{
    if (!ok) abort();
}

static void decode(const ap_tokenizer *t, const int32_t *ids, size_t n, bool skip)
{
    char *text;
    size_t len, at = 0;
    apus_diag diag;
    apus_err err = ap_tokenizer_decode(t, ids, n, skip, &text, &len, &diag);
    if (err) {
        /* A template may name ids that no token has. */
        check(err == APUS_EINVAL);
        return;
    }
    check(ap_utf8_valid(text, len) && text[len] == 0);
    ap_detok *d;
    check(ap_detok_create(t, skip, &d, NULL) == APUS_OK);
    for (size_t i = 0; i <= n; i++) {
        const char *piece;
        size_t m;
        check((i < n ? ap_detok_push(d, ids[i], &piece, &m, NULL)
                     : ap_detok_finish(d, &piece, &m)) == APUS_OK);
        check(ap_utf8_valid(piece, m) && m <= len - at && memcmp(text + at, piece, m) == 0);
        at += m;
    }
    check(at == len);
    ap_detok_free(d);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = "Hello  world, it's 12 \xC3\xA9\xCC\x81\xF0\x9F\x8C\x8D<s>\n\n ab\xFF";
    size_t json = size, len = strlen(text);
    unsigned flags = APUS_TOK_SPECIAL | APUS_TOK_BOS;
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    if (zero) {
        json = (size_t)(zero - data);
        if (json + 1 < size) flags = data[json + 1];
        text = (const char *)data + (json + 2 < size ? json + 2 : size);
        len = json + 2 < size ? size - json - 2 : 0;
    }
    ap_tokenizer *t;
    apus_diag diag;
    if (ap_tokenizer_parse((const char *)data, json, "fuzz", &t, &diag)) return 0;
    int32_t *ids;
    size_t n;
    if (ap_tokenizer_encode(t, text, len, flags, &ids, &n, &diag) == APUS_OK) {
        decode(t, ids, n, flags & 4);
        free(ids);
    }
    /* Every id, backwards, as far as it goes. */
    int32_t all[300];
    size_t count = 0;
    for (int32_t id = ap_tokenizer_vocab(t) - 1; id >= 0 && count < 300; id--) all[count++] = id;
    decode(t, all, count, flags & 4);
    ap_tokenizer_free(t);
    return 0;
}
