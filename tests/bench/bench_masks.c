/* bench_masks - what it costs to hold an answer to a schema.
 *
 *     bench_masks [SCHEMA.json | GRAMMAR.gbnf [TOKENS]]
 *
 * Random answers are chosen among the tokens that the masks allow, of a made-up vocabulary of 262,144 tokens, or of
 * those of TOKENS, a file with a token's bytes as hexadecimal digits in each line. Printed: the time to make the tree
 * of tokens, to compile the schema, and medians and more of the time for a mask and for taking a token, in two rounds
 * of the same answers: in the second, all states have been met. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "base/rng.h"
#include "text/grammar/gbnf.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/matcher.h"

enum { VOCAB = 262144, ANSWERS = 200, MOST_TOKENS = 150, MOST_TIMES = ANSWERS * MOST_TOKENS };

static const char standard[] = "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"}"
                               ",\"email\":{\"type\":\"string\",\"maxLength\":80},"
                               "\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":150},"
                               "\"role\":{\"enum\":[\"admin\",\"editor\",\"reader\"]},"
                               "\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},"
                               "\"maxItems\":10},\"address\":{\"type\":\"object\",\"properties\":"
                               "{\"street\":{\"type\":\"string\"},\"city\":{\"type\":\"string\"},"
                               "\"zip\":{\"type\":\"string\",\"pattern\":\"^[0-9]{5}$\"}},"
                               "\"required\":[\"street\",\"city\"],\"additionalProperties\":false},"
                               "\"manager\":{\"anyOf\":[{\"$ref\":\"#\"},{\"type\":\"null\"}]}},"
                               "\"required\":[\"name\",\"age\",\"role\",\"tags\",\"address\","
                               "\"manager\"],\"additionalProperties\":false}";

static apus_diag diag;

static void must(apus_err err)
{
    if (!err) return;
    fprintf(stderr, "bench_masks: %s\n", diag.text);
    exit(1);
}

static double now(void) /* microseconds */
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print_times(const char *what, double *x, int n)
{
    if (!n) return;
    qsort(x, (size_t)n, sizeof *x, by_value);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    printf("%-28s median %7.1f  90 %% %7.1f  99 %% %8.1f  mean %7.1f us  (%d)\n", what, x[n / 2],
           x[n * 9 / 10], x[n * 99 / 100], sum / n, n);
}

static char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) {
        fprintf(stderr, "bench_masks: %s: cannot be read\n", path);
        exit(1);
    }
    long len = ftell(f);
    char *s = malloc((size_t)len + 1);
    rewind(f);
    *n = s ? fread(s, 1, (size_t)len, f) : 0;
    fclose(f);
    if (s) s[*n] = 0;
    return s;
}

/* ---------------------------------------------------------------- vocabularies */

typedef struct vocabulary {
    const char **text;
    size_t *len;
    int n;
} vocabulary;

/* Bytes; marks and white space of code and JSON, by themselves and together; words, often behind a space or with
 * marks around them. */
static vocabulary made_up(void)
{
    static const char *const marks[] = {"\"",   "\",", "\":", "\": ", "\"}", "\"],", "},", "}",
                                        "{",    "[",   "]",   ",",    " ",   "  ",   "\n", "\n\n",
                                        "\n  ", "\t",  ".",   "\\n",  "();", " {\n"};
    static const char letters[] = "etaoinshrdlcumwfgypbvkETAOIN0123456789";
    vocabulary v = {malloc(VOCAB * sizeof(char *)), malloc(VOCAB * sizeof(size_t)), VOCAB};
    char *at = malloc(VOCAB * 24);
    ap_rng rng;
    ap_rng_seed(&rng, 7);
    for (int i = 0; i < VOCAB; i++, at += 24) {
        size_t n = 0;
        if (i < 256) {
            at[n++] = (char)i;
        } else {
            uint64_t r = ap_rng_next(&rng);
            if (r % 100 < 50) at[n++] = ' ';
            if (r % 100 >= 96) n += (size_t)sprintf(at + n, "%s", marks[(r >> 8) % 22]);
            for (int k = 0, m = 2 + (int)((r >> 16) % 7); k < m && r % 100 < 98; k++) {
                int c = (int)(ap_rng_next(&rng) % (sizeof letters - 1));
                if (r % 100 < 80 && c >= 22) c %= 12;
                at[n++] = letters[c];
            }
            if (r % 100 < 4 || r % 100 >= 98)
                n += (size_t)sprintf(at + n, "%s", marks[(r >> 32) % 22]);
        }
        v.text[i] = at;
        v.len[i] = n;
    }
    return v;
}

static int hex(char c)
{
    return c >= 'a' ? c - 'a' + 10 : c - '0';
}

static vocabulary from_file(const char *path)
{
    size_t n;
    char *s = read_file(path, &n), *end = s + n;
    vocabulary v = {malloc(n * sizeof(char *)), malloc(n * sizeof(size_t)), 0};
    for (char *line = s; line < end; v.n++) {
        char *out = line;
        v.text[v.n] = line;
        for (; line < end && *line != '\n'; line += 2)
            *out++ = (char)(hex(line[0]) * 16 + hex(line[1]));
        v.len[v.n] = (size_t)(out - v.text[v.n]);
        line++;
    }
    return v;
}

/* ---------------------------------------------------------------- answers */

static double mask_us[MOST_TIMES], push_us[MOST_TIMES];
static int n_times;

static int choose(ap_rng *rng, const uint32_t *mask, int vocab)
{
    int begin = (int)(ap_rng_next(rng) % (uint64_t)vocab);
    for (int i = 0; i < vocab; i++) {
        int id = (begin + i) % vocab;
        if (mask[id / 32] >> id % 32 & 1) return id;
    }
    return -1;
}

static void answer(ap_token_masks *masks, ap_rng *rng, uint32_t *mask)
{
    ap_matcher m;
    must(ap_matcher_open(&m, masks, &diag));
    for (int i = 0; i < MOST_TOKENS && n_times < MOST_TIMES; i++) {
        double begin = now();
        ap_matcher_mask(&m, mask);
        double masked = now();
        int id = choose(rng, mask, masks->trie->vocab);
        if (id < 0) break;
        double chosen = now();
        ap_matcher_push(&m, id);
        push_us[n_times] = now() - chosen;
        mask_us[n_times++] = masked - begin;
    }
    ap_matcher_close(&m);
}

static void answers(ap_token_masks *masks, const char *what)
{
    uint32_t *mask = malloc(((size_t)masks->trie->vocab + 31) / 32 * sizeof *mask);
    char name[64];
    ap_rng rng;
    ap_rng_seed(&rng, 3);
    n_times = 0;
    for (int i = 0; i < ANSWERS; i++) answer(masks, &rng, mask);
    snprintf(name, sizeof name, "mask, %s", what);
    print_times(name, mask_us, n_times);
    snprintf(name, sizeof name, "token taken, %s", what);
    print_times(name, push_us, n_times);
    free(mask);
}

int main(int argc, char **argv)
{
    size_t n = sizeof standard - 1;
    const char *text = argc > 1 ? read_file(argv[1], &n) : standard;
    vocabulary v = argc > 2 ? from_file(argv[2]) : made_up();
    ap_token_trie trie;
    ap_token_masks masks;
    ap_grammar g = {0};
    double begin = now();
    must(ap_token_trie_of(v.text, v.len, v.n, &trie, &diag));
    printf("%d tokens, %zu nodes: %.0f ms\n", v.n, trie.n_node, (now() - begin) / 1e3);
    begin = now();
    bool gbnf = argc > 1 && strstr(argv[1], ".gbnf");
    must(gbnf ? ap_gbnf_parse(text, n, &g, &diag) : ap_json_schema_parse(text, n, &g, &diag));
    printf("%zu rules, %zu states: %.2f ms\n", g.n_rule, g.n_state, (now() - begin) / 1e3);
    must(ap_token_masks_open(&masks, &g, &trie, &diag));
    answers(&masks, "first round");
    answers(&masks, "second round");
    printf("%zu states met: %.1f MiB\n", masks.n_near,
           (double)ap_token_masks_size(&masks) / 1048576);
    ap_token_masks_close(&masks);
    ap_grammar_free(&g);
    ap_token_trie_free(&trie);
    return 0;
}
