/* template.c - the door of the interpreter: compiling a template and rendering it. */
#include "text/jinja/template.h"

#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja/jinja.h"

enum { MAX_TEMPLATE = 1 << 20 };
#define PARSE_MEMORY ((size_t)512 << 20)

void ap_template_limits_default(ap_template_limits *l)
{
    *l = (ap_template_limits){.output_bytes = (size_t)64 << 20,
                              .memory_bytes = (size_t)512 << 20,
                              .steps = 200u * 1000 * 1000,
                              .depth = 1000};
}

/* One newline at the end is dropped; \r\n and \r become \n. */
static char *normalise(ap_arena *mem, const char *text, size_t len, size_t *out_len)
{
    char *s = ap_arena_alloc(mem, len + 1);
    size_t n = 0;
    if (!s) return NULL;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\r' && i + 1 < len && text[i + 1] == '\n') continue;
        s[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (n && s[n - 1] == '\n') n--;
    s[n] = 0;
    *out_len = n;
    return s;
}

apus_err ap_template_parse(const char *text, size_t len, const char *name, ap_template **out,
                           apus_diag *diag)
{
    size_t n_tok = 0, n = 0;
    ap_jtoken *tok = NULL;
    if (len > MAX_TEMPLATE)
        return ap_fail(diag, APUS_EFORMAT,
                       "%s: the template has %zu bytes, more than the limit of %d", name, len,
                       MAX_TEMPLATE);
    if (!ap_utf8_valid(text, len))
        return ap_fail(diag, APUS_EFORMAT, "%s: the template is not valid UTF-8", name);
    ap_template *t = ap_calloc(1, sizeof *t);
    if (!t) return ap_fail_nomem(diag, sizeof *t, "a template");
    ap_arena_init(&t->mem, PARSE_MEMORY);
    ap_jrun run = {.t = t, .mem = &t->mem, .diag = diag};
    run.limits.depth = 1 << 20; /* the parser has a limit of its own */
    t->name = ap_arena_strndup(&t->mem, name, strlen(name));
    char *s = normalise(&t->mem, text, len, &n);
    if (!t->name || !s) {
        run.code = ap_fail_nomem(diag, len, "a template");
        goto done;
    }
    tok = ap_j_lex(&run, s, n, &n_tok);
    if (!run.failed) t->body = ap_j_parse(&run, tok, n_tok);
    run.depth = 0;
    if (!run.failed) ap_j_scopes(&run);
    if (!run.failed) *out = t;
done:
    ap_free(tok);
    if (run.code) ap_template_free(t);
    return run.code;
}

void ap_template_free(ap_template *t)
{
    if (!t) return;
    ap_arena_free(&t->mem);
    ap_free(t);
}

/* The variables of a template: those given, else the built-in functions, else nothing. */
static ap_jval *context(ap_jrun *run, const ap_json *vars)
{
    static const char *const globals[AP_J_G_COUNT] = {"range", "dict", "namespace",
                                                      "raise_exception", "strftime_now"};
    const ap_template *t = run->t;
    ap_jval *c = ap_j_alloc(run, (size_t)t->n_syms + 1, sizeof *c);
    if (!c) return NULL;
    for (int i = 0; i < t->n_syms; i++) {
        c[i] = ap_j_undef(AP_J_ABSENT, NULL);
        for (int g = 0; g < AP_J_G_COUNT; g++)
            if (ap_j_str_is(t->syms[i], globals[g])) c[i] = (ap_jval){.type = AP_J_GLOBAL, .i = g};
    }
    for (const ap_json *v = vars ? vars->first : NULL; v; v = v->next)
        for (int i = 0; i < t->n_syms; i++)
            if (t->syms[i]->len == v->key_len && !memcmp(t->syms[i]->s, v->key, v->key_len))
                c[i] = ap_j_from_json(run, v);
    return c;
}

apus_err ap_template_render_limited(const ap_template *t, const ap_json *vars,
                                    const ap_template_limits *limits, char **text, size_t *len,
                                    apus_diag *diag)
{
    ap_template_limits def;
    ap_template_limits_default(&def);
    if (vars && vars->type != AP_JSON_OBJECT)
        return ap_fail(diag, APUS_EINVAL, "%s: the variables are not a JSON object", t->name);
    ap_arena mem;
    ap_jout out = {0};
    ap_jscope root = {0};
    ap_jrun run = {.t = (ap_template *)t,
                   .mem = &mem,
                   .diag = diag,
                   .out = &out,
                   .limits = limits ? *limits : def};
    ap_arena_init(&mem, run.limits.memory_bytes);
    run.context = context(&run, vars);
    run.globals = ap_j_alloc(&run, (size_t)t->n_syms + 1, sizeof *run.globals);
    run.assigned = ap_j_alloc(&run, (size_t)t->n_syms + 1, sizeof *run.assigned);
    if (!run.failed) {
        for (int i = 0; i < t->root.n_hidden; i++) {
            run.globals[t->root.hidden[i]] = ap_j_undef(AP_J_ABSENT, NULL);
            run.assigned[t->root.hidden[i]] = true;
        }
        ap_j_exec(&run, &root, t->body);
    }
    if (!run.failed && !out.s && !(out.s = ap_calloc(1, 1))) ap_j_fail_nomem(&run);
    if (!run.failed) {
        *text = out.s;
        *len = out.len;
        out.s = NULL;
    }
    ap_free(out.s);
    ap_arena_free(&mem);
    return run.code;
}

apus_err ap_template_render(const ap_template *t, const ap_json *vars, char **text, size_t *len,
                            apus_diag *diag)
{
    return ap_template_render_limited(t, vars, NULL, text, len, diag);
}
