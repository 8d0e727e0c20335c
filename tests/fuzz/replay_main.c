/* Runs a fuzz target over files and folders without a fuzzing engine.
 *   fuzz_NAME [-m N] PATH...   -m: also N fixed mutations of every input
 * Finding no input at all is a failure. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static int n_mutations;
static unsigned long n_inputs, n_runs;

static uint64_t next(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return *s >> 33;
}

/* The target gets a block of exactly the size, so that a sanitizer sees reads past the end. */
static void run(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (!copy) exit(2);
    memcpy(copy, data, n);
    LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    n_runs++;
}

static size_t mutate(uint8_t *d, size_t n, uint64_t *s)
{
    if (n == 0) return 0;
    switch (next(s) % 5) {
    case 0:
        return next(s) % n; /* cut the end off */
    case 1:
        d[next(s) % n] ^= (uint8_t)(1u << next(s) % 8);
        return n;
    case 2:
        d[next(s) % n] = (uint8_t)next(s);
        return n;
    case 3: { /* drop a piece */
        size_t at = next(s) % n, len = 1 + next(s) % 8;
        if (len > n - at) len = n - at;
        memmove(d + at, d + at + len, n - at - len);
        return n - len;
    }
    default: { /* copy a piece elsewhere */
        size_t len = 1 + next(s) % 16;
        if (len > n) len = n;
        memmove(d + next(s) % (n - len + 1), d + next(s) % (n - len + 1), len);
        return n;
    }
    }
}

static void run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    long size = ftell(f);
    rewind(f);
    size_t n = size > 0 ? (size_t)size : 0;
    uint8_t *data = malloc(n + 1), *work = malloc(n + 1);
    if (!data || !work || fread(data, 1, n, f) != n) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(2);
    }
    fclose(f);
    n_inputs++;
    run(data, n);
    uint64_t s = n * 2654435761u + 1;
    for (int i = 0; i < n_mutations; i++) {
        memcpy(work, data, n);
        size_t m = n;
        for (int k = 0; k <= i % 3; k++) m = mutate(work, m, &s);
        run(work, m);
    }
    free(work);
    free(data);
}

static int visible(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static void run_path(const char *path)
{
    struct stat st;
    if (stat(path, &st)) {
        fprintf(stderr, "%s: not found\n", path);
        exit(2);
    }
    if (!S_ISDIR(st.st_mode)) {
        run_file(path);
        return;
    }
    struct dirent **list;
    int n = scandir(path, &list, visible, alphasort);
    for (int i = 0; i < n; i++) {
        char full[4096];
        if (snprintf(full, sizeof full, "%s/%s", path, list[i]->d_name) < (int)sizeof full)
            run_path(full);
        free(list[i]);
    }
    if (n >= 0) free(list);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-m") && i + 1 < argc)
            n_mutations = atoi(argv[++i]);
        else
            run_path(argv[i]);
    }
    printf("%lu inputs, %lu runs\n", n_inputs, n_runs);
    return n_inputs ? 0 : 1;
}
