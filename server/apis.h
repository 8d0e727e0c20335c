/* apis.h - what can be asked; route.c has the table. Each writes its answer or fails the exchange. */
#ifndef APUS_SERVER_APIS_H
#define APUS_SERVER_APIS_H

#include "exchange.h"

void sv_page(sv_exchange *x); /* GET / */
void sv_health(sv_exchange *x);
void sv_models(sv_exchange *x);          /* GET /v1/models */
void sv_model(sv_exchange *x);           /* GET /v1/models/NAME */
void sv_completions(sv_exchange *x);     /* POST /v1/completions */
void sv_messages(sv_exchange *x);        /* POST /v1/messages */
void sv_count_tokens(sv_exchange *x);    /* POST /v1/messages/count_tokens */
void sv_responses(sv_exchange *x);       /* POST /v1/responses */
void sv_input_tokens(sv_exchange *x);    /* POST /v1/responses/input_tokens */
void sv_ollama_chat(sv_exchange *x);     /* POST /api/chat */
void sv_ollama_generate(sv_exchange *x); /* POST /api/generate */
void sv_ollama_show(sv_exchange *x);     /* POST /api/show */
void sv_ollama_tags(sv_exchange *x);     /* GET /api/tags */
void sv_ollama_ps(sv_exchange *x);       /* GET /api/ps */
void sv_ollama_version(sv_exchange *x);  /* GET /api/version */
void sv_tokenize(sv_exchange *x);        /* POST /tokenize */
void sv_detokenize(sv_exchange *x);      /* POST /detokenize */
void sv_chat(sv_exchange *x);            /* POST /v1/chat/completions */

#endif
