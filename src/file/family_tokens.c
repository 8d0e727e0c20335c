#include "file/family_tokens.h"

#include <string.h>

const char *const *ap_family_turn_ends(bool gemma)
{
    static const char *const of_gemma[] = {"<turn|>", "<|tool_response>", "<end_of_turn>", "<eos>",
                                           NULL};
    static const char *const of_qwen[] = {"<|im_end|>", "<|endoftext|>", NULL};
    return gemma ? of_gemma : of_qwen;
}

const char *const *ap_family_media(bool gemma)
{
    static const char *const of_gemma[] = {
        "<|image>",       "<image|>",           "<|image|>", "<|audio>",  "<audio|>",
        "<|audio|>",      "<|video>",           "<video|>",  "<|video|>", "<start_of_image>",
        "<end_of_image>", "<image_soft_token>", NULL};
    static const char *const of_qwen[] = {"<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
                                          "<|image_pad|>",    "<|video_pad|>",  "<|audio_start|>",
                                          "<|audio_end|>",    "<|audio_pad|>",  NULL};
    return gemma ? of_gemma : of_qwen;
}

static bool is_one_of(const char *const *list, const char *s, size_t n)
{
    for (; *list; list++)
        if (n == strlen(*list) && !memcmp(s, *list, n)) return true;
    return false;
}

bool ap_is_visible_marker(const char *s, size_t n)
{
    static const char *const markers[] = {
        "<|channel>",       "<channel|>",       "<|tool_call>", "<tool_call|>",
        "<|tool_response>", "<tool_response|>", "<|\"|>",       NULL};
    return is_one_of(markers, s, n);
}

/* A word in <| >, < |> or <| |>. */
static bool in_bars(const char *s, size_t n, bool both)
{
    if (n < 4 || s[0] != '<' || s[n - 1] != '>') return false;
    size_t left = s[1] == '|', right = s[n - 2] == '|';
    if (both ? !left || !right : !left && !right) return false;
    size_t len = n - 2 - left - right;
    if (n < 3 + left + right) return false;
    for (size_t i = 0; i < len; i++) {
        char c = s[1 + left + i];
        if (!(c >= 'a' && c <= 'z') && c != '_' && c != '"') return false;
    }
    return true;
}

ap_token_kind ap_family_token_kind(bool gemma, const char *s, size_t n)
{
    static const char *const of_gemma[] = {"<pad>",
                                           "<eos>",
                                           "<bos>",
                                           "<unk>",
                                           "<mask>",
                                           "<start_of_turn>",
                                           "<end_of_turn>",
                                           "<start_of_image>",
                                           "<end_of_image>",
                                           "<image_soft_token>",
                                           NULL};
    static const char *const added[] = {"<tool_call>",
                                        "</tool_call>",
                                        "<tool_response>",
                                        "</tool_response>",
                                        "<think>",
                                        "</think>",
                                        "<|fim_prefix|>",
                                        "<|fim_middle|>",
                                        "<|fim_suffix|>",
                                        "<|fim_pad|>",
                                        "<|repo_name|>",
                                        "<|file_sep|>",
                                        NULL};
    if (gemma)
        return is_one_of(of_gemma, s, n) || in_bars(s, n, false) ? AP_TOKEN_SPECIAL
                                                                 : AP_TOKEN_PLAIN;
    if (is_one_of(added, s, n)) return AP_TOKEN_ADDED;
    return in_bars(s, n, true) ? AP_TOKEN_SPECIAL : AP_TOKEN_PLAIN;
}
