#include "file/family.h"

#include <stdio.h>
#include <string.h>

#include "file/config_in.h"
#include "file/family_in.h"

static const ap_family families[] = {
    [AP_ARCH_GEMMA4] =
        {
            .name = "gemma4",
            .type = {"gemma4", "gemma4_unified"},
            .classes = {"Gemma4ForCausalLM", "Gemma4UnifiedForCausalLM"},
            .wrapped = true,
            .ties = true,
            .bos = 2,
            .pad = 0,
            .eos = 1,
            .config = ap_config_gemma4,
            .image = 258880,
            .video = 258884,
            .audio = 258881,
            .experts = true,
            .v_norm = true,
            .layer_scalar = true,
            .tensors = ap_gemma_tensors_outside,
            .layer = ap_gemma_layer_tensors,
            .tokens = &ap_gemma_tokens,
            .answers = "gemma",
            .media = AP_MEDIA_GEMMA,
            .gguf = "gemma4",
            .gguf_type = "gemma4_text",
            .names = ap_gemma_gguf_names,
            .joint_experts = true,
            .freqs = true,
            .read = ap_gemma4_read_gguf,
            .write = ap_gemma4_write_gguf,
            .mlx_experts = "experts.switch_glu",
        },
    [AP_ARCH_GEMMA3] =
        {
            .name = "gemma3",
            .type = {"gemma3"},
            .classes = {"Gemma3ForCausalLM"},
            .wrapped = true,
            .ties = true,
            .bos = 2,
            .pad = 0,
            .eos = 1,
            .config = ap_config_gemma3,
            .norm_offset = true,
            .tensors = ap_gemma_tensors_outside,
            .layer = ap_gemma_layer_tensors,
            .tokens = &ap_gemma_tokens,
            .gguf = "gemma3",
            .gguf_type = "gemma3_text",
            .names = ap_gemma_gguf_names,
            .gguf_llama = true,
            .read = ap_gemma3_read_gguf,
            .write = ap_gemma3_write_gguf,
        },
    [AP_ARCH_QWEN3_5] =
        {
            .name = "qwen3_5",
            .type = {"qwen3_5"},
            .classes = {"Qwen3_5ForCausalLM"},
            .wrapped = true,
            .bos = -1,
            .pad = -1,
            .eos = -1,
            .config = ap_config_qwen3,
            .image = 248056,
            .video = 248057,
            .audio = -1,
            .gated = true,
            .norm_offset = true,
            .layer = ap_qwen3_layer_tensors,
            .tokens = &ap_qwen_tokens,
            .marks = true,
            .answers = "qwen",
            .media = AP_MEDIA_QWEN,
            .gguf = "qwen35",
            .gguf_type = "qwen3_5_text",
            .names = ap_qwen3_gguf_names,
            .tiled_heads = true,
            .sections = true,
            .read = ap_qwen3_read_gguf,
            .write = ap_qwen3_write_gguf,
        },
    [AP_ARCH_QWEN3_5_MOE] =
        {
            .name = "qwen3_5_moe",
            .type = {"qwen3_5_moe"},
            .classes = {"Qwen3_5MoeForCausalLM"},
            .wrapped = true,
            .bos = -1,
            .pad = -1,
            .eos = -1,
            .config = ap_config_qwen3,
            .image = 248056,
            .video = 248057,
            .audio = -1,
            .experts = true,
            .gated = true,
            .norm_offset = true,
            .layer = ap_qwen3_layer_tensors,
            .tokens = &ap_qwen_tokens,
            .marks = true,
            .answers = "qwen",
            .media = AP_MEDIA_QWEN,
            .gguf = "qwen35moe",
            .gguf_type = "qwen3_5_moe_text",
            .names = ap_qwen3_gguf_names,
            .tiled_heads = true,
            .sections = true,
            .read = ap_qwen3_read_gguf,
            .write = ap_qwen3_write_gguf,
            .mlx_experts = "switch_mlp",
        },
    [AP_ARCH_QWEN3_NEXT] =
        {
            .name = "qwen3_next",
            .type = {"qwen3_next"},
            .classes = {"Qwen3NextForCausalLM"},
            .bos = -1,
            .pad = -1,
            .eos = -1,
            .config = ap_config_qwen3,
            .experts = true,
            .gated = true,
            .joint_delta = true,
            .norm_offset = true,
            .layer = ap_qwen3_layer_tensors,
            .tokens = &ap_qwen_tokens,
            .answers = "qwen",
            .gguf = "qwen3next",
            .gguf_type = "qwen3_next",
            .names = ap_qwen3_gguf_names,
            .read = ap_qwen3_read_gguf,
            .write = ap_qwen3_write_gguf,
            .mlx_experts = "switch_mlp",
        },
    [AP_ARCH_QWEN3_MOE] =
        {
            .name = "qwen3_moe",
            .type = {"qwen3_moe"},
            .classes = {"Qwen3MoeForCausalLM"},
            .bos = -1,
            .pad = -1,
            .eos = -1,
            .config = ap_config_qwen3,
            .experts = true,
            .layer = ap_qwen3_layer_tensors,
            .tokens = &ap_qwen_tokens,
            .answers = "qwen",
            .gguf = "qwen3moe",
            .gguf_type = "qwen3_moe",
            .names = ap_qwen3_gguf_names,
            .names_first = ap_qwen3_plain_gguf_names,
            .read = ap_qwen3_read_gguf,
            .write = ap_qwen3_write_gguf,
            .mlx_experts = "switch_mlp",
        },
    [AP_ARCH_QWEN3] =
        {
            .name = "qwen3",
            .type = {"qwen3"},
            .classes = {"Qwen3ForCausalLM"},
            .bos = -1,
            .pad = -1,
            .eos = -1,
            .config = ap_config_qwen3,
            .layer = ap_qwen3_layer_tensors,
            .tokens = &ap_qwen_tokens,
            .answers = "qwen",
            .gguf = "qwen3",
            .gguf_type = "qwen3",
            .names = ap_qwen3_gguf_names,
            .names_first = ap_qwen3_plain_gguf_names,
            .read = ap_qwen3_read_gguf,
            .write = ap_qwen3_write_gguf,
        },
};

enum { N_FAMILIES = sizeof families / sizeof *families };

const ap_family *ap_family_of(ap_arch_id arch)
{
    return &families[(unsigned)arch < N_FAMILIES ? arch : 0];
}

const char *ap_arch_name(ap_arch_id id)
{
    return (unsigned)id < N_FAMILIES ? families[id].name : "unknown";
}

const ap_family *ap_family_of_type(const char *model_type, ap_arch_id *arch, const char **type,
                                   bool *text)
{
    for (int i = 0; i < N_FAMILIES; i++)
        for (int k = 0; k < AP_FAMILY_TYPES && families[i].type[k]; k++) {
            size_t n = strlen(families[i].type[k]);
            if (strncmp(model_type, families[i].type[k], n)) continue;
            *text = families[i].wrapped && !strcmp(model_type + n, "_text");
            if (model_type[n] && !*text) continue;
            *arch = (ap_arch_id)i;
            *type = families[i].type[k];
            return &families[i];
        }
    return NULL;
}

const ap_family *ap_family_of_gguf(const char *s, size_t n)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (strlen(families[i].gguf) == n && !memcmp(families[i].gguf, s, n)) return &families[i];
    return NULL;
}

/* One more of a list that is to be `total` long. */
static void list_one(char *out, size_t cap, int i, int total, const char *name)
{
    size_t at = strlen(out);
    snprintf(out + at, cap - at, "%s%s", i == 0 ? "" : i + 1 < total ? ", " : " and ", name);
}

void ap_family_list_types(char *out, size_t cap)
{
    int n = 0, total = 0;
    for (int i = 0; i < N_FAMILIES * AP_FAMILY_TYPES; i++)
        total += families[i / AP_FAMILY_TYPES].type[i % AP_FAMILY_TYPES] != NULL;
    *out = 0;
    for (int i = 0; i < N_FAMILIES * AP_FAMILY_TYPES; i++) {
        const char *type = families[i / AP_FAMILY_TYPES].type[i % AP_FAMILY_TYPES];
        if (type) list_one(out, cap, n++, total, type);
    }
}

void ap_family_list_gguf(char *out, size_t cap)
{
    *out = 0;
    for (int i = 0; i < N_FAMILIES; i++) list_one(out, cap, i, N_FAMILIES, families[i].gguf);
}
