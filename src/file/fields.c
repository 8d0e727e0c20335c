#include "file/fields.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const ap_json *ap_field(const ap_fields *f, const char *key)
{
    const ap_json *v = ap_json_get(f->o, key);
    return v && v->type != AP_JSON_NULL ? v : NULL;
}

void ap_field_describe(char *out, size_t size, const ap_json *v)
{
    switch (v->type) {
    case AP_JSON_NULL:
        snprintf(out, size, "null");
        break;
    case AP_JSON_BOOL:
        snprintf(out, size, "%s", v->boolean ? "true" : "false");
        break;
    case AP_JSON_INT:
    case AP_JSON_DOUBLE:
        snprintf(out, size, "%.60s", v->str);
        break;
    case AP_JSON_STRING:
        snprintf(out, size, "\"%.80s\"", v->str);
        break;
    case AP_JSON_ARRAY:
        snprintf(out, size, "a list of %zu", v->len);
        break;
    case AP_JSON_OBJECT:
        snprintf(out, size, "an object");
        break;
    }
}

void ap_field_fail(const ap_fields *f, apus_err code, const char *key, const ap_json *v,
                   const char *fmt, ...)
{
    char what[400], found[100] = "";
    if (*f->err) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (v) ap_field_describe(found, sizeof found, v);
    *f->err = ap_fail(f->diag, code, "%s: %s%s: %s%s%s", f->file, f->prefix, key, what,
                      v ? ", found " : "", found);
}

int64_t ap_field_int(const ap_fields *f, const char *key, int64_t lo, int64_t hi, int64_t def)
{
    const ap_json *v = ap_field(f, key);
    if (!v) {
        if (def != AP_REQUIRED) return def;
        ap_field_fail(f, APUS_EFORMAT, key, NULL, "is missing");
        return lo;
    }
    if (v->type == AP_JSON_INT && v->integer >= lo && v->integer <= hi) return v->integer;
    ap_field_fail(f, APUS_EFORMAT, key, v, "expected an integer from %lld to %lld", (long long)lo,
                  (long long)hi);
    return def == AP_REQUIRED ? lo : def;
}

double ap_field_num(const ap_fields *f, const char *key, double lo, double hi, double def)
{
    const ap_json *v = ap_field(f, key);
    if (!v) {
        if (!isnan(def)) return def;
        ap_field_fail(f, APUS_EFORMAT, key, NULL, "is missing");
        return lo;
    }
    bool number = v->type == AP_JSON_INT || v->type == AP_JSON_DOUBLE;
    if (number && v->number >= lo && v->number <= hi) return v->number;
    ap_field_fail(f, APUS_EFORMAT, key, v, "expected a number from %g to %g", lo, hi);
    return isnan(def) ? lo : def;
}

bool ap_field_bool(const ap_fields *f, const char *key, bool def)
{
    const ap_json *v = ap_field(f, key);
    if (!v) return def;
    if (v->type == AP_JSON_BOOL) return v->boolean;
    ap_field_fail(f, APUS_EFORMAT, key, v, "expected true or false");
    return def;
}

const char *ap_field_str(const ap_fields *f, const char *key, const char *def)
{
    const ap_json *v = ap_field(f, key);
    if (!v) return def;
    if (v->type == AP_JSON_STRING && strlen(v->str) == v->len) return v->str;
    ap_field_fail(f, APUS_EFORMAT, key, v, "expected a text");
    return def;
}

static const ap_json *typed(const ap_fields *f, const char *key, ap_json_type type,
                            const char *name)
{
    const ap_json *v = ap_field(f, key);
    if (!v || v->type == type) return v;
    ap_field_fail(f, APUS_EFORMAT, key, v, "expected %s", name);
    return NULL;
}

const ap_json *ap_field_array(const ap_fields *f, const char *key)
{
    return typed(f, key, AP_JSON_ARRAY, "a list");
}

const ap_json *ap_field_object(const ap_fields *f, const char *key)
{
    return typed(f, key, AP_JSON_OBJECT, "an object");
}

void ap_field_expect(const ap_fields *f, const char *key, const char *want)
{
    const char *s = ap_field_str(f, key, want);
    if (strcmp(s, want))
        ap_field_fail(f, APUS_EUNSUPPORTED, key, ap_field(f, key), "only \"%s\" is supported",
                      want);
}

void ap_field_refuse(const ap_fields *f, const char *key)
{
    if (ap_field_bool(f, key, false))
        ap_field_fail(f, APUS_EUNSUPPORTED, key, NULL, "true is not supported");
}
