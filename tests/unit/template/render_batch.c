/* render_batch.c - for scripts that compare with the reference: render many cases in one run.
 *
 *   render_batch TEMPLATE < vars.jsonl     one JSON object of variables per line
 *   render_batch - < cases.jsonl           lines {"template": ..., "vars": {...}}
 *
 * Writes one line per case: {"ok": "rendered text"} or {"error": "sentence"}. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "text/jinja/template.h"

static void answer(apus_err err, const char *text, size_t len, const apus_diag *diag)
{
    ap_buf b = {0};
    ap_buf_adds(&b, err ? "{\"error\": " : "{\"ok\": ");
    ap_json_quote(&b, err ? diag->text : text, err ? strlen(diag->text) : len, true);
    ap_buf_adds(&b, "}\n");
    if (b.data) fwrite(b.data, 1, b.len, stdout);
    ap_buf_free(&b);
}

static void one(const ap_template *shared, const char *line, size_t n)
{
    ap_arena mem;
    ap_json *j = NULL;
    ap_template *own = NULL;
    apus_diag diag = {0};
    char *text = NULL;
    size_t len = 0;
    ap_arena_init(&mem, 0);
    apus_err err = ap_json_parse(&mem, line, n, "case", 0, &j, &diag);
    const ap_json *vars = j;
    if (!err && !shared) {
        const ap_json *t = ap_json_get(j, "template");
        vars = ap_json_get(j, "vars");
        err = ap_template_parse(t->str, t->len, "template", &own, &diag);
    }
    if (!err) err = ap_template_render(shared ? shared : own, vars, &text, &len, &diag);
    answer(err, text, len, &diag);
    apus_free(text);
    ap_template_free(own);
    ap_arena_free(&mem);
}

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *s = NULL;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    s = malloc(*n + 1);
    if (s && fread(s, 1, *n, f) != *n) *n = 0;
    fclose(f);
    return s;
}

int main(int argc, char **argv)
{
    ap_template *t = NULL;
    apus_diag diag;
    char *line = NULL;
    size_t cap = 0;
    if (argc != 2) return 2;
    if (strcmp(argv[1], "-")) {
        size_t n = 0;
        char *s = slurp(argv[1], &n);
        if (!s || ap_template_parse(s, n, argv[1], &t, &diag)) {
            fprintf(stderr, "%s\n", s ? diag.text : "cannot read the template");
            free(s);
            return 1;
        }
        free(s);
    }
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) one(t, line, (size_t)n);
    free(line);
    ap_template_free(t);
    return 0;
}
