/* cmd_info.c - apus info: what a model is and what it needs. */
#include "common.h"
#include "json_out.h"

static struct {
    bool json;
} o;

static const opt info_table[] = {
    {"json", 0, OPT_FLAG, &o.json, NULL, 0, 0, NULL, "one JSON object"}, {0}};

static int run(int argc, char **argv);
const command cmd_info = {
    "info", "[MODEL] [--json] [options]", "what a model is and what memory it needs",
    "Reads headers only. Memory is what one session of --ctx tokens needs.", run};

static const char *human(uint64_t bytes, char out[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int u = 0;
    for (; v >= 1024 && u < 4; u++) v /= 1024;
    snprintf(out, 32, u ? "%.2f %s" : "%.0f %s", v, unit[u]);
    return out;
}

static const char *count(uint64_t n, char out[32])
{
    if (n >= 1000000000)
        snprintf(out, 32, "%.3f B", (double)n / 1e9);
    else
        snprintf(out, 32, "%.3f M", (double)n / 1e6);
    return out;
}

static void print_text(const apus_model *m, const apus_info *i, const apus_plan *p)
{
    char a[32], b[32];
    const char *note;
    printf("%s%s%s\n", bold(stdout), i->path, plain(stdout));
    printf("  architecture   %s%s\n", i->architecture,
           i->is_multimodal ? " (text part of a multimodal checkpoint)" : "");
    printf("  parameters     %s, %s active per token\n", count(i->params_total, a),
           count(i->params_active, b));
    printf("  weights        %s (%s)\n", human(i->weight_bytes, a), i->weight_types);
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
    printf("  weights        %s\n", human(p->weight_bytes, a));
    printf("  KV pages       %s (%s, %s per token)\n", human(p->kv_bytes, a), apus_kv_name(p->kv),
           human(p->kv_bytes_per_token, b));
    printf("  state          %s\n", human(p->state_bytes, a));
    printf("  scratch        %s\n", human(p->scratch_bytes, a));
    printf("  other          about %s\n", human(p->other_bytes, a));
    printf("  total          %s\n", human(p->total_bytes, a));
}

static void print_json(const apus_model *m, const apus_info *i, const apus_plan *p)
{
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
    json_end_map(j);
    puts(json_str(j, NULL));
    json_free(j);
}

static int run(int argc, char **argv)
{
    const opt *tables[] = {info_table, common_table, NULL};
    int n;
    int rc = options_parse(&cmd_info, tables, argc, argv, 1, &n);
    if (rc >= 0) return rc;
    apus_model *m;
    rc = open_model(&cmd_info, n ? argv[1] : NULL, APUS_LOAD_INFO, &m);
    if (rc >= 0) return rc;
    apus_diag d;
    apus_engine_settings es;
    apus_info info = {.size = sizeof info};
    apus_plan plan = {.size = sizeof plan};
    rc = engine_settings(&cmd_info, m, 0, &es);
    if (rc < 0) {
        if (apus_model_info(m, &info, &d) || apus_engine_plan(m, &es, &plan, &d)) {
            rc = report(&cmd_info, &d);
        } else {
            rc = 0;
            if (o.json)
                print_json(m, &info, &plan);
            else
                print_text(m, &info, &plan);
        }
    }
    apus_model_close(m);
    return finish_output(&cmd_info, rc);
}
