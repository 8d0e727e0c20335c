/* cmd_serve.c - apus serve: a model behind HTTP. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "models.h"
#include "recall.h"
#include "redis.h"
#include "remote.h"
#include "report.h"
#include "serve_list.h"
#include "server.h"

static struct {
    sv_settings set;
    string_list alias, hosts, origins, media_hosts;
    const char *key_file, *cache_disk, *log_format, *models;
    int parallel, max_body_mb, max_queue, step_ms, cache_ram_mb, cache_disk_mb;
} o;

enum { MAX_MODELS = 256 }; /* of the command line */

static const opt serve_table[] = {
    {"models", 0, OPT_STRING, &o.models, NULL, 0, 0, "PATH",
     "more models: those of a folder, or of a file with a line MODEL or NAME = MODEL for each"},
    {"max-loaded", 0, OPT_INT, &o.set.max_loaded, NULL, 1, 256, "N",
     "models in memory at once (default 1); the one used longest ago makes room"},
    {"host", 0, OPT_STRING, &o.set.host, NULL, 0, 0, "NAME",
     "listen at this address (default 127.0.0.1: this machine alone)"},
    {"port", 0, OPT_INT, &o.set.port, NULL, 0, 65535, "N", "(default 8080; 0: one that is free)"},
    {"alias", 'a', OPT_LIST, &o.alias, NULL, 0, 0, "NAME",
     "another name that clients may call the (first) model by; may be given several times"},
    {"api-key-file", 0, OPT_STRING, &o.key_file, NULL, 0, 0, "FILE",
     "ask for a key: FILE has one in each line"},
    {"tls-cert", 0, OPT_STRING, &o.set.tls_cert, NULL, 0, 0, "FILE",
     "HTTPS with this certificate, as PEM, and those that vouch for it behind it"},
    {"tls-key", 0, OPT_STRING, &o.set.tls_key, NULL, 0, 0, "FILE", "its key, without a password"},
    {"allow-host", 0, OPT_LIST, &o.hosts, NULL, 0, 0, "NAME",
     "a name of this server, as a proxy before it passes it on; * = any"},
    {"allow-origin", 0, OPT_LIST, &o.origins, NULL, 0, 0, "URL",
     "pages from there may ask, such as https://chat.example.org"},
    {"parallel", 'j', OPT_INT, &o.parallel, NULL, 1, 1024, "N",
     "requests that are computed at once (default 4)"},
    {"-np", 0, OPT_INT, &o.parallel, NULL, 1, 1024, "N", NULL},
    {"max-queue", 0, OPT_INT, &o.max_queue, NULL, 0, 1 << 20, "N",
     "requests that wait at most; more are answered 429 (default 512)"},
    {"step", 0, OPT_INT, &o.step_ms, NULL, 0, 100000, "MS",
     "how long running answers may wait for a step of somebody's prompt (default 100; 0: no "
     "limit)"},
    {"cache-ram", 0, OPT_INT, &o.cache_ram_mb, NULL, 0, INT_MAX, "MIB",
     "memory for prompts that may come again, beside that of running requests (default: what those "
     "leave free of theirs)"},
    {"-cram", 0, OPT_INT, &o.cache_ram_mb, NULL, 0, INT_MAX, "MIB", NULL},
    {"cache-disk", 0, OPT_STRING, &o.cache_disk, NULL, 0, 0, "DIR",
     "keep such prompts in this folder too, also over a restart"},
    {"cache-disk-size", 0, OPT_INT, &o.cache_disk_mb, NULL, 1, INT_MAX, "MIB",
     "at most so much of it (default 16 GB)"},
    {"cache-redis", 0, OPT_STRING, &o.set.redis, NULL, 0, 0, "ADDRESS",
     "share such prompts with other servers of this model through Redis or Valkey at HOST:PORT or "
     "unix:PATH"},
    {"cache-redis-password-file", 0, OPT_STRING, &o.set.redis_password, NULL, 0, 0, "FILE",
     "its password, or USER PASSWORD"},
    {"cache-redis-ttl", 0, OPT_INT, &o.set.redis_ttl_s, NULL, 1, INT_MAX, "S",
     "seconds that they stay there (default 86400)"},
    {"max-body", 0, OPT_INT, &o.max_body_mb, NULL, 1, 1024, "MIB",
     "size of a request (default 32)"},
    {"max-images", 0, OPT_INT, &o.set.max_media, NULL, 0, 1024, "N",
     "pictures of a request (default 64)"},
    {"max-pixels", 0, OPT_INT, &o.set.max_pixels, NULL, 1, 100000000, "N",
     "pixels of a picture (default 64 million)"},
    {"image-tokens", 0, OPT_INT, &o.set.image_tokens, NULL, 1, 1 << 20, "N",
     "most tokens of a picture, where a request does not say (default: as the model's processor)"},
    {"allow-media-from", 0, OPT_LIST, &o.media_hosts, NULL, 0, 0, "HOST",
     "fetch pictures that requests name by a URL of this host; *.HOST = all below it, * = all of "
     "the public internet; never from private networks"},
    {"text-only", 0, OPT_FLAG, &o.set.text_only, NULL, 0, 0, NULL,
     "leave the vision tower of a model on the disk, and refuse pictures"},
    {"max-connections", 0, OPT_INT, &o.set.max_connections, NULL, 1, 100000, "N", "(default 512)"},
    {"header-timeout", 0, OPT_INT, &o.set.header_s, NULL, 1, 3600, "S",
     "seconds that the head of a request may take (default 15)"},
    {"idle-timeout", 0, OPT_INT, &o.set.idle_s, NULL, 1, 3600, "S",
     "seconds before a connection without a request is closed (default 75)"},
    {"ping", 0, OPT_INT, &o.set.ping_s, NULL, 1, 3600, "S",
     "seconds of silence in a stream before a sign of life (default 5)"},
    {"drain", 0, OPT_INT, &o.set.drain_s, NULL, 0, 86400, "S",
     "seconds that running answers have after SIGTERM (default 30)"},
    {"log-format", 0, OPT_STRING, &o.log_format, NULL, 0, 0, "FORM",
     "lines of the log: text (default), or json for a collector"},
    {"quiet", 'q', OPT_FLAG, &o.set.quiet, NULL, 0, 0, NULL, "no line for each request"},
    {0}};

static const opt *const tables[] = {serve_table,  model_table,  tower_table,     threads_table,
                                    engine_table, recall_table, speculate_table, NULL};

static int run(int argc, char **argv);

const command cmd_serve = {
    "serve",
    "[MODEL...] [options]",
    "answer programs and agents over HTTP",
    "APIs: OpenAI's /v1/chat/completions, /v1/completions and /v1/responses, Anthropic's "
    "/v1/messages, Ollama's /api/chat and /api/generate; also /v1/models, /health, /metrics, "
    "/tokenize and /detokenize. docs/server.md tells what each takes. SIGTERM and SIGINT let "
    "running answers end first.\n\n"
    "With several models a request's \"model\" chooses; one that is not in memory is loaded when "
    "it is "
    "asked for, and requests wait for it.",
    tables,
    run};

/* ---------------------------------------------------------------- keys */

static int add_key(const char *line, int n)
{
    sv_names *k = &o.set.keys;
    if (k->n == (int)(sizeof k->item / sizeof *k->item))
        return fail(&cmd_serve, "--api-key-file %s: more than %d keys", o.key_file, k->n);
    char *key = strdup(line);
    if (!key) return fail(&cmd_serve, "out of memory");
    if (strlen(key) < 8)
        return fail(&cmd_serve, "--api-key-file %s: line %d: a key has at least 8 characters",
                    o.key_file, n);
    k->item[k->n++] = key;
    return -1;
}

static int read_keys(void)
{
    char line[1024];
    int rc = -1, n = 0;
    if (!o.key_file) return -1;
    FILE *f = fopen(o.key_file, "r");
    if (!f) return fail(&cmd_serve, "--api-key-file %s: %s", o.key_file, strerror(errno));
    while (rc < 0 && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\r\n")] = 0;
        n++;
        if (*line && *line != '#') rc = add_key(line, n);
    }
    fclose(f);
    if (rc < 0 && !o.set.keys.n)
        rc = fail(&cmd_serve, "--api-key-file %s: there is no key in it", o.key_file);
    return rc;
}

/* ---------------------------------------------------------------- settings */

static serve_list models;
static apus_engine_settings engine;

static int load(const sv_entry *e, uint64_t others, apus_model **out, apus_scheduler_settings *set,
                apus_diag *why)
{
    common.memory_taken = others;
    common.towers = o.set.text_only ? 0 : loadable_towers(e->source);
    int rc = open_for_engine(&cmd_serve, e->source, 0, out);
    if (rc >= 0) why->code = open_error();
    if (rc < 0) rc = engine_settings(&cmd_serve, *out, 0, &engine);
    engine.max_sessions = o.parallel;
    set->engine = &engine;
    if (rc < 0) recall_experts(*out);
    return rc;
}

static void remember(apus_model *m)
{
    remember_experts(m);
}

static void copy_list(sv_names *to, const string_list *from)
{
    const int most = (int)(sizeof to->item / sizeof *to->item);
    for (int i = 0; i < from->n && to->n < most; i++) to->item[to->n++] = from->item[i];
}

/* The models of the command line, and those of --models behind them. */
static int list_models(int argc, char **argv)
{
    int n = argc, rc = -1;
    const char *first;
    rc = take_model(&cmd_serve, argv, &n, MAX_MODELS, &first);
    if (rc < 0 && (first || !o.models)) rc = serve_list_add(&cmd_serve, &models, NULL, first);
    for (int i = 0; i < n && rc < 0; i++)
        rc = serve_list_add(&cmd_serve, &models, NULL, argv[1 + i]);
    int named = models.n;
    if (rc < 0 && o.models) rc = serve_list_read(&cmd_serve, &models, o.models);
    if (rc < 0) copy_list(&models.item[0].aliases, &o.alias);
    o.set.load_first = named > 0;
    if (rc < 0 && (models.n > 1 || !named)) rc = serve_list_inspect(&cmd_serve, &models, named);
    o.set.entries = models.item;
    o.set.n_entries = models.n;
    return rc;
}

static void fill_settings(void)
{
    apus_scheduler_settings *s = &o.set.scheduler;
    copy_list(&o.set.hosts, &o.hosts);
    copy_list(&o.set.origins, &o.origins);
    copy_list(&o.set.media_hosts, &o.media_hosts);
    o.set.max_body = (size_t)o.max_body_mb << 20;
    o.set.load = load;
    o.set.unload = remember;
    s->max_queue = o.max_queue;
    s->step_us = o.step_ms * 1000;
    s->cache_bytes = (uint64_t)o.cache_ram_mb << 20;
    s->cache_dir = o.cache_disk;
    if (o.cache_disk_mb) s->cache_dir_bytes = (uint64_t)o.cache_disk_mb << 20;
}

static int serve(void)
{
    sv_redis *redis = o.set.redis ? sv_redis_open(&o.set) : NULL;
    if (o.set.redis && !redis) return 1;
    if (redis) o.set.scheduler.store = sv_redis_store(redis);
    int rc = sv_serve(&o.set);
    sv_redis_free(redis);
    return rc;
}

static int run(int argc, char **argv)
{
    int n = 0;
    sv_settings_default(&o.set);
    o.parallel = 4;
    o.max_body_mb = 32;
    o.max_queue = 512;
    o.step_ms = 100;
    int rc = options_parse(&cmd_serve, argc, argv, MAX_MODELS, &n);
    if (rc < 0) rc = read_keys();
    if (rc >= 0) return rc;
    for (int i = 0; i < o.origins.n; i++)
        if (!strcmp(o.origins.item[i], "*"))
            return usage_error(&cmd_serve,
                               "--allow-origin: name each origin; * would let every page "
                               "of the web ask");
    if (o.media_hosts.n && !sv_remote_built())
        return usage_error(&cmd_serve, "--allow-media-from: this apus was built without libcurl");
    if (!o.set.tls_cert != !o.set.tls_key)
        return usage_error(&cmd_serve, "--tls-%s needs --tls-%s beside it",
                           o.set.tls_cert ? "cert" : "key", o.set.tls_cert ? "key" : "cert");
    if (o.log_format && strcmp(o.log_format, "text") && strcmp(o.log_format, "json"))
        return usage_error(&cmd_serve, "--log-format: expected text or json, found '%s'",
                           o.log_format);
    o.set.log_json = o.log_format && !strcmp(o.log_format, "json");
    rc = list_models(n, argv);
    if (rc >= 0) return rc;
    fill_settings();
    return serve();
}
