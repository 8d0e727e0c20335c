#include "file/family_tokens.h"

#include <string.h>

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NONE      ((const char *const[]){NULL})

const ap_family_tokens ap_gemma_tokens = {
    .first = "<bos>",
    .turn_ends = LIST("<turn|>", "<|tool_response>", "<end_of_turn>", "<eos>"),
    .media =
        LIST("<|image>", "<image|>", "<|image|>", "<|audio>", "<audio|>", "<|audio|>", "<|video>",
             "<video|>", "<|video|>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    .marks = {.picture = {"<|image|>", "<|image>", "<image|>", ""},
              .film = {"<|video|>", "<|image>", "<image|>", " "},
              .sound = {"<|audio|>", "<|audio>", "<audio|>", ""},
              .time = AP_TIME_MINUTES},
    .special = LIST("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>",
                    "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    .one_bar = true,
    .added = NONE,
    .visible = LIST("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
                    "<tool_response|>", "<|\"|>"),
    .sentencepiece = true,
    .gguf_model = "gemma4",
};

const ap_family_tokens ap_qwen_tokens = {
    .turn_ends = LIST("<|im_end|>", "<|endoftext|>"),
    .media = LIST("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
                  "<|video_pad|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"),
    /* the template has marks around a picture already, and leaves those of a film where they are */
    .marks = {.picture = {"<|image_pad|>", "", "", ""},
              .film = {"<|video_pad|>", "<|vision_start|>", "<|vision_end|>", ""},
              .time = AP_TIME_SECONDS},
    .special = NONE,
    .added = LIST("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>",
                  "</think>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
                  "<|repo_name|>", "<|file_sep|>"),
    .visible = NONE,
    .gguf_model = "gpt2",
};

static bool is_one_of(const char *const *list, const char *s, size_t n)
{
    for (; *list; list++)
        if (n == strlen(*list) && !memcmp(s, *list, n)) return true;
    return false;
}

bool ap_is_visible_marker(const ap_family_tokens *f, const char *s, size_t n)
{
    return is_one_of(f->visible, s, n);
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

ap_token_kind ap_family_token_kind(const ap_family_tokens *f, const char *s, size_t n)
{
    if (is_one_of(f->added, s, n)) return AP_TOKEN_ADDED;
    bool control = is_one_of(f->special, s, n) || in_bars(s, n, !f->one_bar);
    return control ? AP_TOKEN_SPECIAL : AP_TOKEN_PLAIN;
}
