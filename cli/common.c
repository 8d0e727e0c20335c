#include "common.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "signals.h"
#include "terminal.h"

#ifndef APUS_DEFAULT_MODEL
#define APUS_DEFAULT_MODEL "tiny-qwen"
#endif

common_opts common;

/* As another spelling of an option: the same target, no help. */
#define CTX_OPTION(name)                                                                           \
    {                                                                                              \
        name, 0, OPT_INT, &common.ctx, &common.ctx_given, 0, INT_MAX, "N", NULL                    \
    }
#define CHUNK_OPTION(name, letter)                                                                 \
    {                                                                                              \
        name, letter, OPT_INT, &common.prefill_chunk, NULL, 1, 1 << 20, "N", NULL                  \
    }
#define MODEL_OPTION(name)                                                                         \
    {                                                                                              \
        name, 0, OPT_STRING, &common.model, NULL, 0, 0, "MODEL", NULL                              \
    }

const opt model_table[] = {{"model", 'm', OPT_STRING, &common.model, NULL, 0, 0, "MODEL",
                            "the model; the same as MODEL as the first argument"},
                           MODEL_OPTION("-hf"),
                           MODEL_OPTION("hf"),
                           MODEL_OPTION("-hfr"),
                           MODEL_OPTION("hf-repo"),
                           {0}};

const opt threads_table[] = {{"threads", 't', OPT_INT, &common.threads, NULL, 1, 1024, "N",
                              "worker threads (default: one per physical core)"},
                             {0}};

const opt engine_table[] = {
    {"cpumask", 0, OPT_STRING, &common.cpumask, NULL, 0, 0, "L",
     "highest processor level: ref, avx2, avx512, amx, neon, dot, i8mm or auto (default)"},
    {"device", 0, OPT_STRING, &common.device, NULL, 0, 0, "D",
     "run on cpu, cuda:0, ... or auto (default: the best there is)"},
    {"-dev", 0, OPT_STRING, &common.device, NULL, 0, 0, "D", NULL},
    {"prefill-chunk", 0, OPT_INT, &common.prefill_chunk, NULL, 1, 1 << 20, "N",
     "prompt tokens computed at once (default 512 to 4096, as memory allows); results do not "
     "depend on it, except with --precision fast"},
    {"precision", 0, OPT_STRING, &common.precision, NULL, 0, 0, "P",
     "of products with quantised weights: high (default), exact (f32 throughout, slow) or fast"},
    {"kv", 0, OPT_STRING, &common.kv, NULL, 0, 0, "T",
     "keep keys and values as f32, bf16 or q8 (default: bf16, with --precision exact f32)"},
    {"ctx", 'c', OPT_INT, &common.ctx, &common.ctx_given, 0, INT_MAX, "N",
     "tokens that fit in the context (default: the model's, at most 8192; 0: all of the model's)"},
    CTX_OPTION("ctx-size"),
    CTX_OPTION("num-ctx"),
    CTX_OPTION("max-model-len"),
    CHUNK_OPTION("batch-size", 'b'),
    CHUNK_OPTION("-ub", 0),
    CHUNK_OPTION("ubatch-size", 0),
    CHUNK_OPTION("prefill-step-size", 0),
    {0}};

sampling_opts sampling;

#define TEMP_OPTION(name, help)                                                                    \
    {                                                                                              \
        name, 0, OPT_REAL, &sampling.temp, &sampling.temp_given, 0, 100, "T", help                 \
    }
#define REPEAT_OPTION(name, help)                                                                  \
    {                                                                                              \
        name, 0, OPT_REAL, &sampling.repetition, &sampling.repetition_given, 0.01, 100, "R", help  \
    }

const opt sampling_table[] = {
    TEMP_OPTION("temp", "temperature; 0 = always the likeliest token"),
    TEMP_OPTION("temperature", NULL),
    {"top-k", 0, OPT_INT, &sampling.top_k, &sampling.top_k_given, 0, INT_MAX, "K",
     "only the K likeliest tokens; 0 = off"},
    {"top-p", 0, OPT_REAL, &sampling.top_p, &sampling.top_p_given, 0, 1, "P",
     "only the likeliest tokens that sum to P; 1 = off"},
    {"min-p", 0, OPT_REAL, &sampling.min_p, &sampling.min_p_given, 0, 1, "P",
     "only tokens at least P times as likely as the best"},
    REPEAT_OPTION("repetition-penalty", "divides the logits of tokens seen; 1 = off"),
    REPEAT_OPTION("repeat-penalty", NULL),
    {"presence-penalty", 0, OPT_REAL, &sampling.presence, &sampling.presence_given, -100, 100, "P",
     "subtracted from tokens seen; 0 = off"},
    {"frequency-penalty", 0, OPT_REAL, &sampling.frequency, &sampling.frequency_given, -100, 100,
     "P", "subtracted for each time seen; 0 = off"},
    {"seed", 's', OPT_SEED, &sampling.seed, NULL, 0, 0, "N",
     "random seed (default 0: the same answer every time; -1: a random one)"},
    {0}};

think_opts think;
const opt think_table[] = {
    {"think", 0, OPT_FLAG, &think.on, NULL, 0, 0, NULL, "let the model think before it answers"},
    {"no-think", 0, OPT_FLAG, &think.off, NULL, 0, 0, NULL, "answer at once"},
    {0}};

template_opts template_opt;
const opt template_table[] = {
    {"chat-template-kwargs", 0, OPT_STRING, &template_opt.kwargs, NULL, 0, 0, "JSON",
     "an object with more variables of the chat template"},
    {"chat-template-args", 0, OPT_STRING, &template_opt.kwargs, NULL, 0, 0, "JSON", NULL},
    {"chat-template-file", 0, OPT_STRING, &template_opt.file, NULL, 0, 0, "FILE",
     "a chat template in the place of the model's"},
    {0}};

apus_think think_setting(void)
{
    return think.off ? APUS_THINK_OFF : think.on ? APUS_THINK_ON : APUS_THINK_DEFAULT;
}

int template_settings(const command *c, apus_chat_settings *out)
{
    static char *text; /* lives as long as the program: one template a run */
    apus_chat_settings_default(out);
    out->think = think_setting();
    out->extra_json = template_opt.kwargs;
    if (!template_opt.file) return -1;
    size_t len;
    if (!text && !(text = read_input(c, template_opt.file, &len))) return EXIT_FAILED;
    out->template_text = text;
    out->template_name = template_opt.file;
    return -1;
}

/* ---------------------------------------------------------------- terminal */

static bool colour(FILE *f)
{
    const char *term = getenv("TERM");
    return isatty(fileno(f)) && !getenv("NO_COLOR") && term && strcmp(term, "dumb") != 0;
}

const char *dim(FILE *f)
{
    return colour(f) ? "\033[2m" : "";
}
const char *bold(FILE *f)
{
    return colour(f) ? "\033[1m" : "";
}
const char *plain(FILE *f)
{
    return colour(f) ? "\033[0m" : "";
}

static bool bar_shown;

bool progress_bar(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    (void)ctx;
    if (!isatty(STDERR_FILENO) || total == 0) return true;
    if (done >= total) {
        progress_clear();
        return true;
    }
    struct winsize ws;
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 0 ? ws.ws_col : 80;
    int cells = width - 24 > 50 ? 50 : width - 24;
    if (cells < 5) return true;
    int full = (int)((double)done / (double)total * cells);
    fprintf(stderr, "\r%-8s [", stage);
    for (int i = 0; i < cells; i++) fputc(i < full ? '#' : '.', stderr);
    fprintf(stderr, "] %3d %%", (int)((double)done / (double)total * 100));
    fflush(stderr);
    bar_shown = true;
    return true;
}

void progress_clear(void)
{
    if (!bar_shown) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    bar_shown = false;
}

void print_speed(FILE *f, const apus_generate_result *r)
{
    /* The first new token comes with the prompt's last step, so decoding made one less. */
    double prefill = r->prefill_us > 0 ? r->n_prompt / (r->prefill_us * 1e-6) : 0;
    double decode =
        r->decode_us > 0 && r->n_generated > 1 ? (r->n_generated - 1) / (r->decode_us * 1e-6) : 0;
    fprintf(f, "%sprompt %d tokens at %.1f tok/s, answer %d tokens at %.1f tok/s%s\n", dim(f),
            r->n_prompt, prefill, r->n_generated, decode, plain(f));
}

static apus_engine *volatile interrupt_engine;
static volatile sig_atomic_t interrupt_fd = -1;
static volatile sig_atomic_t interrupted; /* since the target was set */

static void on_interrupt(int sig)
{
    int saved = errno;
    unsigned char b = (unsigned char)sig;
    interrupted = 1;
    if (interrupt_engine)
        apus_cancel(interrupt_engine);
    else if (interrupt_fd >= 0 && write(interrupt_fd, &b, 1) < 0) { /* full: enough are waiting */
    }
    errno = saved;
}

static void handle_interrupt(void (*handler)(int))
{
    struct sigaction sa = {0};
    sa.sa_handler = handler;
    sa.sa_flags = SA_RESTART; /* a write that waits for the terminal is no failure */
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
}

static void choose_handler(void)
{
    if (interrupt_engine || interrupt_fd >= 0)
        handle_interrupt(on_interrupt);
    else
        signals_restore(SIGINT);
}

void interrupt_target(apus_engine *e)
{
    interrupted = 0;
    interrupt_engine = e;
    choose_handler();
}

bool interrupt_came(void)
{
    return interrupted;
}

void interrupt_to(int fd)
{
    interrupt_fd = fd;
    choose_handler();
}

void interrupt_ignore(bool on)
{
    if (on)
        handle_interrupt(SIG_IGN);
    else
        choose_handler();
}

/* ---------------------------------------------------------------- models */

/* What the library calls fields of its settings, and what the command line does. */
typedef struct wording {
    const char *field, *option;
} wording;

static const wording wordings[] = {
    {"extra template variables:", "--chat-template-kwargs:"},
    {"apus_generate_settings.max_tokens", "--max-tokens"},
    {"apus_sampling.temperature", "--temp"},
    {"apus_engine_settings.", "--"},
    {"apus_generate_settings.", "--"},
    {"apus_model_settings.", "--"},
    {"apus_sampling.", "--"},
    {"max_sessions 1, ", ""},
    {"prefill_chunk", "--prefill-chunk"},
    {"q8 KV pages", "--kv q8"},
};

/* The entry that text begins with, or NULL. */
static const wording *wording_at(const char *text)
{
    for (size_t i = 0; i < sizeof wordings / sizeof *wordings; i++)
        if (!strncmp(text, wordings[i].field, strlen(wordings[i].field))) return &wordings[i];
    return NULL;
}

/* A sentence of the library in the terms of the command line. */
static void in_options(const char *text, char *out, size_t cap)
{
    size_t at = 0;
    bool name = false; /* of an option: written with dashes */
    while (*text && at + 1 < cap) {
        const wording *w = wording_at(text);
        if (w) {
            int n = snprintf(out + at, cap - at, "%s", w->option);
            at += (size_t)n < cap - at ? (size_t)n : cap - at - 1;
            text += strlen(w->field);
            name = !strcmp(w->option, "--");
            continue;
        }
        name = name && (*text == '_' || (*text >= 'a' && *text <= 'z'));
        out[at++] = name && *text == '_' ? '-' : *text;
        text++;
    }
    out[at] = 0;
}

int report(const command *c, const apus_diag *d)
{
    progress_clear();
    char text[sizeof d->text + 64];
    in_options(d->text, text, sizeof text);
    put_textf(stderr, "apus %s: %s\n", c->name, text);
    return EXIT_FAILED;
}

int fail(const command *c, const char *fmt, ...)
{
    va_list ap;
    progress_clear();
    fprintf(stderr, "apus %s: ", c->name);
    va_start(ap, fmt);
    put_textv(stderr, fmt, ap);
    va_end(ap);
    putc('\n', stderr);
    return EXIT_FAILED;
}

static bool is_file(const char *dir, const char *name, char *out, size_t cap)
{
    int n = snprintf(out, cap, "%s/%s", dir, name);
    return n > 0 && (size_t)n < cap && access(out, R_OK) == 0;
}

/* The built-in model: $APUS_MODELS, beside an installed program, or in the source tree it was built
 * from. NULL if it is nowhere. */
static const char *default_model(void)
{
    static char dir[PATH_MAX];
    char probe[PATH_MAX + 32], exe[PATH_MAX];
    const char *env = getenv("APUS_MODELS");
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    char *slash = NULL;
    if (n > 0) {
        exe[n] = 0;
        slash = strrchr(exe, '/');
        if (slash) *slash = 0;
    }
    for (int i = 0; i < 3; i++) {
        int len = 0;
        if (i == 0 && env) len = snprintf(dir, sizeof dir, "%s/%s", env, APUS_DEFAULT_MODEL);
        if (i == 1 && slash)
            len = snprintf(dir, sizeof dir, "%s/../share/apus/models/%s", exe, APUS_DEFAULT_MODEL);
        if (i == 2 && slash) /* in a build folder */
            len = snprintf(dir, sizeof dir, "%s/models/%s", exe, APUS_DEFAULT_MODEL);
        if (len > 0 && (size_t)len < sizeof dir && is_file(dir, "config.json", probe, sizeof probe))
            return dir;
    }
    return NULL;
}

const char *hub_cache(void)
{
    static char dir[PATH_MAX];
    const char *v = getenv("HF_HUB_CACHE"), *home = getenv("HOME"), *xdg = getenv("XDG_CACHE_HOME");
    if (v && *v) return v;
    int n = 0;
    if ((v = getenv("HF_HOME")) && *v)
        n = snprintf(dir, sizeof dir, "%s/hub", v);
    else if (xdg && *xdg)
        n = snprintf(dir, sizeof dir, "%s/huggingface/hub", xdg);
    else if (home && *home)
        n = snprintf(dir, sizeof dir, "%s/.cache/huggingface/hub", home);
    return n > 0 && (size_t)n < sizeof dir ? dir : NULL;
}

int take_model(const command *c, char **argv, int *n, int max_rest, const char **name)
{
    *name = common.model;
    if (!common.model && *n) {
        *name = argv[1];
        --*n;
        for (int i = 0; i < *n; i++) argv[1 + i] = argv[2 + i];
    }
    if (*n <= max_rest) return -1;
    return usage_error(c, "unexpected argument '%s': the model was given with --model", argv[*n]);
}

static int cpu_level(const command *c, apus_cpu *out)
{
    apus_diag d;
    *out = APUS_CPU_AUTO;
    if (common.cpumask && apus_cpu_parse(common.cpumask, out, &d))
        return usage_error(c, "--cpumask: %s", d.text);
    return -1;
}

/* -c 0 */
static bool whole_context(void)
{
    return common.ctx_given && !common.ctx;
}

/* The engine that the common options ask for. */
static int engine_options(const command *c, apus_engine_settings *out)
{
    apus_diag d;
    apus_engine_settings_default(out);
    int rc = cpu_level(c, &out->cpu);
    if (rc >= 0) return rc;
    if (common.kv && apus_kv_parse(common.kv, &out->kv, &d))
        return usage_error(c, "--kv: %s", d.text);
    out->threads = common.threads;
    out->prefill_chunk = common.prefill_chunk;
    out->ctx = common.ctx;
    return -1;
}

/* What is odd about the model's files; apus info shows it with the rest. */
static void print_notes(const apus_model *m)
{
    const char *note;
    for (size_t i = 0; (note = apus_model_note(m, i)); i++)
        fprintf(stderr, "%snote: %s%s\n", dim(stderr), note, plain(stderr));
}

/* engine: what will be made of the model; NULL = nothing. */
static int open_beside(const command *c, const char *name, apus_load load,
                       const apus_engine_settings *engine, apus_model **out)
{
    apus_diag d;
    apus_model_settings s;
    apus_model_settings_default(&s);
    s.load = load;
    s.engine = engine;
    s.threads = common.threads;
    s.device = common.device;
    s.hub_cache = hub_cache();
    s.progress = progress_bar;
    int rc = cpu_level(c, &s.cpu);
    if (rc >= 0) return rc;
    if (common.precision && apus_precision_parse(common.precision, &s.precision, &d))
        return usage_error(c, "--precision: %s", d.text);
    if (!name) {
        name = default_model();
        if (!name) {
            return fail(c,
                        "no MODEL given and the built-in %s is not installed; name a model "
                        "folder or set APUS_MODELS",
                        APUS_DEFAULT_MODEL);
        }
        static bool told;
        if (!told)
            fprintf(stderr, "%sno MODEL given: using the built-in %s%s\n", dim(stderr),
                    APUS_DEFAULT_MODEL, plain(stderr));
        told = true;
    }
    if (apus_model_open(name, &s, out, &d)) return report(c, &d);
    progress_clear();
    if (load != APUS_LOAD_INFO) print_notes(*out);
    return -1;
}

int open_model(const command *c, const char *name, apus_load load, apus_model **out)
{
    apus_engine_settings es;
    int rc = load == APUS_LOAD_ALL ? engine_options(c, &es) : -1;
    return rc >= 0 ? rc : open_beside(c, name, load, load == APUS_LOAD_ALL ? &es : NULL, out);
}

int open_for_engine(const command *c, const char *name, int need_ctx, apus_model **out)
{
    apus_engine_settings es;
    int rc = engine_options(c, &es);
    if (rc < 0 && !es.ctx &&
        (need_ctx > APUS_DEFAULT_CTX || whole_context())) { /* how far does the model reach? */
        rc = open_beside(c, name, APUS_LOAD_INFO, NULL, out);
        if (rc >= 0) return rc;
        rc = engine_settings(c, *out, need_ctx, &es);
        apus_model_close(*out);
        *out = NULL;
    }
    return rc >= 0 ? rc : open_beside(c, name, APUS_LOAD_ALL, &es, out);
}

int engine_settings(const command *c, const apus_model *m, int need_ctx, apus_engine_settings *out)
{
    apus_info info = {.size = sizeof info};
    apus_diag d;
    if (apus_model_info(m, &info, &d)) return report(c, &d);
    int rc = engine_options(c, out);
    if (rc >= 0) return rc;
    /* Make room for a long prompt rather than ask for --ctx, as far as the model reaches. */
    if (whole_context()) out->ctx = info.context;
    if (!out->ctx && need_ctx > APUS_DEFAULT_CTX)
        out->ctx = need_ctx < info.context ? need_ctx : info.context;
    return -1;
}

const char *larger_context(int ctx, int most)
{
    static char text[64];
    if (ctx >= most) return ", and the model reaches no further";
    snprintf(text, sizeof text, ", -c N makes it larger, up to %d", most);
    return text;
}

int chunk_of(const apus_model *m, const apus_engine_settings *es)
{
    apus_plan plan = {.size = sizeof plan};
    return apus_engine_plan(m, es, &plan, NULL) ? 0 : plan.prefill_chunk;
}

void sampling_settings(const apus_model *m, apus_sampling *out)
{
    apus_sampling_from_model(m, out);
    if (sampling.temp_given) out->temperature = sampling.temp;
    if (sampling.top_k_given) out->top_k = sampling.top_k;
    if (sampling.top_p_given) out->top_p = sampling.top_p;
    if (sampling.min_p_given) out->min_p = sampling.min_p;
    if (sampling.repetition_given) out->repetition_penalty = sampling.repetition;
    if (sampling.presence_given) out->presence_penalty = sampling.presence;
    if (sampling.frequency_given) out->frequency_penalty = sampling.frequency;
    out->seed = sampling.seed;
}

/* ---------------------------------------------------------------- types and sizes */

const char *type_name(const char *given)
{
    static char out[32];
    size_t n = strlen(given);
    if (n >= sizeof out) return given;
    for (size_t i = 0; i <= n; i++) out[i] = (char)tolower((unsigned char)given[i]);
    char *tail = n > 3 && out[n - 2] == '_' ? out + n - 2 : NULL;
    if (tail && out[0] == 'q' && out[n - 3] == 'k' && strchr("sml", tail[1])) *tail = 0;
    return out;
}

const char *human_bytes(uint64_t bytes, char out[32])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    int u = 0;
    for (; v >= 1024 && u < 4; u++) v /= 1024;
    snprintf(out, 32, u ? "%.2f %s" : "%.0f %s", v, unit[u]);
    return out;
}

/* Bytes of a file, or of the files of a folder. */
static uint64_t bytes_of(const char *path)
{
    struct stat st;
    char name[PATH_MAX];
    uint64_t sum = 0;
    if (stat(path, &st)) return 0;
    if (!S_ISDIR(st.st_mode)) return (uint64_t)st.st_size;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        int n = snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (n > 0 && (size_t)n < sizeof name && stat(name, &st) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
    }
    if (dir) closedir(dir);
    return sum;
}

int tell_written(const command *c, const char *path)
{
    apus_diag d;
    apus_model *m;
    apus_model_settings s;
    apus_info info = {.size = sizeof info};
    char size[32];
    apus_model_settings_default(&s);
    s.load = APUS_LOAD_INFO;
    apus_err err = apus_model_open(path, &s, &m, &d);
    if (err == APUS_ENOMEM) { /* the work is done all the same */
        put_textf(stderr, "apus %s: %s is written; there is no memory left to tell its size\n",
                  c->name, path);
        return 0;
    }
    if (err) return report(c, &d);
    int rc = apus_model_info(m, &info, &d) ? report(c, &d) : 0;
    if (rc == 0)
        put_textf(stdout, "%s: %s, %.2f bits a weight\n", path, human_bytes(bytes_of(path), size),
                  (double)info.weight_bytes * 8 / (double)info.params_total);
    apus_model_close(m);
    return finish_output(c, rc);
}

/* ---------------------------------------------------------------- input */

char *read_input(const command *c, const char *path, size_t *len)
{
    bool std = !strcmp(path, "-");
    FILE *f = std ? stdin : fopen(path, "rb");
    if (!f) {
        fail(c, "cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    size_t cap = 1 << 16, n = 0;
    char *data = malloc(cap + 1);
    while (data) {
        n += fread(data + n, 1, cap - n, f);
        if (n < cap) break;
        char *more = cap > SIZE_MAX / 4 ? NULL : realloc(data, cap * 2 + 1);
        if (!more) {
            free(data);
            data = NULL;
        } else {
            data = more;
            cap *= 2;
        }
    }
    if (!data || ferror(f)) {
        fail(c, "reading %s failed: %s", std ? "standard input" : path,
             strerror(data ? errno : ENOMEM));
        free(data);
        data = NULL;
    }
    if (!std) fclose(f);
    if (!data) return NULL;
    data[n] = 0;
    *len = n;
    return data;
}

static bool is_space(char c)
{
    return c && strchr(" \t\r\n\f\v", c);
}

int32_t *parse_ints(const command *c, const char *name, const char *text, size_t len, size_t *n)
{
    size_t cap = 0, count = 0;
    int32_t *ids = NULL;
    for (const char *p = text;;) {
        while (p < text + len && is_space(*p)) p++;
        if (p == text + len) break;
        char *end;
        errno = 0;
        long v = strtol(p, &end, 10);
        if (end == p || errno || v < INT32_MIN || v > INT32_MAX || (*end && !is_space(*end))) {
            fail(c, "%s: expected whitespace-separated integers, found '%.20s' after %zu of them",
                 name, p, count);
            free(ids);
            return NULL;
        }
        if (count == cap) {
            cap = cap ? cap * 2 : 1024;
            int32_t *more = realloc(ids, cap * sizeof *ids);
            if (!more) {
                fail(c, "%s: out of memory", name);
                free(ids);
                return NULL;
            }
            ids = more;
        }
        ids[count++] = (int32_t)v;
        p = end;
    }
    if (count == 0) fail(c, "%s: expected whitespace-separated integers, found none", name);
    *n = count;
    return ids;
}

int32_t *read_ints(const command *c, const char *path, size_t *n)
{
    size_t len;
    char *text = read_input(c, path, &len);
    if (!text) return NULL;
    int32_t *ids = parse_ints(c, path, text, len, n);
    free(text);
    return ids;
}

int finish_output(const command *c, int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    fprintf(stderr, "apus %s: writing to standard output failed: %s\n", c->name, strerror(errno));
    return status ? status : EXIT_FAILED;
}
