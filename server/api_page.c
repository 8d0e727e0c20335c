/* api_page.c - GET /: a page to chat on, page.html, which the build makes an array of. */
#include "apis.h"
#include "page.h"

void sv_page(sv_exchange *x)
{
    x->status = 200;
    x->type = "text/html; charset=utf-8";
    sv_buf_add(&x->out, (const char *)sv_page_html, sv_page_bytes);
}
