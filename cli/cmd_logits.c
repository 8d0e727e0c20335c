/* cmd_logits.c - apus logits: the numbers behind the words, as safetensors. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "input.h"
#include "models.h"
#include "progress.h"
#include "report.h"

static struct {
    const char *ids, *positions, *out;
    bool force;
} o;

static const opt logits_table[] = {
    {"ids", 0, OPT_STRING, &o.ids, NULL, 0, 0, "FILE",
     "token ids, whitespace-separated; '-' = standard input"},
    {"positions", 0, OPT_STRING, &o.positions, NULL, 0, 0, "FILE",
     "positions whose logits are wanted, from 0 (default: all)"},
    {"output", 'o', OPT_STRING, &o.out, NULL, 0, 0, "FILE", "the safetensors file to write"},
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "overwrite OUT if it is there"},
    {0}};

static const opt *const tables[] = {logits_table, model_table, threads_table, engine_table, NULL};

static int run(int argc, char **argv);
const command cmd_logits = {
    "logits",
    "MODEL --ids FILE [--positions FILE] -o OUT.safetensors [--force]",
    "write the logits of given tokens",
    "OUT holds one F32 tensor `logits` [positions, vocabulary], rows in the order asked for. Row "
    "i of all positions belongs to the token after ids[0..i].",
    tables,
    run};

/* One wanted row: which position, and where it stands in the file. */
typedef struct want {
    int pos;
    size_t row;
} want;

static int by_position(const void *a, const void *b)
{
    const want *x = a, *y = b;
    if (x->pos != y->pos) return x->pos < y->pos ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static want *wanted_rows(size_t n_ids, size_t *n)
{
    int32_t *pos = NULL;
    *n = n_ids;
    if (o.positions && !(pos = read_ints(&cmd_logits, o.positions, n))) return NULL;
    want *w = malloc(*n * sizeof *w);
    if (!w) fputs("apus logits: out of memory\n", stderr);
    for (size_t i = 0; w && i < *n; i++) {
        w[i] = (want){pos ? pos[i] : (int)i, i};
        if (w[i].pos >= 0 && (size_t)w[i].pos < n_ids) continue;
        fprintf(stderr, "apus logits: %s: position %d is outside 0 .. %zu\n", o.positions, w[i].pos,
                n_ids - 1);
        free(w);
        w = NULL;
    }
    if (w) qsort(w, *n, sizeof *w, by_position);
    free(pos);
    return w;
}

/* Header of the file, padded to 8 bytes; the data begins at *data_at. */
static apus_err write_header(apus_output *out, size_t rows, size_t vocab, uint64_t *data_at,
                             apus_diag *d)
{
    char text[8 + 256];
    int n =
        snprintf(text + 8, sizeof text - 8,
                 "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}}",
                 rows, vocab, rows * vocab * sizeof(float));
    while (n % 8) text[8 + n++] = ' ';
    for (int i = 0; i < 8; i++) text[i] = (char)((uint64_t)n >> (8 * i));
    *data_at = 8 + (uint64_t)n;
    return apus_output_put(out, 0, text, (size_t)*data_at, d);
}

enum { PIECE = 256 }; /* tokens fed, and rows held, at a time */

/* Feed the ids piece by piece and write the wanted rows of each. */
static int feed_all(apus_engine *e, apus_session *s, const int32_t *ids, size_t n_ids,
                    const want *w, size_t n_rows, size_t vocab, apus_output *out, uint64_t data_at)
{
    apus_diag d;
    int32_t rows[PIECE];
    float *logits = malloc(PIECE * vocab * sizeof *logits);
    if (!logits) {
        fputs("apus logits: out of memory\n", stderr);
        return EXIT_FAILED;
    }
    int rc = 0;
    size_t next = 0;
    for (size_t at = 0; at < n_ids && !rc; at += PIECE) {
        int n = n_ids - at < PIECE ? (int)(n_ids - at) : PIECE;
        int n_want = 0;
        size_t end = next;
        for (; end < n_rows && (size_t)w[end].pos < at + (size_t)n; end++)
            if (end == next || w[end].pos != w[end - 1].pos) rows[n_want++] = w[end].pos - (int)at;
        apus_feed feed = {.size = sizeof(apus_feed),
                          .session = s,
                          .tok = ids + at,
                          .n = n,
                          .logits = n_want ? logits : NULL,
                          .rows = rows,
                          .n_rows = n_want};
        if (apus_feed_batch(e, &feed, 1, NULL, NULL, &d)) {
            rc = report(&cmd_logits, &d);
            break;
        }
        progress_bar(NULL, "logits", at + (size_t)n, n_ids);
        for (int r = -1; next < end; next++) {
            if (r < 0 || w[next].pos != (int)at + rows[r]) r++;
            uint64_t at_byte = data_at + (uint64_t)w[next].row * vocab * sizeof(float);
            if (apus_output_put(out, at_byte, logits + (size_t)r * vocab, vocab * sizeof(float),
                                &d)) {
                rc = report(&cmd_logits, &d);
                break;
            }
        }
    }
    free(logits);
    return rc;
}

/* Everything after the inputs were read. */
static int write_logits(const apus_model *m, const int32_t *ids, size_t n_ids, const want *w,
                        size_t n_rows, apus_output *out)
{
    apus_diag d;
    apus_info info = {.size = sizeof info};
    apus_engine_settings es;
    apus_engine *e = NULL;
    apus_session *s = NULL;
    uint64_t data_at;
    if (apus_model_info(m, &info, &d)) return report(&cmd_logits, &d);
    int rc = engine_settings(&cmd_logits, m, n_ids > INT_MAX ? INT_MAX : (int)n_ids, &es);
    if (rc >= 0) return rc;
    if (apus_engine_create(m, &es, &e, &d) || apus_session_create(e, &s, &d)) {
        rc = report(&cmd_logits, &d);
    } else if (n_ids > (size_t)apus_session_room(s)) {
        fprintf(stderr,
                "apus logits: %s: %zu tokens do not fit the context of %d; the model allows --ctx "
                "up to %d\n",
                o.ids, n_ids, apus_session_room(s), info.context);
        rc = EXIT_FAILED;
    } else if (write_header(out, n_rows, (size_t)info.vocab, &data_at, &d)) {
        rc = report(&cmd_logits, &d);
    } else {
        rc = feed_all(e, s, ids, n_ids, w, n_rows, (size_t)info.vocab, out, data_at);
    }
    apus_session_free(s);
    apus_engine_free(e);
    return rc;
}

/* Read the inputs and open the model; the file is begun already. */
static int fill(const char *model, apus_output *out)
{
    size_t n_ids, n_rows;
    int32_t *ids = read_ints(&cmd_logits, o.ids, &n_ids);
    want *w = ids ? wanted_rows(n_ids, &n_rows) : NULL;
    apus_model *m = NULL;
    int rc = EXIT_FAILED;
    if (w) {
        rc = open_for_engine(&cmd_logits, model, n_ids > INT_MAX ? INT_MAX : (int)n_ids, &m);
        if (rc < 0) rc = write_logits(m, ids, n_ids, w, n_rows, out);
    }
    apus_model_close(m);
    free(w);
    free(ids);
    return rc;
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    int rc = options_parse(&cmd_logits, argc, argv, 1, &n);
    if (rc < 0) rc = take_model(&cmd_logits, argv, &n, 0, &name);
    if (rc >= 0) return rc;
    if (!name) return usage_error(&cmd_logits, "MODEL is missing");
    if (!o.ids) return usage_error(&cmd_logits, "--ids is missing");
    if (!o.out) return usage_error(&cmd_logits, "--output is missing");
    apus_diag d;
    apus_output *out;
    if (apus_output_create(o.out, o.force, &out, &d)) return report(&cmd_logits, &d);
    rc = fill(name, out);
    if (rc)
        apus_output_drop(out);
    else if (apus_output_finish(out, &d))
        rc = report(&cmd_logits, &d);
    return rc;
}
