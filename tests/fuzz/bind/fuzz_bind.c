/* A config.json, and behind a zero byte the tensors of a file (folder.h), opened as a model: what binds runs. */
#include <stdlib.h>
#include <string.h>

#include "../folder.h"
#include "../fuzz.h"
#include "apus/apus.h"

/* A prompt over a border of chunks, then a token by itself. */
static void run(apus_model *m)
{
    static const int32_t tok[5] = {0, 1, 0, 1, 1};
    apus_engine *e = NULL;
    apus_session *s = NULL;
    apus_engine_settings set;
    apus_diag d = {0};
    apus_engine_settings_default(&set);
    set.ctx = 8;
    set.prefill_chunk = 3;
    set.threads = 1;
    apus_err err = apus_engine_create(m, &set, &e, &d);
    if (!err) err = apus_session_create(e, &s, &d);
    if (!err) err = apus_session_feed(s, tok, 4, NULL, &d);
    if (!err) err = apus_session_feed(s, tok + 4, 1, NULL, &d);
    require(!err || (d.code == err && d.text[0]));
    apus_session_free(s);
    apus_engine_free(e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *zero = size ? memchr(data, 0, size) : NULL;
    size_t len = zero ? (size_t)(zero - text) : size;
    apus_model_settings set;
    apus_model *m = NULL;
    apus_diag d = {0};
    folder_write("config.json", text, len);
    folder_write_tensors("model.safetensors", zero ? zero + 1 : "", zero ? size - len - 1 : 0);
    apus_model_settings_default(&set);
    set.threads = 1;
    apus_err err = apus_model_open(folder(), &set, &m, &d);
    require(!err == (m != NULL) && (!err || (d.code == err && d.text[0])));
    if (m) run(m);
    apus_model_close(m);
    return 0;
}
