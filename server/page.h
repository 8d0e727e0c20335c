/* page.h - page.html in the program. */
#ifndef APUS_SERVER_PAGE_H
#define APUS_SERVER_PAGE_H

#include <stddef.h>

extern const unsigned char sv_page_html[];
extern const size_t sv_page_bytes;

#endif
