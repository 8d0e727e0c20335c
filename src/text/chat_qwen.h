/* chat_qwen.h - what the two files of Qwen's output parser share: chat_qwen.c reads content and
 * thoughts, chat_qwen_call.c reads calls. */
#ifndef AP_TEXT_CHAT_QWEN_H
#define AP_TEXT_CHAT_QWEN_H

#include "text/chat_stream.h"

/* What the parser is in: CONTENT and THINK, and of a call: behind <tool_call>, in the function's
 * name, between its parameters, in one's name, in its value; in JSON; behind a call within a line;
 * behind a call; behind one in a thought. */
enum { CONTENT = 0, THINK, TOOL, NAME, BETWEEN, KEY, VALUE, JSON, SENTENCE, AFTER, DRAFT };

#define CALL          "<tool_call>"
#define END_CALL      "</tool_call>"
#define FUNCTION      "<function="
#define END_FUNCTION  "</function>"
#define PARAMETER     "<parameter="
#define END_PARAMETER "</parameter>"
#define END_THINK     "</think>"
#define END           "<|im_end|>"
#define END_TEXT      "<|endoftext|>"
#define START         "<|im_start|>"
/* [pos, to) was no call: deliver it as what it stands in. */
void ap_chat_qwen_broken(ap_stream *p, size_t to);
/* The answer ends inside a call. In a thought the call may have swallowed the thought's end: it is
 * read again without looking for calls, a bounded number of times. */
void ap_chat_qwen_cut(ap_stream *p);

/* One step in a state of a call; as ap_chat_qwen_step. */
bool ap_chat_qwen_call_step(ap_stream *p);

#endif
