/* schema.c - finding a parameter in the schemas of tools, and the types that it may have. */
#include "text/schema.h"

#include <string.h>
#include <strings.h>

/* Nodes that one question may visit: many times what schemas hold, little time for a hostile one
 * whose references fan out. */
enum { MAX_NODES = 1024, MAX_DEPTH = 32 };

typedef struct walk {
    const ap_json *root, *function; /* what "#" stands for; some keep definitions beside it */
    int n_nodes, depth;
} walk;

static bool is_text(const ap_json *j)
{
    return j && j->type == AP_JSON_STRING;
}

static const ap_json *elements(const ap_json *j)
{
    return j && j->type == AP_JSON_ARRAY ? j->first : NULL;
}

/* Member key[0, n) of an object; the last of equal keys. */
static const ap_json *member(const ap_json *o, const char *key, size_t n)
{
    const ap_json *hit = NULL;
    if (!o || o->type != AP_JSON_OBJECT) return NULL;
    for (const ap_json *m = o->first; m; m = m->next)
        if (m->key_len == n && !memcmp(m->key, key, n)) hit = m;
    return hit;
}

const ap_json *ap_schema_function(const ap_json *tools, const char *name, size_t len)
{
    for (const ap_json *t = tools ? tools->first : NULL; t; t = t->next) {
        const ap_json *f = ap_json_get(t, "function");
        if (!f || f->type != AP_JSON_OBJECT) f = t;
        const ap_json *n = ap_json_get(f, "name");
        if (is_text(n) && n->len == len && !memcmp(n->str, name, len)) return f;
    }
    return NULL;
}

/* ---------------------------------------------------------------- references */

/* One step of a JSON pointer: the child of j that s[0, n), with ~0 and ~1 in it, names. */
static const ap_json *child(const ap_json *j, const char *s, size_t n)
{
    char key[256];
    size_t k = 0;
    int64_t index;
    for (size_t i = 0; i < n && k < sizeof key; i++) {
        bool escape = s[i] == '~' && i + 1 < n && (s[i + 1] == '0' || s[i + 1] == '1');
        key[k++] = !escape ? s[i] : s[i + 1] == '0' ? '~' : '/';
        i += escape;
    }
    if (j && j->type == AP_JSON_ARRAY)
        return ap_json_int(key, k, &index) && index >= 0 ? ap_json_at(j, (size_t)index) : NULL;
    return member(j, key, k);
}

/* "#/$defs/Place" or "#": a node below root; anything else is not looked for. */
static const ap_json *resolve_below(const ap_json *root, const ap_json *ref)
{
    if (!is_text(ref) || !ref->len || ref->str[0] != '#') return NULL;
    const char *s = ref->str + 1, *end = ref->str + ref->len;
    const ap_json *j = root;
    while (j && s < end) {
        if (*s++ != '/') return NULL;
        const char *slash = memchr(s, '/', (size_t)(end - s));
        if (!slash) slash = end;
        j = child(j, s, (size_t)(slash - s));
        s = slash;
    }
    return j;
}

static const ap_json *resolve(const walk *w, const ap_json *schema)
{
    const ap_json *ref = ap_json_get(schema, "$ref");
    const ap_json *hit = resolve_below(w->root, ref);
    return hit ? hit : resolve_below(w->function, ref);
}

static const char *const groups[] = {"allOf", "anyOf", "oneOf", NULL};

static bool enter(walk *w, const ap_json *schema)
{
    if (!schema || schema->type != AP_JSON_OBJECT || w->depth >= MAX_DEPTH) return false;
    return ++w->n_nodes <= MAX_NODES;
}

/* Property key[0, n) of a schema, also where its parts or what it refers to hold it. */
static const ap_json *property(walk *w, const ap_json *schema, const char *key, size_t n)
{
    if (!enter(w, schema)) return NULL;
    const ap_json *hit = member(ap_json_get(schema, "properties"), key, n);
    w->depth++;
    if (!hit) hit = property(w, resolve(w, schema), key, n);
    for (int g = 0; groups[g] && !hit; g++)
        for (const ap_json *i = elements(ap_json_get(schema, groups[g]));
             i && !hit && w->n_nodes <= MAX_NODES; i = i->next)
            hit = property(w, i, key, n);
    w->depth--;
    return hit;
}

static const ap_json *find(walk *w, const ap_json *function, const char *key, size_t len)
{
    *w = (walk){.root = ap_json_get(function, "parameters"), .function = function};
    if (!w->root) w->root = ap_json_get(function, "input_schema");
    return property(w, w->root, key, len);
}

bool ap_schema_has(const ap_json *function, const char *key, size_t len)
{
    walk w;
    return find(&w, function, key, len) != NULL;
}

/* ---------------------------------------------------------------- types */

static int type_named(const char *s)
{
    static const struct {
        const char *name;
        int type;
    } names[] = {
        {"string", AP_TYPE_STRING},   {"str", AP_TYPE_STRING},   {"text", AP_TYPE_STRING},
        {"integer", AP_TYPE_INTEGER}, {"int", AP_TYPE_INTEGER},  {"long", AP_TYPE_INTEGER},
        {"number", AP_TYPE_NUMBER},   {"float", AP_TYPE_NUMBER}, {"double", AP_TYPE_NUMBER},
        {"boolean", AP_TYPE_BOOLEAN}, {"bool", AP_TYPE_BOOLEAN}, {"object", AP_TYPE_TREE},
        {"dict", AP_TYPE_TREE},       {"array", AP_TYPE_TREE},   {"list", AP_TYPE_TREE},
        {"null", AP_TYPE_NULL}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcasecmp(s, names[i].name)) return names[i].type;
    return AP_TYPE_STRING;
}

/* The type of a value that enum or const lists. */
static int type_of(const ap_json *value)
{
    switch (value->type) {
    case AP_JSON_NULL:
        return AP_TYPE_NULL;
    case AP_JSON_BOOL:
        return AP_TYPE_BOOLEAN;
    case AP_JSON_INT:
        return AP_TYPE_INTEGER;
    case AP_JSON_DOUBLE:
        return AP_TYPE_NUMBER;
    case AP_JSON_STRING:
        return AP_TYPE_STRING;
    default:
        return AP_TYPE_TREE;
    }
}

/* What the node itself says, without its parts. */
static int own_types(const ap_json *schema)
{
    int types = 0;
    const ap_json *t = ap_json_get(schema, "type"), *constant = ap_json_get(schema, "const");
    if (is_text(t)) types |= type_named(t->str);
    for (const ap_json *i = elements(t); i; i = i->next)
        if (is_text(i)) types |= type_named(i->str);
    if (types) return types;
    for (const ap_json *i = elements(ap_json_get(schema, "enum")); i; i = i->next)
        types |= type_of(i);
    if (constant) types |= type_of(constant);
    if (!types && (ap_json_get(schema, "properties") || ap_json_get(schema, "items")))
        types = AP_TYPE_TREE;
    return types;
}

static int all_types(walk *w, const ap_json *schema)
{
    if (!enter(w, schema)) return 0;
    int types = own_types(schema);
    w->depth++;
    types |= all_types(w, resolve(w, schema));
    for (int g = 0; groups[g]; g++)
        for (const ap_json *i = elements(ap_json_get(schema, groups[g]));
             i && w->n_nodes <= MAX_NODES; i = i->next)
            types |= all_types(w, i);
    w->depth--;
    return types;
}

int ap_schema_types(const ap_json *function, const char *key, size_t len)
{
    walk w;
    const ap_json *schema = find(&w, function, key, len);
    w.n_nodes = w.depth = 0;
    return all_types(&w, schema);
}
