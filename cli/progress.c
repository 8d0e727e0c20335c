#include "progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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

bool progress_until_interrupt(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
    return progress_bar(ctx, stage, done, total) && !interrupt_came();
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
