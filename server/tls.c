#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_BYTES = 1 << 20 };

static bool complain(const char *option, const char *file, const char *what)
{
    fprintf(stderr, "apus serve: --tls-%s %s: %s\n", option, file, what);
    return false;
}

/* All of a file as a string, or NULL; *mode: its permissions. */
static char *read_all(const char *option, const char *file, mode_t *mode)
{
    struct stat st;
    char *text = NULL;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;
    size_t len = 0;
    if (fd < 0 || fstat(fd, &st)) {
        complain(option, file, strerror(errno));
    } else if (!S_ISREG(st.st_mode) || st.st_size > MOST_BYTES) {
        complain(option, file, "expected a file of at most 1 MiB with PEM text");
    } else if ((text = calloc((size_t)st.st_size + 1, 1))) {
        while (len < (size_t)st.st_size && (n = read(fd, text + len, (size_t)st.st_size - len)) > 0)
            len += (size_t)n;
        *mode = st.st_mode;
    } else {
        complain(option, file, "out of memory");
    }
    if (n < 0) {
        complain(option, file, strerror(errno));
        free(text);
        text = NULL;
    }
    if (fd >= 0) close(fd);
    return text;
}

static bool check_cert(const char *file, const char *text)
{
    if (strstr(text, "-----BEGIN CERTIFICATE-----")) return true;
    return complain("cert", file,
                    strstr(text, "PRIVATE KEY-----")
                        ? "expected a certificate, found a private key (--tls-key)"
                        : "expected PEM text with -----BEGIN CERTIFICATE-----, found none");
}

static bool check_key(const char *file, const char *text, mode_t mode)
{
    const char *key = strstr(text, "PRIVATE KEY-----");
    if (!key)
        return complain("key", file,
                        strstr(text, "-----BEGIN CERTIFICATE-----")
                            ? "expected a private key, found a certificate (--tls-cert)"
                            : "expected PEM text with -----BEGIN PRIVATE KEY-----, found none");
    if (strstr(text, "BEGIN ENCRYPTED PRIVATE KEY") || strstr(text, "Proc-Type: 4,ENCRYPTED"))
        return complain("key", file,
                        "the key has a password; write it without one: openssl pkey -in FILE -out "
                        "NEW");
    if (mode & (S_IRWXG | S_IRWXO))
        fprintf(stderr,
                "apus serve: --tls-key %s: others than its owner can read or change it (mode "
                "%04o); chmod 600\n",
                file, (unsigned)mode & 07777);
    return true;
}

bool sv_tls_load(sv_tls *t, const char *cert_file, const char *key_file)
{
    mode_t mode = 0;
    t->cert = read_all("cert", cert_file, &mode);
    t->key = t->cert ? read_all("key", key_file, &mode) : NULL;
    return t->key && check_cert(cert_file, t->cert) && check_key(key_file, t->key, mode);
}

void sv_tls_free(sv_tls *t)
{
    if (t->key) explicit_bzero(t->key, strlen(t->key));
    free(t->key);
    free(t->cert);
    *t = (sv_tls){0};
}
