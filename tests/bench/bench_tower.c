/* bench_tower - how fast a tower shows a picture to its model.
 *
 *     bench_tower MODEL PICTURE [TOKENS [DEVICE [PRECISION [THREADS [ROUNDS]]]]]
 *
 * The tower works on PICTURE, of at most TOKENS soft tokens (default 1120), ROUNDS times (default 3) and anew each time; the
 * fastest counts. PRECISION: high, exact or fast. One JSON object: soft tokens; milliseconds until the picture is decoded
 * and prepared, and those of the tower. make_tower.py makes a MODEL of full size. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "apus/apus.h"

static apus_diag diag;

static void must(apus_err err)
{
    if (!err) return;
    fprintf(stderr, "bench_tower: %s\n", diag.text);
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static apus_precision precision_of(const char *name)
{
    return !strcmp(name, "fast")    ? APUS_PRECISION_FAST
           : !strcmp(name, "exact") ? APUS_PRECISION_EXACT
                                    : APUS_PRECISION_HIGH;
}

static apus_model *open_model(const char *path, const char *device, const char *precision)
{
    apus_model *m;
    apus_model_settings s;
    apus_model_settings_default(&s);
    s.towers = APUS_TOWER_VISION;
    s.device = device;
    s.precision = precision_of(precision);
    must(apus_model_open(path, &s, &m, &diag));
    return m;
}

static apus_engine *open_engine(const apus_model *m, int threads)
{
    apus_engine *e;
    apus_engine_settings s;
    apus_engine_settings_default(&s);
    s.threads = threads;
    s.ctx = 2048;
    must(apus_engine_create(m, &s, &e, &diag));
    return e;
}

static const char *arg(int argc, char **argv, int i, const char *none)
{
    return argc > i ? argv[i] : none;
}

int main(int argc, char **argv)
{
    double prepare = 1e30, encode = 1e30;
    int tokens = 0;
    if (argc < 3 || argc > 8) {
        fprintf(stderr, "usage: bench_tower MODEL PICTURE [TOKENS [DEVICE [PRECISION [THREADS "
                        "[ROUNDS]]]]]\n");
        return 2;
    }
    apus_model *m = open_model(argv[1], arg(argc, argv, 4, "cpu"), arg(argc, argv, 5, "high"));
    apus_engine *e = open_engine(m, atoi(arg(argc, argv, 6, "0")));
    apus_media_settings how;
    apus_media_settings_default(&how);
    how.image_tokens = atoi(arg(argc, argv, 3, "1120"));
    for (int i = 0; i < atoi(arg(argc, argv, 7, "3")); i++) {
        apus_media *x;
        double begin = now_ms(), ready;
        must(apus_media_open(m, argv[2], &how, &x, &diag));
        ready = now_ms();
        must(apus_media_encode(e, x, &diag));
        if (ready - begin < prepare) prepare = ready - begin;
        if (now_ms() - ready < encode) encode = now_ms() - ready;
        tokens = apus_media_tokens(x);
        apus_media_free(x);
    }
    printf("{\"tokens\": %d, \"prepare_ms\": %.1f, \"encode_ms\": %.1f}\n", tokens, prepare,
           encode);
    apus_engine_free(e);
    apus_model_close(m);
    return 0;
}
