#include "address.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <string.h>

typedef struct range4 {
    uint32_t first;
    int bits;
} range4;

typedef struct range6 {
    uint8_t first[6]; /* no range is told apart by more */
    int bits;
} range6;

static const range4 inner4[] = {
    {0x00000000, 8},  /* this network */
    {0x0a000000, 8},  /* private */
    {0x64400000, 10}, /* a provider's */
    {0x7f000000, 8},  /* this machine */
    {0xa9fe0000, 16}, /* this link; where clouds tell secrets */
    {0xac100000, 12}, /* private */
    {0xc0000000, 24}, /* protocols */
    {0xc0000200, 24}, /* documents */
    {0xc0586300, 24}, /* the way to IPv6 */
    {0xc0a80000, 16}, /* private */
    {0xc6120000, 15}, /* measurements */
    {0xc6336400, 24}, /* documents */
    {0xcb007100, 24}, /* documents */
    {0xe0000000, 3},  /* groups, the future, everybody */
};

/* Of 2000::/3, which has all that is public. */
static const range6 inner6[] = {
    {{0x20, 0x01, 0x00}, 23},       /* protocols, tunnels */
    {{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documents */
    {{0x20, 0x02}, 16},             /* an IPv4 address inside */
    {{0x3f, 0xff, 0x00}, 20},       /* documents */
};

static bool is_public4(uint32_t a)
{
    for (size_t i = 0; i < sizeof inner4 / sizeof *inner4; i++)
        if ((a ^ inner4[i].first) >> (32 - inner4[i].bits) == 0) return false;
    return true;
}

static bool in_range6(const uint8_t *a, const range6 *r)
{
    int whole = r->bits / 8, rest = r->bits % 8;
    if (memcmp(a, r->first, (size_t)whole) != 0) return false;
    return !rest || (a[whole] ^ r->first[whole]) >> (8 - rest) == 0;
}

static bool is_public6(const uint8_t *a)
{
    if (a[0] >> 5 != 1) return false;
    for (size_t i = 0; i < sizeof inner6 / sizeof *inner6; i++)
        if (in_range6(a, &inner6[i])) return false;
    return true;
}

bool sv_address_is_public(const struct sockaddr *a)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    switch (a->sa_family) {
    case AF_INET:
        memcpy(&v4, a, sizeof v4);
        return is_public4(ntohl(v4.sin_addr.s_addr));
    case AF_INET6:
        memcpy(&v6, a, sizeof v6);
        return is_public6(v6.sin6_addr.s6_addr);
    default:
        return false;
    }
}
