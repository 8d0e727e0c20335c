#include "digest.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hub_digest {
    EVP_MD_CTX *ctx;
    uint64_t size;
    char etag[65];
};

hub_digest *hub_digest_new(const char *etag, uint64_t size)
{
    hub_digest *d = calloc(1, sizeof *d);
    if (!d) return NULL;
    d->ctx = EVP_MD_CTX_new();
    d->size = size;
    snprintf(d->etag, sizeof d->etag, "%s", etag);
    if (d->ctx && hub_digest_begin(d)) return d;
    hub_digest_free(d);
    return NULL;
}

void hub_digest_free(hub_digest *d)
{
    if (!d) return;
    EVP_MD_CTX_free(d->ctx);
    free(d);
}

bool hub_digest_begin(hub_digest *d)
{
    char head[40];
    bool git = strlen(d->etag) == 40;
    if (!EVP_DigestInit_ex(d->ctx, git ? EVP_sha1() : EVP_sha256(), NULL)) return false;
    int n = snprintf(head, sizeof head, "blob %llu", (unsigned long long)d->size);
    return !git || hub_digest_add(d, head, (size_t)n + 1); /* git's header ends with a zero */
}

bool hub_digest_add(hub_digest *d, const void *data, size_t n)
{
    return EVP_DigestUpdate(d->ctx, data, n) == 1;
}

bool hub_digest_agrees(hub_digest *d)
{
    unsigned char sum[EVP_MAX_MD_SIZE];
    char text[2 * EVP_MAX_MD_SIZE + 1] = "";
    unsigned n = 0;
    if (!EVP_DigestFinal_ex(d->ctx, sum, &n)) return false;
    for (unsigned i = 0; i < n; i++) snprintf(text + 2 * i, 3, "%02x", sum[i]);
    return !strcmp(text, d->etag);
}
