/* media_util.h - files and goldens of tests/media/data. */
#ifndef AP_TESTS_MEDIA_UTIL_H
#define AP_TESTS_MEDIA_UTIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "media/source.h"

#define DATA "tests/media/data/"

static apus_diag diag;

static inline ap_source source_of(const char *name)
{
    char path[200];
    ap_source s;
    ap_media_limits limits = ap_media_limits_default();
    snprintf(path, sizeof path, DATA "%s", name);
    if (ap_source_open(path, &limits, &s, &diag)) fail_msg("%s", diag.text);
    s.name = name;
    return s;
}

/* zlib's crc32 going on from crc; begins with 0. */
static inline uint32_t crc32_of(const void *data, size_t n, uint32_t crc)
{
    static uint32_t table[256];
    const uint8_t *p = data;
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int b = 0; b < 8; b++) c = c >> 1 ^ (0xEDB88320u & -(c & 1));
            table[i] = c;
        }
    crc = ~crc;
    for (size_t i = 0; i < n; i++) crc = crc >> 8 ^ table[(crc ^ p[i]) & 255];
    return ~crc;
}

/* A line of goldens.txt. */
typedef struct golden {
    char file[64], kind[16];
    int budget;
    size_t parts, rows, width, tokens; /* pixels: parts and rows are width and height */
    uint32_t crc;
} golden;

/* Calls fn for each line of that kind; returns how many there are. */
static inline int each_golden(const char *kind, void (*fn)(const golden *g))
{
    golden g;
    char line[256];
    int n = 0;
    FILE *f = fopen(DATA "goldens.txt", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        int at;
        assert_int_equal(sscanf(line, "%63s %15s %d %n", g.file, g.kind, &g.budget, &at), 3);
        if (strcmp(g.kind, kind)) continue;
        if (!strcmp(kind, "pixels"))
            assert_int_equal(sscanf(line + at, "%zu %zu %x", &g.parts, &g.rows, &g.crc), 3);
        else
            assert_int_equal(sscanf(line + at, "%zu %zu %zu %zu %x", &g.parts, &g.rows, &g.width,
                                    &g.tokens, &g.crc),
                             5);
        fn(&g);
        n++;
    }
    fclose(f);
    return n;
}

#endif
