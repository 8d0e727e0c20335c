/* jinja_value.c - values as Python has them: making, comparing, walking. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/jinja/jinja.h"

static const ap_jstr empty_str = {.s = ""};

/* ---------------------------------------------------------------- run */

ap_jval ap_j_fail(ap_jrun *run, const char *fmt, ...)
{
    if (!run->failed) {
        char text[900];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(text, sizeof text, fmt, ap);
        va_end(ap);
        run->failed = true;
        run->code =
            ap_fail(run->diag, APUS_EFORMAT, "%s: line %d: %s", run->t->name, run->line, text);
    }
    return ap_j_undef(AP_J_NO_VALUE, NULL);
}

ap_jval ap_j_fail_nomem(ap_jrun *run)
{
    if (!run->failed) {
        run->failed = true;
        run->code = ap_fail(run->diag, APUS_ENOMEM, "%s: out of memory", run->t->name);
    }
    return ap_j_undef(AP_J_NO_VALUE, NULL);
}

bool ap_j_spend(ap_jrun *run, uint64_t n)
{
    if (run->failed) return false;
    run->steps += n;
    if (run->limits.steps && run->steps > run->limits.steps) {
        ap_j_fail(run, "the template ran over its limit of %llu steps",
                  (unsigned long long)run->limits.steps);
        return false;
    }
    return true;
}

bool ap_j_enter(ap_jrun *run)
{
    if (!ap_j_spend(run, 1)) return false;
    if (run->depth >= run->limits.depth) {
        ap_j_fail(run, "nesting ran over the depth limit of %d levels", run->limits.depth);
        return false;
    }
    run->depth++;
    return true;
}

void *ap_j_alloc(ap_jrun *run, size_t n, size_t size)
{
    size_t bytes;
    if (run->failed) return NULL;
    if (!ap_mul_size(n, size, &bytes)) {
        ap_j_fail_nomem(run);
        return NULL;
    }
    size_t before = run->mem->total;
    void *p = ap_arena_alloc(run->mem, bytes);
    if (p) return memset(p, 0, bytes);
    if (run->mem->limit && (bytes > run->mem->limit || before > run->mem->limit - bytes - 16))
        ap_j_fail(run, "the template ran over its memory limit of %zu bytes", run->mem->limit);
    else
        ap_j_fail_nomem(run);
    return NULL;
}

/* ---------------------------------------------------------------- strings */

static size_t count_cp(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((uint8_t)s[i] & 0xC0) != 0x80;
    return count;
}

const ap_jstr *ap_j_borrow(ap_jrun *run, const char *s, size_t n)
{
    if (n == 0 || !ap_j_spend(run, n / 64)) return &empty_str;
    ap_jstr *r = ap_j_alloc(run, 1, sizeof *r);
    if (!r) return &empty_str;
    r->s = s;
    r->len = n;
    r->n_cp = count_cp(s, n);
    return r;
}

const ap_jstr *ap_j_copy(ap_jrun *run, const char *s, size_t n)
{
    if (n == 0) return &empty_str;
    char *p = ap_j_alloc(run, n, 1);
    if (!p) return &empty_str;
    memcpy(p, s, n);
    return ap_j_borrow(run, p, n);
}

ap_jval ap_j_text(ap_jrun *run, const char *s)
{
    return ap_j_strval(ap_j_borrow(run, s, strlen(s)));
}

const ap_jstr *ap_j_sub(ap_jrun *run, const ap_jstr *s, size_t from, size_t to)
{
    if (from == 0 && to == s->len) return s;
    const ap_jstr *r = ap_j_borrow(run, s->s + from, to - from);
    if (!s->markup || r == &empty_str) return r;
    ap_jstr *m = ap_j_alloc(run, 1, sizeof *m);
    if (!m) return r;
    *m = *r;
    m->markup = true;
    return m;
}

bool ap_j_str_is(const ap_jstr *s, const char *z)
{
    size_t n = strlen(z);
    return s->len == n && memcmp(s->s, z, n) == 0;
}

ap_jval ap_j_undef(uint8_t sub, const ap_jstr *name)
{
    return (ap_jval){.type = AP_J_UNDEF, .sub = sub, .s = name};
}

/* ---------------------------------------------------------------- lists and dicts */

ap_jlist *ap_j_list_new(ap_jrun *run, size_t cap)
{
    static ap_jlist nothing; /* stands in after a failure; pushing to it fails too */
    ap_jlist *l = ap_j_alloc(run, 1, sizeof *l);
    if (!l) return &nothing;
    if (cap) {
        l->v = ap_j_alloc(run, cap, sizeof *l->v);
        l->cap = l->v ? cap : 0;
    }
    return l;
}

void ap_j_push(ap_jrun *run, ap_jlist *l, ap_jval v)
{
    if (run->failed) return;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 8;
        ap_jval *p = ap_j_alloc(run, cap, sizeof *p);
        if (!p) return;
        if (l->n) memcpy(p, l->v, l->n * sizeof *p);
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    ap_j_spend(run, 1);
}

ap_jval ap_j_listval(ap_jlist *l, ap_jtype type)
{
    return (ap_jval){.type = (uint8_t)type, .l = l};
}

ap_jval ap_j_iterval(ap_jrun *run, ap_jlist *l)
{
    ap_jiter *it = ap_j_alloc(run, 1, sizeof *it);
    if (!it) return ap_j_undef(AP_J_NO_VALUE, NULL);
    it->items = l;
    return (ap_jval){.type = AP_J_ITER, .it = it};
}

ap_jdict *ap_j_dict_new(ap_jrun *run)
{
    static ap_jdict nothing;
    ap_jdict *d = ap_j_alloc(run, 1, sizeof *d);
    return d ? d : &nothing;
}

enum { SMALL_DICT = 12 };

/* Equal keys have equal hashes: 1, 1.0 and True are one key. *ok false: no key at all. */
/* A step for looking at a value, and more for long texts and integers beyond 64 bits. */
static bool spend_length(ap_jrun *run, ap_jval v)
{
    uint64_t more = v.type == AP_J_STR ? v.s->len / 64 : v.type == AP_J_BIG ? v.s->len / 8 : 0;
    return ap_j_spend(run, 1 + more);
}

/* Spends steps for what it reads. */
static uint64_t hash(ap_jrun *run, ap_jval k, bool *ok, int depth)
{
    uint64_t h = 14695981039346656037u;
    double f;
    spend_length(run, k);
    switch (k.type) {
    case AP_J_STR:
        for (size_t i = 0; i < k.s->len; i++) h = (h ^ (uint8_t)k.s->s[i]) * 1099511628211u;
        return h ^ h >> 29;
    case AP_J_BOOL:
    case AP_J_INT:
    case AP_J_FLOAT:
    case AP_J_BIG:
        f = ap_j_as_double(k) + 0.0; /* -0.0 is 0.0 */
        if (f == 0) f = 0;
        memcpy(&h, &f, sizeof h);
        h *= 0x9E3779B97F4A7C15u;
        return h ^ h >> 32;
    case AP_J_TUPLE:
        if (depth > 20) {
            *ok = false;
            return 0;
        }
        for (size_t i = 0; i < k.l->n && !run->failed; i++)
            h = h * 31 + hash(run, k.l->v[i], ok, depth + 1);
        return h;
    case AP_J_LIST:
    case AP_J_DICT:
        *ok = false;
        return 0;
    default:
        return k.type;
    }
}

static void dict_rehash(ap_jrun *run, ap_jdict *d)
{
    size_t n = d->n_slots ? d->n_slots * 2 : 64;
    uint32_t *slots = ap_j_alloc(run, n, sizeof *slots);
    if (!slots) return;
    bool ok = true;
    for (size_t i = 0; i < d->n; i++) {
        size_t at = hash(run, d->k[i], &ok, 0) & (n - 1);
        while (slots[at]) at = (at + 1) & (n - 1);
        slots[at] = (uint32_t)i + 1;
    }
    d->slots = slots;
    d->n_slots = n;
}

ap_jval *ap_j_dict_get(ap_jrun *run, const ap_jdict *d, ap_jval k, bool *bad)
{
    bool ok = true;
    uint64_t h = hash(run, k, &ok, 0);
    *bad = !ok;
    if (!ok || run->failed) return NULL;
    if (!d->slots) {
        for (size_t i = 0; i < d->n; i++)
            if (ap_j_equal(run, d->k[i], k)) return &d->v[i];
        return NULL;
    }
    for (size_t at = h & (d->n_slots - 1); d->slots[at]; at = (at + 1) & (d->n_slots - 1)) {
        if (!ap_j_spend(run, 1)) return NULL;
        size_t i = d->slots[at] - 1;
        if (ap_j_equal(run, d->k[i], k)) return &d->v[i];
    }
    return NULL;
}

void ap_j_dict_set(ap_jrun *run, ap_jdict *d, ap_jval k, ap_jval v)
{
    bool bad;
    ap_jval *old = ap_j_dict_get(run, d, k, &bad);
    if (run->failed) return;
    if (bad) {
        ap_j_fail(run, "unhashable type: '%s'", ap_j_type_name(k));
        return;
    }
    if (old) {
        *old = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 8;
        ap_jval *p = ap_j_alloc(run, cap * 2, sizeof *p);
        if (!p || cap > UINT32_MAX / 2) return;
        if (d->n) {
            memcpy(p, d->k, d->n * sizeof *p);
            memcpy(p + cap, d->v, d->n * sizeof *p);
        }
        d->k = p;
        d->v = p + cap;
        d->cap = cap;
    }
    d->k[d->n] = k;
    d->v[d->n] = v;
    d->n++;
    ap_j_spend(run, 1);
    if (d->slots) {
        bool ok = true;
        size_t at = hash(run, k, &ok, 0) & (d->n_slots - 1);
        while (d->slots[at]) at = (at + 1) & (d->n_slots - 1);
        d->slots[at] = (uint32_t)d->n;
    }
    if (d->slots ? d->n * 2 > d->n_slots : d->n > SMALL_DICT) dict_rehash(run, d);
}

ap_jval ap_j_from_json(ap_jrun *run, const ap_json *j)
{
    ap_jval r = ap_j_none();
    if (!ap_j_enter(run)) return r;
    switch (j->type) {
    case AP_JSON_NULL:
        break;
    case AP_JSON_BOOL:
        r = ap_j_bool(j->boolean);
        break;
    case AP_JSON_INT:
        r = ap_j_int(j->integer);
        break;
    case AP_JSON_DOUBLE:
        r = ap_j_float(j->number);
        if (j->str && !memchr(j->str, '.', j->len) && !memchr(j->str, 'e', j->len) &&
            !memchr(j->str, 'E', j->len))
            r = (ap_jval){.type = AP_J_BIG, .s = ap_j_borrow(run, j->str, j->len)};
        break;
    case AP_JSON_STRING:
        r = ap_j_strval(ap_j_borrow(run, j->str, j->len));
        break;
    case AP_JSON_ARRAY:
        r = ap_j_listval(ap_j_list_new(run, j->len), AP_J_LIST);
        for (const ap_json *i = j->first; i && !run->failed; i = i->next)
            ap_j_push(run, r.l, ap_j_from_json(run, i));
        break;
    case AP_JSON_OBJECT:
        r = (ap_jval){.type = AP_J_DICT, .d = ap_j_dict_new(run)};
        for (const ap_json *i = j->first; i && !run->failed; i = i->next)
            ap_j_dict_set(run, r.d, ap_j_strval(ap_j_borrow(run, i->key, i->key_len)),
                          ap_j_from_json(run, i));
        if (j->str) r.d->text = ap_j_borrow(run, j->str, strlen(j->str));
        break;
    }
    ap_j_leave(run);
    return r;
}

/* ---------------------------------------------------------------- walking */

bool ap_j_is_iterable(ap_jval v)
{
    switch (v.type) {
    case AP_J_UNDEF:
    case AP_J_STR:
    case AP_J_LIST:
    case AP_J_TUPLE:
    case AP_J_DICT:
    case AP_J_VIEW:
    case AP_J_ITER:
    case AP_J_LOOP:
    case AP_J_RANGE:
        return true;
    default:
        return false;
    }
}

bool ap_j_iter_open(ap_jrun *run, ap_jval v, ap_jcursor *c)
{
    *c = (ap_jcursor){.of = v};
    if (run->failed) return false;
    if (ap_j_is_iterable(v) && v.type != AP_J_LOOP) return true;
    ap_j_fail(run, "'%s' object is not iterable", ap_j_type_name(v));
    return false;
}

static ap_jval pair(ap_jrun *run, ap_jval a, ap_jval b)
{
    ap_jlist *l = ap_j_list_new(run, 2);
    ap_j_push(run, l, a);
    ap_j_push(run, l, b);
    return ap_j_listval(l, AP_J_TUPLE);
}

bool ap_j_iter_next(ap_jrun *run, ap_jcursor *c, ap_jval *out)
{
    if (!ap_j_spend(run, 1)) return false;
    ap_jval v = c->of;
    size_t n;
    switch (v.type) {
    case AP_J_STR:
        if (c->pos >= v.s->len) return false;
        ap_j_cp_at(v.s, c->pos, &n);
        *out = ap_j_strval(ap_j_sub(run, v.s, c->pos, c->pos + n));
        c->pos += n;
        return true;
    case AP_J_LIST:
    case AP_J_TUPLE:
        if (c->pos >= v.l->n) return false;
        *out = v.l->v[c->pos++];
        return true;
    case AP_J_ITER:
        if (v.it->pos >= v.it->items->n) return false;
        *out = v.it->items->v[v.it->pos++];
        return true;
    case AP_J_RANGE:
        if (c->pos >= v.r->n) return false;
        *out = ap_j_int(v.r->start + (int64_t)c->pos++ * v.r->step);
        return true;
    case AP_J_DICT:
    case AP_J_VIEW:
        if (c->pos >= v.d->n) return false;
        if (v.type == AP_J_DICT || v.sub == AP_J_KEYS)
            *out = v.d->k[c->pos];
        else if (v.sub == AP_J_VALUES)
            *out = v.d->v[c->pos];
        else
            *out = pair(run, v.d->k[c->pos], v.d->v[c->pos]);
        c->pos++;
        return true;
    default:
        return false;
    }
}

ap_jlist *ap_j_to_list(ap_jrun *run, ap_jval v)
{
    size_t n = 0;
    ap_jcursor c;
    ap_jval x;
    if (v.type != AP_J_UNDEF) ap_j_len(v, &n);
    ap_jlist *l = ap_j_list_new(run, n);
    if (!ap_j_iter_open(run, v, &c)) return l;
    while (ap_j_iter_next(run, &c, &x)) ap_j_push(run, l, x);
    return l;
}

bool ap_j_len(ap_jval v, size_t *n)
{
    switch (v.type) {
    case AP_J_UNDEF:
        *n = 0;
        return true;
    case AP_J_STR:
        *n = v.s->n_cp;
        return true;
    case AP_J_LIST:
    case AP_J_TUPLE:
        *n = v.l->n;
        return true;
    case AP_J_DICT:
    case AP_J_VIEW:
        *n = v.d->n;
        return true;
    case AP_J_RANGE:
        *n = v.r->n;
        return true;
    default:
        return false;
    }
}

/* ---------------------------------------------------------------- properties */

const char *ap_j_type_name(ap_jval v)
{
    static const char *const names[] = {"Undefined",   "NoneType",  "bool",    "int",       "int",
                                        "float",       "str",       "list",    "tuple",     "dict",
                                        "dict_keys",   "generator", "range",   "Namespace", "Macro",
                                        "LoopContext", "method",    "function"};
    if (v.type == AP_J_VIEW)
        return v.sub == AP_J_KEYS     ? "dict_keys"
               : v.sub == AP_J_VALUES ? "dict_values"
                                      : "dict_items";
    return names[v.type];
}

bool ap_j_truth(ap_jval v)
{
    size_t n;
    switch (v.type) {
    case AP_J_UNDEF:
    case AP_J_NONE:
        return false;
    case AP_J_BOOL:
        return v.b;
    case AP_J_INT:
        return v.i != 0;
    case AP_J_FLOAT:
        return v.f != 0;
    default:
        return !ap_j_len(v, &n) || n > 0;
    }
}

double ap_j_as_double(ap_jval v)
{
    if (v.type == AP_J_FLOAT) return v.f;
    if (v.type == AP_J_BOOL) return v.b;
    if (v.type == AP_J_INT) return (double)v.i;
    double f = 0; /* BIG: digits, perhaps a sign */
    bool minus = v.s->len && v.s->s[0] == '-';
    for (size_t i = minus; i < v.s->len; i++) f = f * 10 + (v.s->s[i] - '0');
    return minus ? -f : f;
}

static int three_way(double a, double b)
{
    return a < b ? -1 : a > b ? 1 : a == b ? 0 : 2;
}

/* Exact, also where an int64 has no double. */
static int compare_int_double(int64_t i, double f)
{
    if (isnan(f)) return 2;
    if (f >= 9223372036854775808.0) return -1;
    if (f < -9223372036854775808.0) return 1;
    int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    return three_way(0, f - (double)whole);
}

static int compare_big(ap_jval a, ap_jval b)
{
    if (a.type == AP_J_BIG && b.type == AP_J_BIG) {
        bool am = a.s->s[0] == '-', bm = b.s->s[0] == '-';
        if (am != bm) return am ? -1 : 1;
        int r = a.s->len != b.s->len ? (a.s->len < b.s->len ? -1 : 1)
                                     : memcmp(a.s->s, b.s->s, a.s->len);
        r = r < 0 ? -1 : r > 0;
        return am ? -r : r;
    }
    return three_way(ap_j_as_double(a), ap_j_as_double(b));
}

static int compare_num(ap_jval a, ap_jval b)
{
    int64_t x, y;
    if (a.type == AP_J_BIG || b.type == AP_J_BIG) return compare_big(a, b);
    bool ai = ap_j_as_int(a, &x), bi = ap_j_as_int(b, &y);
    if (ai && bi) return x < y ? -1 : x > y;
    if (ai) return compare_int_double(x, b.f);
    if (bi) {
        int r = compare_int_double(y, a.f);
        return r == 2 ? 2 : -r;
    }
    return three_way(a.f, b.f);
}

static int compare_str(const ap_jstr *a, const ap_jstr *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int r = n ? memcmp(a->s, b->s, n) : 0;
    return r < 0 ? -1 : r > 0 ? 1 : a->len < b->len ? -1 : a->len > b->len;
}

static bool equal_lists(ap_jrun *run, const ap_jlist *a, const ap_jlist *b)
{
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!ap_j_equal(run, a->v[i], b->v[i])) return false;
    return true;
}

static bool equal_dicts(ap_jrun *run, const ap_jdict *a, const ap_jdict *b)
{
    bool bad;
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        const ap_jval *v = ap_j_dict_get(run, b, a->k[i], &bad);
        if (!v || !ap_j_equal(run, a->v[i], *v)) return false;
    }
    return true;
}

bool ap_j_equal(ap_jrun *run, ap_jval a, ap_jval b)
{
    bool r = false;
    if (!spend_length(run, a) || !spend_length(run, b)) return false;
    if (ap_j_is_num(a) && ap_j_is_num(b)) return compare_num(a, b) == 0;
    const ap_jstr *x = ap_j_string_of(a), *y = ap_j_string_of(b);
    if (a.type != b.type && x && y) return x->len == y->len && !memcmp(x->s, y->s, x->len);
    if (a.type != b.type) return false;
    if (a.type == AP_J_STR)
        return a.s->len == b.s->len && (a.s->len == 0 || memcmp(a.s->s, b.s->s, a.s->len) == 0);
    if (!ap_j_enter(run)) return false;
    switch (a.type) {
    case AP_J_UNDEF:
    case AP_J_NONE:
        r = true;
        break;
    case AP_J_LIST:
    case AP_J_TUPLE:
        r = a.l == b.l || equal_lists(run, a.l, b.l);
        break;
    case AP_J_DICT:
        r = a.d == b.d || equal_dicts(run, a.d, b.d);
        break;
    case AP_J_RANGE:
        r = a.r->n == b.r->n &&
            (a.r->n == 0 || (a.r->start == b.r->start && (a.r->n == 1 || a.r->step == b.r->step)));
        break;
    case AP_J_GLOBAL:
        r = a.i == b.i;
        break;
    case AP_J_VIEW:
        r = a.sub == b.sub && a.sub != AP_J_VALUES && equal_dicts(run, a.d, b.d);
        break;
    default:
        r = a.d == b.d; /* the same object */
    }
    ap_j_leave(run);
    return r;
}

int ap_j_compare(ap_jrun *run, ap_jval a, ap_jval b, const char *op)
{
    if (!spend_length(run, a) || !spend_length(run, b)) return 0;
    if (ap_j_is_num(a) && ap_j_is_num(b)) return compare_num(a, b);
    if (a.type == AP_J_STR && b.type == AP_J_STR) return compare_str(a.s, b.s);
    if (a.type == b.type && (a.type == AP_J_LIST || a.type == AP_J_TUPLE)) {
        int r = 0;
        if (!ap_j_enter(run)) return 0;
        for (size_t i = 0; i < a.l->n && i < b.l->n && r == 0 && !run->failed; i++)
            if (!ap_j_equal(run, a.l->v[i], b.l->v[i]))
                r = ap_j_compare(run, a.l->v[i], b.l->v[i], op);
        ap_j_leave(run);
        return r ? r : a.l->n < b.l->n ? -1 : a.l->n > b.l->n;
    }
    if (a.type == AP_J_UNDEF || b.type == AP_J_UNDEF)
        ap_j_binary(run, AP_JT_ADD, a, b); /* says which one is undefined */
    ap_j_fail(run, "'%s' not supported between instances of '%s' and '%s'", op, ap_j_type_name(a),
              ap_j_type_name(b));
    return 0;
}

bool ap_j_contains(ap_jrun *run, ap_jval item, ap_jval in)
{
    bool bad;
    ap_jcursor c;
    ap_jval x;
    if (in.type == AP_J_STR) {
        if (item.type != AP_J_STR) {
            ap_j_fail(run, "'in <string>' requires string as left operand, not %s",
                      ap_j_type_name(item));
            return false;
        }
        return ap_j_find(run, in.s, item.s, 0) != SIZE_MAX;
    }
    if (in.type == AP_J_DICT || (in.type == AP_J_VIEW && in.sub == AP_J_KEYS)) {
        bool found = ap_j_dict_get(run, in.d, item, &bad) != NULL;
        if (bad) ap_j_fail(run, "unhashable type: '%s'", ap_j_type_name(item));
        return found;
    }
    if (!ap_j_is_iterable(in)) {
        ap_j_fail(run, "argument of type '%s' is not iterable", ap_j_type_name(in));
        return false;
    }
    if (!ap_j_iter_open(run, in, &c)) return false;
    while (ap_j_iter_next(run, &c, &x))
        if (ap_j_equal(run, item, x)) return true;
    return false;
}
