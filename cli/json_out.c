#include "json_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_gen.h>

#include "apus/apus_unstable.h"

struct json_out {
    yajl_gen gen;
};

static void check(yajl_gen_status s)
{
    if (s == yajl_gen_status_ok) return;
    fprintf(stderr, "apus: writing JSON failed (status %d)\n", (int)s);
    exit(1);
}

/* libyajl writes to what its allocator gives without a look at it. */
static void *need(void *p)
{
    if (p) return p;
    fputs("apus: out of memory for JSON text\n", stderr);
    apus_outputs_remove();
    exit(1);
}

static void *y_malloc(void *ctx, size_t n)
{
    (void)ctx;
    return need(malloc(n));
}

static void *y_realloc(void *ctx, void *p, size_t n)
{
    (void)ctx;
    return need(realloc(p, n));
}

static void y_free(void *ctx, void *p)
{
    (void)ctx;
    free(p);
}

json_out *json_new(bool pretty)
{
    yajl_alloc_funcs mem = {y_malloc, y_realloc, y_free, NULL};
    json_out *j = need(malloc(sizeof *j));
    j->gen = need(yajl_gen_alloc(&mem));
    yajl_gen_config(j->gen, yajl_gen_beautify, pretty ? 1 : 0);
    yajl_gen_config(j->gen, yajl_gen_indent_string, "  ");
    return j;
}

void json_free(json_out *j)
{
    if (!j) return;
    yajl_gen_free(j->gen);
    free(j);
}

static void put_key(json_out *j, const char *key)
{
    if (key) check(yajl_gen_string(j->gen, (const unsigned char *)key, strlen(key)));
}

void json_map(json_out *j, const char *key)
{
    put_key(j, key);
    check(yajl_gen_map_open(j->gen));
}

void json_array(json_out *j, const char *key)
{
    put_key(j, key);
    check(yajl_gen_array_open(j->gen));
}

void json_end_map(json_out *j)
{
    check(yajl_gen_map_close(j->gen));
}

void json_end_array(json_out *j)
{
    check(yajl_gen_array_close(j->gen));
}

void json_string(json_out *j, const char *key, const char *s, size_t n)
{
    put_key(j, key);
    check(yajl_gen_string(j->gen, (const unsigned char *)s, n));
}

void json_text(json_out *j, const char *key, const char *s)
{
    if (s) {
        json_string(j, key, s, strlen(s));
        return;
    }
    put_key(j, key);
    check(yajl_gen_null(j->gen));
}

void json_int(json_out *j, const char *key, int64_t v)
{
    put_key(j, key);
    check(yajl_gen_integer(j->gen, v));
}

void json_real(json_out *j, const char *key, double v)
{
    char text[40];
    put_key(j, key);
    int n = snprintf(text, sizeof text, "%.6g", v);
    check(yajl_gen_number(j->gen, text, (size_t)n));
}

void json_bool(json_out *j, const char *key, bool v)
{
    put_key(j, key);
    check(yajl_gen_bool(j->gen, v));
}

const char *json_str(json_out *j, size_t *len)
{
    const unsigned char *s;
    size_t n;
    check(yajl_gen_get_buf(j->gen, &s, &n));
    if (len) *len = n;
    return (const char *)s;
}

/* The generator leaves DEL and C1 (two bytes in UTF-8) as they are. */
void json_print(json_out *j)
{
    size_t n;
    const unsigned char *s = (const unsigned char *)json_str(j, &n);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == 0x7F)
            fputs("\\u007f", stdout);
        else if (s[i] == 0xC2 && i + 1 < n && s[i + 1] < 0xA0)
            printf("\\u%04x", (unsigned)s[++i]);
        else
            putchar(s[i]);
    }
    putchar('\n');
}

char *json_copy(json_out *j)
{
    return need(strdup(json_str(j, NULL)));
}
