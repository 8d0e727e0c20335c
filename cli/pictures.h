/* pictures.h - the pictures and videos of a prompt. */
#ifndef APUS_CLI_PICTURES_H
#define APUS_CLI_PICTURES_H

#include "common.h"
#include "json_out.h"

#define PICTURES (sizeof((string_list *)0)->item / sizeof(char *)) /* at most */

typedef struct pictures {
    apus_media *item[PICTURES];
    int n;
} pictures;

static inline const apus_media *const *pictures_list(const pictures *p)
{
    return (const apus_media *const *)p->item;
}

/* Make them ready for the model, which was opened with common.towers.
 *   image_tokens  as apus_media_settings
 * Returns -1, or the exit status; pictures_free in any case. */
int pictures_open(const command *c, const apus_model *m, const string_list *names, int image_tokens,
                  pictures *out);
void pictures_free(pictures *p);

/* A user's content into the open map of j: the pictures, then the text that asks about them; a mere text is no
 * list. */
void pictures_content(json_out *j, const pictures *p, const char *text, size_t len);

/* Tokens at the front of ids that the session holds already, with what they show; at least one is left to feed.
 * *first: picture that is not held. -1: memory is out, or places and pictures do not agree. */
int pictures_held(const apus_session *s, const apus_model *m, const int32_t *ids, size_t n,
                  const pictures *p, int *first, apus_diag *d);

#endif
