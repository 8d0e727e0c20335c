/* What a hub lists of a repository, and behind a zero byte a name that is asked for: no file that is to be fetched
 * has a name that leaves its folder or a hash that is none, and a name that is taken has plain parts only. */
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"
#include "files.h"
#include "hub.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void check_plain(const char *s)
{
    require(*s && *s != '/' && *s != '.' && !strstr(s, "..") && !strstr(s, "//"));
}

static void check_files(hub_files *f, const char *which)
{
    const hub_file *index;
    apus_diag why = {0};
    require(hub_is_commit(f->commit));
    bool ok = hub_files_choose(f, "a/b", which, &index, &why);
    require(ok || why.text[0]);
    bool any = false;
    for (size_t i = 0; i < f->n; i++) {
        size_t n = strlen(f->item[i].etag);
        require(hub_path_is_safe(f->item[i].name));
        require((n == 0 || n == 40 || n == 64) && strspn(f->item[i].etag, "0123456789abcdef") == n);
        any |= f->item[i].wanted;
    }
    require(!ok || any);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data, *end = size ? memchr(text, 0, size) : NULL;
    char name[700];
    hub_name n;
    hub_files f = {0};
    apus_diag why = {0};
    size_t rest = end ? (size_t)(text + size - end - 1) : 0;
    if (!end) end = text + size;
    if (rest >= sizeof name) rest = sizeof name - 1;
    if (rest) memcpy(name, end + 1, rest);
    name[rest] = 0;
    bool named = hub_name_parse(name, &n);
    if (named) {
        check_plain(n.repo);
        check_plain(n.rev);
        if (*n.which) check_plain(n.which);
    }
    if (hub_files_read(text, (size_t)(end - text), "a/b", &f, &why))
        check_files(&f, named ? n.which : "");
    else
        require(why.text[0] && !f.n);
    hub_files_free(&f);
    return 0;
}
