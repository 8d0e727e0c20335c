/* template.h - a small, bounded Jinja: enough for chat templates, nothing that can run away. */
#ifndef AP_TEXT_TEMPLATE_H
#define AP_TEXT_TEMPLATE_H

#include "base/err.h"
#include "base/json.h"

typedef struct ap_template ap_template;

/* Compile a template. name is used in errors ("chat_template.jinja: line 12: ..."). */
apus_err ap_template_parse(const char *text, size_t len, const char *name, ap_template **out,
                           apus_diag *diag);
void ap_template_free(ap_template *t);

/* Render with the members of `vars` (a JSON object) as variables. trim_blocks and lstrip_blocks are
 * on, as transformers renders chat templates. Bounds: output bytes, steps, depth, memory; running
 * over one is EFORMAT and names it. raise_exception in the template: EFORMAT with its message.
 *   text   apus_free it */
apus_err ap_template_render(const ap_template *t, const ap_json *vars, char **text, size_t *len,
                            apus_diag *diag);

#endif
