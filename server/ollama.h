/* ollama.h - what the two files of Ollama's API share. */
#ifndef APUS_SERVER_OLLAMA_H
#define APUS_SERVER_OLLAMA_H

#include "answer.h"
#include "conversation.h"

bool sv_ollama_messages(sv_exchange *x, sv_job *j, const sv_json *list);
/* "images": base64 each */
bool sv_ollama_images(sv_exchange *x, sv_job *j, const sv_json *images, const char *path,
                      sv_content *out);
bool sv_ollama_tools(sv_exchange *x, sv_job *j, const sv_json *tools);
/* Now, to the nanosecond, as Ollama writes it. */
void sv_put_moment(sv_buf *b, const char *key);

#endif
