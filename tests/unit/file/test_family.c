/* The rows of the families: complete in every layer, and found by the names that files have for them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "file/family.h"
#include "file/gguf_hf.h"
#include "model/model_impl.h"
#include "text/chat.h"

enum { N_ARCH = AP_ARCH_GEMMA3 + 1 };

static void rows_are_complete(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCH; i++) {
        const ap_family *f = ap_family_of((ap_arch_id)i);
        const ap_pass *pass = ap_pass_of(&(ap_config){.arch = (ap_arch_id)i});
        assert_string_equal(f->name, ap_arch_name((ap_arch_id)i));
        assert_true(f->config && f->layer && f->tokens && f->names && f->read && f->write);
        assert_true(pass->bind && pass->forward);
        assert_true(!f->answers || ap_chat_syntax_named(f->answers) != AP_CHAT_PLAIN);
        assert_int_equal(f->experts, f->mlx_experts != NULL);
        for (int k = 0; k < AP_FAMILY_TYPES; k++) assert_int_equal(!f->type[k], !f->classes[k]);
    }
    assert_int_equal(ap_chat_syntax_named(NULL), AP_CHAT_PLAIN);
    assert_int_equal(ap_chat_syntax_named("nobody"), AP_CHAT_PLAIN);
}

static void found_by_model_type(void **state)
{
    (void)state;
    ap_arch_id arch;
    const char *type;
    bool text;
    char name[64];
    for (int i = 0; i < N_ARCH; i++) {
        const ap_family *f = ap_family_of((ap_arch_id)i);
        for (int k = 0; k < AP_FAMILY_TYPES && f->type[k]; k++) {
            assert_ptr_equal(ap_family_of_type(f->type[k], &arch, &type, &text), f);
            assert_true((int)arch == i && type == f->type[k] && !text);
            snprintf(name, sizeof name, "%s_text", f->type[k]);
            const ap_family *found = ap_family_of_type(name, &arch, &type, &text);
            assert_ptr_equal(found, f->wrapped ? f : NULL);
            if (found) assert_true((int)arch == i && type == f->type[k] && text);
        }
        assert_ptr_equal(ap_family_of_type(f->gguf_type, &arch, &type, &text), f);
    }
    static const char *const strangers[] = {"", "gemma", "gemma4_", "gemma4_text_text",
                                            "qwen3_5_moe2"};
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
        assert_null(ap_family_of_type(strangers[i], &arch, &type, &text));
}

static void found_by_gguf_name(void **state)
{
    (void)state;
    for (int i = 0; i < N_ARCH; i++) {
        const ap_family *f = ap_family_of((ap_arch_id)i);
        assert_ptr_equal(ap_family_of_gguf(f->gguf, strlen(f->gguf)), f);
        assert_ptr_not_equal(ap_family_of_gguf(f->gguf, strlen(f->gguf) - 1), f);
    }
    assert_null(ap_family_of_gguf("", 0));
    assert_null(ap_family_of_gguf("llama", 5));
}

/* Every name that is written is read back as what it was. */
static void gguf_names_come_back(void **state)
{
    (void)state;
    char hf[128], gguf[128], again[128];
    for (int i = 0; i < N_ARCH; i++) {
        const ap_family *f = ap_family_of((ap_arch_id)i);
        const ap_gguf_name *lists[] = {f->names_first, f->names};
        for (int k = 0; k < 2; k++)
            for (const ap_gguf_name *n = lists[k]; n && n->gguf; n++) {
                snprintf(hf, sizeof hf, "model.layers.7.%s", n->hf);
                assert_true(ap_gguf_name_of(hf, f, gguf, sizeof gguf));
                assert_true(ap_gguf_tensor_name(gguf, f, again, sizeof again));
                assert_string_equal(again, hf);
            }
    }
    /* The same norm, called after its place or after what follows it. */
    static const char norm[] = "model.layers.0.post_attention_layernorm.weight";
    assert_true(ap_gguf_name_of(norm, ap_family_of(AP_ARCH_QWEN3), gguf, sizeof gguf));
    assert_string_equal(gguf, "blk.0.ffn_norm.weight");
    assert_true(ap_gguf_name_of(norm, ap_family_of(AP_ARCH_QWEN3_5), gguf, sizeof gguf));
    assert_string_equal(gguf, "blk.0.post_attention_norm.weight");
}

static void lists_name_all(void **state)
{
    (void)state;
    char list[256];
    ap_family_list_types(list, sizeof list);
    assert_string_equal(list,
                        "gemma4, gemma4_unified, qwen3_5, qwen3_5_moe, qwen3_next, qwen3_moe, "
                        "qwen3 and gemma3");
    ap_family_list_gguf(list, sizeof list);
    assert_string_equal(list, "gemma4, qwen35, qwen35moe, qwen3next, qwen3moe, qwen3 and gemma3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_complete),  cmocka_unit_test(found_by_model_type),
        cmocka_unit_test(found_by_gguf_name), cmocka_unit_test(gguf_names_come_back),
        cmocka_unit_test(lists_name_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
