/* cmd_list.c - apus list: the models in the cache. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common.h"
#include "hub.h"
#include "hub_env.h"
#include "json_out.h"
#include "progress.h"
#include "report.h"
#include "sizes.h"
#include "terminal.h"

static struct {
    bool json;
} o;

static const opt list_table[] = {
    {"json", 0, OPT_FLAG, &o.json, NULL, 0, 0, NULL, "an array of objects, with paths and commits"},
    {0}};

static const opt *const tables[] = {list_table, NULL};

static int run(int argc, char **argv);

const command cmd_list = {"list",
                          "[--json]",
                          "the models in the local cache",
                          "Each under a name that other commands take, with the type of its "
                          "weights, their size, and when "
                          "they came. Models that the hub's own programs fetched are listed too.",
                          tables,
                          run};

static const char *moment(int64_t at, const char *form, char out[40])
{
    time_t t = (time_t)at;
    struct tm tm;
    bool utc = strchr(form, 'Z') != NULL;
    if (!(utc ? gmtime_r(&t, &tm) : localtime_r(&t, &tm)) || !strftime(out, 40, form, &tm))
        strcpy(out, "?");
    return out;
}

static void print_json(const hub_entries *all)
{
    char when[40];
    json_out *j = json_new(true);
    json_array(j, NULL);
    for (size_t i = 0; i < all->n; i++) {
        const hub_entry *e = &all->item[i];
        json_map(j, NULL);
        json_text(j, "name", e->name);
        json_text(j, "repo", e->repo);
        json_text(j, "revision", e->commit);
        json_text(j, "file", e->file);
        json_text(j, "quant", *e->quant ? e->quant : NULL);
        json_int(j, "size", (int64_t)e->size);
        json_text(j, "modified", moment(e->modified, "%Y-%m-%dT%H:%M:%SZ", when));
        json_bool(j, "complete", e->complete);
        json_text(j, "path", e->path);
        json_end_map(j);
    }
    json_end_array(j);
    json_print(j);
    json_free(j);
}

static void print_table(const hub_entries *all)
{
    char size[32], when[40];
    int width = 4;
    for (size_t i = 0; i < all->n; i++)
        if ((int)strlen(all->item[i].name) > width) width = (int)strlen(all->item[i].name);
    printf("%s%-*s  %-10s  %10s  %s%s\n", bold(stdout), width, "NAME", "TYPE", "SIZE", "MODIFIED",
           plain(stdout));
    for (size_t i = 0; i < all->n; i++) {
        const hub_entry *e = &all->item[i];
        put_textf(stdout, "%-*s  %-10s  %10s  %s%s\n", width, e->name, *e->quant ? e->quant : "-",
                  human_bytes(e->size, size), moment(e->modified, "%Y-%m-%d %H:%M", when),
                  e->complete ? "" : "  parts are missing");
    }
}

static int run(int argc, char **argv)
{
    int n;
    hub_entries all;
    apus_diag why;
    int rc = options_parse(&cmd_list, argc, argv, 0, &n);
    if (rc >= 0) return rc;
    const char *cache = hub_cache();
    if (!cache) return fail(&cmd_list, "no folder that models are kept in: set HF_HOME or HOME");
    if (!hub_cached(cache, NULL, &all, &why)) return report(&cmd_list, &why);
    if (o.json)
        print_json(&all);
    else if (all.n)
        print_table(&all);
    else
        put_textf(stderr, "no model in %s; 'apus pull org/repo' fetches one\n", cache);
    hub_entries_free(&all);
    return finish_output(&cmd_list, 0);
}
