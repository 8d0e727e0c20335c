/* await.h - the model that a request asks for: found, and waited for until it is loaded. */
#ifndef APUS_SERVER_AWAIT_H
#define APUS_SERVER_AWAIT_H

#include "exchange.h"

/* Let x->served be the model that the body names, the first if it names none. Waits. false: x failed, the client has
 * gone, or a stream was begun (x->waits) that gives signs of life until the model is there. */
bool sv_await(sv_exchange *x);

/* Go on waiting in a stream: a sign of life in x->out; or the model is there, or will not be, and then it is the
 * turn of the route's handler, or of an error as the API streams it. */
void sv_await_pump(sv_exchange *x);

#endif
