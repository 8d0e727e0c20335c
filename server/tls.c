#include "tls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

enum { MOST_BYTES = 1 << 20 };

/* A file, and what is to be said of it. */
typedef struct source {
    const sv_settings *set;
    const char *option, *file;
    mode_t mode; /* its permissions */
} source;

static bool complain(const source *s, const char *what)
{
    sv_log(s->set, "error", "--tls-%s %s: %s", s->option, s->file, what);
    return false;
}

/* All of a file as a string, or NULL. */
static char *read_all(source *s)
{
    struct stat st;
    char *text = NULL;
    int fd = open(s->file, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;
    size_t len = 0;
    if (fd < 0 || fstat(fd, &st)) {
        complain(s, strerror(errno));
    } else if (!S_ISREG(st.st_mode) || st.st_size > MOST_BYTES) {
        complain(s, "expected a file of at most 1 MiB with PEM text");
    } else if ((text = calloc((size_t)st.st_size + 1, 1))) {
        while (len < (size_t)st.st_size && (n = read(fd, text + len, (size_t)st.st_size - len)) > 0)
            len += (size_t)n;
        s->mode = st.st_mode;
    } else {
        complain(s, "out of memory");
    }
    if (n < 0) {
        complain(s, strerror(errno));
        free(text);
        text = NULL;
    }
    if (fd >= 0) close(fd);
    return text;
}

static bool check_cert(const source *s, const char *text)
{
    if (strstr(text, "-----BEGIN CERTIFICATE-----")) return true;
    return complain(s, strstr(text, "PRIVATE KEY-----")
                           ? "expected a certificate, found a private key (--tls-key)"
                           : "expected PEM text with -----BEGIN CERTIFICATE-----, found none");
}

static bool check_key(const source *s, const char *text)
{
    const char *key = strstr(text, "PRIVATE KEY-----");
    if (!key)
        return complain(s, strstr(text, "-----BEGIN CERTIFICATE-----")
                               ? "expected a private key, found a certificate (--tls-cert)"
                               : "expected PEM text with -----BEGIN PRIVATE KEY-----, found none");
    if (strstr(text, "BEGIN ENCRYPTED PRIVATE KEY") || strstr(text, "Proc-Type: 4,ENCRYPTED"))
        return complain(s,
                        "the key has a password; write it without one: openssl pkey -in FILE -out "
                        "NEW");
    if (s->mode & (S_IRWXG | S_IRWXO))
        sv_log(s->set, "warning",
               "--tls-key %s: others than its owner can read or change it (mode %04o); chmod 600",
               s->file, (unsigned)s->mode & 07777);
    return true;
}

bool sv_tls_load(sv_tls *t, const sv_settings *set)
{
    source cert = {set, "cert", set->tls_cert, 0}, key = {set, "key", set->tls_key, 0};
    t->cert = read_all(&cert);
    t->key = t->cert ? read_all(&key) : NULL;
    return t->key && check_cert(&cert, t->cert) && check_key(&key, t->key);
}

void sv_tls_free(sv_tls *t)
{
    if (t->key) explicit_bzero(t->key, strlen(t->key));
    free(t->key);
    free(t->cert);
    *t = (sv_tls){0};
}
