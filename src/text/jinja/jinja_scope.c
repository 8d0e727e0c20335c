/* jinja_scope.c - after parsing: which names are hidden from the start of a frame on, and whether
 * every filter and test exists.
 *
 * Jinja compiles a template to functions and decides per frame (template, loop body, macro, ...)
 * where a name comes from. A name that a frame assigns, outside of any `if`, before it reads it,
 * and that no outer frame knows, starts undefined there even if the caller gave a variable of that
 * name. Templates can tell (a loop above a `set` reads such a name), so we follow it. */
#include <string.h>

#include "base/mem.h"
#include "text/jinja/jinja.h"

typedef struct frame {
    const struct frame *outer;
    uint8_t *known; /* [n_syms] 0: not seen, else a SEEN_* */
} frame;
enum { SEEN = 1, SEEN_HIDDEN };

typedef struct walk {
    ap_jrun *run;
    bool soft; /* code that may not run: unknown filters fail only when it does */
} walk;

static void body(walk *w, frame *f, const ap_jnode *n, bool branch);
static void inner(walk *w, const frame *f, ap_jnode *n);

static bool known_outside(const frame *f, int sym)
{
    for (f = f->outer; f; f = f->outer)
        if (f->known[sym]) return true;
    return false;
}

static void load(frame *f, int sym)
{
    if (!f->known[sym] && !known_outside(f, sym)) f->known[sym] = SEEN;
}

static void store(frame *f, int sym, bool branch)
{
    if (f->known[sym]) return;
    f->known[sym] = branch || known_outside(f, sym) ? SEEN : SEEN_HIDDEN;
}

static void check_names(walk *w, const ap_jnode *n)
{
    if (w->soft || w->run->failed) return;
    bool is_filter = n->kind == AP_JN_FILTER;
    if (is_filter ? ap_j_filter_exists(n->name) : ap_j_test_exists(n->name)) return;
    w->run->line = n->line;
    ap_j_fail(w->run, "there is no %s '%.*s'", is_filter ? "filter" : "test", (int)n->name->len,
              n->name->s);
}

static void expr(walk *w, frame *f, const ap_jnode *n)
{
    for (; n; n = n->next) {
        bool soft = w->soft;
        if (n->kind == AP_JN_NAME) load(f, n->sym);
        if (n->kind == AP_JN_COND) w->soft = true;
        expr(w, f, n->a);
        expr(w, f, n->b);
        expr(w, f, n->c);
        expr(w, f, n->d);
        if (n->kind == AP_JN_FILTER || n->kind == AP_JN_TEST) check_names(w, n);
        w->soft = soft;
    }
}

static void assign(frame *f, const ap_jnode *to, bool branch)
{
    if (to->kind == AP_JN_NAME)
        store(f, to->sym, branch);
    else if (to->kind == AP_JN_NSREF)
        load(f, to->sym);
    else
        for (const ap_jnode *i = to->a; i; i = i->next) assign(f, i, branch);
}

static void param(frame *f, const ap_jnode *to)
{
    if (to->kind == AP_JN_NAME)
        f->known[to->sym] = SEEN;
    else
        for (const ap_jnode *i = to->a; i; i = i->next) param(f, i);
}

/* The names this frame itself touches, in order; frames below are left alone. */
static void statement(walk *w, frame *f, const ap_jnode *n, bool branch)
{
    bool soft = w->soft;
    switch (n->kind) {
    case AP_JN_PRINT:
        expr(w, f, n->a);
        break;
    case AP_JN_IF:
        w->soft = true;
        for (;; n = n->c) {
            expr(w, f, n->a);
            body(w, f, n->b, true);
            if (!n->c || !n->c->op || n->c->kind != AP_JN_IF) break;
        }
        body(w, f, n->c, true);
        break;
    case AP_JN_FOR:
        expr(w, f, n->b);
        break;
    case AP_JN_SET:
        expr(w, f, n->b);
        assign(f, n->a, branch);
        break;
    case AP_JN_SETBLOCK:
        assign(f, n->a, branch);
        break;
    case AP_JN_MACRO:
        store(f, n->sym, branch);
        break;
    case AP_JN_CALLBLOCK:
        expr(w, f, n->c);
        break;
    case AP_JN_FILTERBLOCK:
        expr(w, f, n->b);
        break;
    case AP_JN_WITH:
        expr(w, f, n->b);
        break;
    default:
        break;
    }
    w->soft = soft;
}

static void body(walk *w, frame *f, const ap_jnode *n, bool branch)
{
    for (; n && !w->run->failed; n = n->next) statement(w, f, n, branch);
}

/* Frames that stand in a body, at any depth of ifs. */
static void inner_frames(walk *w, const frame *f, ap_jnode *n)
{
    for (; n && !w->run->failed; n = n->next) {
        if (n->kind == AP_JN_IF) {
            ap_jnode *i = n;
            for (;; i = i->c) {
                inner_frames(w, f, i->b);
                if (!i->c || !i->c->op || i->c->kind != AP_JN_IF) break;
            }
            inner_frames(w, f, i->c);
        } else if (n->kind == AP_JN_FOR || n->kind == AP_JN_SETBLOCK || n->kind == AP_JN_MACRO ||
                   n->kind == AP_JN_CALLBLOCK || n->kind == AP_JN_FILTERBLOCK ||
                   n->kind == AP_JN_WITH || n->kind == AP_JN_SCOPE) {
            inner(w, f, n);
        }
    }
}

static void find_params(frame *f, walk *w, const ap_jnode *n)
{
    for (const ap_jnode *a = n->a; a; a = a->next) {
        param(f, a);
        if (n->kind != AP_JN_WITH) expr(w, f, a->b);
    }
    bool has[] = {n->has_caller, n->has_kwargs, n->has_varargs, n->kind == AP_JN_FOR};
    for (int k = 0; k < 4; k++)
        if (has[k] && w->run->t->special[k] >= 0) f->known[w->run->t->special[k]] = SEEN;
}

static void keep_hidden(walk *w, const frame *f, ap_jnode *n)
{
    int count = 0, n_syms = w->run->t->n_syms;
    for (int i = 0; i < n_syms; i++) count += f->known[i] == SEEN_HIDDEN;
    if (!count || !(n->hidden = ap_j_alloc(w->run, (size_t)count, sizeof *n->hidden))) return;
    for (int i = 0; i < n_syms; i++)
        if (f->known[i] == SEEN_HIDDEN) n->hidden[n->n_hidden++] = i;
}

/* One frame: its own names, then the frames in it. */
static void one_frame(walk *w, const frame *outer, ap_jnode *n, ap_jnode *stmts, bool params)
{
    frame f = {.outer = outer};
    bool soft = w->soft;
    w->soft = false;
    f.known = ap_calloc((size_t)w->run->t->n_syms + 1, 1);
    if (!f.known) {
        ap_j_fail_nomem(w->run);
        return;
    }
    if (params) find_params(&f, w, n);
    body(w, &f, stmts, false);
    /* A loop's else part is a frame of its own; its hidden names are rare enough to go without. */
    if (params || n->kind != AP_JN_FOR) keep_hidden(w, &f, n);
    if (n->kind == AP_JN_FOR && params) expr(w, &f, n->c);
    if (n->kind == AP_JN_SETBLOCK) expr(w, &f, n->b);
    inner_frames(w, &f, stmts);
    ap_free(f.known);
    w->soft = soft;
}

static void inner(walk *w, const frame *f, ap_jnode *n)
{
    bool params = n->kind == AP_JN_FOR || n->kind == AP_JN_MACRO || n->kind == AP_JN_CALLBLOCK ||
                  n->kind == AP_JN_WITH;
    one_frame(w, f, n, n->d, params);
    if (n->kind == AP_JN_FOR && n->e) one_frame(w, f, n, n->e, false);
}

void ap_j_scopes(ap_jrun *run)
{
    static const char *const special[] = {"caller", "kwargs", "varargs", "loop"};
    walk w = {.run = run};
    for (int k = 0; k < 4; k++) {
        run->t->special[k] = -1;
        for (int i = 0; i < run->t->n_syms; i++)
            if (ap_j_str_is(run->t->syms[i], special[k])) run->t->special[k] = i;
    }
    one_frame(&w, NULL, &run->t->root, run->t->body, false);
}
