/* jinja_parse.c - tokens to a syntax tree, by recursive descent with bounded depth. */
#include <string.h>

#include "base/mem.h"
#include "text/jinja/jinja.h"

enum { MAX_PARSE_DEPTH = 400, MAX_SYMS = 4096, MAX_ARGS = 255 };

typedef struct parser {
    ap_jrun *run;
    const ap_jtoken *t; /* current */
    const ap_jtoken *last;
    uint32_t *slots;  /* symbol hash: index + 1 */
    int loops;        /* for loops around this place, as far as break can reach */
    bool in_for;      /* anywhere below a for statement */
    unsigned special; /* names macros get on demand that were mentioned: SPECIAL_* */
} parser;

enum { N_SLOTS = 8192 };
enum { SPECIAL_CALLER = 1, SPECIAL_KWARGS = 2, SPECIAL_VARARGS = 4 };

static ap_jnode *expression(parser *p);
static ap_jnode *unary(parser *p, bool with_filter);
static ap_jnode *or_expr(parser *p);
static ap_jnode *body(parser *p, const char *ends);

static ap_jnode *fail(parser *p, const char *what)
{
    p->run->line = p->t->line;
    ap_j_fail(p->run, "%s", what);
    return NULL;
}

static const char *describe(const ap_jtoken *t, char buf[64])
{
    static const char *const text[] = {"end of template",
                                       "text",
                                       "{{",
                                       "}}",
                                       "{%",
                                       "%}",
                                       "",
                                       "a string",
                                       "a number",
                                       "a number",
                                       "//",
                                       "**",
                                       "==",
                                       "!=",
                                       ">=",
                                       "<=",
                                       "+",
                                       "-",
                                       "/",
                                       "*",
                                       "%",
                                       "~",
                                       "[",
                                       "]",
                                       "(",
                                       ")",
                                       "{",
                                       "}",
                                       ">",
                                       "<",
                                       "=",
                                       ".",
                                       ":",
                                       "|",
                                       ",",
                                       ";"};
    if (t->type != AP_JT_NAME) return text[t->type];
    size_t n = t->v.s->len < 60 ? t->v.s->len : 60;
    memcpy(buf, t->v.s->s, n);
    buf[n] = 0;
    return buf;
}

static ap_jnode *unexpected(parser *p, const char *wanted)
{
    char buf[64];
    p->run->line = p->t->line;
    ap_j_fail(p->run, "expected %s, found %s", wanted, describe(p->t, buf));
    return NULL;
}

static void next(parser *p)
{
    if (p->t < p->last) p->t++;
}

static bool is(const parser *p, ap_jtok type)
{
    return p->t->type == type;
}

static bool is_name(const ap_jtoken *t, const char *name)
{
    return t->type == AP_JT_NAME && ap_j_str_is(t->v.s, name);
}

static bool skip(parser *p, ap_jtok type)
{
    if (!is(p, type)) return false;
    next(p);
    return true;
}

static bool skip_name(parser *p, const char *name)
{
    if (!is_name(p->t, name)) return false;
    next(p);
    return true;
}

static bool expect(parser *p, ap_jtok type, const char *what)
{
    if (p->run->failed) return false;
    if (skip(p, type)) return true;
    unexpected(p, what);
    return false;
}

static const ap_jtoken *look(const parser *p)
{
    return p->t < p->last ? p->t + 1 : p->t;
}

static bool enter(parser *p)
{
    if (p->run->failed) return false;
    if (p->run->depth >= MAX_PARSE_DEPTH) {
        p->run->line = p->t->line;
        ap_j_fail(p->run, "nesting is deeper than the limit of %d levels", MAX_PARSE_DEPTH);
        return false;
    }
    p->run->depth++;
    return true;
}

static ap_jnode *node(parser *p, ap_jkind kind, int line)
{
    ap_jnode *n = ap_j_alloc(p->run, 1, sizeof *n);
    if (!n) return NULL;
    n->kind = (uint8_t)kind;
    n->line = line;
    n->sym = -1;
    return n;
}

static ap_jnode *node2(parser *p, ap_jkind kind, int line, ap_jnode *a, ap_jnode *b)
{
    ap_jnode *n = node(p, kind, line);
    if (n) {
        n->a = a;
        n->b = b;
    }
    return n;
}

/* Index of a variable's name; -1: failed. */
static int symbol(parser *p, const ap_jstr *name)
{
    ap_template *t = p->run->t;
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < name->len; i++) h = (h ^ (uint8_t)name->s[i]) * 16777619u;
    for (uint32_t i = h & (N_SLOTS - 1);; i = (i + 1) & (N_SLOTS - 1)) {
        if (p->slots[i]) {
            const ap_jstr *s = t->syms[p->slots[i] - 1];
            if (s->len == name->len && memcmp(s->s, name->s, s->len) == 0)
                return (int)p->slots[i] - 1;
            continue;
        }
        if (t->n_syms == MAX_SYMS) {
            p->run->line = p->t->line;
            ap_j_fail(p->run, "more names than the limit of %d", MAX_SYMS);
            return -1;
        }
        t->syms[t->n_syms++] = name;
        p->slots[i] = (uint32_t)t->n_syms;
        return t->n_syms - 1;
    }
}

static ap_jnode *name_node(parser *p, const ap_jtoken *t)
{
    ap_jnode *n = node(p, AP_JN_NAME, t->line);
    if (!n) return NULL;
    n->name = t->v.s;
    n->sym = symbol(p, t->v.s);
    if (is_name(t, "caller")) p->special |= SPECIAL_CALLER;
    if (is_name(t, "kwargs")) p->special |= SPECIAL_KWARGS;
    if (is_name(t, "varargs")) p->special |= SPECIAL_VARARGS;
    return n->sym < 0 ? NULL : n;
}

static bool name_in(const ap_jstr *s, const char *const *list)
{
    for (; *list; list++)
        if (ap_j_str_is(s, *list)) return true;
    return false;
}

static void append(ap_jnode ***tail, ap_jnode *n)
{
    if (!n) return;
    **tail = n;
    *tail = &n->next;
}

/* ---------------------------------------------------------------- expressions */

static bool tuple_end(const parser *p, const char *extra)
{
    return is(p, AP_JT_VAR_END) || is(p, AP_JT_BLOCK_END) || is(p, AP_JT_RPAREN) ||
           (extra && is_name(p->t, extra));
}

static ap_jnode *primary(parser *p, bool with_namespace);

enum { TUPLE_SIMPLE = 1, TUPLE_NO_COND = 2, TUPLE_PARENS = 4, TUPLE_NS = 8 };

static ap_jnode *tuple(parser *p, int flags, const char *extra)
{
    int line = p->t->line;
    ap_jnode *first = NULL, **tail = &first;
    bool is_tuple = false;
    while (!p->run->failed) {
        if (first && !expect(p, AP_JT_COMMA, "a comma")) return NULL;
        if (tuple_end(p, extra)) break;
        append(&tail, flags & TUPLE_SIMPLE    ? primary(p, flags & TUPLE_NS)
                      : flags & TUPLE_NO_COND ? or_expr(p)
                                              : expression(p));
        if (!is(p, AP_JT_COMMA)) break;
        is_tuple = true;
    }
    if (p->run->failed) return NULL;
    if (!is_tuple) {
        if (first) return first;
        if (!(flags & TUPLE_PARENS)) return unexpected(p, "an expression");
    }
    return node2(p, AP_JN_TUPLE, line, first, NULL);
}

static ap_jnode *list(parser *p)
{
    ap_jnode *n = node(p, AP_JN_LIST, p->t->line);
    if (!n) return NULL;
    ap_jnode **tail = &n->a;
    next(p);
    while (!p->run->failed && !is(p, AP_JT_RBRACKET)) {
        if (n->a && !expect(p, AP_JT_COMMA, "a comma")) return NULL;
        if (is(p, AP_JT_RBRACKET)) break;
        append(&tail, expression(p));
    }
    return expect(p, AP_JT_RBRACKET, "]") ? n : NULL;
}

static ap_jnode *dict(parser *p)
{
    ap_jnode *n = node(p, AP_JN_DICT, p->t->line);
    if (!n) return NULL;
    ap_jnode **tail = &n->a;
    next(p);
    while (!p->run->failed && !is(p, AP_JT_RBRACE)) {
        if (n->a && !expect(p, AP_JT_COMMA, "a comma")) return NULL;
        if (is(p, AP_JT_RBRACE)) break;
        append(&tail, expression(p));
        if (!expect(p, AP_JT_COLON, "a colon")) return NULL;
        append(&tail, expression(p));
    }
    return expect(p, AP_JT_RBRACE, "}") ? n : NULL;
}

static ap_jnode *const_node(parser *p, int line, ap_jval v)
{
    ap_jnode *n = node(p, AP_JN_CONST, line);
    if (n) n->value = v;
    return n;
}

static ap_jnode *name_or_const(parser *p, bool with_namespace)
{
    const ap_jtoken *t = p->t;
    next(p);
    if (is_name(t, "true") || is_name(t, "True")) return const_node(p, t->line, ap_j_bool(true));
    if (is_name(t, "false") || is_name(t, "False")) return const_node(p, t->line, ap_j_bool(false));
    if (is_name(t, "none") || is_name(t, "None")) return const_node(p, t->line, ap_j_none());
    ap_jnode *n = name_node(p, t);
    if (!n || !with_namespace || !is(p, AP_JT_DOT)) return n;
    next(p);
    n->kind = AP_JN_NSREF;
    n->name = is(p, AP_JT_NAME) ? p->t->v.s : NULL;
    return expect(p, AP_JT_NAME, "a name") ? n : NULL;
}

static ap_jnode *strings(parser *p)
{
    const ap_jtoken *t = p->t;
    next(p);
    if (!is(p, AP_JT_STRING)) return const_node(p, t->line, t->v);
    ap_jout o = {0};
    ap_j_put(p->run, &o, t->v.s->s, t->v.s->len);
    for (; is(p, AP_JT_STRING); next(p)) ap_j_put(p->run, &o, p->t->v.s->s, p->t->v.s->len);
    return const_node(p, t->line, ap_j_strval(ap_j_take(p->run, &o)));
}

static ap_jnode *primary(parser *p, bool with_namespace)
{
    if (!enter(p)) return NULL;
    const ap_jtoken *t = p->t;
    ap_jnode *n = NULL;
    switch (t->type) {
    case AP_JT_NAME:
        n = name_or_const(p, with_namespace);
        break;
    case AP_JT_STRING:
        n = strings(p);
        break;
    case AP_JT_INT:
    case AP_JT_FLOAT:
        next(p);
        n = const_node(p, t->line, t->v);
        break;
    case AP_JT_LPAREN:
        next(p);
        n = tuple(p, TUPLE_PARENS, NULL);
        if (!expect(p, AP_JT_RPAREN, ")")) n = NULL;
        break;
    case AP_JT_LBRACKET:
        n = list(p);
        break;
    case AP_JT_LBRACE:
        n = dict(p);
        break;
    default:
        unexpected(p, "an expression");
    }
    ap_j_leave(p->run);
    return n;
}

/* Arguments from "(" on, as ARG nodes. */
static bool call_args(parser *p, ap_jnode **out)
{
    ap_jnode **tail = out;
    bool comma = false, kw = false, star = false, starstar = false;
    int count = 0;
    if (!expect(p, AP_JT_LPAREN, "(")) return false;
    while (!p->run->failed && !is(p, AP_JT_RPAREN)) {
        if (comma) {
            if (!expect(p, AP_JT_COMMA, "a comma")) return false;
            if (is(p, AP_JT_RPAREN)) break;
        }
        ap_jnode *n = node(p, AP_JN_ARG, p->t->line);
        if (!n) return false;
        if (++count > MAX_ARGS) {
            fail(p, "a call has more than 255 arguments");
            return false;
        }
        bool fine = true;
        if (is(p, AP_JT_MUL)) {
            fine = !star && !starstar;
            star = true;
            n->op = AP_JA_STAR;
            next(p);
        } else if (is(p, AP_JT_POW)) {
            fine = !starstar;
            starstar = true;
            n->op = AP_JA_STARSTAR;
            next(p);
        } else if (is(p, AP_JT_NAME) && look(p)->type == AP_JT_ASSIGN) {
            fine = !starstar;
            kw = true;
            n->op = AP_JA_KW;
            n->name = p->t->v.s;
            next(p);
            next(p);
        } else {
            fine = !star && !starstar && !kw;
        }
        if (!fine) {
            fail(p, "the arguments of a call are in an order that is not allowed");
            return false;
        }
        if (n->op == AP_JA_KW)
            for (const ap_jnode *o = *out; o; o = o->next)
                fine &= o->op != AP_JA_KW || o->name->len != n->name->len ||
                        memcmp(o->name->s, n->name->s, n->name->len) != 0;
        if (!fine) {
            fail(p, "a keyword argument is repeated");
            return false;
        }
        n->a = expression(p);
        append(&tail, n);
        comma = true;
    }
    return expect(p, AP_JT_RPAREN, ")");
}

static ap_jnode *slice_or_index(parser *p, ap_jnode *of, int line)
{
    ap_jnode *from = NULL;
    if (!is(p, AP_JT_COLON)) {
        from = expression(p);
        if (!is(p, AP_JT_COLON)) return node2(p, AP_JN_ITEM, line, of, from);
    }
    next(p);
    ap_jnode *n = node2(p, AP_JN_SLICE, line, of, from);
    if (!n) return NULL;
    if (!is(p, AP_JT_COLON) && !is(p, AP_JT_RBRACKET) && !is(p, AP_JT_COMMA)) n->c = expression(p);
    if (skip(p, AP_JT_COLON) && !is(p, AP_JT_RBRACKET) && !is(p, AP_JT_COMMA)) n->d = expression(p);
    return n;
}

static ap_jnode *subscript(parser *p, ap_jnode *of)
{
    int line = p->t->line;
    ap_jnode *n = NULL;
    if (skip(p, AP_JT_DOT)) {
        const ap_jtoken *t = p->t;
        next(p);
        if (t->type == AP_JT_NAME) {
            n = node2(p, AP_JN_ATTR, line, of, NULL);
            if (n) n->name = t->v.s;
            return n;
        }
        if (t->type != AP_JT_INT) return unexpected(p, "a name or a number behind the dot");
        return node2(p, AP_JN_ITEM, line, of, const_node(p, line, t->v));
    }
    next(p); /* [ */
    if (is(p, AP_JT_RBRACKET)) {
        next(p);
        return node2(p, AP_JN_ITEM, line, of, node(p, AP_JN_TUPLE, line));
    }
    n = slice_or_index(p, of, line);
    if (!n || p->run->failed) return NULL;
    if (is(p, AP_JT_COMMA)) {
        if (n->kind == AP_JN_SLICE)
            return fail(p, "several subscripts with slices are not supported");
        ap_jnode *t = node2(p, AP_JN_TUPLE, line, n->b, NULL), **tail = n->b ? &n->b->next : NULL;
        while (t && tail && !p->run->failed && !is(p, AP_JT_RBRACKET)) {
            if (!expect(p, AP_JT_COMMA, "a comma")) return NULL;
            append(&tail, expression(p));
        }
        n->b = t;
    }
    return expect(p, AP_JT_RBRACKET, "]") ? n : NULL;
}

static ap_jnode *call(parser *p, ap_jnode *f)
{
    ap_jnode *n = node2(p, AP_JN_CALL, p->t->line, f, NULL);
    return n && call_args(p, &n->b) ? n : NULL;
}

/* A chain of postfixes is a tree as deep as it is long, so it counts as nesting. */
static bool deeper(parser *p, int *entered)
{
    if (!enter(p)) return false;
    (*entered)++;
    return true;
}

static ap_jnode *postfix(parser *p, ap_jnode *n)
{
    int entered = 0;
    while (n && !p->run->failed && deeper(p, &entered)) {
        if (is(p, AP_JT_DOT) || is(p, AP_JT_LBRACKET))
            n = subscript(p, n);
        else if (is(p, AP_JT_LPAREN))
            n = call(p, n);
        else
            break;
    }
    p->run->depth -= entered;
    return n;
}

/* a.b.c as one name */
static const ap_jstr *dotted(parser *p)
{
    const ap_jstr *s = is(p, AP_JT_NAME) ? p->t->v.s : NULL;
    if (!expect(p, AP_JT_NAME, "a name")) return NULL;
    while (!p->run->failed && skip(p, AP_JT_DOT)) {
        ap_jout o = {0};
        ap_j_put(p->run, &o, s->s, s->len);
        ap_j_put(p->run, &o, ".", 1);
        if (is(p, AP_JT_NAME)) ap_j_put(p->run, &o, p->t->v.s->s, p->t->v.s->len);
        s = ap_j_take(p->run, &o);
        expect(p, AP_JT_NAME, "a name");
    }
    return s;
}

/* One filter behind its "|". */
static ap_jnode *filter(parser *p, ap_jnode *of)
{
    int line = p->t->line;
    const ap_jstr *name = dotted(p);
    ap_jnode *n = node2(p, AP_JN_FILTER, line, of, NULL);
    if (!n || p->run->failed) return NULL;
    n->name = name;
    if (is(p, AP_JT_LPAREN) && !call_args(p, &n->b)) return NULL;
    return n;
}

static ap_jnode *test(parser *p, ap_jnode *of)
{
    int line = p->t->line;
    next(p); /* is */
    bool negated = skip_name(p, "not");
    const ap_jstr *name = dotted(p);
    ap_jnode *n = node2(p, AP_JN_TEST, line, of, NULL);
    if (!n || p->run->failed) return NULL;
    n->name = name;
    static const char *const no_arg[] = {"else", "or", "and", NULL};
    if (is(p, AP_JT_LPAREN)) {
        if (!call_args(p, &n->b)) return NULL;
    } else if (is(p, AP_JT_STRING) || is(p, AP_JT_INT) || is(p, AP_JT_FLOAT) ||
               is(p, AP_JT_LBRACKET) || is(p, AP_JT_LBRACE) ||
               (is(p, AP_JT_NAME) && !name_in(p->t->v.s, no_arg))) {
        if (is_name(p->t, "is")) return fail(p, "tests cannot be chained with is");
        ap_jnode *arg = node(p, AP_JN_ARG, p->t->line);
        if (!arg) return NULL;
        arg->op = AP_JA_POS;
        arg->a = postfix(p, primary(p, false));
        n->b = arg;
    }
    return negated ? node2(p, AP_JN_NOT, line, n, NULL) : n;
}

static ap_jnode *filters(parser *p, ap_jnode *n)
{
    int entered = 0;
    while (n && !p->run->failed && deeper(p, &entered)) {
        if (skip(p, AP_JT_PIPE))
            n = filter(p, n);
        else if (is_name(p->t, "is"))
            n = test(p, n);
        else if (is(p, AP_JT_LPAREN))
            n = call(p, n);
        else
            break;
    }
    p->run->depth -= entered;
    return n;
}

static ap_jnode *unary(parser *p, bool with_filter)
{
    if (!enter(p)) return NULL;
    ap_jnode *n;
    if (is(p, AP_JT_SUB) || is(p, AP_JT_ADD)) {
        const ap_jtoken *t = p->t;
        next(p);
        n = node2(p, AP_JN_UNARY, t->line, unary(p, false), NULL);
        if (n) n->op = t->type;
    } else {
        n = primary(p, false);
    }
    n = postfix(p, n);
    if (with_filter) n = filters(p, n);
    ap_j_leave(p->run);
    return p->run->failed ? NULL : n;
}

/* Binary operators of one level: left to right, over the level above. */
static ap_jnode *binary(parser *p, int level)
{
    static const uint8_t ops[3][5] = {
        {AP_JT_ADD, AP_JT_SUB}, {AP_JT_MUL, AP_JT_DIV, AP_JT_FLOORDIV, AP_JT_MOD}, {AP_JT_POW}};
    enum { MATH1, CONCAT, MATH2, POW };
    if (level == CONCAT) {
        ap_jnode *first = binary(p, MATH2);
        if (!first || !is(p, AP_JT_TILDE)) return first;
        ap_jnode *n = node2(p, AP_JN_CONCAT, first->line, first, NULL), **tail = &first->next;
        while (!p->run->failed && skip(p, AP_JT_TILDE)) append(&tail, binary(p, MATH2));
        return n;
    }
    const uint8_t *set = ops[level == MATH1 ? 0 : level == MATH2 ? 1 : 2];
    ap_jnode *left = level == POW ? unary(p, true) : binary(p, level == MATH1 ? CONCAT : POW);
    int entered = 0;
    while (left && !p->run->failed && p->t->type && strchr((const char *)set, p->t->type) &&
           deeper(p, &entered)) {
        const ap_jtoken *t = p->t;
        next(p);
        ap_jnode *right = level == POW ? unary(p, true) : binary(p, level == MATH1 ? CONCAT : POW);
        left = node2(p, AP_JN_BINARY, t->line, left, right);
        if (left) left->op = t->type;
    }
    p->run->depth -= entered;
    return left;
}

static ap_jnode *compare(parser *p)
{
    ap_jnode *first = binary(p, 0), *n = NULL, **tail = NULL;
    while (first && !p->run->failed) {
        uint8_t op = p->t->type;
        if (op == AP_JT_EQ || op == AP_JT_NE || op == AP_JT_GT || op == AP_JT_GE ||
            op == AP_JT_LT || op == AP_JT_LE) {
            next(p);
        } else if (skip_name(p, "in")) {
            op = AP_JT_IN;
        } else if (is_name(p->t, "not") && is_name(look(p), "in")) {
            next(p);
            next(p);
            op = AP_JT_NOTIN;
        } else {
            break;
        }
        if (!n) {
            n = node2(p, AP_JN_COMPARE, first->line, first, NULL);
            if (!n) return NULL;
            tail = &n->b;
        }
        ap_jnode *part = node2(p, AP_JN_COMPARE, p->t->line, binary(p, 0), NULL);
        if (!part) return NULL;
        part->op = op;
        append(&tail, part);
    }
    return n ? n : first;
}

static ap_jnode *not_expr(parser *p)
{
    if (!is_name(p->t, "not")) return compare(p);
    if (!enter(p)) return NULL;
    int line = p->t->line;
    next(p);
    ap_jnode *n = node2(p, AP_JN_NOT, line, not_expr(p), NULL);
    ap_j_leave(p->run);
    return n;
}

static ap_jnode *and_or(parser *p, bool is_or)
{
    ap_jnode *left = is_or ? and_or(p, false) : not_expr(p);
    int entered = 0;
    while (left && !p->run->failed && is_name(p->t, is_or ? "or" : "and") && deeper(p, &entered)) {
        int line = p->t->line;
        next(p);
        left = node2(p, is_or ? AP_JN_OR : AP_JN_AND, line, left,
                     is_or ? and_or(p, false) : not_expr(p));
    }
    p->run->depth -= entered;
    return left;
}

static ap_jnode *or_expr(parser *p)
{
    return and_or(p, true);
}

static ap_jnode *expression(parser *p)
{
    if (!enter(p)) return NULL;
    ap_jnode *n = or_expr(p);
    int entered = 0;
    while (n && !p->run->failed && is_name(p->t, "if") && deeper(p, &entered)) {
        int line = p->t->line;
        next(p);
        ap_jnode *cond = node2(p, AP_JN_COND, line, or_expr(p), n);
        if (!cond) break;
        if (skip_name(p, "else")) cond->c = expression(p);
        n = cond;
    }
    p->run->depth -= entered;
    ap_j_leave(p->run);
    return p->run->failed ? NULL : n;
}

/* ---------------------------------------------------------------- statements */

static bool assignable(parser *p, ap_jnode *n)
{
    if (!n) return false;
    if (n->kind == AP_JN_NSREF) return true;
    if (n->kind == AP_JN_NAME) {
        if (p->in_for && ap_j_str_is(n->name, "loop")) {
            fail(p, "the special variable loop cannot be assigned to");
            return false;
        }
        return true;
    }
    if (n->kind != AP_JN_TUPLE) {
        fail(p, "cannot assign to this expression");
        return false;
    }
    for (ap_jnode *i = n->a; i; i = i->next)
        if (!assignable(p, i)) return false;
    return true;
}

static ap_jnode *target(parser *p, int flags, const char *extra)
{
    ap_jnode *n = tuple(p, TUPLE_SIMPLE | flags, extra);
    return assignable(p, n) ? n : NULL;
}

/* The body of a block up to one of `ends` ("endif|else|..."), whose name is then current. */
static ap_jnode *block(parser *p, const char *ends)
{
    skip(p, AP_JT_COLON);
    if (!expect(p, AP_JT_BLOCK_END, "%}")) return NULL;
    ap_jnode *b = body(p, ends);
    if (!p->run->failed && is(p, AP_JT_EOF)) {
        p->run->line = p->t->line;
        ap_j_fail(p->run, "the template ends inside a block, %s is missing", ends);
    }
    return b;
}

static ap_jnode *block_drop(parser *p, const char *end)
{
    ap_jnode *b = block(p, end);
    next(p);
    return b;
}

static ap_jnode *for_stmt(parser *p)
{
    ap_jnode *n = node(p, AP_JN_FOR, p->t->line);
    if (!n) return NULL;
    bool in_for = p->in_for;
    next(p);
    p->in_for = true;
    n->a = target(p, 0, "in");
    if (p->run->failed) return NULL;
    if (!skip_name(p, "in")) return unexpected(p, "in");
    n->b = tuple(p, TUPLE_NO_COND, "recursive");
    if (skip_name(p, "if")) n->c = expression(p);
    n->recursive = skip_name(p, "recursive");
    p->loops++;
    n->d = block(p, "endfor|else");
    p->loops--;
    if (p->run->failed) return NULL;
    bool has_else = is_name(p->t, "else");
    next(p);
    if (has_else) n->e = block_drop(p, "endfor");
    p->in_for = in_for;
    return n;
}

static ap_jnode *if_stmt(parser *p)
{
    ap_jnode *first = NULL, **at = &first;
    for (;;) {
        ap_jnode *n = node(p, AP_JN_IF, p->t->line);
        if (!n) break;
        n->op = at != &first; /* elif */
        *at = n;
        next(p); /* if or elif */
        n->a = tuple(p, TUPLE_NO_COND, NULL);
        n->b = block(p, "elif|else|endif");
        if (p->run->failed) break;
        if (is_name(p->t, "elif")) {
            at = &n->c;
            continue;
        }
        bool has_else = is_name(p->t, "else");
        next(p);
        if (has_else) n->c = block_drop(p, "endif");
        break;
    }
    return first;
}

static ap_jnode *set_stmt(parser *p)
{
    int line = p->t->line;
    next(p);
    ap_jnode *to = target(p, TUPLE_NS, NULL);
    if (!to) return NULL;
    if (skip(p, AP_JT_ASSIGN)) return node2(p, AP_JN_SET, line, to, tuple(p, 0, NULL));
    ap_jnode *f = NULL;
    while (!p->run->failed && skip(p, AP_JT_PIPE)) f = filter(p, f);
    ap_jnode *n = node2(p, AP_JN_SETBLOCK, line, to, f);
    if (n) n->d = block_drop(p, "endset");
    return n;
}

/* (a, b=1) as NAME nodes with defaults in b */
static bool signature(parser *p, ap_jnode **out)
{
    ap_jnode **tail = out;
    bool defaults = false;
    int count = 0;
    if (!expect(p, AP_JT_LPAREN, "(")) return false;
    while (!p->run->failed && !is(p, AP_JT_RPAREN)) {
        if (*out && !expect(p, AP_JT_COMMA, "a comma")) return false;
        ap_jnode *n = is(p, AP_JT_NAME) ? name_node(p, p->t) : NULL;
        if (!expect(p, AP_JT_NAME, "the name of a parameter") || !n) return false;
        if (++count > MAX_ARGS) {
            fail(p, "a macro has more than 255 parameters");
            return false;
        }
        if (skip(p, AP_JT_ASSIGN)) {
            n->b = expression(p);
            defaults = true;
        } else if (defaults) {
            fail(p, "a parameter without a default follows one that has a default");
            return false;
        }
        append(&tail, n);
    }
    return expect(p, AP_JT_RPAREN, ")");
}

/* Which of the names that macros get on demand are not parameters of this one already. */
static void special_params(ap_jnode *n, unsigned seen)
{
    n->has_caller = seen & SPECIAL_CALLER;
    n->has_kwargs = seen & SPECIAL_KWARGS;
    n->has_varargs = seen & SPECIAL_VARARGS;
    for (ap_jnode *a = n->a; a; a = a->next) {
        if (ap_j_str_is(a->name, "caller")) n->has_caller = false;
        if (ap_j_str_is(a->name, "kwargs")) n->has_kwargs = false;
        if (ap_j_str_is(a->name, "varargs")) n->has_varargs = false;
    }
}

static ap_jnode *macro_stmt(parser *p)
{
    ap_jnode *n = node(p, AP_JN_MACRO, p->t->line);
    bool is_call = is_name(p->t, "call");
    int loops = p->loops;
    if (!n) return NULL;
    next(p);
    p->loops = 0;
    if (is_call) {
        n->kind = AP_JN_CALLBLOCK;
        if (is(p, AP_JT_LPAREN) && !signature(p, &n->a)) return NULL;
        n->c = expression(p);
        if (!n->c || n->c->kind != AP_JN_CALL) return fail(p, "expected a call");
    } else {
        const ap_jtoken *t = p->t;
        if (!expect(p, AP_JT_NAME, "the name of the macro")) return NULL;
        n->name = t->v.s;
        n->sym = symbol(p, t->v.s);
        if (n->sym < 0 || !signature(p, &n->a)) return NULL;
    }
    unsigned special = p->special;
    p->special = 0;
    n->d = block_drop(p, is_call ? "endcall" : "endmacro");
    special_params(n, p->special);
    p->special |= special;
    p->loops = loops;
    return n;
}

static ap_jnode *with_stmt(parser *p)
{
    ap_jnode *n = node(p, AP_JN_WITH, p->t->line);
    if (!n) return NULL;
    ap_jnode **targets = &n->a, **values = &n->b;
    next(p);
    while (!p->run->failed && !is(p, AP_JT_BLOCK_END)) {
        if (n->a && !expect(p, AP_JT_COMMA, "a comma")) return NULL;
        ap_jnode *to = target(p, 0, NULL);
        append(&targets, to);
        if (!expect(p, AP_JT_ASSIGN, "=")) return NULL;
        append(&values, expression(p));
    }
    n->d = block_drop(p, "endwith");
    return n;
}

static ap_jnode *print_stmt(parser *p)
{
    ap_jnode *first = NULL, **tail = &first;
    next(p);
    while (!p->run->failed && !is(p, AP_JT_BLOCK_END)) {
        if (first && !expect(p, AP_JT_COMMA, "a comma")) return NULL;
        append(&tail, node2(p, AP_JN_PRINT, p->t->line, expression(p), NULL));
    }
    return first;
}

static ap_jnode *filter_stmt(parser *p)
{
    ap_jnode *n = node(p, AP_JN_FILTERBLOCK, p->t->line);
    if (!n) return NULL;
    next(p);
    do {
        n->b = filter(p, n->b);
    } while (!p->run->failed && skip(p, AP_JT_PIPE));
    n->d = block_drop(p, "endfilter");
    return n;
}

static ap_jnode *generation_stmt(parser *p)
{
    ap_jnode *n = node(p, AP_JN_SCOPE, p->t->line);
    if (!n) return NULL;
    int loops = p->loops;
    p->loops = 0;
    next(p);
    n->d = block_drop(p, "endgeneration");
    p->loops = loops;
    return n;
}

static ap_jnode *jump_stmt(parser *p, ap_jkind kind)
{
    if (!p->loops) return fail(p, "break and continue stand inside loops only");
    ap_jnode *n = node(p, kind, p->t->line);
    next(p);
    return n;
}

static ap_jnode *statement(parser *p)
{
    const ap_jtoken *t = p->t;
    if (t->type != AP_JT_NAME) return unexpected(p, "the name of a tag");
    if (is_name(t, "for")) return for_stmt(p);
    if (is_name(t, "if")) return if_stmt(p);
    if (is_name(t, "set")) return set_stmt(p);
    if (is_name(t, "macro") || is_name(t, "call")) return macro_stmt(p);
    if (is_name(t, "with")) return with_stmt(p);
    if (is_name(t, "print")) return print_stmt(p);
    if (is_name(t, "filter")) return filter_stmt(p);
    if (is_name(t, "generation")) return generation_stmt(p);
    if (is_name(t, "break")) return jump_stmt(p, AP_JN_BREAK);
    if (is_name(t, "continue")) return jump_stmt(p, AP_JN_CONTINUE);
    char buf[64];
    p->run->line = t->line;
    ap_j_fail(p->run, "the tag '%s' is unknown or not supported", describe(t, buf));
    return NULL;
}

static bool ends_here(const parser *p, const char *ends)
{
    if (!is(p, AP_JT_NAME)) return false;
    const ap_jstr *s = p->t->v.s;
    for (const char *e = ends; *e;) {
        size_t n = strcspn(e, "|");
        if (n == s->len && memcmp(e, s->s, n) == 0) return true;
        e += n + (e[n] == '|');
    }
    return false;
}

static ap_jnode *body(parser *p, const char *ends)
{
    ap_jnode *first = NULL, **tail = &first;
    if (!enter(p)) return NULL;
    while (!p->run->failed && !is(p, AP_JT_EOF)) {
        const ap_jtoken *t = p->t;
        next(p);
        if (t->type == AP_JT_DATA) {
            ap_jnode *n = node(p, AP_JN_TEXT, t->line);
            if (n) n->value = t->v;
            append(&tail, n);
        } else if (t->type == AP_JT_VAR_BEGIN) {
            append(&tail, node2(p, AP_JN_PRINT, t->line, tuple(p, 0, NULL), NULL));
            expect(p, AP_JT_VAR_END, "}}");
        } else if (t->type == AP_JT_BLOCK_BEGIN) {
            if (ends && ends_here(p, ends)) break;
            ap_jnode *n = statement(p);
            append(&tail, n);
            while (*tail) tail = &(*tail)->next; /* print gives several */
            expect(p, AP_JT_BLOCK_END, "%}");
        }
    }
    ap_j_leave(p->run);
    return first;
}

ap_jnode *ap_j_parse(ap_jrun *run, const ap_jtoken *tok, size_t n)
{
    parser p = {.run = run, .t = tok, .last = tok + n - 1};
    run->t->syms = ap_j_alloc(run, MAX_SYMS, sizeof *run->t->syms);
    p.slots = ap_calloc(N_SLOTS, sizeof *p.slots);
    ap_jnode *b = NULL;
    if (!p.slots)
        ap_j_fail_nomem(run);
    else if (run->t->syms)
        b = body(&p, NULL);
    ap_free(p.slots);
    return b;
}
