#include "pictures.h"

#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "report.h"

unsigned picture_tower(const apus_media *x)
{
    return apus_media_type_of(x) == APUS_MEDIA_SOUND ? APUS_TOWER_AUDIO : APUS_TOWER_VISION;
}

int pictures_open(const command *c, const apus_model *m, const string_list *names, int image_tokens,
                  pictures *out)
{
    apus_diag d;
    apus_media_settings s;
    apus_media_settings_default(&s);
    s.image_tokens = image_tokens;
    *out = (pictures){0};
    for (int i = 0; i < names->n; i++) {
        if (apus_media_open(m, names->item[i], &s, &out->item[i], &d)) return report(c, &d);
        unsigned tower = picture_tower(out->item[out->n++]);
        if (!(common.towers & tower))
            return fail(c, "%s: %s", names->item[i],
                        tower == APUS_TOWER_AUDIO ? "a sound is given with --audio"
                                                  : "a picture or video is given with --image");
    }
    return -1;
}

static void swap(int *a, int *b)
{
    int t = *a;
    *a = *b;
    *b = t;
}

apus_err pictures_place(const apus_model *m, const int32_t *ids, size_t n, pictures *p, int *begin,
                        int *end, apus_diag *d)
{
    if (!p->n) return APUS_OK;
    apus_err err = apus_media_find(m, ids, (int)n, pictures_list(p), p->n, begin, end, d);
    for (int i = 1; i < p->n && !err; i++)
        for (int k = i; k > 0 && begin[k] < begin[k - 1]; k--) {
            apus_media *x = p->item[k];
            p->item[k] = p->item[k - 1];
            p->item[k - 1] = x;
            swap(&begin[k], &begin[k - 1]);
            swap(&end[k], &end[k - 1]);
        }
    return err;
}

void pictures_free(pictures *p)
{
    for (int i = 0; i < p->n; i++) apus_media_free(p->item[i]);
    p->n = 0;
}

void pictures_content(json_out *j, const pictures *p, const char *text, size_t len)
{
    static const char *const types[] = {"image", "video", "audio"};
    if (!p->n) {
        json_string(j, "content", text, len);
        return;
    }
    json_array(j, "content");
    for (int i = 0; i < p->n; i++) {
        json_map(j, NULL);
        json_text(j, "type", types[apus_media_type_of(p->item[i])]);
        json_end_map(j);
    }
    json_map(j, NULL);
    json_text(j, "type", "text");
    json_string(j, "text", text, len);
    json_end_map(j);
    json_end_array(j);
}

int pictures_held(const apus_session *s, const apus_model *m, const int32_t *ids, size_t n,
                  const pictures *p, int *first, apus_diag *d)
{
    int begin[PICTURES], end[PICTURES], same;
    int32_t *shown = malloc(n * sizeof *shown);
    if (!shown) {
        *d = (apus_diag){APUS_ENOMEM, "out of memory"};
        return -1;
    }
    memcpy(shown, ids, n * sizeof *shown);
    apus_err err = APUS_OK;
    if (p->n) err = apus_media_ids(m, shown, (int)n, pictures_list(p), p->n, d);
    same = err ? -1 : shared_prefix(s, shown, n);
    free(shown);
    *first = 0;
    if (p->n && !err) err = apus_media_find(m, ids, (int)n, pictures_list(p), p->n, begin, end, d);
    while (!err && *first < p->n && begin[*first] < same) ++*first;
    return err ? -1 : same;
}
