/* cmd_info.c - apus info: what a model is and what it needs. */
#include <stdlib.h>

#include "apus/apus_unstable.h"
#include "common.h"
#include "json_out.h"
#include "models.h"
#include "progress.h"
#include "report.h"
#include "sizes.h"
#include "terminal.h"

static struct {
    bool json, check;
} o;

static const opt info_table[] = {
    {"json", 0, OPT_FLAG, &o.json, NULL, 0, 0, NULL, "one JSON object"},
    {"check", 0, OPT_FLAG, &o.check, NULL, 0, 0, NULL,
     "read all weights and name tensors with NaN or infinity"},
    {0}};

static const opt *const tables[] = {info_table,    model_table,  tower_table,
                                    threads_table, engine_table, NULL};

static int run(int argc, char **argv);
const command cmd_info = {"info",
                          "[MODEL] [--json] [--check] [options]",
                          "what a model is and what memory it needs",
                          "Reads headers only, but for --check, which fails if a weight is not "
                          "finite; of a folder without "
                          "weights, config.json. Memory is what one session of --ctx tokens needs. "
                          "For a model of floats a "
                          "table tells what it would take in each type: does it fit into 24 GB?",
                          tables,
                          run};

static const char *count(uint64_t n, char out[32])
{
    if (n >= 1000000000)
        snprintf(out, 32, "%.3f B", (double)n / 1e9);
    else
        snprintf(out, 32, "%.3f M", (double)n / 1e6);
    return out;
}

/* ---------------------------------------------------------------- as what it would fit */

static const char *const sizes[] = {"bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k",
                                    "q2_k", "mlx8", "mlx6", "mlx4", "mlx3"};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

typedef struct size_row {
    const char *type;
    uint64_t weights, total;
    double bits; /* a weight */
} size_row;

/* What each quantisation would take, memory for the same context included. */
static int size_rows(const apus_model *m, const apus_info *i, const apus_plan *p,
                     size_row row[N_SIZES])
{
    apus_diag d;
    for (int k = 0; k < N_SIZES; k++) {
        row[k].type = sizes[k];
        if (apus_quantized_bytes(m, sizes[k], &row[k].weights, &d)) return report(&cmd_info, &d);
        row[k].total = p->total_bytes - p->weight_bytes + row[k].weights;
        row[k].bits = (double)row[k].weights * 8 / (double)i->params_total;
    }
    return -1;
}

static void print_sizes(const size_row *row, const apus_plan *p)
{
    char a[32], b[32];
    printf("quantised (apus quantize SRC DST --to TYPE)\n"
           "  type   bits a weight  weights     in memory with %d tokens of context\n",
           p->ctx);
    for (int k = 0; k < N_SIZES; k++)
        printf("  %-6s %13.2f  %-10s  %s\n", row[k].type, row[k].bits,
               human_bytes(row[k].weights, a), human_bytes(row[k].total, b));
}

static void json_sizes(json_out *j, const size_row *row)
{
    json_array(j, "quantised");
    for (int k = 0; k < N_SIZES; k++) {
        json_map(j, NULL);
        json_text(j, "type", row[k].type);
        json_real(j, "bits_per_weight", row[k].bits);
        json_int(j, "weights_bytes", (int64_t)row[k].weights);
        json_int(j, "total_bytes", (int64_t)row[k].total);
        json_end_map(j);
    }
    json_end_array(j);
}

/* ---------------------------------------------------------------- what it is */

/* rows NULL: it is quantised already. */
static void print_text(const apus_model *m, const apus_info *i, const apus_plan *p,
                       const size_row *rows)
{
    char a[32], b[32];
    const char *note;
    fputs(bold(stdout), stdout);
    put_textf(stdout, "%s", i->path);
    printf("%s\n", plain(stdout));
    printf("  architecture   %s%s\n", i->architecture,
           i->is_multimodal ? " (text part of a multimodal checkpoint)" : "");
    printf("  parameters     %s, %s active per token\n", count(i->params_total, a),
           count(i->params_active, b));
    printf("  weights        %s (%s)\n", human_bytes(i->weight_bytes, a), i->weight_types);
    printf("  layers         %d:", i->n_layers);
    if (i->n_attn_full) printf(" %d full attention", i->n_attn_full);
    if (i->n_attn_sliding) printf(" %d sliding (window %d)", i->n_attn_sliding, i->sliding_window);
    if (i->n_recurrent) printf(" %d recurrent", i->n_recurrent);
    putchar('\n');
    if (i->n_moe)
        printf("  experts        %d of %d per token in %d layers\n", i->experts_used, i->experts,
               i->n_moe);
    printf("  width          %d, vocabulary %d\n", i->hidden, i->vocab);
    printf("  context        %d tokens\n", i->context);
    printf("  tokenizer      %s, chat template %s\n", i->has_tokenizer ? "yes" : "no",
           i->has_chat_template ? "yes" : "no");
    for (size_t k = 0; (note = apus_model_note(m, k)); k++) printf("  note           %s\n", note);
    printf("memory for %d tokens of context\n", p->ctx);
    printf("  weights        %s\n", human_bytes(p->weight_bytes, a));
    printf("  KV pages       %s (%s, %s per token)\n", human_bytes(p->kv_bytes, a),
           apus_kv_name(p->kv), human_bytes(p->kv_bytes_per_token, b));
    printf("  state          %s\n", human_bytes(p->state_bytes, a));
    printf("  scratch        %s\n", human_bytes(p->scratch_bytes, a));
    printf("  other          about %s\n", human_bytes(p->other_bytes, a));
    printf("  total          %s\n", human_bytes(p->total_bytes, a));
    if (rows) print_sizes(rows, p);
}

/* What --check found. */
typedef struct findings {
    json_out *json; /* NULL: lines */
    uint64_t tensors;
} findings;

static void print_finding(void *ctx, const apus_nonfinite *t)
{
    findings *f = ctx;
    progress_clear();
    f->tensors++;
    if (!f->json) {
        put_textf(stdout,
                  "%s: %s: %llu NaN and %llu infinite of %llu values, the first at [%llu, %llu]\n",
                  t->file, t->tensor, (unsigned long long)t->nan, (unsigned long long)t->infinite,
                  (unsigned long long)t->values, (unsigned long long)t->row,
                  (unsigned long long)t->col);
        return;
    }
    json_map(f->json, NULL);
    json_text(f->json, "tensor", t->tensor);
    json_text(f->json, "file", t->file);
    json_int(f->json, "values", (int64_t)t->values);
    json_int(f->json, "nan", (int64_t)t->nan);
    json_int(f->json, "infinite", (int64_t)t->infinite);
    json_int(f->json, "row", (int64_t)t->row);
    json_int(f->json, "col", (int64_t)t->col);
    json_end_map(f->json);
}

/* Returns the exit status. j: where findings go, NULL = standard output. */
static int check(const apus_model *m, json_out *j)
{
    apus_diag d;
    findings f = {.json = j};
    apus_check_settings s;
    apus_check_settings_default(&s);
    s.threads = common.threads;
    s.found = print_finding;
    s.progress = progress_bar;
    s.ctx = &f;
    apus_err err = apus_model_check(m, &s, &d);
    progress_clear();
    if (err) return report(&cmd_info, &d);
    if (!f.tensors) {
        if (!j) puts("all weights are finite");
        return 0;
    }
    fprintf(stderr, "apus info: %llu tensor%s NaN or infinity\n", (unsigned long long)f.tensors,
            f.tensors == 1 ? " holds" : "s hold");
    return EXIT_FAILED;
}

static int print_json(const apus_model *m, const apus_info *i, const apus_plan *p,
                      const size_row *rows)
{
    int rc = 0;
    const char *note;
    json_out *j = json_new(true);
    json_map(j, NULL);
    json_text(j, "path", i->path);
    json_text(j, "architecture", i->architecture);
    json_bool(j, "multimodal", i->is_multimodal);
    json_int(j, "params_total", (int64_t)i->params_total);
    json_int(j, "params_active", (int64_t)i->params_active);
    json_int(j, "weight_bytes", (int64_t)i->weight_bytes);
    json_text(j, "weight_types", i->weight_types);
    json_int(j, "layers", i->n_layers);
    json_int(j, "layers_full_attention", i->n_attn_full);
    json_int(j, "layers_sliding_attention", i->n_attn_sliding);
    json_int(j, "layers_recurrent", i->n_recurrent);
    json_int(j, "layers_moe", i->n_moe);
    json_int(j, "sliding_window", i->sliding_window);
    json_int(j, "experts", i->experts);
    json_int(j, "experts_used", i->experts_used);
    json_int(j, "hidden", i->hidden);
    json_int(j, "vocab", i->vocab);
    json_int(j, "context", i->context);
    json_bool(j, "tokenizer", i->has_tokenizer);
    json_bool(j, "chat_template", i->has_chat_template);
    json_array(j, "notes");
    for (size_t k = 0; (note = apus_model_note(m, k)); k++) json_text(j, NULL, note);
    json_end_array(j);
    json_map(j, "memory");
    json_int(j, "ctx", p->ctx);
    json_int(j, "weights_bytes", (int64_t)p->weight_bytes);
    json_text(j, "kv", apus_kv_name(p->kv));
    json_int(j, "kv_bytes", (int64_t)p->kv_bytes);
    json_int(j, "kv_bytes_per_token", (int64_t)p->kv_bytes_per_token);
    json_int(j, "state_bytes", (int64_t)p->state_bytes);
    json_int(j, "scratch_bytes", (int64_t)p->scratch_bytes);
    json_int(j, "other_bytes", (int64_t)p->other_bytes);
    json_int(j, "total_bytes", (int64_t)p->total_bytes);
    json_end_map(j);
    if (rows) json_sizes(j, rows);
    if (o.check) {
        json_array(j, "not_finite");
        rc = check(m, j);
        json_end_array(j);
    }
    json_end_map(j);
    json_print(j);
    json_free(j);
    return rc;
}

static int tell(const apus_model *m)
{
    apus_diag d;
    apus_engine_settings es;
    size_row rows[N_SIZES];
    apus_info info = {.size = sizeof info};
    apus_plan plan = {.size = sizeof plan};
    int rc = engine_settings(&cmd_info, m, 0, &es);
    if (rc >= 0) return rc;
    if (apus_model_info(m, &info, &d) || apus_engine_plan(m, &es, &plan, &d))
        return report(&cmd_info, &d);
    if (!info.is_quantised && (rc = size_rows(m, &info, &plan, rows)) >= 0) return rc;
    const size_row *shown = info.is_quantised ? NULL : rows;
    if (o.json) return print_json(m, &info, &plan, shown);
    print_text(m, &info, &plan, shown);
    return o.check ? check(m, NULL) : 0;
}

static int run(int argc, char **argv)
{
    const char *name;
    int n;
    int rc = options_parse(&cmd_info, argc, argv, 1, &n);
    if (rc < 0) rc = take_model(&cmd_info, argv, &n, 0, &name);
    if (rc >= 0) return rc;
    apus_model *m;
    rc = open_model(&cmd_info, name, APUS_LOAD_INFO, &m);
    if (rc >= 0) return rc;
    rc = tell(m);
    apus_model_close(m);
    return finish_output(&cmd_info, rc);
}
