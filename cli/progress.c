#include "progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "interrupt.h"

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

/* done < total; what stands before the bar. */
static void draw(const char *label, uint64_t done, uint64_t total)
{
    struct winsize ws;
    int width = ioctl(STDERR_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 0 ? ws.ws_col : 80;
    int label_width = strlen(label) < 8 ? 8 : (int)strlen(label);
    int cells = width - 16 - label_width;
    if (cells > 50) cells = 50;
    if (cells < 5) return;
    int full = (int)((double)done / (double)total * cells);
    fprintf(stderr, "\r%-8s [", label);
    for (int i = 0; i < cells; i++) fputc(i < full ? '#' : '.', stderr);
    fprintf(stderr, "] %3d %%", (int)((double)done / (double)total * 100));
    fflush(stderr);
    bar_shown = true;
}

bool progress_bar(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    (void)ctx;
    if (!isatty(STDERR_FILENO) || total == 0) return true;
    if (done >= total)
        progress_clear();
    else
        draw(stage, done, total);
    return true;
}

bool progress_until_interrupt(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    return progress_bar(ctx, stage, done, total) && !interrupt_came();
}

/* Bytes a second of the last seconds. */
static double speed_of(double now, uint64_t done)
{
    enum { N = 8 };
    static struct {
        double at;
        uint64_t done;
    } ring[N];
    static int n; /* samples taken so far */
    if (n == 0 || now - ring[(n - 1) % N].at >= 1) {
        ring[n % N].at = now;
        ring[n++ % N].done = done;
    }
    int oldest = n > N ? n % N : 0;
    double past = now - ring[oldest].at;
    return past >= 1 && done > ring[oldest].done ? (double)(done - ring[oldest].done) / past : 0;
}

void progress_bytes(uint64_t done, uint64_t total)
{
    static double shown;
    struct timespec t;
    char label[96], left[40] = "";
    if (!isatty(STDERR_FILENO) || total == 0) return;
    if (done >= total) {
        progress_clear();
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    double now = (double)t.tv_sec + (double)t.tv_nsec * 1e-9, speed = speed_of(now, done);
    if (now - shown < 0.1) return;
    shown = now;
    double unit = total >= 1000000000 ? 1e9 : 1e6,
           s = speed > 0 ? (double)(total - done) / speed : 0;
    if (speed > 0 && s < 60) snprintf(left, sizeof left, ", %.0f s", s);
    if (s >= 60 && s < 6000) snprintf(left, sizeof left, ", %d min %d s", (int)s / 60, (int)s % 60);
    if (s >= 6000 && s < 1e6) snprintf(left, sizeof left, ", %.1f h", s / 3600);
    snprintf(label, sizeof label, "%.2f of %.2f %s at %.1f MB/s%s", (double)done / unit,
             (double)total / unit, unit > 1e6 ? "GB" : "MB", speed / 1e6, left);
    draw(label, done, total);
    fputs("\033[K", stderr); /* what a longer line left */
    fflush(stderr);
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
    char guesses[64] = "";
    if (r->n_drafted)
        snprintf(guesses, sizeof guesses, " (%d of %d guesses came true)", r->n_accepted,
                 r->n_drafted);
    fprintf(f, "%sprompt %d tokens at %.1f tok/s, answer %d tokens%s at %.1f tok/s%s\n", dim(f),
            r->n_prompt, prefill, r->n_generated, guesses, decode, plain(f));
}

void print_experts(FILE *f, const apus_model *m)
{
    apus_expert_stats s = {.size = sizeof s};
    char ahead[96] = "";
    if (apus_model_experts(m, &s, NULL) || !s.io || !(s.hits + s.misses)) return;
    if (s.ahead)
        snprintf(ahead, sizeof ahead, ", %llu ahead of their layer of which %.0f %% were used",
                 (unsigned long long)s.ahead, 100.0 * (double)s.ahead_used / (double)s.ahead);
    fprintf(f,
            "%sexperts: %.1f %% of those chosen were in memory, %.2f GB read%s, %.1f s waited%s\n",
            dim(f), 100.0 * (double)s.hits / (double)(s.hits + s.misses),
            (double)s.bytes_read * 1e-9, ahead, (double)s.stall_us * 1e-6, plain(f));
}
