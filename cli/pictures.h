/* pictures.h - the pictures and videos of a prompt. */
#ifndef APUS_CLI_PICTURES_H
#define APUS_CLI_PICTURES_H

#include "common.h"

#define PICTURES (sizeof((string_list *)0)->item / sizeof(char *)) /* at most */

typedef struct pictures {
    apus_media *item[PICTURES];
    int n;
} pictures;

static inline const apus_media *const *pictures_list(const pictures *p)
{
    return (const apus_media *const *)p->item;
}

/* Make them ready for the model, which was opened with common.media. Returns -1, or the exit status;
 * pictures_free in any case. */
int pictures_open(const command *c, const apus_model *m, const string_list *names, pictures *out);
void pictures_free(pictures *p);

#endif
