/* jinja_test.c - the tests behind "is". */
#include <string.h>

#include "text/jinja/jinja.h"

enum {
    T_ODD,
    T_EVEN,
    T_DIVISIBLE,
    T_DEFINED,
    T_UNDEFINED,
    T_FILTER,
    T_TEST,
    T_NONE,
    T_BOOLEAN,
    T_FALSE,
    T_TRUE,
    T_INTEGER,
    T_FLOAT,
    T_LOWER,
    T_UPPER,
    T_STRING,
    T_MAPPING,
    T_NUMBER,
    T_SEQUENCE,
    T_ITERABLE,
    T_CALLABLE,
    T_SAMEAS,
    T_ESCAPED,
    T_IN,
    T_EQ,
    T_NE,
    T_GT,
    T_GE,
    T_LT,
    T_LE
};

static const struct {
    const char *name, *param; /* param NULL: none */
    int what;
} tests[] = {
    {"odd", NULL, T_ODD},
    {"even", NULL, T_EVEN},
    {"divisibleby", "num", T_DIVISIBLE},
    {"defined", NULL, T_DEFINED},
    {"undefined", NULL, T_UNDEFINED},
    {"filter", NULL, T_FILTER},
    {"test", NULL, T_TEST},
    {"none", NULL, T_NONE},
    {"boolean", NULL, T_BOOLEAN},
    {"false", NULL, T_FALSE},
    {"true", NULL, T_TRUE},
    {"integer", NULL, T_INTEGER},
    {"float", NULL, T_FLOAT},
    {"lower", NULL, T_LOWER},
    {"upper", NULL, T_UPPER},
    {"string", NULL, T_STRING},
    {"mapping", NULL, T_MAPPING},
    {"number", NULL, T_NUMBER},
    {"sequence", NULL, T_SEQUENCE},
    {"iterable", NULL, T_ITERABLE},
    {"callable", NULL, T_CALLABLE},
    {"sameas", "other", T_SAMEAS},
    {"escaped", NULL, T_ESCAPED},
    {"in", "seq", T_IN},
    {"eq", "b", T_EQ},
    {"equalto", "b", T_EQ},
    {"==", "b", T_EQ},
    {"ne", "b", T_NE},
    {"!=", "b", T_NE},
    {"gt", "b", T_GT},
    {"greaterthan", "b", T_GT},
    {">", "b", T_GT},
    {"ge", "b", T_GE},
    {">=", "b", T_GE},
    {"lt", "b", T_LT},
    {"lessthan", "b", T_LT},
    {"<", "b", T_LT},
    {"le", "b", T_LE},
    {"<=", "b", T_LE},
};

static int find(const ap_jstr *name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (ap_j_str_is(name, tests[i].name)) return (int)i;
    return -1;
}

bool ap_j_test_exists(const ap_jstr *name)
{
    return find(name) >= 0;
}

/* v % by == want */
static bool remainder_is(ap_jrun *run, ap_jval v, ap_jval by, int64_t want)
{
    ap_jval r = ap_j_binary(run, AP_JT_MOD, v, by);
    return !run->failed && ap_j_equal(run, r, ap_j_int(want));
}

static bool same(ap_jval a, ap_jval b)
{
    if (a.type != b.type) return false;
    switch (a.type) {
    case AP_J_NONE:
        return true;
    case AP_J_BOOL:
        return a.b == b.b;
    case AP_J_INT:
    case AP_J_GLOBAL:
        return a.i == b.i;
    case AP_J_FLOAT:
        return a.f == b.f;
    case AP_J_STR:
        return a.s == b.s;
    default:
        return a.d == b.d;
    }
}

static bool order(ap_jrun *run, int what, ap_jval v, ap_jval b)
{
    static const char *const names[] = {">", ">=", "<", "<="};
    int c = ap_j_compare(run, v, b, names[what - T_GT]);
    return !run->failed && ((what == T_GT && c == 1) || (what == T_GE && (c == 1 || c == 0)) ||
                            (what == T_LT && c == -1) || (what == T_LE && (c == -1 || c == 0)));
}

static bool cased(ap_jrun *run, ap_jval v, const char *what)
{
    const ap_jstr *s = ap_j_str(run, v);
    return ap_j_spend(run, s->len / 2) && ap_j_str_class(s, what);
}

bool ap_j_test(ap_jrun *run, const ap_jstr *name, ap_jval v, const ap_jargs *args)
{
    ap_jval a[8];
    int i = find(name);
    if (run->failed) return false;
    if (i < 0) {
        ap_j_fail(run, "there is no test '%.*s'", (int)name->len, name->s);
        return false;
    }
    const char *param = tests[i].param;
    if (!ap_j_bind(run, tests[i].name, param ? param : "", param != NULL, args, a)) return false;
    switch (tests[i].what) {
    case T_ODD:
        return remainder_is(run, v, ap_j_int(2), 1);
    case T_EVEN:
        return remainder_is(run, v, ap_j_int(2), 0);
    case T_DIVISIBLE:
        return remainder_is(run, v, a[0], 0);
    case T_DEFINED:
        return v.type != AP_J_UNDEF;
    case T_UNDEFINED:
        return v.type == AP_J_UNDEF;
    case T_FILTER:
        return v.type == AP_J_STR && ap_j_filter_exists(v.s);
    case T_TEST:
        return v.type == AP_J_STR && ap_j_test_exists(v.s);
    case T_NONE:
        return v.type == AP_J_NONE;
    case T_BOOLEAN:
        return v.type == AP_J_BOOL;
    case T_FALSE:
        return v.type == AP_J_BOOL && !v.b;
    case T_TRUE:
        return v.type == AP_J_BOOL && v.b;
    case T_INTEGER:
        return v.type == AP_J_INT || v.type == AP_J_BIG;
    case T_FLOAT:
        return v.type == AP_J_FLOAT;
    case T_LOWER:
        return cased(run, v, "lower");
    case T_UPPER:
        return cased(run, v, "upper");
    case T_STRING:
        return ap_j_string_of(v) != NULL;
    case T_MAPPING:
        return v.type == AP_J_DICT;
    case T_NUMBER:
        return ap_j_is_num(v);
    case T_SEQUENCE:
        return v.type == AP_J_STR || v.type == AP_J_LIST || v.type == AP_J_TUPLE ||
               v.type == AP_J_DICT || v.type == AP_J_RANGE || v.type == AP_J_UNDEF;
    case T_ITERABLE:
        return ap_j_is_iterable(v);
    case T_CALLABLE:
        return v.type == AP_J_UNDEF || v.type == AP_J_MACRO || v.type == AP_J_METHOD ||
               v.type == AP_J_GLOBAL || v.type == AP_J_LOOP;
    case T_SAMEAS:
        return same(v, a[0]);
    case T_ESCAPED:
        return v.type == AP_J_STR && v.s->markup;
    case T_IN:
        return ap_j_contains(run, v, a[0]);
    case T_EQ:
        return ap_j_equal(run, v, a[0]);
    case T_NE:
        return !ap_j_equal(run, v, a[0]);
    default:
        return order(run, tests[i].what, v, a[0]);
    }
}
