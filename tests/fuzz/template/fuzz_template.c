/* fuzz_template.c - a template, a zero byte, its variables as JSON. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/jinja/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *)data;
    const char *end = size ? memchr(s, 0, size) : NULL;
    size_t n = end ? (size_t)(end - s) : size;
    ap_template *t = NULL;
    ap_json *vars = NULL;
    apus_diag diag = {0};
    ap_arena mem;
    char *text = NULL;
    size_t len = 0;
    ap_template_limits limits;
    ap_template_limits_default(&limits);
    limits.output_bytes = 1 << 16;
    limits.memory_bytes = 4 << 20;
    limits.steps = 200000;
    ap_arena_init(&mem, 4 << 20);
    if (end && ap_json_parse(&mem, end + 1, size - n - 1, "vars", 0, &vars, NULL)) vars = NULL;
    if (vars && vars->type != AP_JSON_OBJECT) vars = NULL;
    apus_err err = ap_template_parse(s, n, "fuzz", &t, &diag);
    if (!err) err = ap_template_render_limited(t, vars, &limits, &text, &len, &diag);
    if (err && (diag.code != err || !diag.text[0])) abort(); /* every failure says why */
    if (!err && (text[len] || len > limits.output_bytes || !ap_utf8_valid(text, len))) abort();
    apus_free(text);
    ap_template_free(t);
    ap_arena_free(&mem);
    return 0;
}
