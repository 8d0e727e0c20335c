#include "bench_profile.h"

#include <stdio.h>
#include <stdlib.h>

static int longest_first(const void *a, const void *b)
{
    double x = ((const apus_profile *)a)->seconds, y = ((const apus_profile *)b)->seconds;
    return x > y ? -1 : x < y;
}

void profile_take(bench_profile *p, const apus_engine *e, double seconds, int units)
{
    p->seconds = seconds;
    p->units = units;
    p->n = apus_engine_profile_read(e, p->entry, PROFILE_ENTRIES);
    qsort(p->entry, (size_t)p->n, sizeof *p->entry, longest_first);
}

/* What the run did besides operations: the model's and the engine's own work. */
static double rest_seconds(const bench_profile *p)
{
    double s = p->seconds;
    for (int i = 0; i < p->n; i++) s -= p->entry[i].seconds;
    return s > 0 ? s : 0;
}

/* "q4_k 2048 x 512", "32 x 128" or "". */
static const char *shape(const apus_profile *x, char out[64])
{
    out[0] = 0;
    if (x->rows)
        snprintf(out, 64, "%s%s%d x %d%s", x->type, *x->type ? " " : "", x->rows, x->cols,
                 x->head ? " (head)" : "");
    return out;
}

/* A number, or a blank cell for 0. */
static void cell(double v)
{
    if (v > 0)
        printf(" %.*f |", v < 10 ? 2 : 1, v);
    else
        fputs(" |", stdout);
}

void profile_print(const bench_profile *p, const char *title)
{
    double ms = 1e3 / p->units;
    char text[64];
    printf("\n%s: %.3f ms%s\n\n", title, p->seconds * ms, p->units > 1 ? " for each token" : "");
    puts("| operation | weights, or heads | calls | ms | share | GFLOP/s | GB/s | experts of a "
         "call |\n"
         "|---|---|---|---|---|---|---|---|");
    for (int i = 0; i < p->n; i++) {
        const apus_profile *x = &p->entry[i];
        printf("| %s | %s | %.0f | %.3f | %.1f %% |", x->op, shape(x, text),
               (double)x->calls / p->units, x->seconds * ms, 100 * x->seconds / p->seconds);
        cell(x->flops / x->seconds * 1e-9);
        cell(x->bytes / x->seconds * 1e-9);
        cell((double)x->experts / (double)x->calls);
        putchar('\n');
    }
    double rest = rest_seconds(p);
    printf("| between them | | | %.3f | %.1f %% | | | |\n", rest * ms, 100 * rest / p->seconds);
}

void profile_csv_head(void)
{
    puts("\ntest,n,depth,op,type,rows,cols,head,calls,ms,share,gflop_s,gb_s,experts");
}

void profile_csv(const bench_profile *p, const char *test, int n, int depth)
{
    double ms = 1e3 / p->units, rest = rest_seconds(p);
    for (int i = 0; i < p->n; i++) {
        const apus_profile *x = &p->entry[i];
        printf("%s,%d,%d,%s,%s,%d,%d,%d,%.2f,%.4f,%.4f,%.2f,%.2f,%.2f\n", test, n, depth, x->op,
               x->type, x->rows, x->cols, x->head, (double)x->calls / p->units, x->seconds * ms,
               x->seconds / p->seconds, x->flops / x->seconds * 1e-9, x->bytes / x->seconds * 1e-9,
               (double)x->experts / (double)x->calls);
    }
    printf("%s,%d,%d,between,,0,0,0,0,%.4f,%.4f,0,0,0\n", test, n, depth, rest * ms,
           rest / p->seconds);
}

static void put(json_out *j, const bench_profile *p, const apus_profile *x)
{
    json_map(j, NULL);
    json_text(j, "op", x->op);
    if (x->rows) {
        json_text(j, "type", x->type);
        json_int(j, "rows", x->rows);
        json_int(j, "cols", x->cols);
    }
    if (x->head) json_bool(j, "head", true);
    json_real(j, "calls", (double)x->calls / p->units);
    json_real(j, "ms", x->seconds * 1e3 / p->units);
    json_real(j, "share", x->seconds / p->seconds);
    if (x->flops > 0) json_real(j, "gflop_s", x->flops / x->seconds * 1e-9);
    if (x->bytes > 0) json_real(j, "gb_s", x->bytes / x->seconds * 1e-9);
    if (x->experts) json_real(j, "experts", (double)x->experts / (double)x->calls);
    json_end_map(j);
}

void profile_json(const bench_profile *p, json_out *j)
{
    json_array(j, "profile");
    for (int i = 0; i < p->n; i++) put(j, p, &p->entry[i]);
    put(j, p, &(apus_profile){.op = "between", .type = "", .seconds = rest_seconds(p)});
    json_end_array(j);
}
