/* family_in.h - what the rows of family.c name. */
#ifndef AP_FILE_FAMILY_IN_H
#define AP_FILE_FAMILY_IN_H

#include "file/family.h"

/* family_gemma.c */
void ap_gemma_tensors_outside(ap_tensor_walk *w);
void ap_gemma_layer_tensors(ap_tensor_walk *w, const ap_layer_config *lc);
extern const ap_gguf_name ap_gemma_gguf_names[];
void ap_gemma4_read_gguf(ap_meta_in *in, ap_buf *json);
void ap_gemma4_write_gguf(ap_meta_out *p, const ap_fields *t);
void ap_gemma3_read_gguf(ap_meta_in *in, ap_buf *json);
void ap_gemma3_write_gguf(ap_meta_out *p, const ap_fields *t);

/* family_qwen3.c; plain: of those without a gate */
void ap_qwen3_layer_tensors(ap_tensor_walk *w, const ap_layer_config *lc);
extern const ap_gguf_name ap_qwen3_gguf_names[], ap_qwen3_plain_gguf_names[];
void ap_qwen3_read_gguf(ap_meta_in *in, ap_buf *json);
void ap_qwen3_write_gguf(ap_meta_out *p, const ap_fields *t);

#endif
