#include "base/library.h"

#include <dlfcn.h>
#include <string.h>

ap_library *ap_library_load(const char *file)
{
    return dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

int ap_library_function(ap_library *lib, const char *name, void *to)
{
    void *address = dlsym(lib, name);
    memcpy(to, &address, sizeof address); /* POSIX has both kinds of pointers alike */
    return address ? 0 : -1;
}
