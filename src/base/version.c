#include "apus/apus.h"

#define TEXT(x)       #x
#define DOTS(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)

const char *apus_version(void)
{
    return DOTS(APUS_VERSION_MAJOR, APUS_VERSION_MINOR, APUS_VERSION_PATCH);
}
