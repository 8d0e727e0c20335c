/* The log of a model and its engines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "apus/apus.h"
#include "base/log.h"

typedef struct heard {
    int n, warnings;
    char text[4096];
} heard;

static void listen(void *ctx, apus_log_level level, const char *text)
{
    heard *h = ctx;
    assert_null(strchr(text, '\n'));
    h->n++;
    h->warnings += level == APUS_LOG_WARNING;
    strncat(h->text, text, sizeof h->text - strlen(h->text) - 2);
    strcat(h->text, "\n");
}

static void tells_what_was_opened(void **state)
{
    (void)state;
    heard h = {0};
    apus_diag diag;
    apus_model *m = NULL;
    apus_engine *e = NULL;
    apus_model_settings s;
    apus_engine_settings es;
    apus_model_settings_default(&s);
    apus_engine_settings_default(&es);
    s.log = listen;
    s.log_ctx = &h;
    assert_int_equal(apus_model_open("models/tiny-qwen", &s, &m, &diag), APUS_OK);
    assert_non_null(strstr(h.text, "models/tiny-qwen: qwen3_5"));
    assert_non_null(strstr(h.text, "precision high"));
    es.ctx = 123;
    int before = h.n;
    assert_int_equal(apus_engine_create(m, &es, &e, &diag), APUS_OK);
    assert_int_equal(h.n, before + 1);
    assert_non_null(strstr(h.text, "1 sessions of 123 tokens"));
    assert_int_equal(h.warnings, 0);
    apus_engine_free(e);
    apus_model_close(m);
}

static void warns_of_what_is_missing(void **state)
{
    (void)state;
    heard h = {0};
    apus_diag diag;
    apus_model *m = NULL;
    apus_model_settings s;
    apus_model_settings_default(&s);
    s.log = listen;
    s.log_ctx = &h;
    s.load = APUS_LOAD_INFO;
    assert_int_equal(apus_model_open("models/configs/Qwen3.6-35B-A3B", &s, &m, &diag), APUS_OK);
    assert_int_equal(h.warnings, 1);
    assert_non_null(strstr(h.text, "no tokenizer"));
    apus_model_close(m);
}

static void lines_are_clean(void **state)
{
    (void)state;
    heard h = {0};
    ap_log_say(&(ap_log){listen, &h}, APUS_LOG_INFO, "a\nb\033[1m%s", "\xff");
    assert_string_equal(h.text, "a?b?[1m?\n");
    ap_log_say(&(ap_log){NULL, NULL}, APUS_LOG_INFO, "nobody listens");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_what_was_opened),
        cmocka_unit_test(warns_of_what_is_missing),
        cmocka_unit_test(lines_are_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
