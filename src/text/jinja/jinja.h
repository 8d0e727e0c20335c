/* jinja.h - what the files of the template interpreter share: values, syntax tree, run state.
 *
 * The language is Jinja2 as transformers sets it up: an immutable sandbox with trim_blocks,
 * lstrip_blocks and loop controls. Values follow Python: what str(), ==, < and slicing say there is
 * said here. Source: the Jinja 3.1 documentation and behaviour, checked in tests/unit/template.
 *
 * Errors: the first one fills run->diag and sets run->failed; from then on every function returns
 * at once with harmless values, so callers need to look at `failed` only where they loop. */
#ifndef AP_TEXT_JINJA_H
#define AP_TEXT_JINJA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "text/jinja/template.h"

/* ---------------------------------------------------------------- values */

typedef enum ap_jtype {
    AP_J_UNDEF, /* s: the name that was asked for, or NULL; sub, of: why */
    AP_J_NONE,
    AP_J_BOOL,
    AP_J_INT,
    AP_J_BIG, /* s: decimal text of an integer beyond int64; it prints and compares, no more */
    AP_J_FLOAT,
    AP_J_STR,
    AP_J_LIST,
    AP_J_TUPLE, /* l */
    AP_J_DICT,
    AP_J_VIEW, /* d, sub: AP_J_KEYS.. of dict.keys(), values(), items() */
    AP_J_ITER, /* what generators and reversed() give: read once, no length */
    AP_J_RANGE,
    AP_J_NS, /* d: namespace() */
    AP_J_MACRO,
    AP_J_LOOP,
    AP_J_METHOD, /* a method with its object */
    AP_J_GLOBAL  /* i: AP_J_G_* */
} ap_jtype;

enum { AP_J_KEYS, AP_J_VALUES, AP_J_ITEMS };
/* Why a value is undefined. */
enum {
    AP_J_NO_NAME,
    AP_J_NO_ATTR,
    AP_J_NO_VALUE,
    AP_J_UNSAFE,
    AP_J_ABSENT /* argument not given */
};
enum { AP_J_G_RANGE, AP_J_G_DICT, AP_J_G_NAMESPACE, AP_J_G_RAISE, AP_J_G_STRFTIME, AP_J_G_COUNT };

typedef struct ap_jstr {
    const char *s; /* UTF-8, not zero-terminated; may point into the template or the variables */
    size_t len;    /* bytes */
    size_t n_cp;   /* characters */
    bool markup;   /* came out of |safe or |escape */
} ap_jstr;

typedef struct ap_jlist ap_jlist;
typedef struct ap_jdict ap_jdict;
typedef struct ap_jiter ap_jiter;
typedef struct ap_jrange ap_jrange;
typedef struct ap_jmacro ap_jmacro;
typedef struct ap_jloop ap_jloop;
typedef struct ap_jmethod ap_jmethod;

typedef struct ap_jval {
    uint8_t type; /* ap_jtype */
    uint8_t sub;
    uint8_t of; /* UNDEF, AP_J_NO_ATTR: type of the object asked */
    union {
        bool b;
        int64_t i;
        double f;
        const ap_jstr *s;
        ap_jlist *l;
        ap_jdict *d;
        ap_jiter *it;
        const ap_jrange *r;
        const ap_jmacro *m;
        ap_jloop *loop;
        const ap_jmethod *method;
    };
} ap_jval;

struct ap_jlist {
    ap_jval *v;
    size_t n, cap;
};
/* Insertion order; equal keys replace the value only. */
struct ap_jdict {
    ap_jval *k, *v;
    size_t n, cap;
    uint32_t *slots; /* hash table of index + 1, n_slots a power of two; NULL while small */
    size_t n_slots;
    /* The text of JSON that the caller gave for this object, or NULL. Such a value is a string to
     * what wants one (printing, joining, methods and filters of strings) and a mapping to what
     * wants that, so that either kind of template finds what it was written for. */
    const ap_jstr *text;
};
struct ap_jiter {
    ap_jlist *items;
    size_t pos;
};
struct ap_jrange {
    int64_t start, step;
    size_t n;
};
struct ap_jmethod {
    ap_jval self;
    const char *name;
};

typedef struct ap_jkw {
    const ap_jstr *name;
    ap_jval v;
} ap_jkw;
typedef struct ap_jargs {
    ap_jval *v;
    size_t n;
    ap_jkw *kw;
    size_t n_kw;
} ap_jargs;

/* ---------------------------------------------------------------- syntax tree */

typedef enum ap_jkind {
    /* expressions */
    AP_JN_CONST,   /* value */
    AP_JN_NAME,    /* sym */
    AP_JN_NSREF,   /* sym.name as a target */
    AP_JN_TUPLE,   /* a..: items */
    AP_JN_LIST,    /* a..: items */
    AP_JN_DICT,    /* a..: key, value, key, value */
    AP_JN_ATTR,    /* a.name */
    AP_JN_ITEM,    /* a[b] */
    AP_JN_SLICE,   /* a[b:c:d], each of b, c, d may be NULL */
    AP_JN_CALL,    /* a(args), args in b.. */
    AP_JN_FILTER,  /* a|name(args in b..); a NULL: the captured text */
    AP_JN_TEST,    /* a is name(args in b..) */
    AP_JN_BINARY,  /* a op b */
    AP_JN_UNARY,   /* op a */
    AP_JN_CONCAT,  /* a.. joined by ~ */
    AP_JN_COMPARE, /* a, then b..: COMPARE nodes with op and a = right side */
    AP_JN_AND,
    AP_JN_OR,
    AP_JN_NOT,
    AP_JN_COND, /* b if a else c (c may be NULL) */
    AP_JN_ARG,  /* an argument: a; op AP_JA_*; name of a keyword */
    /* statements */
    AP_JN_TEXT,        /* value */
    AP_JN_PRINT,       /* a */
    AP_JN_IF,          /* a: test, b: body, c: else (an IF for elif) */
    AP_JN_FOR,         /* a: target, b: iterable, c: test, d: body, e: else */
    AP_JN_SET,         /* a: target, b: value */
    AP_JN_SETBLOCK,    /* a: target, b: filter or NULL, d: body */
    AP_JN_MACRO,       /* sym, a..: parameters (NAME, .b default or NULL), d: body */
    AP_JN_CALLBLOCK,   /* as MACRO, c: the call */
    AP_JN_FILTERBLOCK, /* b: filter, d: body */
    AP_JN_WITH,        /* a..: targets (NAME), b..: values, d: body */
    AP_JN_SCOPE,       /* d: body of a generation block */
    AP_JN_BREAK,
    AP_JN_CONTINUE
} ap_jkind;

enum { AP_JA_POS, AP_JA_KW, AP_JA_STAR, AP_JA_STARSTAR };

typedef struct ap_jnode ap_jnode;
struct ap_jnode {
    uint8_t kind, op;                         /* op: ap_jtok of an operator, or AP_JA_* */
    bool recursive;                           /* FOR */
    bool has_caller, has_kwargs, has_varargs; /* MACRO: names its body mentions */
    int line;
    int sym;
    const ap_jstr *name;
    ap_jval value;
    ap_jnode *a, *b, *c, *d, *e;
    ap_jnode *next;
    /* Names that are assigned in this frame before anything reads them: they hide variables of the
     * same name from the frame's start on, as Jinja's compiler has it. */
    int *hidden;
    int n_hidden;
};

/* ---------------------------------------------------------------- tokens */

typedef enum ap_jtok {
    AP_JT_EOF,
    AP_JT_DATA,
    AP_JT_VAR_BEGIN,
    AP_JT_VAR_END,
    AP_JT_BLOCK_BEGIN,
    AP_JT_BLOCK_END,
    AP_JT_NAME,
    AP_JT_STRING,
    AP_JT_INT,
    AP_JT_FLOAT,
    AP_JT_FLOORDIV,
    AP_JT_POW,
    AP_JT_EQ,
    AP_JT_NE,
    AP_JT_GE,
    AP_JT_LE,
    AP_JT_ADD,
    AP_JT_SUB,
    AP_JT_DIV,
    AP_JT_MUL,
    AP_JT_MOD,
    AP_JT_TILDE,
    AP_JT_LBRACKET,
    AP_JT_RBRACKET,
    AP_JT_LPAREN,
    AP_JT_RPAREN,
    AP_JT_LBRACE,
    AP_JT_RBRACE,
    AP_JT_GT,
    AP_JT_LT,
    AP_JT_ASSIGN,
    AP_JT_DOT,
    AP_JT_COLON,
    AP_JT_PIPE,
    AP_JT_COMMA,
    AP_JT_SEMICOLON,
    AP_JT_IN, /* never lexed: operators of COMPARE */
    AP_JT_NOTIN
} ap_jtok;

typedef struct ap_jtoken {
    uint8_t type; /* ap_jtok */
    int line;
    ap_jval v; /* DATA, NAME, STRING: str; INT, FLOAT */
} ap_jtoken;

/* ---------------------------------------------------------------- template and run */

enum { AP_JS_CALLER, AP_JS_KWARGS, AP_JS_VARARGS, AP_JS_LOOP };

struct ap_template {
    ap_arena mem;
    char *name;
    ap_jnode *body;       /* statements */
    ap_jnode root;        /* its hidden names */
    const ap_jstr **syms; /* [n_syms] */
    int n_syms;
    int special[4]; /* symbols of AP_JS_*; -1: the template does not mention it */
};

/* A growing text; its bytes are bounded by run->limits.output_bytes each. */
typedef struct ap_jout {
    char *s;
    size_t len, cap;
} ap_jout;

typedef struct ap_jbind ap_jbind;
struct ap_jbind {
    int sym;
    ap_jval v; /* UNDEF with sub AP_J_ABSENT: hidden */
    ap_jbind *next;
};
typedef struct ap_jscope ap_jscope;
struct ap_jscope {
    ap_jscope *parent; /* NULL: the root, whose names are in run->globals */
    ap_jbind *first;
    ap_jbind *spare; /* of earlier rounds of a loop */
    bool kept;       /* a macro refers to it: a loop's next round needs another one */
};

/* The state of one parse (t->mem, no scopes) or one render. */
typedef struct ap_jrun {
    ap_template *t;
    ap_arena *mem;
    apus_diag *diag;
    apus_err code;
    bool failed;
    int line;
    int depth;
    uint64_t steps;
    ap_template_limits limits;
    const ap_jval *context; /* [n_syms] variables given and built in */
    ap_jval *globals;       /* [n_syms] assigned at top level; ABSENT where not */
    bool *assigned;         /* [n_syms] globals[i] counts */
    ap_jout *out;
    const ap_jstr *captured; /* what a FILTER node without operand is applied to */
    uint8_t jump;            /* 0, AP_JN_BREAK, AP_JN_CONTINUE on the way to the loop */
} ap_jrun;

struct ap_jmacro {
    const ap_jnode *node;
    ap_jscope *scope; /* where it was defined */
    int n_params;
};
struct ap_jloop {
    ap_jval source; /* iterable */
    struct ap_jcursor *cursor;
    const ap_jnode *node; /* FOR, for its filter */
    ap_jscope *scope;     /* of the FOR statement */
    ap_jlist *seen;       /* items accepted, [base, base + seen->n): the last ones and some ahead */
    size_t base, index0;
    bool ended, busy;
    int depth0;
    ap_jval last_changed;
    bool has_changed;
};

/* ---------------------------------------------------------------- jinja_value.c */

/* Fail with "NAME: line N: ...". Always returns UNDEF. */
ap_jval ap_j_fail(ap_jrun *run, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
ap_jval ap_j_fail_nomem(ap_jrun *run);
/* Spend n steps; false when the budget is out (then failed). */
bool ap_j_spend(ap_jrun *run, uint64_t n);
bool ap_j_enter(ap_jrun *run); /* one level deeper; false at the limit */
static inline void ap_j_leave(ap_jrun *run)
{
    run->depth--;
}
void *ap_j_alloc(ap_jrun *run, size_t n, size_t size); /* zeroed; NULL: failed */

static inline ap_jval ap_j_none(void)
{
    return (ap_jval){.type = AP_J_NONE};
}
static inline ap_jval ap_j_bool(bool b)
{
    return (ap_jval){.type = AP_J_BOOL, .b = b};
}
static inline ap_jval ap_j_int(int64_t i)
{
    return (ap_jval){.type = AP_J_INT, .i = i};
}
static inline ap_jval ap_j_float(double f)
{
    return (ap_jval){.type = AP_J_FLOAT, .f = f};
}
static inline ap_jval ap_j_strval(const ap_jstr *s)
{
    return (ap_jval){.type = AP_J_STR, .s = s};
}
static inline bool ap_j_absent(ap_jval v)
{
    return v.type == AP_J_UNDEF && v.sub == AP_J_ABSENT;
}
ap_jval ap_j_undef(uint8_t sub, const ap_jstr *name);

/* A string over bytes that outlive the run (borrow) or a copy of them. */
const ap_jstr *ap_j_borrow(ap_jrun *run, const char *s, size_t n);
const ap_jstr *ap_j_copy(ap_jrun *run, const char *s, size_t n);
ap_jval ap_j_text(ap_jrun *run, const char *zero_terminated); /* static text */
/* Bytes [from, to) of s, markup kept. */
const ap_jstr *ap_j_sub(ap_jrun *run, const ap_jstr *s, size_t from, size_t to);
bool ap_j_str_is(const ap_jstr *s, const char *zero_terminated);

ap_jlist *ap_j_list_new(ap_jrun *run, size_t cap);
void ap_j_push(ap_jrun *run, ap_jlist *l, ap_jval v);
ap_jval ap_j_listval(ap_jlist *l, ap_jtype type); /* LIST or TUPLE */
ap_jval ap_j_iterval(ap_jrun *run, ap_jlist *l);  /* an ITER over it */
ap_jdict *ap_j_dict_new(ap_jrun *run);
void ap_j_dict_set(ap_jrun *run, ap_jdict *d, ap_jval k, ap_jval v);
/* NULL: no such key. An unhashable key: *bad = true. */
ap_jval *ap_j_dict_get(ap_jrun *run, const ap_jdict *d, ap_jval k, bool *bad);
ap_jval ap_j_from_json(ap_jrun *run, const ap_json *j);

/* Walking an iterable. */
typedef struct ap_jcursor {
    ap_jval of;
    size_t pos;
} ap_jcursor;
bool ap_j_is_iterable(ap_jval v);
bool ap_j_iter_open(ap_jrun *run, ap_jval v, ap_jcursor *c); /* false: failed */
bool ap_j_iter_next(ap_jrun *run, ap_jcursor *c, ap_jval *out);
ap_jlist *ap_j_to_list(ap_jrun *run, ap_jval v);
/* len(); false: it has none. */
bool ap_j_len(ap_jval v, size_t *n);

const char *ap_j_type_name(ap_jval v); /* as Python's type(v).__name__ */
bool ap_j_truth(ap_jval v);
bool ap_j_equal(ap_jrun *run, ap_jval a, ap_jval b);
/* The string that v is: of a dict, its text. NULL: none. */
static inline const ap_jstr *ap_j_string_of(ap_jval v)
{
    return v.type == AP_J_STR ? v.s : v.type == AP_J_DICT ? v.d->text : NULL;
}
/* -1, 0, 1; 2: unordered (NaN). Fails for types without an order. op is for the message. */
int ap_j_compare(ap_jrun *run, ap_jval a, ap_jval b, const char *op);
bool ap_j_contains(ap_jrun *run, ap_jval item, ap_jval in);
static inline bool ap_j_is_num(ap_jval v)
{
    return v.type == AP_J_BOOL || v.type == AP_J_INT || v.type == AP_J_FLOAT || v.type == AP_J_BIG;
}
/* The value of a bool or int. */
static inline bool ap_j_as_int(ap_jval v, int64_t *i)
{
    if (v.type == AP_J_BOOL)
        *i = v.b;
    else if (v.type == AP_J_INT)
        *i = v.i;
    else
        return false;
    return true;
}
double ap_j_as_double(ap_jval v); /* of a number */

/* ---------------------------------------------------------------- jinja_out.c */

void ap_j_put(ap_jrun *run, ap_jout *o, const char *s, size_t n);
void ap_j_puts(ap_jrun *run, ap_jout *o, const char *s);
void ap_j_put_cp(ap_jrun *run, ap_jout *o, uint32_t cp);
void ap_j_put_str(ap_jrun *run, ap_jout *o, ap_jval v);                   /* str(v) */
void ap_j_put_repr(ap_jrun *run, ap_jout *o, ap_jval v);                  /* repr(v) */
void ap_j_put_float(ap_jrun *run, ap_jout *o, double f);                  /* repr of a float */
void ap_j_put_escaped(ap_jrun *run, ap_jout *o, const char *s, size_t n); /* HTML */
/* json.dumps. indent < 0: none. item, key: separators or NULL = Python's default. */
typedef struct ap_jdump {
    bool ascii, sort_keys;
    bool has_indent;
    const ap_jstr *indent; /* one level */
    const ap_jstr *item_sep, *key_sep;
} ap_jdump;
void ap_j_put_json(ap_jrun *run, ap_jout *o, ap_jval v, const ap_jdump *opt, int level);
/* The text as a value; the buffer is freed. */
const ap_jstr *ap_j_take(ap_jrun *run, ap_jout *o);
const ap_jstr *ap_j_str(ap_jrun *run, ap_jval v); /* str(v); a string is returned as it is */

/* ---------------------------------------------------------------- jinja_text.c, jinja_case.c */

bool ap_j_is_space(uint32_t cp);
/* Character at byte i, its length in *n. */
uint32_t ap_j_cp_at(const ap_jstr *s, size_t i, size_t *n);
size_t ap_j_byte_of(const ap_jstr *s, size_t cp_index); /* byte offset of a character */
/* First place of b in a at or after byte `from`; SIZE_MAX: nowhere. */
size_t ap_j_find(ap_jrun *run, const ap_jstr *a, const ap_jstr *b, size_t from);
size_t ap_j_rfind(ap_jrun *run, const ap_jstr *a, const ap_jstr *b, size_t from, size_t to);
enum { AP_J_LEFT = 1, AP_J_RIGHT = 2 };
/* chars NULL: white space. */
const ap_jstr *ap_j_strip(ap_jrun *run, const ap_jstr *s, const ap_jstr *chars, int sides);
const ap_jstr *ap_j_replace(ap_jrun *run, const ap_jstr *s, const ap_jstr *old, const ap_jstr *by,
                            int64_t count);
ap_jlist *ap_j_split(ap_jrun *run, const ap_jstr *s, const ap_jstr *sep, int64_t max);
ap_jlist *ap_j_rsplit(ap_jrun *run, const ap_jstr *s, const ap_jstr *sep, int64_t max);
ap_jlist *ap_j_splitlines(ap_jrun *run, const ap_jstr *s, bool keep_ends);
ap_jval ap_j_slice(ap_jrun *run, ap_jval of, ap_jval from, ap_jval to, ap_jval step);
ap_jval ap_j_index(ap_jrun *run, ap_jval of, int64_t i, bool *found); /* sequences */
const ap_jstr *ap_j_pad(ap_jrun *run, const ap_jstr *s, int64_t width, uint32_t fill, char align);
enum { AP_J_LOWER, AP_J_UPPER, AP_J_CAPITALIZE, AP_J_TITLE, AP_J_SWAPCASE, AP_J_CASEFOLD };
const ap_jstr *ap_j_case(ap_jrun *run, const ap_jstr *s, int how);
/* islower, isalpha... by the name behind "is"; false for names it does not know. */
bool ap_j_str_class(const ap_jstr *s, const char *what);
/* Full upper, lower and title case of one character where it is not one character: out[3], or 0. */
int ap_j_special_case(uint32_t cp, int how, uint32_t out[3]);
bool ap_j_is_word(uint32_t cp); /* \w */

/* ---------------------------------------------------------------- jinja_format.c */

ap_jval ap_j_percent(ap_jrun *run, const ap_jstr *fmt, ap_jval args);        /* fmt % args */
ap_jval ap_j_format(ap_jrun *run, const ap_jstr *fmt, const ap_jargs *args); /* fmt.format() */

/* ---------------------------------------------------------------- parsing */

/* Tokens of a text (newlines already normalised); the last one is EOF. NULL: failed. */
ap_jtoken *ap_j_lex(ap_jrun *run, const char *text, size_t len, size_t *n);
ap_jnode *ap_j_parse(ap_jrun *run, const ap_jtoken *tok, size_t n);
void ap_j_scopes(ap_jrun *run); /* fills `hidden` everywhere */

/* ---------------------------------------------------------------- evaluation */

void ap_j_exec(ap_jrun *run, ap_jscope *s, const ap_jnode *body);
ap_jval ap_j_eval(ap_jrun *run, ap_jscope *s, const ap_jnode *n);
ap_jval ap_j_attr(ap_jrun *run, ap_jval of, const ap_jstr *name); /* of.name */
ap_jval ap_j_item(ap_jrun *run, ap_jval of, ap_jval key);         /* of[key] */
ap_jval ap_j_call(ap_jrun *run, ap_jval f, const ap_jargs *args);
ap_jval ap_j_call_macro(ap_jrun *run, const ap_jmacro *m, const ap_jargs *args);
ap_jval ap_j_call_method(ap_jrun *run, const ap_jmethod *m, const ap_jargs *args);
ap_jval ap_j_call_loop(ap_jrun *run, ap_jloop *loop, ap_jval iterable);
bool ap_j_loop_fill(ap_jrun *run, ap_jloop *loop, size_t n); /* have n items; false: fewer */
ap_jval ap_j_loop_attr(ap_jrun *run, ap_jloop *loop, const ap_jstr *name);
ap_jval ap_j_binary(ap_jrun *run, uint8_t op, ap_jval a, ap_jval b);
/* The name of a method of v that templates may call; *unsafe: there is one, but it changes v. */
const char *ap_j_method_name(ap_jval v, const ap_jstr *name, bool *unsafe);
/* Match arguments to "name,name,...": out[i] is ABSENT where not given. false: failed. */
bool ap_j_bind(ap_jrun *run, const char *what, const char *params, int required,
               const ap_jargs *args, ap_jval *out);
bool ap_j_filter_exists(const ap_jstr *name);
bool ap_j_test_exists(const ap_jstr *name);
ap_jval ap_j_filter(ap_jrun *run, const ap_jstr *name, ap_jval v, const ap_jargs *args);
bool ap_j_test(ap_jrun *run, const ap_jstr *name, ap_jval v, const ap_jargs *args);
ap_jval ap_j_round(ap_jrun *run, ap_jval v, int64_t digits, bool has_digits);

#endif
