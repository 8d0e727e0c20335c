/* Source: enum ggml_type of ggml-org/ggml and ikawrakow/ik_llama.cpp, ggml/include/ggml.h. Numbers that
 * both use are named as ggml has them. */
#include "file/gguf_types.h"

#include <stddef.h>

#define READ(id, name, dtype)                                                                      \
    {                                                                                              \
        id, name, dtype, true, false                                                               \
    }
#define NAMED(id, name)                                                                            \
    {                                                                                              \
        id, name, AP_F32, false, false                                                             \
    }
#define IK(id, name)                                                                               \
    {                                                                                              \
        id, name, AP_F32, false, true                                                              \
    }

static const ap_ggml_type types[] = {
    READ(0, "F32", AP_F32),
    READ(1, "F16", AP_F16),
    READ(2, "Q4_0", AP_Q4_0),
    READ(3, "Q4_1", AP_Q4_1),
    NAMED(4, "Q4_2"),
    NAMED(5, "Q4_3"),
    READ(6, "Q5_0", AP_Q5_0),
    READ(7, "Q5_1", AP_Q5_1),
    READ(8, "Q8_0", AP_Q8_0),
    NAMED(9, "Q8_1"),
    READ(10, "Q2_K", AP_Q2_K),
    READ(11, "Q3_K", AP_Q3_K),
    READ(12, "Q4_K", AP_Q4_K),
    READ(13, "Q5_K", AP_Q5_K),
    READ(14, "Q6_K", AP_Q6_K),
    NAMED(15, "Q8_K"),
    READ(16, "IQ2_XXS", AP_IQ2_XXS),
    READ(17, "IQ2_XS", AP_IQ2_XS),
    READ(18, "IQ3_XXS", AP_IQ3_XXS),
    NAMED(19, "IQ1_S"),
    READ(20, "IQ4_NL", AP_IQ4_NL),
    READ(21, "IQ3_S", AP_IQ3_S),
    READ(22, "IQ2_S", AP_IQ2_S),
    READ(23, "IQ4_XS", AP_IQ4_XS),
    READ(24, "I8", AP_I8),
    READ(25, "I16", AP_I16),
    READ(26, "I32", AP_I32),
    READ(27, "I64", AP_I64),
    READ(28, "F64", AP_F64),
    NAMED(29, "IQ1_M"),
    READ(30, "BF16", AP_BF16),
    NAMED(31, "Q4_0_4_4"),
    NAMED(32, "Q4_0_4_8"),
    NAMED(33, "Q4_0_8_8"),
    NAMED(34, "TQ1_0"),
    NAMED(35, "TQ2_0"),
    NAMED(36, "IQ4_NL_4_4 (in ik_llama.cpp I2_S)"),
    NAMED(37, "IQ4_NL_4_8"),
    NAMED(38, "IQ4_NL_8_8"),
    READ(39, "MXFP4", AP_MXFP4),
    NAMED(40, "NVFP4"),
    NAMED(41, "Q1_0"),
    NAMED(42, "Q2_0"),
    IK(97, "Q8_0_X4"),
    IK(98, "Q8_1_X4"),
    IK(99, "Q8_2_X4"),
    IK(133, "Q6_0"),
    IK(134, "IQ1_BN"),
    IK(135, "IQ2_BN"),
    IK(136, "Q8_K64"),
    IK(137, "IQ2_K"),
    IK(138, "IQ3_K"),
    IK(139, "IQ4_K"),
    IK(140, "IQ5_K"),
    IK(141, "IQ6_K"),
    IK(142, "IQ2_TN"),
    IK(143, "IQ1_TN"),
    IK(144, "IQ4_KS"),
    IK(145, "IQ2_KS"),
    IK(146, "IQ4_KSS"),
    IK(147, "Q8_K16"),
    IK(148, "Q8_K32"),
    IK(149, "Q8_KR8"),
    IK(150, "Q8_K128"),
    IK(151, "Q8_KV"),
    IK(152, "IQ5_KS"),
    IK(153, "IQ2_KT"),
    IK(154, "IQ3_KT"),
    IK(155, "IQ4_KT"),
    IK(156, "IQ3_KS"),
    IK(157, "IQ2_KL"),
    IK(158, "IQ1_KT"),
    IK(202, "Q4_0_R8"),
    IK(206, "Q5_0_R4"),
    IK(208, "Q8_0_R8"),
    IK(210, "Q2_K_R4"),
    IK(211, "Q3_K_R4"),
    IK(212, "Q4_K_R4"),
    IK(213, "Q5_K_R4"),
    IK(214, "Q6_K_R4"),
    IK(216, "IQ2_XXS_R4"),
    IK(217, "IQ2_XS_R4"),
    IK(218, "IQ3_XXS_R4"),
    IK(219, "IQ1_S_R4"),
    IK(220, "IQ4_NL_R4"),
    IK(221, "IQ3_S_R4"),
    IK(222, "IQ2_S_R4"),
    IK(223, "IQ4_XS_R8"),
    IK(229, "IQ1_M_R4"),
    IK(230, "BF16_R16"),
    IK(233, "Q6_0_R4"),
    IK(335, "IQ2_BN_R4"),
    IK(337, "IQ2_K_R4"),
    IK(338, "IQ3_K_R4"),
    IK(339, "IQ4_K_R4"),
    IK(340, "IQ5_K_R4"),
    IK(344, "IQ4_KS_R4"),
    IK(352, "IQ5_KS_R4"),
    IK(397, "Q8_K_R16"),
    IK(398, "Q8_KV_R8"),
    IK(399, "Q8_K_R8"),
};

const ap_ggml_type *ap_ggml_type_of(uint64_t id)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if ((uint64_t)types[i].id == id) return &types[i];
    return NULL;
}
