/* Loading hostile session files. An input is a patch of a good file, since checksums keep random
 * bytes out: the first byte chooses the file, groups of 7 bytes follow: u16 offset and what to do
 * there: u8 0: write a u32; 1: cut out as many bytes; 2: put in as many zeros; else: write a byte.
 * Size field and checksums are made right afterwards, unless the first byte has its top bit set. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "../fuzz.h"
#include "fake.h"

enum { CTX = 400, MAX_FILE = 1 << 16 };

static apus_engine *engine;
static char path[] = "/tmp/apus-fuzz-XXXXXX";
static uint8_t good[3][MAX_FILE];
static size_t good_len[3];

static void clean_up(void)
{
    unlink(path);
    apus_engine_free(engine);
}

static void check(int ok)
{
    if (!ok) abort();
}

static size_t read_back(uint8_t *to)
{
    int fd = open(path, O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, to, MAX_FILE) : -1;
    check(n > 0 && n < MAX_FILE);
    close(fd);
    return (size_t)n;
}

/* Tokens 20 to 25 become a picture. */
static void add_picture(apus_session *s)
{
    ap_embeds *e;
    check(!ap_embeds_create(6, 3, &e, NULL) && !ap_spans_reserve(&s->spans, 1, NULL));
    memset(e->row, 0, 6 * 3 * sizeof e->row[0]);
    ap_span x = {.pos = 20, .n = 6, .height = 2, .width = 3, .embeds = e};
    ap_spans_add(&s->spans, &x, s->tok + x.pos);
    ap_embeds_drop(e);
}

static void make_good_files(void)
{
    static apus_model *m;
    m = fake_model(true, 70, true);
    m->towers = 1;
    m->config.hidden = 3;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.ctx = CTX;
    s.prefill_chunk = 30;
    s.threads = 1;
    check(!apus_engine_create(m, &s, &engine, NULL));
    int fd = mkstemp(path);
    check(fd >= 0);
    close(fd);
    atexit(clean_up);
    static const int lengths[3] = {0, 100, 333};
    int32_t tok[CTX] = {0};
    for (int i = 0; i < 3; i++) {
        apus_session *session = NULL;
        check(!apus_session_create(engine, &session, NULL));
        if (lengths[i]) check(!apus_session_feed(session, tok, lengths[i], NULL, NULL));
        if (i == 1) add_picture(session);
        check(!apus_session_save(session, path, NULL));
        apus_session_free(session);
        good_len[i] = read_back(good[i]);
    }
}

static size_t patch(uint8_t *f, size_t n, const uint8_t *d, size_t size)
{
    for (; size >= 7; d += 7, size -= 7) {
        uint32_t v;
        size_t at = (size_t)d[0] | (size_t)d[1] << 8, k;
        memcpy(&v, d + 3, 4);
        if (at >= n) continue;
        if (d[2] == 0 && n - at >= 4)
            memcpy(f + at, &v, 4);
        else if (d[2] == 1) {
            k = v < n - at ? v : n - at;
            memmove(f + at, f + at + k, n - at - k);
            n -= k;
        } else if (d[2] == 2) {
            k = v < MAX_FILE - n ? v : MAX_FILE - n;
            memmove(f + at + k, f + at, n - at);
            memset(f + at, 0, k);
            n += k;
        } else
            f[at] = d[3];
    }
    return n;
}

static void sign(uint8_t *f, size_t n)
{
    if (n < 112) return;
    uint64_t size = n, sum;
    memcpy(f + 72, &size, 8);
    sum = XXH64(f, 96, 0);
    memcpy(f + 96, &sum, 8);
    sum = XXH64(f + 104, n - 112, 0);
    memcpy(f + n - 8, &sum, 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[MAX_FILE];
    if (!engine) make_good_files();
    if (!size) return 0;
    int which = (data[0] & 0x7F) % 3;
    memcpy(file, good[which], good_len[which]);
    size_t n = patch(file, good_len[which], data + 1, size - 1);
    if (!(data[0] & 0x80)) sign(file, n);
    int fd = open(path, O_WRONLY | O_TRUNC);
    check(fd >= 0 && write(fd, file, n) == (ssize_t)n);
    close(fd);
    apus_session *s = NULL;
    apus_diag diag = {0};
    apus_err err = apus_session_load(engine, path, &s, &diag);
    check(err == APUS_OK || err == APUS_EFORMAT || err == APUS_EFULL);
    check(!err == (s != NULL) && (!err || diag.text[0]));
    if (!err) { /* a session like any other */
        int pos = apus_session_pos(s);
        const int32_t tok[3] = {1, 2, 3};
        if (apus_session_room(s) >= 3) check(!apus_session_feed(s, tok, 3, NULL, NULL));
        const ap_span *inside = ap_spans_find(&s->spans, pos / 2);
        bool torn = inside && inside->pos < pos / 2 && pos / 2 < apus_session_pos(s);
        check(torn == (apus_session_rewind(s, pos / 2, NULL) != APUS_OK));
        check(!apus_session_feed(s, tok, 1, NULL, NULL));
        apus_session_free(s);
    }
    for (int g = 0; g < AP_KV_GROUPS; g++)
        check(engine->pages[g].n_free == engine->pages[g].n_block);
    check(engine->states.n_free == engine->states.n_block);
    return 0;
}
