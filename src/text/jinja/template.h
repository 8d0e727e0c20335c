/* template.h - a small, bounded Jinja: enough for chat templates, nothing that can run away.
 *
 * Renders as transformers does (Jinja2's immutable sandbox, trim_blocks, lstrip_blocks, loop
 * controls, its tojson, raise_exception, strftime_now and namespace; `generation` blocks are
 * plain). Not there: extends, block, include, import, autoescape, i18n; the filters pprint,
 * random, urlize, urlencode, xmlattr, filesizeformat, wordwrap, striptags, truncate with words of
 * several kinds of space; cycler, joiner, lipsum. They fail by name. */
#ifndef AP_TEXT_JINJA_TEMPLATE_H
#define AP_TEXT_JINJA_TEMPLATE_H

#include "base/err.h"
#include "base/json.h"

typedef struct ap_template ap_template;

/* What one rendering may use. Running over one fails and names it. */
typedef struct ap_template_limits {
    size_t output_bytes; /* of the text, and of each captured part */
    size_t memory_bytes; /* of values made on the way */
    uint64_t steps;      /* nodes evaluated, plus work that grows with lengths */
    int depth;           /* nesting of expressions, statements, macro calls and values */
} ap_template_limits;

/* 64 MB, 512 MB, 200 million (some ten seconds at worst), 1000. */
void ap_template_limits_default(ap_template_limits *l);

/* Compile a template. name is used in errors ("chat_template.jinja: line 12: ..."). A template
 * may have 1 MB, 400 levels of nesting and 4096 names. EFORMAT, ENOMEM. */
apus_err ap_template_parse(const char *text, size_t len, const char *name, ap_template **out,
                           apus_diag *diag);
void ap_template_free(ap_template *t);

/* Render with the members of `vars` (a JSON object) as variables. trim_blocks and lstrip_blocks are
 * on, as transformers renders chat templates. Bounds: output bytes, steps, depth, memory; running
 * over one is EFORMAT and names it. raise_exception in the template: EFORMAT with its message.
 * A template may be rendered by several threads at once.
 *   text   apus_free it */
apus_err ap_template_render(const ap_template *t, const ap_json *vars, char **text, size_t *len,
                            apus_diag *diag);
/* The same with bounds of the caller's; limits NULL = default. */
apus_err ap_template_render_limited(const ap_template *t, const ap_json *vars,
                                    const ap_template_limits *limits, char **text, size_t *len,
                                    apus_diag *diag);

#endif
