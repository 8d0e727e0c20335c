/* remote_get.c - what the server's fetching makes of URLs and addresses, for test_remote.py.
 *
 *   remote_get public ADDRESS...             each: public or inner
 *   remote_get get BYTES SECONDS URL HOST... what comes from there; addresses of any kind are connected to */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "remote.h"
#include "state.h"

static bool any(const struct sockaddr *a)
{
    (void)a;
    return true;
}

static int tell_public(int n, char **text)
{
    for (int i = 0; i < n; i++) {
        struct sockaddr_in v4 = {.sin_family = AF_INET};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
        const struct sockaddr *a = NULL;
        if (inet_pton(AF_INET, text[i], &v4.sin_addr) == 1) a = (const struct sockaddr *)&v4;
        if (inet_pton(AF_INET6, text[i], &v6.sin6_addr) == 1) a = (const struct sockaddr *)&v6;
        if (!a) return 2;
        printf("%s %s\n", text[i], sv_address_is_public(a) ? "public" : "inner");
    }
    return 0;
}

static int get(int n, char **arg)
{
    sv_names hosts = {0};
    sv_buf out = {0};
    char why[200];
    for (int i = 3; i < n && hosts.n < 16; i++) hosts.item[hosts.n++] = arg[i];
    sv_remote r = {.hosts = &hosts,
                   .reachable = any,
                   .max_bytes = strtoul(arg[0], NULL, 10),
                   .until_us = sv_now_us() + (int64_t)(atof(arg[1]) * 1e6)};
    if (!sv_remote_init()) return 2;
    bool ok = sv_remote_get(&r, arg[2], &out, why, sizeof why);
    if (ok)
        fwrite(sv_buf_text(&out), 1, out.len, stdout);
    else
        fprintf(stderr, "%s\n", why);
    sv_buf_free(&out);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (!sv_remote_built()) return 77;
    if (argc > 2 && !strcmp(argv[1], "public")) return tell_public(argc - 2, argv + 2);
    if (argc > 4 && !strcmp(argv[1], "get")) return get(argc - 2, argv + 2);
    return 2;
}
