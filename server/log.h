/* log.h - a line for each request: who asked what and how it went, never what was said. */
#ifndef APUS_SERVER_LOG_H
#define APUS_SERVER_LOG_H

#include "exchange.h"

/* An exchange is through. Counts it, too. */
void sv_log_exchange(const sv_exchange *x);

#endif
