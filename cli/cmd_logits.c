/* cmd_logits.c - apus logits: the numbers behind the words, as safetensors. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "input.h"
#include "models.h"
#include "pictures.h"
#include "progress.h"
#include "report.h"

static struct {
    const char *ids, *positions, *out;
    string_list pictures; /* and sounds, in order */
    bool seen, heard, force;
} o;

static const opt logits_table[] = {
    {"ids", 0, OPT_STRING, &o.ids, NULL, 0, 0, "FILE",
     "token ids, whitespace-separated; '-' = standard input"},
    {"positions", 0, OPT_STRING, &o.positions, NULL, 0, 0, "FILE",
     "positions whose logits are wanted, from 0 (default: all)"},
    {"image", 'i', OPT_LIST, &o.pictures, &o.seen, 0, 0, "FILE",
     "a picture that fills the next places of pictures among the ids; may be given several times"},
    {"audio", 0, OPT_LIST, &o.pictures, &o.heard, 0, 0, "FILE",
     "a sound that fills the next places of sounds, likewise"},
    {"output", 'o', OPT_STRING, &o.out, NULL, 0, 0, "FILE", "the safetensors file to write"},
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "overwrite OUT if it is there"},
    {0}};

static const opt *const tables[] = {logits_table,  model_table,  tower_table,
                                    threads_table, engine_table, NULL};

static int run(int argc, char **argv);
const command cmd_logits = {
    "logits",
    "MODEL --ids FILE [-i PICTURE...] [--audio SOUND...] [--positions FILE] -o OUT.safetensors "
    "[--force]",
    "write the logits of given tokens",
    "OUT holds one F32 tensor `logits` [positions, vocabulary], rows in the order asked for. Row "
    "i of all positions belongs to the token after ids[0..i]. With pictures and sounds, the ids "
    "hold "
    "as many places (the model's image_token_id and audio_token_id) as each of them takes.",
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

enum { PIECE = 256 }; /* tokens fed at a time, but that a picture is not torn apart */

/* What is fed, and where pictures stand in it. */
typedef struct input {
    const int32_t *ids;
    size_t n;
    const want *w;
    size_t n_rows;
    pictures pics;
    int begin[PICTURES], end[PICTURES];
} input;

/* End of the piece that begins at `at`, and which pictures it has: from *first up to *last. */
static size_t piece_end(const input *in, size_t at, int *first, int *last)
{
    size_t end = in->n - at < PIECE ? in->n : at + PIECE;
    for (*first = 0; *first < in->pics.n && (size_t)in->begin[*first] < at;) ++*first;
    for (*last = *first; *last < in->pics.n && (size_t)in->begin[*last] < end; ++*last)
        if ((size_t)in->end[*last] > end) end = (size_t)in->end[*last];
    return end;
}

/* Wanted rows among [at, end), each once, counted from at; *next: the first want behind them. */
static int rows_of(const input *in, size_t at, size_t end, size_t *next, int32_t *rows)
{
    int n = 0;
    size_t i = *next;
    for (; i < in->n_rows && (size_t)in->w[i].pos < end; i++)
        if (i == *next || in->w[i].pos != in->w[i - 1].pos) rows[n++] = in->w[i].pos - (int)at;
    *next = i;
    return n;
}

/* The longest piece. */
static size_t longest(const input *in)
{
    size_t most = 0;
    int first, last;
    for (size_t at = 0, end; at < in->n; at = end) {
        end = piece_end(in, at, &first, &last);
        if (end - at > most) most = end - at;
    }
    return most;
}

static int put_rows(const input *in, size_t from, size_t to, size_t at, const int32_t *rows,
                    const float *logits, size_t vocab, apus_output *out, uint64_t data_at)
{
    apus_diag d;
    for (int r = -1; from < to; from++) {
        if (r < 0 || in->w[from].pos != (int)at + rows[r]) r++;
        uint64_t at_byte = data_at + (uint64_t)in->w[from].row * vocab * sizeof(float);
        if (apus_output_put(out, at_byte, logits + (size_t)r * vocab, vocab * sizeof(float), &d))
            return report(&cmd_logits, &d);
    }
    return 0;
}

/* Feed the ids piece by piece and write the wanted rows of each. */
static int feed_all(apus_engine *e, apus_session *s, const input *in, size_t vocab,
                    apus_output *out, uint64_t data_at)
{
    apus_diag d;
    size_t most = longest(in);
    int32_t *rows = malloc(most * sizeof *rows);
    float *logits = malloc(most * vocab * sizeof *logits);
    int rc = rows && logits ? 0 : fail(&cmd_logits, "out of memory");
    size_t next = 0;
    for (size_t at = 0, end; at < in->n && !rc; at = end) {
        int first, last;
        size_t from = next;
        end = piece_end(in, at, &first, &last);
        int n_want = rows_of(in, at, end, &next, rows);
        apus_feed feed = {.size = sizeof(apus_feed),
                          .session = s,
                          .tok = in->ids + at,
                          .n = (int)(end - at),
                          .logits = n_want ? logits : NULL,
                          .rows = rows,
                          .n_rows = n_want,
                          .media = pictures_list(&in->pics) + first,
                          .n_media = last - first};
        if (apus_feed_batch(e, &feed, 1, NULL, NULL, &d)) {
            rc = report(&cmd_logits, &d);
            break;
        }
        progress_bar(NULL, "logits", end, in->n);
        rc = put_rows(in, from, next, at, rows, logits, vocab, out, data_at);
    }
    free(logits);
    free(rows);
    return rc;
}

/* The pictures, and their places. */
static int find_pictures(const apus_model *m, input *in)
{
    apus_diag d;
    int rc = pictures_open(&cmd_logits, m, &o.pictures, 0, &in->pics);
    if (rc >= 0) return rc;
    return pictures_place(m, in->ids, in->n, &in->pics, in->begin, in->end, &d)
               ? report(&cmd_logits, &d)
               : -1;
}

/* Everything after the inputs were read. */
static int write_logits(const apus_model *m, const input *in, apus_output *out)
{
    apus_diag d;
    apus_info info = {.size = sizeof info};
    apus_engine_settings es;
    apus_engine *e = NULL;
    apus_session *s = NULL;
    uint64_t data_at;
    if (apus_model_info(m, &info, &d)) return report(&cmd_logits, &d);
    int rc = engine_settings(&cmd_logits, m, (int)in->n, &es);
    if (rc >= 0) return rc;
    if (apus_engine_create(m, &es, &e, &d) || apus_session_create(e, &s, &d)) {
        rc = report(&cmd_logits, &d);
    } else if (in->n > (size_t)apus_session_room(s)) {
        fprintf(stderr,
                "apus logits: %s: %zu tokens do not fit the context of %d; the model allows --ctx "
                "up to %d\n",
                o.ids, in->n, apus_session_room(s), info.context);
        rc = EXIT_FAILED;
    } else if (write_header(out, in->n_rows, (size_t)info.vocab, &data_at, &d)) {
        rc = report(&cmd_logits, &d);
    } else {
        rc = feed_all(e, s, in, (size_t)info.vocab, out, data_at);
    }
    apus_session_free(s);
    apus_engine_free(e);
    return rc;
}

/* Read the inputs and open the model; the file is begun already. */
static int fill(const char *model, apus_output *out)
{
    input in = {0};
    int32_t *ids = read_ints(&cmd_logits, o.ids, &in.n);
    want *w = ids ? wanted_rows(in.n, &in.n_rows) : NULL;
    apus_model *m = NULL;
    int rc = EXIT_FAILED;
    in.ids = ids;
    in.w = w;
    if (w && in.n > INT_MAX) {
        fail(&cmd_logits, "%s: %zu tokens are more than any context", o.ids, in.n);
    } else if (w) {
        common.towers = pictures_towers(o.seen, o.heard);
        rc = open_for_engine(&cmd_logits, model, (int)in.n, &m);
        if (rc < 0) rc = find_pictures(m, &in);
        if (rc < 0) rc = write_logits(m, &in, out);
    }
    pictures_free(&in.pics);
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
    const char *sources[] = {name, o.ids, o.positions, common.mmproj};
    rc = keep_apart(&cmd_logits, o.out, sources, sizeof sources / sizeof *sources);
    if (rc < 0) rc = keep_apart(&cmd_logits, o.out, o.pictures.item, (size_t)o.pictures.n);
    if (rc >= 0) return rc;
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
