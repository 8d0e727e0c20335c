#include "file/gguf_vocab.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "file/names.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

/* ---------------------------------------------------------------- kinds of tokens */

/* Of the ids that the metadata names as special, those whose texts look it. */
static bool is_named(const ap_gguf *g, int64_t id, const ap_vocab_entry *e)
{
    static const char *const keys[] = {"bos", "eos", "eot", "eom", "padding", "unknown", "mask"};
    char key[64];
    if (e->n < 3 || (e->s[0] != '<' && e->s[0] != '[')) return false;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t named;
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", keys[i]);
        const ap_gguf_value *v = ap_gguf_find(g, key);
        if (v && ap_gguf_int(v, 0, &named) && named == id) return true;
    }
    return false;
}

static ap_token_kind kind_of_type(int64_t type, const ap_family_tokens *f, const ap_vocab_entry *e)
{
    if (type == TYPE_CONTROL || type == TYPE_UNKNOWN) return AP_TOKEN_SPECIAL;
    /* The model's tokenizer.json has visible markers special; so they are here: else user text could
     * speak in a tool's name. */
    if (type == TYPE_USER)
        return ap_is_visible_marker(f, e->s, e->n) ? AP_TOKEN_SPECIAL : AP_TOKEN_ADDED;
    return AP_TOKEN_PLAIN;
}

static void mark_kinds(const ap_gguf *g, const ap_family_tokens *f, ap_gguf_vocab *v,
                       ap_notes *notes)
{
    const ap_gguf_value *types = ap_gguf_find(g, "tokenizer.ggml.token_type");
    size_t wrong = 0, first = 0;
    for (size_t i = 0; i < v->n; i++) {
        ap_vocab_entry *e = &v->token[i];
        int64_t type = TYPE_NORMAL;
        if (types) ap_gguf_int(types, i, &type);
        e->kind = kind_of_type(type, f, e);
        if (e->n == 0) e->kind = AP_TOKEN_PLAIN;
        if (e->kind != AP_TOKEN_PLAIN || type == TYPE_UNUSED || e->n == 0) continue;
        e->kind = ap_family_token_kind(f, e->s, e->n);
        if (is_named(g, (int64_t)i, e)) e->kind = AP_TOKEN_SPECIAL;
        if (e->kind == AP_TOKEN_PLAIN) continue;
        if (!wrong++) first = i;
    }
    if (!types)
        ap_note(notes,
                "%s: tokenizer.ggml.token_type is missing; control tokens are known by their texts",
                g->name);
    else if (wrong)
        ap_note(notes,
                "%s: tokenizer.ggml.token_type marks %zu control token%s as normal text, such as "
                "\"%.*s\"; %s taken for what %s",
                g->name, wrong, wrong > 1 ? "s" : "", (int)v->token[first].n, v->token[first].s,
                wrong > 1 ? "they are" : "it is", wrong > 1 ? "they are" : "it is");
}

/* ---------------------------------------------------------------- texts that stand twice */

enum { MAX_REPAIRS = 64, MAX_STEPS = 1000 }; /* a file that needs more is broken otherwise */

typedef struct text {
    const char *s;
    size_t n;
} text;

typedef struct repair {
    const ap_gguf *g;
    ap_gguf_vocab *v;
    text *merge;    /* [v->n_merges] */
    ap_names texts; /* text -> the last id that has it */
    bool *is_twin;  /* [v->n]: another token has the same text */
    size_t n_twins, n_restored, n_left_out;
    ap_buf whole; /* what a merge makes */
} repair;

static int64_t id_of(const repair *r, const char *s, size_t n)
{
    const ap_name *f = ap_names_find(&r->texts, s, n);
    return f ? (int64_t)f->value : -1;
}

/* The parts of merge i, and what it makes. false: it is no pair, or memory is out. */
static bool split_merge(repair *r, size_t i, text *a, text *b, text *made)
{
    const text *m = &r->merge[i];
    const char *space = m->n ? memchr(m->s, ' ', m->n) : NULL;
    if (!space) return false;
    *a = (text){m->s, (size_t)(space - m->s)};
    *b = (text){space + 1, m->n - a->n - 1};
    r->whole.len = 0;
    ap_buf_add(&r->whole, a->s, a->n);
    ap_buf_add(&r->whole, b->s, b->n);
    *made = (text){r->whole.data, r->whole.len};
    return !r->whole.failed;
}

/* Index the texts; of equal ones the last id counts. false: out of memory. */
static bool index_texts(repair *r)
{
    ap_gguf_vocab *v = r->v;
    ap_names_free(&r->texts);
    r->n_twins = 0;
    for (size_t i = 0; i < v->n; i++) {
        v->token[i].twice = false;
        if (!ap_names_add(&r->texts, v->token[i].s, v->token[i].n, i)) return false;
    }
    bool twins = ap_names_sort(&r->texts) != NULL;
    if (!twins && !r->is_twin) return ap_names_index(&r->texts);
    if (!r->is_twin) r->is_twin = ap_malloc(v->n, sizeof *r->is_twin);
    if (!r->is_twin) return false;
    memset(r->is_twin, 0, v->n * sizeof *r->is_twin);
    size_t kept = 0;
    for (size_t i = 0; i < r->texts.n; i++) {
        ap_name *last = kept ? &r->texts.item[kept - 1] : NULL, *now = &r->texts.item[i];
        if (!last || last->len != now->len || memcmp(last->s, now->s, now->len)) {
            r->texts.item[kept++] = *now;
            continue;
        }
        size_t x = last->value, y = now->value;
        r->is_twin[x] = r->is_twin[y] = true;
        v->token[x < y ? x : y].twice = true;
        last->value = x < y ? y : x;
        r->n_twins++;
    }
    r->texts.n = kept;
    return ap_names_index(&r->texts);
}

static bool list_merges(repair *r, const ap_gguf_value *merges)
{
    const uint8_t *at = merges->data;
    size_t i = 0;
    r->merge = ap_malloc((size_t)merges->count, sizeof *r->merge);
    if (!r->merge) return false;
    while (i < merges->count && ap_gguf_next_string(merges, &at, &r->merge[i].s, &r->merge[i].n))
        i++;
    r->v->n_merges = i;
    return true;
}

/* The id of what the nearest merge makes, from merge i on by `step`, whose text stands once. */
static int64_t neighbour(repair *r, size_t i, int step, int64_t none)
{
    text a, b, made;
    for (int k = 0; k < MAX_STEPS; k++) {
        i += (size_t)step; /* wraps below 0, which ends the walk */
        if (i >= r->v->n_merges) return none;
        if (!split_merge(r, i, &a, &b, &made)) continue;
        int64_t id = id_of(r, made.s, made.n);
        if (id >= 0 && !r->is_twin[id]) return id;
    }
    return none;
}

/* The first merge that makes a text; n_merges: none does. */
static size_t rank_of(repair *r, const ap_vocab_entry *e)
{
    text a, b, made;
    size_t i = 0;
    for (; i < r->v->n_merges; i++)
        if (split_merge(r, i, &a, &b, &made) && made.n == e->n && !memcmp(made.s, e->s, e->n))
            break;
    return i;
}

/* Of two tokens with the same text, which one lost its own? The other's text is made by a merge, too, and
 * the earlier merge makes the lower id. -1: nothing says. */
static int64_t lost_of_pair(repair *r, int64_t low, int64_t high, size_t lost_rank)
{
    const ap_vocab_entry *x = &r->v->token[low], *y = &r->v->token[high];
    if (x->n != y->n || memcmp(x->s, y->s, x->n)) return -1;
    size_t rank = rank_of(r, x);
    return rank == r->v->n_merges ? -1 : lost_rank < rank ? low : high;
}

/* Merges stand in the order of the tokens that they make. So the token whose text is lost lies between
 * those of its neighbours; if there is one twin in that place, this is it. */
static bool restore(repair *r, size_t i, text lost)
{
    ap_gguf_vocab *v = r->v;
    char *kept = ap_arena_strndup(&v->arena, lost.s, lost.n); /* r->whole is used again */
    if (!kept) return false;
    int64_t lo = neighbour(r, i, -1, -1), hi = neighbour(r, i, 1, (int64_t)v->n);
    int64_t found[2] = {-1, -1};
    int n = 0;
    for (int64_t id = lo + 1; id < hi; id++) {
        if (!r->is_twin[id]) continue;
        if (n == 2) return true; /* any of them might be meant */
        found[n++] = id;
    }
    int64_t id = n == 2 ? lost_of_pair(r, found[0], found[1], i) : found[0];
    if (id < 0) return true;
    v->token[id].s = kept;
    v->token[id].n = lost.n;
    r->n_restored++;
    return index_texts(r);
}

static bool restore_all(repair *r)
{
    text a, b, made;
    size_t tried = 0;
    for (size_t i = 0; i < r->v->n_merges && tried < MAX_REPAIRS; i++) {
        if (!split_merge(r, i, &a, &b, &made) || id_of(r, made.s, made.n) >= 0) continue;
        tried++;
        if (!restore(r, i, made)) return false;
    }
    return !r->whole.failed;
}

static bool mark_lost_merges(repair *r)
{
    ap_gguf_vocab *v = r->v;
    text a, b, made;
    v->merge_lost = ap_calloc(v->n_merges, sizeof *v->merge_lost);
    if (!v->merge_lost) return false;
    for (size_t i = 0; i < v->n_merges; i++) {
        if (!split_merge(r, i, &a, &b, &made)) continue;
        v->merge_lost[i] =
            id_of(r, a.s, a.n) < 0 || id_of(r, b.s, b.n) < 0 || id_of(r, made.s, made.n) < 0;
        r->n_left_out += v->merge_lost[i];
    }
    return !r->whole.failed;
}

static void tell(const repair *r, size_t twins, text example, ap_notes *notes)
{
    ap_note(notes,
            "%s: tokenizer.ggml.tokens holds %zu text%s twice, such as \"%.*s\"; %zu of these "
            "tokens got "
            "the text back that only the merges name, %zu merges are left out",
            r->g->name, twins, twins > 1 ? "s" : "", example.n < 60 ? (int)example.n : 60,
            example.s, r->n_restored, r->n_left_out);
}

static bool mend_twins(repair *r, const ap_gguf_value *merges, ap_notes *notes)
{
    size_t twins, first = 0;
    if (!index_texts(r)) return false;
    if (!(twins = r->n_twins)) return true;
    while (!r->v->token[first].twice) first++;
    text example = {r->v->token[first].s, r->v->token[first].n};
    if (merges) {
        if (!list_merges(r, merges) || !restore_all(r)) return false;
        if (!mark_lost_merges(r)) return false;
    }
    tell(r, twins, example, notes);
    return true;
}

/* ---------------------------------------------------------------- all together */

static bool list_tokens(const ap_gguf_value *tokens, ap_gguf_vocab *v)
{
    const uint8_t *at = tokens->data;
    v->token = ap_calloc((size_t)tokens->count, sizeof *v->token);
    if (!v->token) return false;
    while (v->n < tokens->count &&
           ap_gguf_next_string(tokens, &at, &v->token[v->n].s, &v->token[v->n].n))
        v->n++;
    return true;
}

apus_err ap_gguf_vocab_read(const ap_gguf *g, const ap_family_tokens *f, ap_gguf_vocab *out,
                            ap_notes *notes, apus_diag *diag)
{
    memset(out, 0, sizeof *out);
    ap_arena_init(&out->arena, 0);
    repair *r = ap_calloc(1, sizeof *r);
    bool ok = r && list_tokens(ap_gguf_find(g, "tokenizer.ggml.tokens"), out);
    if (ok) {
        r->g = g;
        r->v = out;
        ok = mend_twins(r, ap_gguf_find(g, "tokenizer.ggml.merges"), notes);
    }
    if (ok) mark_kinds(g, f, out, notes);
    if (r) {
        ap_names_free(&r->texts);
        ap_buf_free(&r->whole);
        ap_free(r->merge);
        ap_free(r->is_twin);
        ap_free(r);
    }
    if (ok) return APUS_OK;
    ap_gguf_vocab_free(out);
    return ap_fail_nomem(diag, (size_t)g->map.len, "the vocabulary");
}

void ap_gguf_vocab_free(ap_gguf_vocab *v)
{
    ap_free(v->token);
    ap_free(v->merge_lost);
    ap_arena_free(&v->arena);
    memset(v, 0, sizeof *v);
}
