/* batch.c - eight questions answered side by side.
 *
 *   batch MODEL
 *
 * Every step of an engine reads the weights once, for all its sessions: eight answers take little more
 * time than one. Each has the tokens that it would have alone. */
#include <apus/apus.h>

#include <stdio.h>
#include <string.h>

enum { N = 8 };

static const char *const question[N] = {
    "Hello! Who are you?", "What is apus?",  "What is 47 + 38?", "What is 12 * 11?",
    "What is 90 - 17?",    "What is 8 + 8?", "What is 5 * 7?",   "Who made you?",
};

typedef struct reply {
    char text[1 << 12];
} reply;

static bool on_text(void *ctx, const char *text, size_t len)
{
    reply *r = ctx;
    size_t held = strlen(r->text);
    if (held + len >= sizeof r->text) return false; /* ends this answer alone */
    memcpy(r->text + held, text, len);
    return true;
}

/* The prompt of one question; apus_free *ids. */
static apus_err make_prompt(const apus_model *m, const char *text, int32_t **ids, size_t *n,
                            apus_diag *why)
{
    char json[512], *prompt = NULL;
    size_t len;
    apus_chat_settings s;
    apus_chat_settings_default(&s);
    s.think = APUS_THINK_OFF;
    snprintf(json, sizeof json, "[{\"role\":\"user\",\"content\":\"%s\"}]", text);
    apus_err err = apus_chat_render(m, json, NULL, &s, &prompt, &len, why);
    if (!err) err = apus_tokenize(m, prompt, len, APUS_TOK_SPECIAL, ids, n, why);
    apus_free(prompt);
    return err;
}

static apus_err answer_all(apus_model *m, apus_engine *e, apus_diag *why)
{
    static reply said[N];
    static const char *const stop[] = {"\n"}; /* one line is enough */
    apus_sampling greedy;
    apus_sampling_default(&greedy);
    greedy.temperature = 0;
    apus_generate_settings set[N];
    apus_generate_result res[N];
    apus_generation list[N];
    int32_t *ids[N] = {NULL};
    apus_err err = APUS_OK;
    for (int i = 0; i < N && !err; i++) {
        size_t n = 0;
        apus_generate_settings_default(&set[i]);
        set[i].sampling = &greedy;
        set[i].max_tokens = 100;
        set[i].stop_strings = stop;
        set[i].n_stop_strings = 1;
        set[i].on_text = on_text;
        set[i].ctx = &said[i];
        res[i] = (apus_generate_result){.size = sizeof res[i]};
        list[i] = (apus_generation){.size = sizeof list[i], .settings = &set[i], .result = &res[i]};
        err = apus_session_create(e, &list[i].session, why);
        if (!err) err = make_prompt(m, question[i], &ids[i], &n, why);
        list[i].prompt = ids[i];
        list[i].n = (int)n;
    }
    if (!err) err = apus_generate_batch(e, list, N, why);
    for (int i = 0; i < N && !err; i++)
        printf("> %s\n%s\n  (%d tokens)\n", question[i], said[i].text, res[i].n_generated);
    for (int i = 0; i < N; i++) apus_free(ids[i]);
    return err;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    apus_model *m = NULL;
    apus_engine *e = NULL;
    apus_diag why;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.max_sessions = N;
    s.ctx = 1024; /* memory for all sessions is taken at once */
    apus_err err = apus_model_open(argv[1], NULL, &m, &why);
    if (!err) err = apus_engine_create(m, &s, &e, &why);
    if (!err) err = answer_all(m, e, &why);
    if (err) fprintf(stderr, "%s: %s\n", apus_err_name(err), why.text);
    apus_engine_free(e);
    apus_model_close(m);
    return err ? 1 : 0;
}
