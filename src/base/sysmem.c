#include "base/sysmem.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The first number behind `key` in a small system file; without a key the file's first word. */
static bool read_number(const char *path, const char *key, uint64_t *out)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    char line[256];
    bool found = false;
    size_t n = key ? strlen(key) : 0;
    unsigned long long v;
    while (!found && fgets(line, sizeof line, f))
        found = (!key || strncmp(line, key, n) == 0) && sscanf(line + n, " %llu", &v) == 1;
    fclose(f);
    if (found) *out = v;
    return found;
}

/* Limit of one control group folder and what of it is left. False: no limit there. "max" is not a
 * number and so no limit. */
static bool group_room(const char *dir, uint64_t *limit, uint64_t *room)
{
    char path[640];
    uint64_t used = 0, cache = 0;
    snprintf(path, sizeof path, "%s/memory.max", dir);
    if (!read_number(path, NULL, limit)) return false;
    snprintf(path, sizeof path, "%s/memory.current", dir);
    if (!read_number(path, NULL, &used)) return false;
    /* Cached files count as used, though the system drops them first. */
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    if (read_number(path, "inactive_file ", &cache)) used -= cache < used ? cache : used;
    *room = used < *limit ? *limit - used : 0;
    return true;
}

static void apply_limit(uint64_t *best, uint64_t limit)
{
    if (*best == 0 || limit < *best) *best = limit ? limit : 1;
}

/* Version 2: every level from our own group to the root; version 1: the mounted group. */
static void apply_groups(uint64_t *total, uint64_t *available)
{
    char line[512], dir[600];
    uint64_t limit, room;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4)) continue;
        char *group = line + 3;
        group[strcspn(group, "\n")] = 0;
        for (;;) {
            snprintf(dir, sizeof dir, "/sys/fs/cgroup%s", group);
            if (group_room(dir, &limit, &room)) {
                apply_limit(total, limit);
                apply_limit(available, room);
            }
            char *slash = strrchr(group, '/');
            if (!slash) break;
            *slash = 0;
        }
    }
    if (f) fclose(f);
    uint64_t used = 0;
    if (read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", NULL, &limit) &&
        read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", NULL, &used) &&
        limit < (uint64_t)1 << 60) { /* version 1 writes "no limit" as a huge number */
        uint64_t cache = 0;
        read_number("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file ", &cache);
        used -= cache < used ? cache : used;
        apply_limit(total, limit);
        apply_limit(available, used < limit ? limit - used : 0);
    }
}

/* Limits of this process (ulimit -v, -d). Mapped files count in the first. */
static void apply_process_limits(uint64_t *available)
{
    static const struct {
        int limit;
        const char *used;
    } kind[] = {{RLIMIT_AS, "VmSize:"}, {RLIMIT_DATA, "VmData:"}};
    for (size_t i = 0; i < sizeof kind / sizeof *kind; i++) {
        struct rlimit r;
        uint64_t kb;
        if (getrlimit(kind[i].limit, &r) || r.rlim_cur == RLIM_INFINITY) continue;
        if (!read_number("/proc/self/status", kind[i].used, &kb)) continue;
        apply_limit(available, kb * 1024 < r.rlim_cur ? r.rlim_cur - kb * 1024 : 0);
    }
}

static void look(uint64_t *total, uint64_t *available)
{
    *total = *available = 0;
    uint64_t kb;
    if (read_number("/proc/meminfo", "MemTotal:", &kb)) *total = kb * 1024;
    if (read_number("/proc/meminfo", "MemAvailable:", &kb)) *available = kb * 1024;
    long page = sysconf(_SC_PAGESIZE), pages = sysconf(_SC_PHYS_PAGES);
    if (!*total && page > 0 && pages > 0) *total = (uint64_t)page * (uint64_t)pages;
    apply_groups(total, available);
    if (!*available) *available = *total;
    apply_process_limits(available);
}

uint64_t ap_memory_total(void)
{
    uint64_t total, available;
    look(&total, &available);
    return total;
}

uint64_t ap_memory_available(void)
{
    uint64_t total, available;
    look(&total, &available);
    return available;
}
