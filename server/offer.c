#include "offer.h"

#include <string.h>

/* What OpenAI's and Anthropic's APIs take as a name. */
static bool good_name(const char *s)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t n = strlen(s);
    return n && n <= 128 && strspn(s, letters) == n;
}

bool sv_offer_add(sv_exchange *x, sv_job *j, const char *path, const char *name,
                  const char *description, const sv_json *parameters, bool strict)
{
    sv_buf *b = &j->tools;
    if (!name || !good_name(name))
        return sv_fail(x, 400, NULL, path,
                       "%s: expected a name of up to 128 letters, digits, '_', '-' and '.'", path);
    if (j->n_tools == SV_MAX_TOOLS)
        return sv_fail(x, 400, NULL, "tools", "tools: at most %d", SV_MAX_TOOLS);
    j->tools_offered[j->n_tools++] = name;
    j->any_strict = j->any_strict || strict;
    if (!b->len) sv_put_array(b, NULL);
    sv_put_map(b, NULL);
    sv_put_str(b, "type", "function");
    sv_put_map(b, "function");
    sv_put_str(b, "name", name);
    if (description) sv_put_str(b, "description", description);
    if (strict) sv_put_bool(b, "strict", true);
    if (parameters) {
        sv_put_json(b, "parameters", parameters);
    } else {
        sv_put_map(b, "parameters");
        sv_put_str(b, "type", "object");
        sv_put_map(b, "properties");
        sv_put_end_map(b);
        sv_put_end_map(b);
    }
    sv_put_end_map(b);
    sv_put_end_map(b);
    return true;
}

bool sv_offer_finish(sv_exchange *x, sv_job *j, sv_must must, const char *name, const char *path)
{
    bool any = j->tools.len > 0;
    if (any) sv_put_end_array(&j->tools);
    if (must == SV_NONE) {
        sv_buf_free(&j->tools);
        j->tools_banned = true;
        return true;
    }
    if (must == SV_AUTO) return true;
    if (!any) return sv_fail(x, 400, NULL, path, "%s: there are no tools to choose from", path);
    for (int i = 0; must == SV_NAMED && i < j->n_tools; i++)
        if (!strcmp(name, j->tools_offered[i])) j->must_call = j->tools_offered[i];
    if (must == SV_NAMED && !j->must_call)
        return sv_fail(x, 400, NULL, path, "%s: there is no tool %.120s", path, name);
    j->must = true;
    return true;
}
