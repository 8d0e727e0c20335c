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

/* Is it calls that are constrained? */
static bool of_calls(const sv_job *j)
{
    return j->n_tools && !j->tools_banned && (j->must || j->any_strict);
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
        return true;
    }
    out->json_schema = j->schema.len ? j->schema.data : NULL;
    out->grammar = j->grammar;
    out->json_object = j->json_object;
    return j->constrained;
}

bool sv_constrain_check(sv_exchange *x, const sv_job *j)
{
    apus_constraint c;
    apus_diag d;
    const char *path = j->constrained  ? j->constraint_path.text
                       : j->any_strict ? "tools"
                                       : "tool_choice";
    if (j->schema.failed || j->tools.failed) return sv_fail(x, 503, NULL, NULL, "out of memory");
    if (j->constrained && j->n_tools && !j->tools_banned)
        return sv_fail(x, 400, "unsupported_value", path,
                       "%s: not supported beside tools that may be called; tool_choice none is",
                       path);
    if (!sv_constrain_settings(j, &c) || !apus_constraint_check(x->served->model, &c, &d))
        return true;
    if (d.code == APUS_ENOMEM) return sv_fail_diag(x, &d);
    return sv_fail(x, 400, d.code == APUS_EUNSUPPORTED ? "unsupported_value" : "invalid_schema",
                   path, "%s: %s", path, d.text);
}
