/* media_prompt.c - where pictures, films and sound stand in a prompt's text. Source: the processors of the
 * reference, which replace a mark by the text of all soft tokens before the tokenizer sees it. */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/media_model.h"
#include "engine/model.h"
#include "file/family.h"

static const char *const type_names[] = {"a picture", "a video", "a sound"};

typedef struct prompt {
    const ap_media_marks *marks;
    const ap_media_mark *of[3]; /* by apus_media_type */
    ap_buf out;
} prompt;

/* The first mark in s: its type, and where; NULL: none. */
static const char *next_mark(const prompt *p, const char *s, const char *end, apus_media_type *type)
{
    for (; s < end; s++) {
        if (*s != '<') continue;
        for (int t = 0; t < 3; t++) {
            const char *mark = p->of[t]->mark;
            size_t n = mark ? strlen(mark) : 0;
            if (!n || n > (size_t)(end - s) || memcmp(s, mark, n)) continue;
            *type = (apus_media_type)t;
            return s;
        }
    }
    return NULL;
}

static void put_time(prompt *p, double seconds)
{
    if (p->marks->time == AP_TIME_SECONDS)
        ap_buf_addf(&p->out, "<%.1f seconds>", seconds);
    else
        ap_buf_addf(&p->out, "%02d:%02d ", (int)(seconds / 60), (int)seconds % 60);
}

static void put_media(prompt *p, const apus_media *x)
{
    const ap_media_mark *mark = p->of[x->type];
    for (size_t i = 0; i < x->clip.n; i++) {
        const ap_patches *part = &x->clip.part[i];
        if (i) ap_buf_adds(&p->out, mark->between);
        if (x->type == APUS_MEDIA_VIDEO) put_time(p, part->seconds);
        ap_buf_adds(&p->out, mark->begin);
        for (size_t k = 0; k < part->soft_tokens; k++) ap_buf_adds(&p->out, mark->mark);
        ap_buf_adds(&p->out, mark->end);
    }
}

static apus_err mismatch(apus_media_type want, const apus_media *found, int i, apus_diag *diag)
{
    if (!found)
        return ap_fail(diag, APUS_EINVAL, "the prompt has a mark of %s, but only %d media are given",
                       type_names[want], i);
    return ap_fail(diag, APUS_EINVAL, "the prompt's mark %d is of %s, medium %d is %s", i + 1,
                   type_names[want], i + 1, type_names[found->type]);
}

static apus_err expand(prompt *p, const char *text, size_t len, const apus_media *const *media,
                       int n_media, apus_diag *diag)
{
    const char *end = text + len, *mark;
    apus_media_type type = APUS_MEDIA_PICTURE;
    int i = 0;
    for (; (mark = next_mark(p, text, end, &type)); i++) {
        const apus_media *x = i < n_media ? media[i] : NULL;
        if (!x || x->type != type) return mismatch(type, x, i, diag);
        ap_buf_add(&p->out, text, (size_t)(mark - text));
        put_media(p, x);
        text = mark + strlen(p->of[type]->mark);
    }
    if (i < n_media)
        return ap_fail(diag, APUS_EINVAL,
                       "%d media are given, but the prompt has marks for %d only: the chat template left "
                       "some out",
                       n_media, i);
    ap_buf_add(&p->out, text, (size_t)(end - text));
    ap_buf_add(&p->out, "", 0);
    return p->out.failed ? ap_fail_nomem(diag, p->out.len, "the prompt") : APUS_OK;
}

apus_err apus_media_expand(const apus_model *m, const char *text, size_t len,
                           const apus_media *const *media, int n_media, char **out,
                           size_t *out_len, apus_diag *diag)
{
    if (!m || (!text && len) || (n_media && !media) || n_media < 0 || !out || !out_len)
        return ap_fail(diag, APUS_EINVAL,
                       "apus_media_expand: model, text, media, out and out_len are needed");
    const ap_family_tokens *tokens = ap_family_of(m->config.arch)->tokens;
    if (!tokens || !tokens->marks.picture.mark)
        return ap_fail(diag, APUS_EUNSUPPORTED, "%s: the model takes text only", m->dir);
    const ap_media_marks *marks = &tokens->marks;
    prompt p = {marks, {&marks->picture, &marks->film, &marks->sound}, {0}};
    apus_err err = expand(&p, text ? text : "", len, media, n_media, diag);
    if (err) {
        ap_buf_free(&p.out);
        return err;
    }
    *out = p.out.data;
    *out_len = p.out.len;
    return APUS_OK;
}
