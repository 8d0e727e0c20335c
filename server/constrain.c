#include "constrain.h"

#include "state.h"

static bool claim(sv_exchange *x, sv_job *j, const char *path)
{
    if (j->constrained)
        return sv_fail(x, 400, NULL, path, "%s: the answer is constrained by %s already", path,
                       j->constraint_path.text);
    j->constrained = true;
    sv_path_at(&j->constraint_path, "", path);
    return true;
}

bool sv_constrain_schema(sv_exchange *x, sv_job *j, const sv_json *schema, const char *path)
{
    if (!claim(x, j, path)) return false;
    if (schema->type != SV_JSON_OBJECT && schema->type != SV_JSON_BOOL)
        return sv_fail_kind(x, path, "a JSON schema", schema);
    sv_put_json(&j->schema, NULL, schema);
    return true;
}

bool sv_constrain_grammar(sv_exchange *x, sv_job *j, const char *grammar, const char *path)
{
    j->grammar = grammar;
    return claim(x, j, path);
}

bool sv_constrain_object(sv_exchange *x, sv_job *j, const char *path)
{
    j->json_object = true;
    return claim(x, j, path);
}

static bool may_call(const sv_job *j)
{
    return j->n_tools && !j->tools_banned;
}

/* Is anything said of calls: that they must come, what they hold, or that only they may come instead of a document? */
static bool of_calls(const sv_job *j)
{
    return may_call(j) && (j->must || j->any_strict || j->constrained);
}

static void set_document(const sv_job *j, apus_constraint *c)
{
    c->json_schema = j->schema.len ? j->schema.data : NULL;
    c->grammar = j->grammar;
    c->json_object = j->json_object;
}

bool sv_constrain_settings(const sv_job *j, apus_constraint *out)
{
    apus_constraint_default(out);
    out->think = j->plain ? APUS_THINK_OFF : j->think;
    if (of_calls(j)) {
        out->tools_json = j->tools.data;
        out->must_call = j->must;
        out->single_call = j->single_call;
        out->call_name = j->must_call;
    }
    if (!out->must_call) set_document(j, out);
    return j->constrained || out->tools_json;
}

static bool check(sv_exchange *x, const apus_constraint *c, const char *path)
{
    apus_diag d;
    if (!apus_constraint_check(x->served->model, c, &d)) return true;
    if (d.code == APUS_ENOMEM) return sv_fail_diag(x, &d);
    return sv_fail(x, 400, d.code == APUS_EUNSUPPORTED ? "unsupported_value" : "invalid_schema",
                   path, "%s: %s", path, d.text);
}

bool sv_constrain_check(sv_exchange *x, const sv_job *j)
{
    apus_constraint c;
    const char *path = j->constraint_path.text;
    if (j->schema.failed || j->tools.failed) return sv_fail(x, 503, NULL, NULL, "out of memory");
    if (j->grammar && may_call(j))
        return sv_fail(x, 400, "unsupported_value", path,
                       "%s: not supported beside tools that may be called; tool_choice none is",
                       path);
    if (!sv_constrain_settings(j, &c)) return true;
    if (!c.tools_json) return check(x, &c, path);
    /* the document by itself, so that each error is told of what it is in */
    apus_constraint document;
    apus_constraint_default(&document);
    set_document(j, &document);
    return (!j->constrained || check(x, &document, path)) &&
           check(x, &c, j->constrained || j->any_strict ? "tools" : "tool_choice");
}
