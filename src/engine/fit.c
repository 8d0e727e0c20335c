/* fit.c - what does not fit is refused before anything is allocated, with the numbers and the nearest
 * choice that would fit. */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"

#define GB             1e9
#define CTX_STEP       256
#define SMALLEST_CHUNK 32

static double gb(uint64_t bytes)
{
    return (double)bytes / GB;
}

/* ------------------------------------------------------------------ weights */

apus_err ap_fit_weights(const char *path, uint64_t need, uint64_t params, uint64_t have,
                        apus_diag *diag)
{
    /* bits per weight of common types in memory, scales included */
    static const struct {
        double bits;
        const char *name;
    } type[] = {{8.5, "q8_0"}, {6.6, "q6_k"}, {5.6, "q5_k"}, {4.6, "q4_k"}};
    if (have == 0 || need <= have) return APUS_OK;
    double now = params ? 8.0 * (double)need / (double)params : 0,
           most = now * (double)have / (double)need;
    char hint[160] = "even 4 bits per weight would not fit: choose a smaller model";
    for (size_t i = 0; i < sizeof type / sizeof *type; i++) {
        if (type[i].bits > most) continue;
        snprintf(hint, sizeof hint, "with %s weights it would take about %.3f GB and fit",
                 type[i].name, type[i].bits / 8 * (double)params / GB);
        break;
    }
    return ap_fail(
        diag, APUS_ENOMEM,
        "%s: the weights take %.3f GB in memory (%.1f bits each), %.3f GB are available; %s", path,
        gb(need), now, gb(have), hint);
}

/* ------------------------------------------------------------------ engines */

static uint64_t need_of(const ap_sizes *z)
{
    return (uint64_t)z->kv_bytes + z->state_bytes + z->scratch_bytes;
}

static bool fits(const apus_model *m, const apus_engine_settings *s, const ap_exec *ex,
                 uint64_t have)
{
    ap_sizes z;
    return !ap_sizes_make(m, s, ex, &z, NULL) && need_of(&z) <= have;
}

/* The largest ctx below that of the settings that fits, a multiple of CTX_STEP; 0 = none. */
static int largest_ctx(const apus_model *m, apus_engine_settings s, int ctx, const ap_exec *ex,
                       uint64_t have)
{
    int lo = 0, hi = (ctx - 1) / CTX_STEP;
    while (lo < hi) {
        int mid = lo + (hi - lo + 1) / 2;
        s.ctx = mid * CTX_STEP;
        if (fits(m, &s, ex, have))
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo * CTX_STEP;
}

static void say(char *to, size_t size, const char *fmt, int v)
{
    size_t n = strlen(to);
    if (n + 2 >= size) return;
    n += (size_t)snprintf(to + n, size - n, "%s", n ? " or " : "");
    snprintf(to + n, size - n, fmt, v);
}

/* Single changes that are enough; if there is none, all of them together. */
static void advise(const apus_model *m, const apus_engine_settings *given, const ap_sizes *z,
                   const ap_exec *ex, uint64_t have, char *to, size_t size)
{
    apus_engine_settings s = *given;
    s.ctx = z->ctx;
    int ctx = largest_ctx(m, s, z->ctx, ex, have);
    if (ctx) say(to, size, "ctx %d", ctx);
    s.kv = APUS_KV_Q8;
    if (z->kv != APUS_KV_Q8 && fits(m, &s, ex, have)) say(to, size, "q8 KV pages", 0);
    s.kv = z->kv;
    for (int chunk = z->chunk / 2; chunk >= SMALLEST_CHUNK; chunk /= 2) {
        s.prefill_chunk = chunk;
        if (!fits(m, &s, ex, have)) continue;
        say(to, size, "prefill_chunk %d", chunk);
        break;
    }
    s.prefill_chunk = z->chunk;
    for (int n = z->n_session / 2; n >= 1; n /= 2) {
        s.max_sessions = n;
        if (!fits(m, &s, ex, have)) continue;
        say(to, size, "max_sessions %d", n);
        break;
    }
    if (to[0]) return;
    s.max_sessions = 1;
    s.prefill_chunk = z->chunk < SMALLEST_CHUNK ? z->chunk : SMALLEST_CHUNK;
    ctx = largest_ctx(m, s, z->ctx, ex, have);
    s.kv = APUS_KV_Q8;
    int q8 = z->kv == APUS_KV_Q8 ? 0 : largest_ctx(m, s, z->ctx, ex, have);
    if (q8 > ctx)
        say(to, size, "max_sessions 1, prefill_chunk 32, q8 KV pages and ctx %d together", q8);
    else if (ctx)
        say(to, size, "max_sessions 1, prefill_chunk 32 and ctx %d together", ctx);
}

apus_err ap_fit_engine(const apus_model *m, const apus_engine_settings *s, const ap_exec *ex,
                       const ap_sizes *z, uint64_t have, uint64_t weights, apus_diag *diag)
{
    char choice[256] = "", left[96];
    if (have == 0) return APUS_OK;
    uint64_t room = weights < have ? have - weights : 0;
    if (need_of(z) <= room) return APUS_OK;
    advise(m, s, z, ex, room, choice, sizeof choice);
    if (weights)
        snprintf(left, sizeof left, "%.3f GB are available, of which the weights take %.3f",
                 gb(have), gb(weights));
    else
        snprintf(left, sizeof left, "%.3f GB of memory are available", gb(have));
    return ap_fail(diag, APUS_ENOMEM,
                   "%d session(s) of %d tokens need %.3f GB (KV pages %.3f, states %.3f, scratch "
                   "%.3f), %s; %s%s",
                   z->n_session, z->ctx, gb(need_of(z)), gb(z->kv_bytes), gb(z->state_bytes),
                   gb(z->scratch_bytes), left, choice[0] ? "would fit: " : "no setting would fit",
                   choice);
}
