/* save_load.c - read a long text once, keep the session, and go on from it as often as wanted.
 *
 *   save_load MODEL FILE      FILE is written
 *
 * What follows a saved session has the same bits as what follows the session itself. */
#include <apus/apus.h>

#include <stdio.h>
#include <string.h>

static const char text[] = "apus is an inference engine. Sessions can be saved and loaded again. ";

typedef struct sink {
    char *text;
    size_t len, room;
} sink;

static bool on_text(void *ctx, const char *piece, size_t len)
{
    sink *k = ctx;
    if (k->len + len >= k->room) return false;
    memcpy(k->text + k->len, piece, len);
    k->text[k->len += len] = 0;
    return true;
}

/* Twenty tokens after the session, greedily. A generation begins with at least one token to feed: the
 * last one again. */
static apus_err continue_from(apus_session *s, char *out, size_t room, apus_diag *why)
{
    sink k = {out, 0, room};
    apus_sampling greedy;
    apus_generate_settings set;
    apus_sampling_default(&greedy);
    greedy.temperature = 0;
    apus_generate_settings_default(&set);
    set.sampling = &greedy;
    set.max_tokens = 20;
    set.on_text = on_text;
    set.ctx = &k;
    out[0] = 0;
    int pos = apus_session_pos(s);
    int32_t last = apus_session_tokens(s)[pos - 1];
    apus_err err = apus_session_rewind(s, pos - 1, why);
    return err ? err : apus_generate(s, &last, 1, &set, NULL, why);
}

/* Save to a file and to memory, load both, and let all three go on. */
static apus_err compare(apus_engine *e, apus_session *s, const char *path, apus_diag *why)
{
    enum { ORIGINAL, FILE_COPY, MEMORY_COPY, COPIES };
    char said[COPIES][512];
    apus_session *session[COPIES] = {s, NULL, NULL};
    void *data = NULL;
    size_t bytes = 0;
    apus_err err = apus_session_save(s, path, why);
    if (!err) err = apus_session_load(e, path, &session[FILE_COPY], why);
    if (!err) err = apus_session_save_memory(s, &data, &bytes, why);
    if (!err) err = apus_session_load_memory(e, data, bytes, &session[MEMORY_COPY], why);
    apus_free(data);
    for (int i = 0; i < COPIES && !err; i++)
        err = continue_from(session[i], said[i], sizeof said[i], why);
    if (err) return err;
    bool same =
        !strcmp(said[ORIGINAL], said[FILE_COPY]) && !strcmp(said[ORIGINAL], said[MEMORY_COPY]);
    printf("%zu bytes; the original goes on: %s\nthe loaded ones go on %s\n", bytes, said[ORIGINAL],
           same ? "in the same way" : "OTHERWISE");
    return same ? APUS_OK : APUS_EINTERNAL;
}

static apus_err run(const char *model, const char *path, apus_diag *why)
{
    apus_model *m = NULL;
    apus_engine *e = NULL;
    apus_session *s = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    apus_engine_settings set;
    apus_engine_settings_default(&set);
    set.max_sessions = 3;
    set.ctx = 1024;
    apus_err err = apus_model_open(model, NULL, &m, why);
    if (!err) err = apus_engine_create(m, &set, &e, why);
    if (!err) err = apus_session_create(e, &s, why);
    if (!err) err = apus_tokenize(m, text, strlen(text), APUS_TOK_BOS, &ids, &n, why);
    if (!err) err = apus_session_feed(s, ids, (int)n, NULL, why);
    if (!err) err = compare(e, s, path, why);
    apus_free(ids);
    apus_engine_free(e);
    apus_model_close(m);
    return err;
}

int main(int argc, char **argv)
{
    apus_diag why = {0};
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL FILE\n", argv[0]);
        return 2;
    }
    apus_err err = run(argv[1], argv[2], &why);
    if (err) fprintf(stderr, "%s: %s\n", apus_err_name(err), why.text);
    return err ? 1 : 0;
}
