/* math_coef.h - constants of the scalar functions (micro.h), shared by ref and the vector twins.
 *
 * Polynomials are least-maximum-error fits made for these intervals; the evaluation order is part
 * of the definition (ref/math_ref.c). */
#ifndef AP_KERN_CPU_MICRO_MATH_COEF_H
#define AP_KERN_CPU_MICRO_MATH_COEF_H

#define AP_ROUND_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, nearest even */

/* exp(x) = 2^n * exp(r), |r| <= ln2/2, exp(r) = 1 + (r + r^2 P(r)) */
#define AP_EXP_MIN (-87.33654f) /* below: 0 */
#define AP_EXP_MAX 88.72283f    /* above: inf */
#define AP_LOG2E   1.44269504f
#define AP_LN2_HI  0.693147182464599609375f
#define AP_LN2_LO  (-1.904654299957e-9f)
#define AP_EXP_P0  0.5f
#define AP_EXP_P1  0.16666512f
#define AP_EXP_P2  0.041666187f
#define AP_EXP_P3  0.008369599f
#define AP_EXP_P4  0.0013951717f

/* log(2^e m) = e ln2 + f - f^2/2 + f^3 Q(f), f = m - 1, m in [sqrt(1/2), sqrt(2)) */
#define AP_SQRT_HALF_BITS 0x3f3504f3
#define AP_LOG_Q0         0.33333316f
#define AP_LOG_Q1         (-0.2500081f)
#define AP_LOG_Q2         0.2000228f
#define AP_LOG_Q3         (-0.1662452f)
#define AP_LOG_Q4         0.1418131f
#define AP_LOG_Q5         (-0.13129237f)
#define AP_LOG_Q6         0.1288096f
#define AP_LOG_Q7         (-0.07857309f)

/* tanh(x) = x + x^3 R(x^2) below AP_TANH_SMALL */
#define AP_TANH_SMALL 0.625f
#define AP_TANH_R0    (-0.33333284f)
#define AP_TANH_R1    0.13331491f
#define AP_TANH_R2    (-0.053743497f)
#define AP_TANH_R3    0.020650579f
#define AP_TANH_R4    (-0.0057170363f)

#define AP_GELU_CUBE       0.044715f
#define AP_GELU_MINUS_2C   (-1.5957691f) /* -2 sqrt(2/pi) */
#define AP_SOFTPLUS_LINEAR 20.0f         /* above: x itself */

#endif
