/* conversation.h - the turns of a conversation, from whichever API, as the messages that templates read. */
#ifndef APUS_SERVER_CONVERSATION_H
#define APUS_SERVER_CONVERSATION_H

#include "job.h"

/* All zero is an empty one. What the assistant said, thought and called in a row is one turn of it, until
 * somebody else's or sv_conversation_flush. */
typedef struct sv_conversation {
    sv_buf front, all;   /* system texts: before the first turn, and wherever */
    sv_buf turns, plain; /* JSON objects: with the system messages between them, and without */
    bool late;           /* there are some between them */
    int n;
    bool open; /* the assistant's turn so far */
    sv_buf said, thought, calls;
} sv_conversation;

/* What somebody says: texts, and between them what the job's media show. All zero is nothing. */
typedef struct sv_content {
    sv_buf text;  /* behind the last picture */
    sv_buf parts; /* JSON objects up to it, of templates' content lists; empty = there is none */
} sv_content;

void sv_content_text(sv_content *c, const char *s, size_t n);
void sv_content_media(sv_content *c, apus_media_type kind);
void sv_content_free(sv_content *c);

void sv_conversation_system(sv_conversation *c, const char *s, size_t n);
void sv_conversation_user(sv_conversation *c, const char *s, size_t n);
/* Takes the content. */
void sv_conversation_show(sv_conversation *c, sv_content *content);
void sv_conversation_say(sv_conversation *c, const char *s, size_t n);
void sv_conversation_think(sv_conversation *c, const char *s, size_t n);
/* args: JSON text. id, name: NULL = not known */
void sv_conversation_call(sv_conversation *c, const char *id, const char *name, const char *args,
                          size_t n);
void sv_conversation_result(sv_conversation *c, const char *id, const char *name,
                            sv_content *content);
/* The assistant's next words are a turn of their own. */
void sv_conversation_flush(sv_conversation *c);

/* Give it to the job and free it. false: there is no turn, which sv_fail is told as field `param`. */
bool sv_conversation_finish(sv_exchange *x, sv_conversation *c, sv_job *j, const char *param);
void sv_conversation_free(sv_conversation *c);

#endif
