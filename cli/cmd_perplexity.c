/* cmd_perplexity.c - apus perplexity: how well a model predicts a text, and how far its
 * distributions are from another model's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "input.h"
#include "json_out.h"
#include "kl_base.h"
#include "models.h"
#include "progress.h"
#include "report.h"

static struct {
    const char *file, *base, *base_file;
    bool json, force;
} o;

static const opt perplexity_table[] = {
    {"file", 'f', OPT_STRING, &o.file, NULL, 0, 0, "FILE", "the text; '-' = standard input"},
    {"kl-against", 0, OPT_STRING, &o.base, NULL, 0, 0, "MODEL2",
     "compare with this model, the base, on the same tokens"},
    {"kl-base", 0, OPT_STRING, &o.base_file, NULL, 0, 0, "BASE",
     "write the predictions to the file BASE, or compare with those in it if it exists"},
    {"force", 0, OPT_FLAG, &o.force, NULL, 0, 0, NULL, "write BASE even if it exists"},
    {"json", 0, OPT_FLAG, &o.json, NULL, 0, 0, NULL, "one JSON object"},
    {0}};

static const opt *const tables[] = {perplexity_table, model_table, threads_table, engine_table,
                                    NULL};

static int run(int argc, char **argv);
const command cmd_perplexity = {
    "perplexity",
    "[MODEL] -f FILE [--kl-against MODEL2 | --kl-base BASE [--force]] [--ctx N] [options]",
    "how well a model predicts a text",
    "The text is cut into windows of --ctx tokens (default 512); each is run on its own, its "
    "first token replaced by <bos> if the model wants one. Predictions of the tokens in the "
    "second half are scored, so each has at least half a window before it; a rest shorter than a "
    "window is left out. Markers such as <|im_end|> in the text are ordinary text. Against "
    "MODEL2: Kullback-Leibler divergence of MODEL from MODEL2, sum of p2 log(p2 / p), in nats, "
    "and how often both find the same token likeliest. A large MODEL2 need run only once: 'apus "
    "perplexity MODEL2 -f FILE --kl-base BASE' keeps its predictions, two bytes for each token of "
    "the vocabulary and each token scored; the same command with another MODEL compares.",
    tables,
    run};

enum { WINDOW = 512, MAX_PIECE = 256, LOGIT_BYTES = 64 << 20 };

/* A model with an engine for one window. */
typedef struct side {
    apus_model *model;
    apus_engine *engine;
    apus_session *session;
    apus_info info;
    float *logits; /* [piece, vocab] */
} side;

typedef struct score {
    double nll, nll2, base_nll; /* sums of -log p of the text's tokens, and of its square */
    double *kl;                 /* [n] with a base */
    size_t n, same_top;
} score;

typedef struct test {
    side s, base;     /* base.model NULL: none */
    apus_output *out; /* --kl-base, writing; NULL: not */
    kl_base kept;     /* --kl-base */
    float *kept_row;  /* [vocab] when reading it */
    int window, piece;
    int32_t *ids;
    size_t n_ids, n_windows;
    int32_t bos; /* -1 = none */
} test;

/* Log of the sum of exp(x), and the place of the largest x. */
static double log_sum(const float *x, int n, int *top)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - (double)x[best]);
    *top = best;
    return (double)x[best] + log(sum);
}

static double divergence(const float *base, double base_sum, const float *x, double x_sum, int n)
{
    double kl = 0;
    for (int i = 0; i < n; i++) {
        double lp = (double)base[i] - base_sum, p = exp(lp);
        if (p > 0) kl += p * (lp - ((double)x[i] - x_sum));
    }
    return kl;
}

/* Is there anything to compare with? */
static bool compares(const test *t)
{
    return t->base.model || t->kept_row;
}

static void compare_row(const test *t, const float *x, double sum, int top, const float *b,
                        score *out)
{
    int base_top;
    double base_sum = log_sum(b, t->s.info.vocab, &base_top);
    out->kl[out->n] = divergence(b, base_sum, x, sum, t->s.info.vocab);
    out->same_top += b[top] == b[base_top]; /* a file may hold several that are likeliest */
}

static bool add_scores(test *t, const int32_t *next, int n, score *out, apus_diag *d)
{
    int vocab = t->s.info.vocab;
    for (int r = 0; r < n; r++, out->n++) {
        int top, base_top;
        double base_nll;
        const float *x = t->s.logits + (size_t)r * (size_t)vocab;
        double sum = log_sum(x, vocab, &top), nll = sum - (double)x[next[r]];
        out->nll += nll;
        out->nll2 += nll * nll;
        if (t->base.model) {
            const float *b = t->base.logits + (size_t)r * (size_t)vocab;
            out->base_nll += log_sum(b, vocab, &base_top) - (double)b[next[r]];
            compare_row(t, x, sum, top, b, out);
        } else if (t->kept_row) {
            if (!kl_base_read(&t->kept, t->kept_row, &base_nll, d)) return false;
            out->base_nll += base_nll;
            compare_row(t, x, sum, top, t->kept_row, out);
        } else if (t->out && !kl_base_write(&t->kept, x, sum, nll, d)) {
            return false;
        }
    }
    return true;
}

/* Feed n tokens; the logits after each of them if wanted. */
static bool feed(side *s, const int32_t *ids, int n, bool wanted, apus_diag *d)
{
    int32_t rows[MAX_PIECE];
    for (int i = 0; wanted && i < n; i++) rows[i] = i;
    apus_feed f = {.size = sizeof(apus_feed), .session = s->session, .tok = ids, .n = n};
    if (wanted) {
        f.logits = s->logits;
        f.rows = rows;
        f.n_rows = n;
    }
    return apus_feed_batch(s->engine, &f, 1, NULL, NULL, d) == APUS_OK;
}

/* ids [window], the first one as it is to be fed. */
static bool score_window(test *t, const int32_t *ids, score *out, apus_diag *d)
{
    int first = t->window / 2;
    side *sides[2] = {&t->s, t->base.model ? &t->base : NULL};
    for (int k = 0; k < 2 && sides[k]; k++)
        if (apus_session_rewind(sides[k]->session, 0, d) || !feed(sides[k], ids, first, false, d))
            return false;
    /* The last token is only predicted. */
    for (int at = first; at < t->window - 1; at += t->piece) {
        int n = t->window - 1 - at < t->piece ? t->window - 1 - at : t->piece;
        for (int k = 0; k < 2 && sides[k]; k++)
            if (!feed(sides[k], ids + at, n, true, d)) return false;
        if (!add_scores(t, ids + at + 1, n, out, d)) return false;
    }
    return true;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The value below which the share q of sorted x lies, linear between neighbours. */
static double quantile(const double *x, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t i = (size_t)at;
    return i + 1 < n ? x[i] + (at - (double)i) * (x[i + 1] - x[i]) : x[n - 1];
}

static void print_result(const test *t, score *r)
{
    double n = (double)r->n, mean = r->nll / n, ppl = exp(mean), kl = 0;
    double var = r->n > 1 ? (r->nll2 / n - mean * mean) / (n - 1) : 0;
    double error = ppl * sqrt(var > 0 ? var : 0), base = exp(r->base_nll / n);
    if (compares(t)) {
        for (size_t i = 0; i < r->n; i++) kl += r->kl[i];
        kl /= n;
        qsort(r->kl, r->n, sizeof *r->kl, by_value);
    }
    double kl_999 = compares(t) ? quantile(r->kl, r->n, 0.999) : 0;
    double same = (double)r->same_top / n;
    if (!o.json) {
        printf("perplexity      %.4f +- %.4f (%zu tokens scored in %zu windows of %d)\n", ppl,
               error, r->n, t->n_windows, t->window);
        if (!compares(t)) return;
        printf("base            %.4f\nmean KL         %.6f\n99.9 %% KL       %.6f\n"
               "largest KL      %.6f\nsame top token  %.2f %%\n",
               base, kl, kl_999, r->kl[r->n - 1], 100 * same);
        return;
    }
    json_out *j = json_new(true);
    json_map(j, NULL);
    json_text(j, "model", t->s.info.path);
    json_int(j, "ctx", t->window);
    json_int(j, "windows", (int64_t)t->n_windows);
    json_int(j, "scored", (int64_t)r->n);
    json_real(j, "perplexity", ppl);
    json_real(j, "perplexity_error", error);
    if (compares(t)) {
        json_text(j, "base", t->base.model ? t->base.info.path : t->kept.path);
        json_real(j, "base_perplexity", base);
        json_real(j, "kl_mean", kl);
        json_real(j, "kl_99_9", kl_999);
        json_real(j, "kl_max", r->kl[r->n - 1]);
        json_real(j, "top1_agreement", same);
    }
    json_end_map(j);
    json_print(j);
    json_free(j);
}

static int score_text(test *t)
{
    apus_diag d;
    score r = {0};
    size_t per_window = (size_t)(t->window - 1 - t->window / 2);
    int32_t *ids = malloc((size_t)t->window * sizeof *ids);
    if (compares(t)) r.kl = malloc(t->n_windows * per_window * sizeof *r.kl);
    if (!ids || (compares(t) && !r.kl)) {
        fputs("apus perplexity: out of memory\n", stderr);
        free(ids);
        free(r.kl);
        return EXIT_FAILED;
    }
    bool ok = true;
    for (size_t w = 0; ok && w < t->n_windows; w++) {
        progress_bar(NULL, "windows", w, t->n_windows);
        memcpy(ids, t->ids + w * (size_t)t->window, (size_t)t->window * sizeof *ids);
        if (t->bos >= 0) ids[0] = t->bos;
        ok = score_window(t, ids, &r, &d);
    }
    progress_clear();
    if (ok) print_result(t, &r);
    free(ids);
    free(r.kl);
    return ok ? 0 : report(&cmd_perplexity, &d);
}

static int tokenize(const side *s, const char *text, size_t len, int32_t **ids, size_t *n)
{
    apus_diag d;
    return apus_tokenize(s->model, text, len, APUS_TOK_BOS, ids, n, &d)
               ? report(&cmd_perplexity, &d)
               : -1;
}

/* What a text begins with: what the tokenizer puts there, else what the family needs. */
static int find_bos(const side *s, int32_t *bos)
{
    int32_t *ids;
    size_t n;
    int rc = tokenize(s, "", 0, &ids, &n);
    if (rc >= 0) return rc;
    *bos = n ? ids[0] : apus_text_start(s->model);
    apus_free(ids);
    return -1;
}

/* Both models must give the same meaning to an id. */
static int check_base(const test *t, const int32_t *want, size_t n_want, const char *text,
                      size_t len)
{
    const apus_info *a = &t->s.info, *b = &t->base.info;
    int32_t *ids;
    size_t n;
    if (a->vocab != b->vocab) {
        fprintf(stderr,
                "apus perplexity: %s has a vocabulary of %d, %s one of %d; --kl-against needs "
                "models with the same vocabulary\n",
                a->path, a->vocab, b->path, b->vocab);
        return EXIT_FAILED;
    }
    int rc = tokenize(&t->base, text, len, &ids, &n);
    if (rc >= 0) return rc;
    bool same = n == n_want && !memcmp(ids, want, n * sizeof *ids);
    apus_free(ids);
    if (same) return -1;
    fprintf(stderr,
            "apus perplexity: %s and %s make different tokens of %s; --kl-against needs models "
            "with the same vocabulary\n",
            a->path, b->path, o.file);
    return EXIT_FAILED;
}

/* The tokens of the text, with bos in front; free() them. */
static int take_tokens(test *t, const int32_t *ids, size_t n)
{
    size_t extra = t->bos >= 0 && (n == 0 || ids[0] != t->bos);
    t->ids = malloc((n + extra + 1) * sizeof *t->ids);
    if (!t->ids) {
        fputs("apus perplexity: out of memory\n", stderr);
        return EXIT_FAILED;
    }
    t->ids[0] = t->bos;
    memcpy(t->ids + extra, ids, n * sizeof *ids);
    t->n_ids = n + extra;
    return -1;
}

static int read_text(test *t, const char *text, size_t len)
{
    int32_t *ids;
    size_t n;
    int rc = tokenize(&t->s, text, len, &ids, &n);
    if (rc >= 0) return rc;
    rc = t->base.model ? check_base(t, ids, n, text, len) : -1;
    if (rc < 0) rc = find_bos(&t->s, &t->bos);
    if (rc < 0) rc = take_tokens(t, ids, n);
    apus_free(ids);
    if (rc >= 0) return rc;
    t->n_windows = t->n_ids / (size_t)t->window;
    if (t->n_windows) return -1;
    fprintf(stderr,
            "apus perplexity: %s has %zu tokens, expected at least one window of %d; give more "
            "text or a smaller --ctx\n",
            o.file, t->n_ids, t->window);
    return EXIT_FAILED;
}

/* BASE is written if it does not exist, else compared with. Before any work: can it be? */
static int begin_kept(test *t, const char *model)
{
    apus_diag d;
    struct stat st;
    const char *sources[] = {model, o.file};
    int rc = o.base_file ? keep_apart(&cmd_perplexity, o.base_file, sources, 2) : -1;
    if (rc >= 0) return rc;
    if (!o.base_file || (!o.force && stat(o.base_file, &st) == 0 && S_ISREG(st.st_mode))) return -1;
    return apus_output_create(o.base_file, o.force, &t->out, &d) ? report(&cmd_perplexity, &d) : -1;
}

static int start_kept(test *t)
{
    apus_diag d;
    kl_text text = {t->s.info.vocab, t->window, t->n_windows, t->bos, t->ids};
    if (t->out)
        return kl_base_create(&t->kept, o.base_file, t->out, &text, &d)
                   ? -1
                   : report(&cmd_perplexity, &d);
    if (!kl_base_open(&t->kept, o.base_file, &text, &d)) return report(&cmd_perplexity, &d);
    t->kept_row = malloc((size_t)text.vocab * sizeof *t->kept_row);
    if (t->kept_row) return -1;
    fputs("apus perplexity: out of memory\n", stderr);
    return EXIT_FAILED;
}

/* The file appears when all is in it. */
static int finish_kept(test *t, int rc)
{
    apus_diag d;
    kl_base_close(&t->kept);
    if (rc)
        apus_output_drop(t->out);
    else if (t->out && apus_output_finish(t->out, &d))
        rc = report(&cmd_perplexity, &d);
    return rc;
}

static int start_side(side *s, const test *t)
{
    apus_diag d;
    apus_engine_settings es;
    int rc = engine_settings(&cmd_perplexity, s->model, 0, &es);
    if (rc >= 0) return rc;
    if (apus_engine_create(s->model, &es, &s->engine, &d) ||
        apus_session_create(s->engine, &s->session, &d))
        return report(&cmd_perplexity, &d);
    s->logits = malloc((size_t)t->piece * (size_t)s->info.vocab * sizeof *s->logits);
    if (s->logits) return -1;
    fputs("apus perplexity: out of memory\n", stderr);
    return EXIT_FAILED;
}

static int open_side(side *s, const char *name)
{
    apus_diag d;
    int rc = open_model(&cmd_perplexity, name, APUS_LOAD_ALL, &s->model);
    s->info.size = sizeof s->info;
    if (rc < 0 && apus_model_info(s->model, &s->info, &d)) rc = report(&cmd_perplexity, &d);
    return rc;
}

static void close_side(side *s)
{
    apus_session_free(s->session);
    apus_engine_free(s->engine);
    apus_model_close(s->model);
    free(s->logits);
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    int rc = options_parse(&cmd_perplexity, argc, argv, 1, &n);
    if (rc < 0) rc = take_model(&cmd_perplexity, argv, &n, 0, &name);
    if (rc >= 0) return rc;
    if (!o.file) return usage_error(&cmd_perplexity, "--file is missing");
    if (o.base && o.base_file)
        return usage_error(&cmd_perplexity, "--kl-against and --kl-base exclude each other");
    test t = {.window = common.ctx ? common.ctx : WINDOW};
    if (t.window < 4)
        return usage_error(&cmd_perplexity, "--ctx %d: expected at least 4", t.window);
    common.ctx = t.window; /* of the engines */
    size_t len;
    rc = begin_kept(&t, name);
    if (rc >= 0) return rc;
    char *text = read_input(&cmd_perplexity, o.file, &len);
    if (!text) return finish_kept(&t, EXIT_FAILED);
    rc = open_side(&t.s, name);
    if (rc < 0 && o.base) rc = open_side(&t.base, o.base);
    if (rc < 0) rc = read_text(&t, text, len);
    if (rc < 0) {
        size_t fit = (size_t)LOGIT_BYTES / ((size_t)t.s.info.vocab * sizeof(float));
        t.piece = fit < 1 ? 1 : fit > MAX_PIECE ? MAX_PIECE : (int)fit;
    }
    if (rc < 0) rc = start_side(&t.s, &t);
    if (rc < 0 && t.base.model) rc = start_side(&t.base, &t);
    if (rc < 0 && o.base_file) rc = start_kept(&t);
    if (rc < 0) rc = score_text(&t);
    rc = finish_kept(&t, rc);
    close_side(&t.s);
    close_side(&t.base);
    free(t.kept_row);
    free(t.ids);
    free(text);
    return finish_output(&cmd_perplexity, rc);
}
