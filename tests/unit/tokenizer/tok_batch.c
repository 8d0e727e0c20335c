/* tok_batch.c - encode and decode requests from stdin, for tools/goldens/compare_tokenizer.py.
 *
 *   tok_batch tokenizer.json < requests > answers
 *   tok_batch -b tokenizer.json text    times loading and encoding
 *   request  u8 'E' or 'D', u8 flags, u32 n, then n bytes of text or n i32 ids
 *   answer   u32 code, u32 n, then n i32 ids or n bytes of text; E: flags APUS_TOK_*; D: flags 1 =
 *            skip special tokens. The code is an apus_err; 100: the streamed pieces differ from the
 *            whole or split a character. Integers in the machine's order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void answer(uint32_t code, uint32_t n, const void *data, size_t size)
{
    fwrite(&code, 4, 1, stdout);
    fwrite(&n, 4, 1, stdout);
    if (n) fwrite(data, size, n, stdout);
}

static bool streams_alike(const ap_tokenizer *t, const int32_t *ids, size_t n, bool skip,
                          const char *text, size_t len)
{
    ap_detok *d = NULL;
    size_t at = 0;
    bool ok = ap_detok_create(t, skip, &d, NULL) == APUS_OK;
    for (size_t i = 0; ok && i <= n; i++) {
        const char *piece;
        size_t m;
        ok = (i < n ? ap_detok_push(d, ids[i], &piece, &m, NULL)
                    : ap_detok_finish(d, &piece, &m)) == APUS_OK;
        ok = ok && ap_utf8_valid(piece, m) && m <= len - at && memcmp(text + at, piece, m) == 0;
        if (ok) at += m;
    }
    ap_detok_free(d);
    return ok && at == len;
}

static void encode(const ap_tokenizer *t, const char *s, uint32_t n, unsigned flags)
{
    int32_t *ids = NULL;
    size_t count = 0;
    apus_diag diag;
    apus_err err = ap_tokenizer_encode(t, s, n, flags, &ids, &count, &diag);
    if (err) fprintf(stderr, "encode: %s\n", diag.text);
    answer(err, err ? 0 : (uint32_t)count, ids, 4);
    apus_free(ids);
}

static void decode(const ap_tokenizer *t, const char *s, uint32_t n, bool skip)
{
    int32_t *ids = malloc(n * 4 + 1);
    char *text = NULL;
    size_t len = 0;
    apus_diag diag;
    memcpy(ids, s, n * 4);
    apus_err err = ap_tokenizer_decode(t, ids, n, skip, &text, &len, &diag);
    if (err) fprintf(stderr, "decode: %s\n", diag.text);
    uint32_t code = err;
    if (!err && !streams_alike(t, ids, n, skip, text, len)) code = 100;
    answer(code, err ? 0 : (uint32_t)len, text, 1);
    apus_free(text);
    free(ids);
}

static int bench(const char *path, const char *text_path)
{
    char *json, *text;
    size_t n, len, count = 0;
    ap_tokenizer *t = NULL;
    apus_diag diag;
    double t0 = now();
    if (ap_file_read(path, (size_t)1 << 30, &json, &n, &diag) ||
        ap_tokenizer_parse(json, n, path, &t, &diag) ||
        ap_file_read(text_path, (size_t)1 << 30, &text, &len, &diag)) {
        fprintf(stderr, "%s\n", diag.text);
        return 1;
    }
    double t1 = now();
    printf("load %.1f MB in %.3f s\n", (double)n * 1e-6, t1 - t0);
    for (int i = 0; i < 3; i++) {
        int32_t *ids;
        t0 = now();
        if (ap_tokenizer_encode(t, text, len, 0, &ids, &count, &diag)) {
            fprintf(stderr, "%s\n", diag.text);
            return 1;
        }
        t1 = now();
        char *back;
        size_t back_len;
        if (ap_tokenizer_decode(t, ids, count, false, &back, &back_len, &diag)) return 1;
        double t2 = now();
        printf("encode %.2f MB to %zu ids: %.1f MB/s; decode %.1f MB/s\n", (double)len * 1e-6,
               count, (double)len * 1e-6 / (t1 - t0), (double)back_len * 1e-6 / (t2 - t1));
        apus_free(ids);
        apus_free(back);
    }
    apus_free(text);
    apus_free(json);
    ap_tokenizer_free(t);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "-b") == 0) return bench(argv[2], argv[3]);
    char *json, *body = NULL;
    size_t n;
    ap_tokenizer *t = NULL;
    apus_diag diag;
    if (argc != 2) return 2;
    if (ap_file_read(argv[1], (size_t)1 << 30, &json, &n, &diag) ||
        ap_tokenizer_parse(json, n, argv[1], &t, &diag)) {
        fprintf(stderr, "%s\n", diag.text);
        return 1;
    }
    apus_free(json);
    uint8_t head[6];
    while (fread(head, 1, 6, stdin) == 6) {
        uint32_t len;
        memcpy(&len, head + 2, 4);
        size_t bytes = head[0] == 'D' ? (size_t)len * 4 : len;
        body = realloc(body, bytes + 1);
        if (!body || fread(body, 1, bytes, stdin) != bytes) return 1;
        if (head[0] == 'D')
            decode(t, body, len, head[1]);
        else
            encode(t, body, len, head[1]);
    }
    free(body);
    ap_tokenizer_free(t);
    return 0;
}
