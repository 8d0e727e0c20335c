/* math_constants.h - stands for the toolkit's: cuda_runtime.h has them. */
