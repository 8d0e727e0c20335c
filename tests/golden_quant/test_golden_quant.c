/* Quantised models against the reference, which ran on what gguf-py, mlx and torch decode the same
 * bytes to (tools/goldens/make_quant_models.py).
 *
 *   test_golden_quant [--device NAME] FOLDER...
 *
 * Precision exact: logits within the tolerance of tests/golden. Precision high: near those of exact.
 * Either is bit-equal whatever the pieces and threads, and near itself with the reference kernels. Uses
 * the public interface only. With --device: exact within a share of the logits, high by the divergence of its
 * probabilities from the reference's and by the likeliest token. Exit status 1: a check failed. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apus/apus.h"
#include "few_slots.h"
#include "gold.h"

#define TOL_GOLD 1e-3
#define TOL_SELF 1e-4
#define TOL_HIGH 2e-2 /* of high against exact; measured: 8e-3 */
#define TOL_DEVICE                                                                                 \
    2e-3 /* of devices with an order of their own: of the logits' standard deviation */
#define MOST_KL   1e-3 /* of high on a device, mean over rows, in nats */
#define LEAST_TOP 0.99 /* rows with the reference's likeliest token */
#define GAP_NEAR  1e-3 /* best two logits closer than this: either token may be chosen */
#define RGAP_NEAR 1e-6 /* two experts closer than this: either may be chosen */

static int n_failed;
static const char *device; /* NULL = the CPU */

static void *need(size_t n, size_t size)
{
    void *p = calloc(n, size);
    if (!p) exit(2);
    return p;
}

static void check(bool ok, const char *name, const char *what, int k, double value)
{
    if (ok) return;
    n_failed++;
    printf("  FAIL %s: %s, prompt %d: %g\n", name, what, k, value);
}

/* What to open: the folder, or its GGUF file, or the first part of it. */
static void model_path(const char *folder, char *out, size_t cap)
{
    static const char *const files[] = {"/model.gguf", "/model-00001-of-00003.gguf", ""};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(out, cap, "%s%s", folder, files[i]);
        if (access(out, R_OK) == 0) return;
    }
}

typedef struct rig {
    apus_model *model;
    apus_engine *engine;
    few_slots *slots; /* NULL: all experts are in memory */
} rig;

#define PACKED (-1)

/* slots: for experts, 0 = they are in memory; PACKED: three, from packed experts. */
static bool rig_open(const char *folder, const gold *g, apus_precision precision, int threads,
                     apus_cpu cpu, int slots, rig *r)
{
    char path[4096];
    apus_diag d = {0};
    apus_model_settings ms;
    apus_engine_settings es;
    model_path(folder, path, sizeof path);
    apus_model_settings_default(&ms);
    ms.cpu = cpu;
    ms.threads = threads;
    ms.precision = precision;
    ms.device = device;
    *r = (rig){0};
    if (apus_model_open(path, &ms, &r->model, &d) == APUS_OK) {
        if (slots == PACKED)
            r->slots = few_slots_make_packed(r->model, 3);
        else if (slots)
            r->slots = few_slots_make(r->model, slots, slots % 2 == 0);
        apus_engine_settings_default(&es);
        es.cpu = cpu;
        es.threads = threads;
        es.ctx = g->max_n + GOLD_GREEDY + 8;
        es.kv = APUS_KV_F32; /* products are what is tested here */
        if (apus_engine_create(r->model, &es, &r->engine, &d) == APUS_OK) return true;
    }
    printf("  FAIL %s: %s\n", folder, d.text);
    n_failed++;
    apus_model_close(r->model);
    return false;
}

static void rig_close(rig *r)
{
    apus_engine_free(r->engine);
    few_slots_free(r->slots);
    apus_model_close(r->model);
}

/* Logits of every prompt position and of the steps along the golden's tokens:
 * [n + GOLD_GREEDY - 1, V] into out. The prompt is fed in pieces. */
static bool run(rig *r, const gold *g, const gold_prompt *p, int piece, float *out)
{
    apus_diag d = {0};
    apus_session *s = NULL;
    bool ok = apus_session_create(r->engine, &s, &d) == APUS_OK;
    int32_t *rows = need((size_t)p->n, sizeof *rows);
    for (int i = 0; i < p->n; i++) rows[i] = i;
    for (int at = 0; ok && at < p->n; at += piece) {
        int n = p->n - at < piece ? p->n - at : piece;
        apus_feed f = {.size = sizeof(apus_feed),
                       .session = s,
                       .tok = p->ids + at,
                       .n = n,
                       .rows = rows,
                       .n_rows = n,
                       .logits = out + (size_t)at * (size_t)g->vocab};
        ok = apus_feed_batch(r->engine, &f, 1, NULL, NULL, &d) == APUS_OK;
    }
    for (int i = 0; ok && i < GOLD_GREEDY - 1; i++)
        ok = apus_session_feed(s, &p->greedy[i], 1, out + (size_t)(p->n + i) * (size_t)g->vocab,
                               &d) == APUS_OK;
    if (!ok) printf("  FAIL: %s\n", d.text);
    n_failed += !ok;
    free(rows);
    apus_session_free(s);
    return ok;
}

static double distance(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = isfinite(d) ? d : INFINITY;
    }
    return worst;
}

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}

/* How far logits may be from the reference's. */
static double room_of(const float *want, size_t n, float noise)
{
    double sum = 0, squares = 0, room = TOL_GOLD;
    for (size_t i = 0; i < n && device; i++) {
        sum += (double)want[i];
        squares += (double)want[i] * (double)want[i];
    }
    double mean = sum / (double)n;
    if (device) room = fmax(room, TOL_DEVICE * sqrt(fmax(squares / (double)n - mean * mean, 0)));
    return fmax(room, 2.0 * (double)noise);
}

static double compare_gold(const char *name, const gold *g, int k, const float *got)
{
    const gold_prompt *p = &g->prompt[k];
    size_t v = (size_t)g->vocab;
    double worst = 0;
    for (int i = 0; i < p->n_pos; i++) {
        int at = p->pos[i];
        if (p->rgap && p->rgap[at] < RGAP_NEAR) continue;
        double d = distance(p->logits + (size_t)i * v, got + (size_t)at * v, v);
        check(d <= room_of(p->logits + (size_t)i * v, v, p->noise[i]), name,
              "logits differ from the reference", k, d);
        worst = d > worst ? d : worst;
    }
    for (int i = 0; i < GOLD_GREEDY; i++) {
        int at = p->n - 1 + i;
        if ((p->rgap && p->rgap[at] < RGAP_NEAR) || p->gap[i] < GAP_NEAR) continue;
        check(argmax(got + (size_t)at * v, g->vocab) == p->greedy[i], name,
              "another greedy token at step", k, i);
    }
    return worst;
}

/* Sum of e^(x - max), and that max. */
static double exp_sum(const float *x, int n, double *max)
{
    double sum = 0;
    *max = (double)x[argmax(x, n)];
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - *max);
    return sum;
}

/* Divergence of b's probabilities from a's, in nats. */
static double divergence(const float *a, const float *b, int n)
{
    double max_a, max_b, sum = 0, za = log(exp_sum(a, n, &max_a)), zb = log(exp_sum(b, n, &max_b));
    for (int i = 0; i < n; i++) {
        double la = (double)a[i] - max_a - za, lb = (double)b[i] - max_b - zb;
        sum += exp(la) * (la - lb);
    }
    return isfinite(sum) ? sum : INFINITY;
}

/* How near a device's runs are to the reference, over all its rows and greedy tokens. */
typedef struct nearness {
    double kl;
    int rows, right, chosen;
} nearness;

static void add_nearness(const gold *g, int k, const float *got, nearness *sum)
{
    const gold_prompt *p = &g->prompt[k];
    size_t v = (size_t)g->vocab;
    for (int i = 0; i < p->n_pos; i++) {
        const float *a = p->logits + (size_t)i * v, *b = got + (size_t)p->pos[i] * v;
        sum->kl += divergence(a, b, g->vocab);
        sum->rows++;
        sum->right += argmax(a, g->vocab) == argmax(b, g->vocab);
        sum->chosen++;
    }
    for (int i = 1; i < GOLD_GREEDY; i++) {
        sum->right += argmax(got + (size_t)(p->n - 1 + i) * v, g->vocab) == p->greedy[i];
        sum->chosen++;
    }
}

/* No router of these prompts is near enough to a tie to turn elsewhere. */
static double compare_precisions(const char *name, const gold *g, int k, const float *exact,
                                 const float *high)
{
    const gold_prompt *p = &g->prompt[k];
    size_t v = (size_t)g->vocab;
    double worst = 0;
    for (int i = 0; i < p->n + GOLD_GREEDY - 1; i++) {
        double d = distance(exact + (size_t)i * v, high + (size_t)i * v, v);
        worst = d > worst ? d : worst;
    }
    check(worst <= TOL_HIGH, name, "high differs from exact", k, worst);
    return worst;
}

/* Logits of all prompts to out[], which stays. False: nothing there. */
static bool run_all(const char *folder, const gold *g, apus_precision precision, float **out)
{
    rig r;
    if (!rig_open(folder, g, precision, 1, APUS_CPU_AUTO, 0, &r)) return false;
    bool ok = true;
    for (int k = 0; k < g->n_prompt; k++) {
        out[k] = need((size_t)(g->prompt[k].n + GOLD_GREEDY) * (size_t)g->vocab, sizeof(float));
        ok = run(&r, g, &g->prompt[k], 1000, out[k]) && ok;
    }
    rig_close(&r);
    return ok;
}

/* The same bits with other pieces and threads and with experts from the files, nearly the same with the reference kernels. */
static void check_variants(const char *folder, const char *name, const gold *g,
                           apus_precision precision, float **base)
{
    static const struct {
        const char *what;
        int threads, piece;
        apus_cpu cpu;
        bool bits;
        int slots;
    } variants[] = {{"three threads, pieces of 7", 3, 7, APUS_CPU_AUTO, true, 0},
                    {"pieces of 40", 2, 40, APUS_CPU_AUTO, true, 0},
                    {"the reference kernels", 2, 1000, APUS_CPU_REF, false, 0},
                    {"one slot for experts", 2, 1000, APUS_CPU_AUTO, true, 1},
                    {"four slots for experts", 2, 7, APUS_CPU_AUTO, true, 4},
                    {"packed experts", 2, 40, APUS_CPU_AUTO, true, PACKED},
                    {"slots for all experts", 1, 1000, APUS_CPU_AUTO, true, 255}};
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        rig r;
        int slots = variants[i].slots;
        if (device && (!variants[i].bits || slots)) continue;
        if (!rig_open(folder, g, precision, variants[i].threads, variants[i].cpu, slots, &r)) break;
        if (slots && !r.slots) { /* no mixture of experts */
            rig_close(&r);
            continue;
        }
        for (int k = 0; k < g->n_prompt; k++) {
            size_t n = (size_t)(g->prompt[k].n + GOLD_GREEDY - 1) * (size_t)g->vocab;
            float *got = need(n, sizeof(float));
            if (run(&r, g, &g->prompt[k], variants[i].piece, got)) {
                double d = distance(base[k], got, n);
                check(variants[i].bits ? d == 0 : d <= TOL_SELF, name, variants[i].what, k, d);
            }
            free(got);
        }
        rig_close(&r);
    }
}

static void check_model(const char *folder)
{
    gold g;
    float *exact[GOLD_MAX_PROMPTS] = {0}, *high[GOLD_MAX_PROMPTS] = {0};
    if (gold_read(folder, &g)) {
        n_failed++;
        return;
    }
    const char *slash = strrchr(folder, '/'), *name = slash ? slash + 1 : folder;
    double from_gold = 0, from_exact = 0;
    nearness near = {0};
    if (run_all(folder, &g, APUS_PRECISION_EXACT, exact) &&
        run_all(folder, &g, APUS_PRECISION_HIGH, high)) {
        for (int k = 0; k < g.n_prompt; k++) {
            from_gold = fmax(from_gold, compare_gold(name, &g, k, exact[k]));
            from_exact = fmax(from_exact, compare_precisions(name, &g, k, exact[k], high[k]));
            add_nearness(&g, k, high[k], &near);
        }
        double kl = near.kl / near.rows, top = (double)near.right / near.chosen;
        check(!device || kl <= MOST_KL, name,
              "divergence of high from the reference, over all; nats", g.n_prompt, kl);
        check(!device || top >= LEAST_TOP, name,
              "likeliest tokens that are the reference's, over all", g.n_prompt, top);
        if (device)
            printf("%-24s %s: divergence %.1e, likeliest token %.2f %%, ", name, device, kl,
                   100 * top);
        check_variants(folder, name, &g, APUS_PRECISION_EXACT, exact);
        check_variants(folder, name, &g, APUS_PRECISION_HIGH, high);
    }
    if (!device) printf("%-24s ", name);
    printf("exact %.1e from the reference, high %.1e from exact\n", from_gold, from_exact);
    for (int k = 0; k < g.n_prompt; k++) {
        free(exact[k]);
        free(high[k]);
    }
    gold_free(&g);
}

int main(int argc, char **argv)
{
    int first = argc > 2 && !strcmp(argv[1], "--device") ? 3 : 1;
    if (first == 3) device = argv[2];
    for (int i = first; i < argc; i++) {
        check_model(argv[i]);
        fflush(stdout);
    }
    if (argc <= first) fprintf(stderr, "usage: test_golden_quant [--device NAME] FOLDER...\n");
    return argc <= first || n_failed;
}
