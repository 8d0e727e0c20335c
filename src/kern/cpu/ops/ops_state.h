/* ops_state.h - the slots of kern.h that deal with positions and carried state: rope, qkv, attn,
 * conv, delta, commit, carry. ex->k->impl is an ap_micro. */
#ifndef AP_KERN_CPU_OPS_STATE_H
#define AP_KERN_CPU_OPS_STATE_H

#include "kern/kern.h"

void ap_cpu_rope(const ap_exec *ex, const ap_rope_args *a);
void ap_cpu_qkv(const ap_exec *ex, const ap_qkv_args *a);
size_t ap_cpu_attn_scratch_bytes(const ap_exec *ex, int n_tok, int n_head, int n_kv_head,
                                 int head_dim);
void ap_cpu_attn(const ap_exec *ex, const ap_attn_args *a);
int ap_cpu_attn_fast_dim(const ap_exec *ex, int head_dim);
void ap_cpu_attn_near(const ap_exec *ex, const ap_attn_near_args *a);
void ap_cpu_conv(const ap_exec *ex, const ap_conv_args *a);
size_t ap_cpu_delta_scratch_bytes(const ap_exec *ex, int n_tok, int n_k_head, int n_v_head,
                                  int k_dim, int v_dim);
void ap_cpu_delta(const ap_exec *ex, const ap_delta_args *a);
/* conv and delta as one job, to the same bits. False: not with these shapes and threads, nothing is done. */
bool ap_cpu_conv_delta(const ap_exec *ex, const ap_conv_args *conv, const ap_delta_args *a);
void ap_cpu_commit(const ap_exec *ex, const ap_commit_args *a);
void ap_cpu_carry(const ap_exec *ex, const ap_carry_args *a);

#endif
