#include "fields.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

const char *sv_path_at(sv_path *p, const char *path, const char *name)
{
    snprintf(p->text, sizeof p->text, "%.100s%s%.56s", path, *path ? "." : "", name);
    return p->text;
}

const char *sv_path_index(sv_path *p, const char *path, size_t i)
{
    snprintf(p->text, sizeof p->text, "%.120s[%zu]", path, i);
    return p->text;
}

bool sv_fail_kind(sv_exchange *x, const char *path, const char *expected, const sv_json *found)
{
    return sv_fail(x, 400, NULL, path, "%s: expected %s, found %s", path, expected,
                   sv_json_kind(found));
}

/* The field of that name in one of two tables, and its number among all of them. */
static const sv_field *find(const sv_field *table, const sv_field *also, const char *name, int *at)
{
    for (*at = 0; table; table = also, also = NULL)
        for (; table->name; table++, ++*at)
            if (!strcmp(table->name, name)) return table;
    return NULL;
}

bool sv_fields_read_both(sv_exchange *x, const sv_field *table, const sv_field *also,
                         const sv_json *object, const char *path, void *into)
{
    uint64_t seen = 0;
    if (object->type != SV_JSON_OBJECT)
        return sv_fail_kind(x, *path ? path : "body", "an object", object);
    for (const sv_json *m = object->first; m; m = m->next) {
        sv_path p;
        int at;
        const sv_field *f = find(table, also, m->key, &at);
        sv_path_at(&p, path, m->key);
        if (!f)
            return sv_fail(x, 400, "unknown_parameter", p.text, "%s: no such field here", p.text);
        uint64_t bit = 1ull << at;
        if (seen & bit) return sv_fail(x, 400, NULL, p.text, "%s: given twice", p.text);
        seen |= bit;
        if (m->type != SV_JSON_NULL && !f->read(x, f, m, p.text, into)) return false;
    }
    return true;
}

bool sv_fields_read(sv_exchange *x, const sv_field *table, const sv_json *object, const char *path,
                    void *into)
{
    return sv_fields_read_both(x, table, NULL, object, path, into);
}

static void *place(const sv_field *f, void *into)
{
    return (char *)into + f->at;
}

bool sv_read_bool(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path, void *into)
{
    if (v->type != SV_JSON_BOOL) return sv_fail_kind(x, path, "true or false", v);
    *(bool *)place(f, into) = v->boolean;
    return true;
}

bool sv_read_int(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path, void *into)
{
    int64_t n;
    if (v->type != SV_JSON_NUMBER) return sv_fail_kind(x, path, "a whole number", v);
    if (!sv_json_int(v, &n) || (double)n < f->min || (double)n > f->max)
        return sv_fail(x, 400, NULL, path,
                       "%s: expected a whole number from %.0f to %.0f, found %.40s", path, f->min,
                       f->max, v->str);
    *(int *)place(f, into) = (int)n;
    return true;
}

bool sv_read_seed(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path, void *into)
{
    int64_t n;
    if (v->type != SV_JSON_NUMBER || !sv_json_int(v, &n))
        return sv_fail_kind(x, path, "a whole number of 64 bits", v);
    *(uint64_t *)place(f, into) = (uint64_t)n;
    return true;
}

bool sv_read_real(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path, void *into)
{
    if (v->type != SV_JSON_NUMBER) return sv_fail_kind(x, path, "a number", v);
    double d = sv_json_real(v);
    if (!(d >= f->min && d <= f->max))
        return sv_fail(x, 400, NULL, path, "%s: expected a number from %g to %g, found %.40s", path,
                       f->min, f->max, v->str);
    *(float *)place(f, into) = (float)d;
    return true;
}

bool sv_read_string(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path,
                    void *into)
{
    if (v->type != SV_JSON_STRING) return sv_fail_kind(x, path, "a string", v);
    if (strlen(v->str) != v->len)
        return sv_fail(x, 400, NULL, path, "%s: a zero character cannot stand here", path);
    *(const char **)place(f, into) = v->str;
    return true;
}

bool sv_read_json(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path, void *into)
{
    (void)x;
    (void)path;
    *(const sv_json **)place(f, into) = v;
    return true;
}

bool sv_read_array(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path,
                   void *into)
{
    if (v->type != SV_JSON_ARRAY) return sv_fail_kind(x, path, "an array", v);
    return sv_read_json(x, f, v, path, into);
}

bool sv_read_object(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path,
                    void *into)
{
    if (v->type != SV_JSON_OBJECT) return sv_fail_kind(x, path, "an object", v);
    return sv_read_json(x, f, v, path, into);
}

bool sv_read_any(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path, void *into)
{
    (void)x;
    (void)f;
    (void)v;
    (void)path;
    (void)into;
    return true;
}

bool sv_read_only(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path, void *into)
{
    (void)into;
    if (v->type == SV_JSON_BOOL && !strcmp(f->text, v->boolean ? "true" : "false")) return true;
    if (sv_json_is(v, f->text)) return true;
    return sv_fail(x, 400, "unsupported_value", path, "%s: only %s is supported", path, f->text);
}

bool sv_read_refuse(sv_exchange *x, const sv_field *f, const sv_json *v, const char *path,
                    void *into)
{
    (void)v;
    (void)into;
    return sv_fail(x, 400, "unsupported_parameter", path, "%s is not supported%s%s", path,
                   f->text ? ": " : "", f->text ? f->text : "");
}
