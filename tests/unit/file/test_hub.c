#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file/hub.h"

#define SHA1 "0123456789abcdef0123456789abcdef01234567"
#define SHA2 "89abcdef0123456789abcdef0123456789abcdef"
#define REPO "models--acme--tiny-1.5"

static char cache[64];
static apus_diag diag;

static void make(const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", cache, name);
    for (char *p = path + strlen(cache) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0700);
        *p = '/';
    }
    if (!text) {
        mkdir(path, 0700);
        return;
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int set_up(void **state)
{
    (void)state;
    strcpy(cache, "/tmp/apus-test-XXXXXX");
    if (!mkdtemp(cache)) return -1;
    make(REPO "/refs/main", SHA1);
    make(REPO "/refs/v1/beta", SHA2 "\n");
    make(REPO "/refs/broken", "what");
    make(REPO "/refs/gone", "ffffffffffffffffffffffffffffffffffffffff");
    make(REPO "/snapshots/" SHA1 "/config.json", "{}");
    make(REPO "/snapshots/" SHA2, NULL);
    make("outside/config.json", "{}");
    return 0;
}

static int clean_up(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -r '%s'", cache);
    return system(command);
}

static void resolves(const char *name, const char *want)
{
    char *dir = NULL, full[300];
    if (ap_hub_resolve(name, cache, &dir, &diag)) fail_msg("%s: %s", name, diag.text);
    snprintf(full, sizeof full, "%s%s", want[0] == '.' ? "" : cache, want);
    assert_string_equal(dir, full);
    apus_free(dir);
}

static void fails(const char *name, const char *where, apus_err err, const char *part)
{
    char *dir = NULL;
    apus_err e = ap_hub_resolve(name, where, &dir, &diag);
    if (e != err || !strstr(diag.text, part)) fail_msg("%s: %d %s", name, e, diag.text);
    assert_null(dir);
}

static void test_repositories(void **state)
{
    (void)state;
    resolves("acme/tiny-1.5", "/" REPO "/snapshots/" SHA1);
    resolves("acme/tiny-1.5@main", "/" REPO "/snapshots/" SHA1);
    resolves("acme/tiny-1.5@v1/beta", "/" REPO "/snapshots/" SHA2);
    resolves("acme/tiny-1.5@" SHA2, "/" REPO "/snapshots/" SHA2);
}

static void test_paths(void **state)
{
    (void)state;
    char path[200], *dir;
    snprintf(path, sizeof path, "%s/outside", cache);
    resolves(path, "/outside");
    snprintf(path, sizeof path, "%s/outside/config.json", cache);
    resolves(path, "/outside");
    make("outside/x.safetensors", "");
    snprintf(path, sizeof path, "%s/outside/x.safetensors", cache);
    resolves(path, "/outside");
    make("outside/notes.txt", "");
    snprintf(path, sizeof path, "%s/outside/notes.txt", cache);
    fails(path, cache, APUS_EFILE, "expected a model folder");
    assert_int_equal(ap_hub_resolve(".", NULL, &dir, NULL), APUS_OK);
    assert_string_equal(dir, ".");
    apus_free(dir);
}

static void test_failures(void **state)
{
    (void)state;
    fails("", cache, APUS_EINVAL, "no model name");
    fails("acme/tiny-1.5", NULL, APUS_EFILE, "no hub cache");
    fails("acme/tiny-1.5", "", APUS_EFILE, "no hub cache");
    fails("acme/large", cache, APUS_EFILE, "models--acme--large");
    fails("acme/tiny-1.5@dev", cache, APUS_EFILE, "refs/dev");
    fails("acme/tiny-1.5@0123456", cache, APUS_EFILE, "no full commit");
    fails("acme/tiny-1.5@broken", cache, APUS_EFORMAT, "40 hexadecimal");
    fails("acme/tiny-1.5@gone", cache, APUS_EFILE, "no snapshot");
    fails("acme/tiny-1.5@v1", cache, APUS_EFILE, "folder");
    fails("no-such-name", cache, APUS_EFILE, "org/repo");
}

/* ---------------------------------------------------------------- GGUF files */

#define QUANTS "models--acme--quants"
#define IN     "/" QUANTS "/snapshots/" SHA1 "/"

static void make_quants(void)
{
    static const char *const files[] = {"m-Q4_K_M.gguf",
                                        "m-Q4_K_S.gguf",
                                        "m-Q8_0.gguf",
                                        "m-BF16.gguf",
                                        "mmproj-F16.gguf",
                                        "UD-Q5_K_XL/m-UD-Q5_K_XL-00001-of-00002.gguf",
                                        "UD-Q5_K_XL/m-UD-Q5_K_XL-00002-of-00002.gguf",
                                        "IQ2/part-00001-of-00003.gguf",
                                        "imatrix.gguf",
                                        "README.md",
                                        ".cache/hidden-Q3_K.gguf",
                                        "config.json"};
    char name[200];
    make(QUANTS "/refs/main", SHA1);
    make(QUANTS "/refs/v2", SHA2);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(name, sizeof name, QUANTS "/snapshots/" SHA1 "/%s", files[i]);
        make(name, "");
    }
    make(QUANTS "/snapshots/" SHA2 "/only-model.gguf", "");
    make(QUANTS "/snapshots/" SHA2 "/mmproj-only-model.gguf", "");
}

static void test_gguf_repositories(void **state)
{
    (void)state;
    make_quants();
    resolves("acme/quants:Q4_K_M", IN "m-Q4_K_M.gguf");
    resolves("acme/quants:q8_0", IN "m-Q8_0.gguf");
    resolves("acme/quants:BF16", IN "m-BF16.gguf");
    resolves("acme/quants@main:Q4_K_S", IN "m-Q4_K_S.gguf");
    resolves("acme/quants:Q4_K_S@main", IN "m-Q4_K_S.gguf");
    resolves("acme/quants:m-Q8_0.gguf@" SHA1, IN "m-Q8_0.gguf");
    resolves("acme/quants:Q5_K_XL", IN "UD-Q5_K_XL/m-UD-Q5_K_XL-00001-of-00002.gguf");
    resolves("acme/quants:UD-Q5_K_XL", IN "UD-Q5_K_XL/m-UD-Q5_K_XL-00001-of-00002.gguf");
    resolves("acme/quants:IQ2", IN "IQ2/part-00001-of-00003.gguf"); /* the folder's name */
    resolves("acme/quants:m-Q8_0.gguf", IN "m-Q8_0.gguf");
    resolves("acme/quants/m-Q8_0.gguf", IN "m-Q8_0.gguf");
    resolves("acme/quants/m-Q8_0.gguf@main", IN "m-Q8_0.gguf");
    resolves("acme/quants/mmproj-F16.gguf", IN "mmproj-F16.gguf"); /* whoever names it gets it */
    resolves("acme/quants/UD-Q5_K_XL/m-UD-Q5_K_XL-00001-of-00002.gguf",
             IN "UD-Q5_K_XL/m-UD-Q5_K_XL-00001-of-00002.gguf");
    resolves("acme/quants@v2", "/" QUANTS "/snapshots/" SHA2 "/only-model.gguf"); /* the only one */
    fails("acme/quants", cache, APUS_EFILE,
          "6 GGUF files fit, name one of them: IQ2/part-00001-of-00003.gguf, "
          "UD-Q5_K_XL/m-UD-Q5_K_XL-00001-of-00002.gguf, m-BF16.gguf, m-Q4_K_M.gguf");
    fails("acme/quants:F16", cache, APUS_EFILE,
          "no GGUF file for \"F16\" here; there is: IQ2/part");
    fails("acme/quants:Q4_K", cache, APUS_EFILE, "no GGUF file for \"Q4_K\" here");
    fails("acme/quants:Q6_K", cache, APUS_EFILE, "m-Q8_0.gguf");
    fails("acme/quants/m-Q6_K.gguf", cache, APUS_EFILE, "no GGUF file for \"m-Q6_K.gguf\" here");
    fails("acme/tiny-1.5:Q4_K_M", cache, APUS_EFILE, "no GGUF file here");
    fails("acme/quants/notes.txt", cache, APUS_EFILE, "not a name of the form");
    fails("acme/quants/../m-Q8_0.gguf", cache, APUS_EFILE, "not a name of the form");
    fails("acme/quants:", cache, APUS_EFILE, "not a name of the form");
    fails("acme/quants:@main", cache, APUS_EFILE, "not a name of the form");
    fails("acme/quants:Q8_0@", cache, APUS_EFILE, "not a name of the form");
    fails("acme/quants@main:Q8_0@main", cache, APUS_EFILE, "not a name of the form");
    make(QUANTS "/snapshots/" SHA1 "/other/m-Q8_0.gguf", "");
    fails("acme/quants:Q8_0", cache, APUS_EFILE,
          "2 GGUF files of type Q8_0 fit, name one of them: m-Q8_0.gguf, other/m-Q8_0.gguf");
    resolves("acme/quants/m-Q8_0.gguf", IN "m-Q8_0.gguf");
    resolves("acme/quants/other/m-Q8_0.gguf", IN "other/m-Q8_0.gguf");
}

static void test_gguf_folders(void **state)
{
    (void)state;
    char path[200], want[300], *dir;
    make("files/a-Q4_0.gguf", "");
    snprintf(path, sizeof path, "%s/files", cache);
    resolves(path, "/files/a-Q4_0.gguf");
    make("files/b.Q5_1.gguf", "");
    fails(path, NULL, APUS_EFILE, "2 GGUF files fit, name one of them: a-Q4_0.gguf, b.Q5_1.gguf");
    snprintf(path, sizeof path, "%s/files:Q5_1", cache);
    resolves(path, "/files/b.Q5_1.gguf");
    snprintf(path, sizeof path, "%s/files/:a-Q4_0.gguf", cache);
    assert_int_equal(ap_hub_resolve(path, NULL, &dir, &diag), APUS_OK);
    snprintf(want, sizeof want, "%s/files/a-Q4_0.gguf", cache);
    assert_string_equal(dir, want);
    apus_free(dir);
    /* A folder that is a model itself stays one. */
    make("files/config.json", "{}");
    make("files/model.safetensors", "");
    snprintf(path, sizeof path, "%s/files", cache);
    resolves(path, "/files");
    snprintf(path, sizeof path, "%s/files:Q4_0", cache);
    resolves(path, "/files/a-Q4_0.gguf");
    make("files/with:colon/config.json", "{}");
    snprintf(path, sizeof path, "%s/files/with:colon", cache);
    resolves(path, "/files/with:colon");
}

/* Nothing but a plain name gets into a path of the cache. */
static void test_escapes(void **state)
{
    (void)state;
    static const char *const names[] = {
        "../outside",      "acme/..",         "acme/tiny-1.5@../../outside",
        "a/b/c",           "acme/ti..ny",     "acme/tiny-1.5@main/../../x",
        "/abs/olute",      "acme/",           "/x",
        "acme/tiny-1.5@",  "acme/.hidden",    "acme/ti\nny",
        "acme/tiny@/main", "acme/tiny 1.5@x", "acme/tiny@a//b",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        fails(names[i], cache, APUS_EFILE, "not a name of the form");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repositories),      cmocka_unit_test(test_paths),
        cmocka_unit_test(test_failures),          cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_gguf_repositories), cmocka_unit_test(test_gguf_folders),
    };
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
