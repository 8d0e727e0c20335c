/* jinja_eval.c - running the syntax tree: expressions, statements, loops. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "text/jinja/jinja.h"

/* ---------------------------------------------------------------- names */

/* Where a name is bound in the scopes inside of the root; NULL: nowhere. */
static ap_jval *find(ap_jrun *run, const ap_jscope *s, int sym)
{
    uint64_t hops = 0;
    ap_jval *v = NULL;
    for (; s && !v; s = s->parent)
        for (ap_jbind *b = s->first; b && !v; b = b->next, hops++)
            if (b->sym == sym) v = &b->v;
    ap_j_spend(run, hops / 8);
    return v;
}

static ap_jval lookup(ap_jrun *run, const ap_jscope *s, const ap_jnode *n)
{
    const ap_jval *bound = find(run, s, n->sym);
    ap_jval v = bound                   ? *bound
                : run->assigned[n->sym] ? run->globals[n->sym]
                                        : run->context[n->sym];
    return ap_j_absent(v) ? ap_j_undef(AP_J_NO_NAME, n->name) : v;
}

static void bind(ap_jrun *run, ap_jscope *s, int sym, ap_jval v)
{
    if (run->failed) return;
    if (!s->parent) {
        run->globals[sym] = v;
        run->assigned[sym] = true;
        return;
    }
    uint64_t hops = 0;
    for (ap_jbind *b = s->first; b; b = b->next, hops++) {
        if (b->sym != sym) continue;
        b->v = v;
        return;
    }
    ap_j_spend(run, hops / 8);
    ap_jbind *b = s->spare;
    if (b)
        s->spare = b->next;
    else if (!(b = ap_j_alloc(run, 1, sizeof *b)))
        return;
    *b = (ap_jbind){.sym = sym, .v = v, .next = s->first};
    s->first = b;
}

static ap_jscope *scope_new(ap_jrun *run, ap_jscope *parent, const ap_jnode *frame)
{
    ap_jscope *s = ap_j_alloc(run, 1, sizeof *s);
    if (!s) return NULL;
    s->parent = parent;
    for (int i = 0; frame && i < frame->n_hidden; i++)
        bind(run, s, frame->hidden[i], ap_j_undef(AP_J_ABSENT, NULL));
    return s;
}

/* The scope of a loop's next round: the old one emptied, unless something holds on to it. */
static ap_jscope *scope_again(ap_jrun *run, ap_jscope *s, ap_jscope *parent, const ap_jnode *frame)
{
    if (!s || s->kept) return scope_new(run, parent, frame);
    while (s->first) {
        ap_jbind *b = s->first;
        s->first = b->next;
        b->next = s->spare;
        s->spare = b;
    }
    for (int i = 0; i < frame->n_hidden; i++)
        bind(run, s, frame->hidden[i], ap_j_undef(AP_J_ABSENT, NULL));
    return s;
}

static void assign(ap_jrun *run, ap_jscope *s, const ap_jnode *to, ap_jval v)
{
    if (run->failed) return;
    run->line = to->line;
    if (to->kind == AP_JN_NAME) {
        bind(run, s, to->sym, v);
    } else if (to->kind == AP_JN_NSREF) {
        ap_jnode name = *to;
        name.name = run->t->syms[to->sym];
        ap_jval ns = lookup(run, s, &name);
        if (ns.type != AP_J_NS)
            ap_j_fail(run, "cannot assign attribute on non-namespace object");
        else if (to->name->len && to->name->s[0] == '_')
            ap_j_fail(run, "a namespace cannot have attributes that begin with an underscore");
        else
            ap_j_dict_set(run, ns.d, ap_j_strval(to->name), v);
    } else {
        ap_jlist *l = ap_j_to_list(run, v);
        size_t want = 0, i = 0;
        for (const ap_jnode *t = to->a; t; t = t->next) want++;
        if (!run->failed && l->n != want)
            ap_j_fail(run, "cannot unpack %zu values into %zu names", l->n, want);
        for (const ap_jnode *t = to->a; t && !run->failed; t = t->next)
            assign(run, s, t, l->v[i++]);
    }
}

/* ---------------------------------------------------------------- expressions */

static bool eval_args(ap_jrun *run, ap_jscope *s, const ap_jnode *n, ap_jargs *out)
{
    size_t n_kw = 0;
    ap_jlist *l = ap_j_list_new(run, 0);
    *out = (ap_jargs){0};
    for (const ap_jnode *a = n; a; a = a->next) n_kw += a->op == AP_JA_KW;
    size_t cap = n_kw;
    if (n_kw) out->kw = ap_j_alloc(run, n_kw, sizeof *out->kw);
    for (; n && !run->failed; n = n->next) {
        ap_jval v = ap_j_eval(run, s, n->a);
        ap_jcursor c;
        ap_jval x;
        if (n->op == AP_JA_POS) {
            ap_j_push(run, l, v);
        } else if (n->op == AP_JA_KW) {
            if (!run->failed) out->kw[out->n_kw++] = (ap_jkw){n->name, v};
        } else if (n->op == AP_JA_STAR) {
            if (!ap_j_iter_open(run, v, &c)) break;
            while (ap_j_iter_next(run, &c, &x)) ap_j_push(run, l, x);
        } else {
            if (v.type != AP_J_DICT) {
                ap_j_fail(run, "argument after ** must be a mapping, not %s", ap_j_type_name(v));
                break;
            }
            ap_jkw *kw = ap_j_alloc(run, cap + v.d->n, sizeof *kw);
            if (!kw) break;
            if (out->n_kw) memcpy(kw, out->kw, out->n_kw * sizeof *kw);
            out->kw = kw;
            for (size_t i = 0; i < v.d->n; i++) {
                if (v.d->k[i].type != AP_J_STR)
                    ap_j_fail(run, "keywords must be strings");
                else
                    kw[out->n_kw++] = (ap_jkw){v.d->k[i].s, v.d->v[i]};
            }
        }
    }
    out->v = l->v;
    out->n = l->n;
    return !run->failed;
}

static ap_jval eval_items(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jlist *l = ap_j_list_new(run, 0);
    for (const ap_jnode *i = n->a; i && !run->failed; i = i->next)
        ap_j_push(run, l, ap_j_eval(run, s, i));
    return ap_j_listval(l, n->kind == AP_JN_TUPLE ? AP_J_TUPLE : AP_J_LIST);
}

static ap_jval eval_dict(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jval r = {.type = AP_J_DICT, .d = ap_j_dict_new(run)};
    for (const ap_jnode *k = n->a; k && k->next && !run->failed; k = k->next->next) {
        ap_jval key = ap_j_eval(run, s, k);
        ap_j_dict_set(run, r.d, key, ap_j_eval(run, s, k->next));
    }
    return r;
}

static ap_jval eval_compare(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jval left = ap_j_eval(run, s, n->a);
    bool r = true;
    for (const ap_jnode *p = n->b; p && r && !run->failed; p = p->next) {
        ap_jval right = ap_j_eval(run, s, p->a);
        if (run->failed) break;
        int c;
        run->line = p->line;
        switch (p->op) {
        case AP_JT_EQ:
            r = ap_j_equal(run, left, right);
            break;
        case AP_JT_NE:
            r = !ap_j_equal(run, left, right);
            break;
        case AP_JT_IN:
            r = ap_j_contains(run, left, right);
            break;
        case AP_JT_NOTIN:
            r = !ap_j_contains(run, left, right);
            break;
        case AP_JT_LT:
            r = ap_j_compare(run, left, right, "<") == -1;
            break;
        case AP_JT_GT:
            r = ap_j_compare(run, left, right, ">") == 1;
            break;
        case AP_JT_LE:
            c = ap_j_compare(run, left, right, "<=");
            r = c == -1 || c == 0;
            break;
        default:
            c = ap_j_compare(run, left, right, ">=");
            r = c == 1 || c == 0;
        }
        left = right;
    }
    return ap_j_bool(r);
}

static ap_jval eval_concat(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jout o = {0};
    for (const ap_jnode *i = n->a; i && !run->failed; i = i->next) {
        ap_jval v = ap_j_eval(run, s, i);
        if (!run->failed) ap_j_put_str(run, &o, v);
    }
    return ap_j_strval(ap_j_take(run, &o));
}

static ap_jval eval_filter(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jargs args;
    ap_jval v = n->a ? ap_j_eval(run, s, n->a) : ap_j_strval(run->captured);
    if (!eval_args(run, s, n->b, &args)) return v;
    run->line = n->line;
    return ap_j_filter(run, n->name, v, &args);
}

static ap_jval eval_unary(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jval v = ap_j_eval(run, s, n->a);
    int64_t i;
    if (run->failed) return v;
    run->line = n->line;
    if (ap_j_as_int(v, &i)) {
        if (n->op == AP_JT_SUB && __builtin_sub_overflow((int64_t)0, i, &i))
            return ap_j_fail(run, "an integer is beyond 64 bits");
        return ap_j_int(i);
    }
    if (v.type == AP_J_FLOAT) return ap_j_float(n->op == AP_JT_SUB ? -v.f : v.f);
    if (v.type == AP_J_UNDEF) return ap_j_binary(run, AP_JT_ADD, v, v);
    return ap_j_fail(run, "bad operand type for unary %c: '%s'", n->op == AP_JT_SUB ? '-' : '+',
                     ap_j_type_name(v));
}

static bool is_literal(const ap_jnode *n)
{
    return !n || n->kind == AP_JN_CONST || (n->kind == AP_JN_DICT && !n->a);
}

/* Can v be a bound of a slice? */
static bool is_bound(ap_jval v)
{
    return v.type == AP_J_NONE || v.type == AP_J_INT || v.type == AP_J_BOOL || v.type == AP_J_BIG;
}

static ap_jval eval_slice(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jval of = ap_j_eval(run, s, n->a);
    ap_jval from = n->b ? ap_j_eval(run, s, n->b) : ap_j_none();
    ap_jval to = n->c ? ap_j_eval(run, s, n->c) : ap_j_none();
    ap_jval step = n->d ? ap_j_eval(run, s, n->d) : ap_j_none();
    run->line = n->line;
    /* Jinja looks at literals while it compiles, where what cannot be sliced is undefined. Anything
     * else fails when it is rendered, as Python has it. */
    bool sliced = of.type == AP_J_STR && is_bound(from) && is_bound(to) && is_bound(step);
    if (!sliced && is_literal(n->a) && is_literal(n->b) && is_literal(n->c) && is_literal(n->d))
        return ap_j_undef(AP_J_NO_VALUE, NULL);
    return ap_j_slice(run, of, from, to, step);
}

static ap_jval eval_call(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jargs args;
    ap_jval f = ap_j_eval(run, s, n->a);
    if (!eval_args(run, s, n->b, &args)) return f;
    run->line = n->line;
    return ap_j_call(run, f, &args);
}

static ap_jval eval_test(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jargs args;
    ap_jval v = ap_j_eval(run, s, n->a);
    if (!eval_args(run, s, n->b, &args)) return v;
    run->line = n->line;
    return ap_j_bool(ap_j_test(run, n->name, v, &args));
}

ap_jval ap_j_eval(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jval r = ap_j_none(), b;
    if (!ap_j_enter(run)) return ap_j_undef(AP_J_NO_VALUE, NULL);
    run->line = n->line;
    switch ((ap_jkind)n->kind) {
    case AP_JN_CONST:
        r = n->value;
        break;
    case AP_JN_NAME:
        r = lookup(run, s, n);
        break;
    case AP_JN_TUPLE:
    case AP_JN_LIST:
        r = eval_items(run, s, n);
        break;
    case AP_JN_DICT:
        r = eval_dict(run, s, n);
        break;
    case AP_JN_ATTR:
        r = ap_j_eval(run, s, n->a);
        run->line = n->line;
        if (!run->failed) r = ap_j_attr(run, r, n->name);
        break;
    case AP_JN_ITEM:
        r = ap_j_eval(run, s, n->a);
        b = ap_j_eval(run, s, n->b);
        run->line = n->line;
        if (!run->failed) r = ap_j_item(run, r, b);
        break;
    case AP_JN_SLICE:
        r = eval_slice(run, s, n);
        break;
    case AP_JN_CALL:
        r = eval_call(run, s, n);
        break;
    case AP_JN_FILTER:
        r = eval_filter(run, s, n);
        break;
    case AP_JN_TEST:
        r = eval_test(run, s, n);
        break;
    case AP_JN_BINARY:
        r = ap_j_eval(run, s, n->a);
        b = ap_j_eval(run, s, n->b);
        run->line = n->line;
        if (!run->failed) r = ap_j_binary(run, n->op, r, b);
        break;
    case AP_JN_UNARY:
        r = eval_unary(run, s, n);
        break;
    case AP_JN_CONCAT:
        r = eval_concat(run, s, n);
        break;
    case AP_JN_COMPARE:
        r = eval_compare(run, s, n);
        break;
    case AP_JN_AND:
        r = ap_j_eval(run, s, n->a);
        if (ap_j_truth(r)) r = ap_j_eval(run, s, n->b);
        break;
    case AP_JN_OR:
        r = ap_j_eval(run, s, n->a);
        if (!ap_j_truth(r)) r = ap_j_eval(run, s, n->b);
        break;
    case AP_JN_NOT:
        r = ap_j_bool(!ap_j_truth(ap_j_eval(run, s, n->a)));
        break;
    case AP_JN_COND:
        if (ap_j_truth(ap_j_eval(run, s, n->a)))
            r = ap_j_eval(run, s, n->b);
        else
            r = n->c ? ap_j_eval(run, s, n->c) : ap_j_undef(AP_J_NO_VALUE, NULL);
        break;
    default:
        r = ap_j_fail(run, "this expression cannot be evaluated");
    }
    ap_j_leave(run);
    return r;
}

/* ---------------------------------------------------------------- operators */

static ap_jval undefined_error(ap_jrun *run, ap_jval v)
{
    if (v.sub == AP_J_NO_NAME && v.s)
        return ap_j_fail(run, "'%.*s' is undefined", (int)v.s->len, v.s->s);
    if (v.sub == AP_J_NO_ATTR && v.s)
        return ap_j_fail(run, "'%s' has no attribute '%.*s'",
                         ap_j_type_name((ap_jval){.type = v.of}), (int)v.s->len, v.s->s);
    if (v.sub == AP_J_UNSAFE && v.s)
        return ap_j_fail(run, "access to attribute '%.*s' is not safe", (int)v.s->len, v.s->s);
    return ap_j_fail(run, "an undefined value is used");
}

static ap_jval repeat(ap_jrun *run, ap_jval what, int64_t times)
{
    if (times < 0) times = 0;
    if (what.type == AP_J_STR) {
        ap_jout o = {0};
        for (int64_t i = 0; i < times && what.s->len && !run->failed && ap_j_spend(run, 1); i++)
            ap_j_put(run, &o, what.s->s, what.s->len);
        return ap_j_strval(ap_j_take(run, &o));
    }
    ap_jlist *l = ap_j_list_new(run, 0);
    for (int64_t i = 0; i < times && what.l->n && !run->failed; i++)
        for (size_t k = 0; k < what.l->n && !run->failed; k++) ap_j_push(run, l, what.l->v[k]);
    return ap_j_listval(l, what.type);
}

static ap_jval add_sequences(ap_jrun *run, ap_jval a, ap_jval b)
{
    if (a.type == AP_J_STR) {
        ap_jout o = {0};
        bool markup = a.s->markup || b.s->markup;
        if (!markup && b.s->len == 0) return a;
        if (!markup && a.s->len == 0) return b;
        if (markup && !a.s->markup)
            ap_j_put_escaped(run, &o, a.s->s, a.s->len);
        else
            ap_j_put(run, &o, a.s->s, a.s->len);
        if (markup && !b.s->markup)
            ap_j_put_escaped(run, &o, b.s->s, b.s->len);
        else
            ap_j_put(run, &o, b.s->s, b.s->len);
        ap_jval r = ap_j_strval(ap_j_take(run, &o));
        ap_jstr *m = markup ? ap_j_alloc(run, 1, sizeof *m) : NULL;
        if (!m) return r;
        *m = *r.s;
        m->markup = true;
        return ap_j_strval(m);
    }
    ap_jlist *l = ap_j_list_new(run, a.l->n + b.l->n);
    for (size_t i = 0; i < a.l->n; i++) ap_j_push(run, l, a.l->v[i]);
    for (size_t i = 0; i < b.l->n; i++) ap_j_push(run, l, b.l->v[i]);
    return ap_j_listval(l, a.type);
}

static ap_jval int_power(ap_jrun *run, int64_t base, int64_t exp)
{
    int64_t r = 1;
    if (exp < 0) {
        if (base == 0) return ap_j_fail(run, "0.0 cannot be raised to a negative power");
        return ap_j_float(pow((double)base, (double)exp));
    }
    if (base == 0 || base == 1) return ap_j_int(exp == 0 ? 1 : base);
    if (base == -1) return ap_j_int(exp & 1 ? -1 : 1);
    for (; exp > 0; exp--)
        if (__builtin_mul_overflow(r, base, &r))
            return ap_j_fail(run, "an integer is beyond 64 bits");
    return ap_j_int(r);
}

static ap_jval int_op(ap_jrun *run, uint8_t op, int64_t a, int64_t b)
{
    int64_t r = 0;
    bool over = false;
    if ((op == AP_JT_DIV || op == AP_JT_FLOORDIV || op == AP_JT_MOD) && b == 0)
        return ap_j_fail(run, "division by zero");
    switch (op) {
    case AP_JT_ADD:
        over = __builtin_add_overflow(a, b, &r);
        break;
    case AP_JT_SUB:
        over = __builtin_sub_overflow(a, b, &r);
        break;
    case AP_JT_MUL:
        over = __builtin_mul_overflow(a, b, &r);
        break;
    case AP_JT_DIV:
        return ap_j_float((double)a / (double)b);
    case AP_JT_FLOORDIV:
        if (b == -1) {
            over = __builtin_sub_overflow((int64_t)0, a, &r);
            break;
        }
        r = a / b - (a % b != 0 && (a % b < 0) != (b < 0));
        break;
    case AP_JT_MOD:
        r = b == -1 ? 0 : a % b;
        if (r != 0 && (r < 0) != (b < 0)) r += b;
        break;
    default:
        return int_power(run, a, b);
    }
    return over ? ap_j_fail(run, "an integer is beyond 64 bits") : ap_j_int(r);
}

static ap_jval float_op(ap_jrun *run, uint8_t op, double a, double b)
{
    if ((op == AP_JT_DIV || op == AP_JT_FLOORDIV || op == AP_JT_MOD) && b == 0)
        return ap_j_fail(run, "float division by zero");
    double m;
    switch (op) {
    case AP_JT_ADD:
        return ap_j_float(a + b);
    case AP_JT_SUB:
        return ap_j_float(a - b);
    case AP_JT_MUL:
        return ap_j_float(a * b);
    case AP_JT_DIV:
        return ap_j_float(a / b);
    case AP_JT_FLOORDIV: /* as CPython: from the remainder, then to the nearest whole number */
    case AP_JT_MOD:
        m = fmod(a, b);
        if (m != 0 && (b < 0) != (m < 0))
            m += b;
        else if (m == 0)
            m = copysign(0, b);
        if (op == AP_JT_MOD) return ap_j_float(m);
        m = (a - m) / b;
        return ap_j_float(m == 0               ? copysign(0, a / b)
                          : m - floor(m) > 0.5 ? floor(m) + 1
                                               : floor(m));
    default:
        if (a == 0 && b < 0) return ap_j_fail(run, "0.0 cannot be raised to a negative power");
        if (a < 0 && b != floor(b)) return ap_j_fail(run, "complex numbers are not supported");
        m = pow(a, b);
        if (isinf(m) && !isinf(a) && !isinf(b))
            return ap_j_fail(run, "numerical result out of range");
        return ap_j_float(m);
    }
}

ap_jval ap_j_binary(ap_jrun *run, uint8_t op, ap_jval a, ap_jval b)
{
    int64_t x = 0, y = 0;
    if (ap_j_string_of(a)) a = ap_j_strval(ap_j_string_of(a));
    if (ap_j_string_of(b) && op != AP_JT_MOD) b = ap_j_strval(ap_j_string_of(b));
    bool ai = ap_j_as_int(a, &x), bi = ap_j_as_int(b, &y);
    bool a_seq = a.type == AP_J_STR || a.type == AP_J_LIST || a.type == AP_J_TUPLE;
    bool b_seq = b.type == AP_J_STR || b.type == AP_J_LIST || b.type == AP_J_TUPLE;
    if (run->failed) return a;
    if (ai && bi) return int_op(run, op, x, y);
    if (op == AP_JT_MOD && a.type == AP_J_STR) return ap_j_percent(run, a.s, b);
    if (a.type == AP_J_UNDEF) return undefined_error(run, a);
    if (b.type == AP_J_UNDEF) return undefined_error(run, b);
    if (a.type == AP_J_BIG || b.type == AP_J_BIG)
        return ap_j_fail(run, "arithmetic with an integer beyond 64 bits is not supported");
    if (ap_j_is_num(a) && ap_j_is_num(b))
        return float_op(run, op, ap_j_as_double(a), ap_j_as_double(b));
    if (op == AP_JT_ADD && a_seq && a.type == b.type) return add_sequences(run, a, b);
    if (op == AP_JT_MUL && a_seq && bi) return repeat(run, a, y);
    if (op == AP_JT_MUL && ai && b_seq) return repeat(run, b, x);
    static const char *const names[] = {
        [AP_JT_ADD] = "+",       [AP_JT_SUB] = "-", [AP_JT_MUL] = "*", [AP_JT_DIV] = "/",
        [AP_JT_FLOORDIV] = "//", [AP_JT_MOD] = "%", [AP_JT_POW] = "**"};
    return ap_j_fail(run, "unsupported operand types for %s: '%s' and '%s'", names[op],
                     ap_j_type_name(a), ap_j_type_name(b));
}

/* ---------------------------------------------------------------- statements */

/* Run a body with its output caught; NULL: failed, or left by break or continue. */
static const ap_jstr *capture(ap_jrun *run, ap_jscope *s, const ap_jnode *body)
{
    ap_jout o = {0}, *outer = run->out;
    run->out = &o;
    ap_j_exec(run, s, body);
    run->out = outer;
    const ap_jstr *r = ap_j_take(run, &o);
    return run->failed || run->jump ? NULL : r;
}

static ap_jval filtered(ap_jrun *run, ap_jscope *s, const ap_jnode *filter, const ap_jstr *text)
{
    const ap_jstr *outer = run->captured;
    run->captured = text;
    ap_jval v = filter ? ap_j_eval(run, s, filter) : ap_j_strval(text);
    run->captured = outer;
    return v;
}

bool ap_j_loop_fill(ap_jrun *run, ap_jloop *loop, size_t n)
{
    ap_jval x;
    while (loop->base + loop->seen->n < n && !loop->ended && !run->failed) {
        if (!ap_j_iter_next(run, loop->cursor, &x)) {
            loop->ended = true;
            break;
        }
        if (loop->node->c) {
            if (loop->busy) {
                ap_j_fail(run, "a loop's filter cannot ask for the loop's own items");
                break;
            }
            ap_jscope *s = scope_new(run, loop->scope, NULL);
            if (!s) break;
            loop->busy = true;
            assign(run, s, loop->node->a, x);
            bool keep = ap_j_truth(ap_j_eval(run, s, loop->node->c));
            loop->busy = false;
            if (!keep) continue;
        }
        ap_j_push(run, loop->seen, x);
    }
    return loop->base + loop->seen->n >= n && !run->failed;
}

/* Drop items that nothing can ask for any more, so that a long loop needs little memory. */
static void forget(ap_jloop *loop)
{
    size_t old = loop->index0 - loop->base;
    if (old < 64 || old < loop->seen->n / 2) return;
    old--; /* previtem */
    memmove(loop->seen->v, loop->seen->v + old, (loop->seen->n - old) * sizeof *loop->seen->v);
    loop->seen->n -= old;
    loop->base += old;
}

static void run_loop(ap_jrun *run, ap_jscope *s, const ap_jnode *n, ap_jval over, int depth0)
{
    ap_jcursor c;
    int sym = run->t->special[AP_JS_LOOP];
    ap_jloop *loop = ap_j_alloc(run, 1, sizeof *loop);
    if (!loop || !ap_j_iter_open(run, over, &c)) return;
    /* The cursor lives in the run's memory: a loop object may outlive this call. */
    ap_jcursor *cursor = ap_j_alloc(run, 1, sizeof *cursor);
    if (!cursor) return;
    *cursor = c;
    *loop = (ap_jloop){.source = over,
                       .cursor = cursor,
                       .node = n,
                       .scope = s,
                       .seen = ap_j_list_new(run, 0),
                       .depth0 = depth0};
    ap_jscope *body = NULL;
    bool any = false;
    for (size_t i = 0; ap_j_loop_fill(run, loop, i + 1); i++) {
        any = true;
        loop->index0 = i;
        forget(loop);
        body = scope_again(run, body, s, n);
        if (!body) break;
        if (sym >= 0) bind(run, body, sym, (ap_jval){.type = AP_J_LOOP, .loop = loop});
        assign(run, body, n->a, loop->seen->v[i - loop->base]);
        ap_j_exec(run, body, n->d);
        uint8_t jump = run->jump;
        run->jump = 0;
        if (jump == AP_JN_BREAK) break;
    }
    if (!any && n->e && !run->failed) {
        ap_jscope *other = scope_new(run, s, NULL);
        if (other) ap_j_exec(run, other, n->e);
    }
}

ap_jval ap_j_call_loop(ap_jrun *run, ap_jloop *loop, ap_jval iterable)
{
    if (!loop->node->recursive)
        return ap_j_fail(run, "the loop must be marked recursive to be called");
    ap_jout o = {0}, *outer = run->out;
    run->out = &o;
    run_loop(run, loop->scope, loop->node, iterable, loop->depth0 + 1);
    run->out = outer;
    return ap_j_strval(ap_j_take(run, &o));
}

static void exec_for(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jval over = ap_j_eval(run, s, n->b);
    run->line = n->line;
    if (!run->failed) run_loop(run, s, n, over, 0);
}

static void exec_if(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    for (;;) {
        if (ap_j_truth(ap_j_eval(run, s, n->a))) {
            ap_j_exec(run, s, n->b);
            return;
        }
        if (run->failed || !n->c) return;
        if (n->c->kind != AP_JN_IF || !n->c->op) break;
        n = n->c;
    }
    ap_j_exec(run, s, n->c);
}

static ap_jval make_macro(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jmacro *m = ap_j_alloc(run, 1, sizeof *m);
    if (!m) return ap_j_none();
    m->node = n;
    m->scope = s;
    for (ap_jscope *o = s; o && !o->kept; o = o->parent) o->kept = true;
    for (const ap_jnode *a = n->a; a; a = a->next) m->n_params++;
    return (ap_jval){.type = AP_J_MACRO, .m = m};
}

static void bind_special(ap_jrun *run, ap_jscope *s, int which, ap_jval v)
{
    int sym = run->t->special[which];
    if (sym >= 0) bind(run, s, sym, v);
}

/* The arguments a macro did not name: varargs, kwargs, caller. `used` marks keywords taken. */
static void macro_rest(ap_jrun *run, const ap_jmacro *m, const ap_jargs *args, const bool *used,
                       ap_jscope *s)
{
    size_t n_params = (size_t)m->n_params;
    ap_jdict *rest = ap_j_dict_new(run);
    ap_jval caller = ap_j_undef(AP_J_NO_VALUE, NULL);
    const char *name = m->node->name ? "the macro" : "the caller";
    for (size_t i = 0; i < args->n_kw && !run->failed; i++) {
        const ap_jstr *k = args->kw[i].name;
        if (used[i]) continue;
        if (m->node->has_caller && ap_j_str_is(k, "caller"))
            caller = args->kw[i].v;
        else if (m->node->has_kwargs)
            ap_j_dict_set(run, rest, ap_j_strval(k), args->kw[i].v);
        else
            ap_j_fail(run, "%s takes no keyword argument '%.*s'", name, (int)k->len, k->s);
    }
    if (m->node->has_caller) bind_special(run, s, AP_JS_CALLER, caller);
    if (m->node->has_kwargs)
        bind_special(run, s, AP_JS_KWARGS, (ap_jval){.type = AP_J_DICT, .d = rest});
    if (args->n > n_params && !m->node->has_varargs)
        ap_j_fail(run, "%s takes not more than %zu arguments", name, n_params);
    if (m->node->has_varargs) {
        ap_jlist *l = ap_j_list_new(run, 0);
        for (size_t i = n_params; i < args->n; i++) ap_j_push(run, l, args->v[i]);
        bind_special(run, s, AP_JS_VARARGS, ap_j_listval(l, AP_J_TUPLE));
    }
}

ap_jval ap_j_call_macro(ap_jrun *run, const ap_jmacro *m, const ap_jargs *args)
{
    ap_jval r = ap_j_undef(AP_J_NO_VALUE, NULL);
    if (!ap_j_enter(run)) return r;
    ap_jscope *s = scope_new(run, m->scope, m->node);
    bool *used = ap_j_alloc(run, args->n_kw + 1, 1);
    ap_j_spend(run, (uint64_t)m->n_params * (args->n_kw + (uint64_t)m->n_params) / 8);
    size_t i = 0;
    if (!s || !used) goto done;
    /* All parameters hide what is outside before the first default is read. */
    for (const ap_jnode *a = m->node->a; a; a = a->next, i++) {
        ap_jval v = i < args->n ? args->v[i] : ap_j_undef(AP_J_ABSENT, NULL);
        for (size_t k = 0; i >= args->n && k < args->n_kw; k++) {
            const ap_jstr *name = args->kw[k].name;
            if (used[k] || name->len != a->name->len || memcmp(name->s, a->name->s, name->len))
                continue;
            used[k] = true;
            v = args->kw[k].v;
        }
        bind(run, s, a->sym, v);
    }
    macro_rest(run, m, args, used, s);
    for (const ap_jnode *a = m->node->a; a && !run->failed; a = a->next)
        for (ap_jbind *b = s->first; b; b = b->next)
            if (b->sym == a->sym && ap_j_absent(b->v) && a->b) {
                b->v = ap_j_eval(run, s, a->b);
                break;
            }
    if (!run->failed) {
        const ap_jstr *text = capture(run, s, m->node->d);
        if (text) r = ap_j_strval(text);
    }
done:
    ap_j_leave(run);
    return r;
}

static void exec_call_block(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jargs args;
    ap_jval f = ap_j_eval(run, s, n->c->a);
    if (run->failed || !eval_args(run, s, n->c->b, &args)) return;
    ap_jkw *kw = ap_j_alloc(run, args.n_kw + 1, sizeof *kw);
    ap_jstr *name = ap_j_alloc(run, 1, sizeof *name);
    if (!kw || !name) return;
    if (args.n_kw) memcpy(kw, args.kw, args.n_kw * sizeof *kw);
    *name = (ap_jstr){.s = "caller", .len = 6, .n_cp = 6};
    kw[args.n_kw++] = (ap_jkw){name, make_macro(run, s, n)};
    args.kw = kw;
    run->line = n->line;
    ap_jval v = ap_j_call(run, f, &args);
    if (!run->failed) ap_j_put_str(run, run->out, v);
}

static void exec_with(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jscope *in = scope_new(run, s, n);
    if (!in) return;
    for (const ap_jnode *t = n->a, *v = n->b; t && v && !run->failed; t = t->next, v = v->next)
        assign(run, in, t, ap_j_eval(run, s, v));
    ap_j_exec(run, in, n->d);
}

static void exec_one(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    ap_jscope *in;
    const ap_jstr *text;
    ap_jval v;
    switch ((ap_jkind)n->kind) {
    case AP_JN_TEXT:
        ap_j_put(run, run->out, n->value.s->s, n->value.s->len);
        break;
    case AP_JN_PRINT:
        v = ap_j_eval(run, s, n->a);
        if (!run->failed) ap_j_put_str(run, run->out, v);
        break;
    case AP_JN_IF:
        exec_if(run, s, n);
        break;
    case AP_JN_FOR:
        exec_for(run, s, n);
        break;
    case AP_JN_SET:
        assign(run, s, n->a, ap_j_eval(run, s, n->b));
        break;
    case AP_JN_SETBLOCK:
        in = scope_new(run, s, n);
        text = in ? capture(run, in, n->d) : NULL;
        if (text) assign(run, s, n->a, filtered(run, in, n->b, text));
        break;
    case AP_JN_MACRO:
        bind(run, s, n->sym, make_macro(run, s, n));
        break;
    case AP_JN_CALLBLOCK:
        exec_call_block(run, s, n);
        break;
    case AP_JN_FILTERBLOCK:
        in = scope_new(run, s, n);
        text = in ? capture(run, in, n->d) : NULL;
        if (!text) break;
        v = filtered(run, in, n->b, text);
        if (!run->failed) ap_j_put_str(run, run->out, v);
        break;
    case AP_JN_WITH:
        exec_with(run, s, n);
        break;
    case AP_JN_SCOPE:
        in = scope_new(run, s, n);
        if (in) ap_j_exec(run, in, n->d);
        break;
    case AP_JN_BREAK:
    case AP_JN_CONTINUE:
        run->jump = n->kind;
        break;
    default:
        ap_j_fail(run, "this statement cannot be run");
    }
}

void ap_j_exec(ap_jrun *run, ap_jscope *s, const ap_jnode *n)
{
    if (!ap_j_enter(run)) return;
    for (; n && !run->failed && !run->jump; n = n->next) {
        if (!ap_j_spend(run, 1)) break;
        run->line = n->line;
        exec_one(run, s, n);
    }
    ap_j_leave(run);
}
