/* pictures.h - the pictures, videos and sounds of a prompt. */
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

/* The towers that these options need, for common.towers: of what is seen, of what is heard. */
static inline unsigned pictures_towers(bool seen, bool heard)
{
    return (seen ? APUS_TOWER_VISION : 0) | (heard ? APUS_TOWER_AUDIO : 0);
}

/* The tower that a medium needs. */
unsigned picture_tower(const apus_media *x);

/* Make them ready for the model, which is opened with common.towers, and of which each needs one.
 *   image_tokens  as apus_media_settings
 * Returns -1, or the exit status; pictures_free in any case. */
int pictures_open(const command *c, const apus_model *m, const string_list *names, int image_tokens,
                  pictures *out);
void pictures_free(pictures *p);

/* Bring them into the order of their places among ids, which sounds have apart from what is seen; places
 * [begin[i], end[i]) are of item i. EINVAL: places and pictures do not agree; ENOMEM. */
apus_err pictures_place(const apus_model *m, const int32_t *ids, size_t n, pictures *p, int *begin,
                        int *end, apus_diag *d);

/* A user's content into the open map of j: the pictures, then the text that asks about them; a mere text is no
 * list. */
void pictures_content(json_out *j, const pictures *p, const char *text, size_t len);

/* Tokens at the front of ids that the session holds already, with what they show; at least one is left to feed.
 * *first: picture that is not held. -1: memory is out, or places and pictures do not agree. */
int pictures_held(const apus_session *s, const apus_model *m, const int32_t *ids, size_t n,
                  const pictures *p, int *first, apus_diag *d);

#endif
