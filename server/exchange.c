#include "exchange.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "answer.h"
#include "state.h"

bool sv_fail(sv_exchange *x, int status, const char *code, const char *param, const char *fmt, ...)
{
    va_list list;
    if (x->error.status) return false;
    x->error.status = status;
    x->error.code = code;
    snprintf(x->error.param, sizeof x->error.param, "%s", param ? param : "");
    va_start(list, fmt);
    vsnprintf(x->error.text, sizeof x->error.text, fmt, list);
    va_end(list);
    return false;
}

bool sv_fail_diag(sv_exchange *x, const apus_diag *d)
{
    switch (d->code) {
    case APUS_EINVAL:
    case APUS_EFORMAT:
    case APUS_EUNSUPPORTED:
        return sv_fail(x, 400, NULL, NULL, "%s", d->text);
    case APUS_EFULL:
        return sv_fail(x, 400, "context_length_exceeded", "messages", "%s", d->text);
    case APUS_EBUSY:
        return sv_fail(x, 429, "queue_full", NULL, "%s", d->text);
    case APUS_ECANCELLED:
        return sv_fail(x, 503, "draining", NULL, "the server is ending and takes no more requests");
    case APUS_ENOMEM:
    case APUS_EDEVICE:
        return sv_fail(x, 503, "unavailable", NULL, "%s", d->text);
    default:
        return sv_fail(x, 500, NULL, NULL, "%s", d->text);
    }
}

/* ---------------------------------------------------------------- errors as each API writes them */

static const char *openai_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

static const char *anthropic_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return status < 500 ? "invalid_request_error" : "api_error";
    }
}

static void put_openai_error(sv_buf *b, const sv_error *e)
{
    sv_put_map(b, "error");
    sv_put_str(b, "message", e->text);
    sv_put_str(b, "type", openai_type(e->status));
    sv_put_str(b, "param", *e->param ? e->param : NULL);
    sv_put_str(b, "code", e->code);
    sv_put_end_map(b);
}

/* The field stands in the sentence, as there is no place of its own. */
static void put_sentence(sv_buf *b, const char *key, const sv_error *e)
{
    char text[sizeof e->text + sizeof e->param + 4];
    bool told = !*e->param || !strncmp(e->text, e->param, strlen(e->param));
    snprintf(text, sizeof text, "%s%s%s", told ? "" : e->param, told ? "" : ": ", e->text);
    sv_put_str(b, key, text);
}

/* By this Anthropic's clients know that they have to send the whole conversation. */
static void put_details(sv_buf *b, const sv_error *e)
{
    if (!e->code || strncmp(e->code, "thread_", strlen("thread_")) != 0) return;
    sv_put_map(b, "details");
    sv_put_str(b, "error_code", e->code);
    sv_put_end_map(b);
}

void sv_put_error(sv_buf *b, sv_api api, const sv_error *e)
{
    sv_put_map(b, NULL);
    switch (api) {
    case SV_OPENAI:
        put_openai_error(b, e);
        break;
    case SV_ANTHROPIC:
        sv_put_str(b, "type", "error");
        sv_put_map(b, "error");
        sv_put_str(b, "type", anthropic_type(e->status));
        put_sentence(b, "message", e);
        put_details(b, e);
        sv_put_end_map(b);
        break;
    case SV_OLLAMA:
        put_sentence(b, "error", e);
        break;
    }
    sv_put_end_map(b);
}

/* ---------------------------------------------------------------- the exchange */

void sv_json_answer(sv_exchange *x, int status)
{
    x->status = status;
    x->type = "application/json";
}

bool sv_client_gone(sv_exchange *x)
{
    struct pollfd p = {.fd = x->fd, .events = POLLRDHUP};
    if (!x->gone && x->fd >= 0 && poll(&p, 1, 0) > 0)
        x->gone = p.revents & (POLLRDHUP | POLLHUP | POLLERR);
    return x->gone;
}

void sv_exchange_free(sv_exchange *x)
{
    if (!x) return;
    sv_answer_free(x->stream);
    sv_pool_give(x->server->pool, &x->lease);
    sv_buf_free(&x->body);
    sv_buf_free(&x->out);
    sv_arena_free(&x->mem);
    free(x);
}
