#include "engine/odds.h"

#include "base/num.h"

#define AVERAGED    16    /* measurements that a time is averaged over */
#define OUTLIER     3.0   /* times longer than expected count as so many of them */
#define ROW_SHARE   0.15  /* of a row more, before anything was measured */
#define LEAST_SHARE 0.01  /* and the least that it is taken for */
#define KEEP        0.97f /* of what was seen earlier, each round */
#define PRIOR_SEEN  3.0f  /* guesses that are taken as seen beforehand, */
#define PRIOR_HIT   2.0f  /* and how many of them came true, for the first; less behind it */
#define PRIOR_LESS  0.9
#define WORTH       1.02 /* of the tokens in a second: less is no gain */
#define DRAFT_SHARE 0.1  /* of a step, for a guess that is computed, before any was measured */
#define SURE_TIMES  3    /* steps without guesses are measured so often before any are taken */
#define FIRST_WAIT  32
#define MOST_WAIT   1024

/* ---------------------------------------------------------------- times */

/* Sizes that are measured together: 1 to 8 rows apart, then ever more. */
static int size_of(int rows)
{
    int i = 0, last = 8, step = 2;
    if (rows <= 8) return rows - 1;
    for (i = 8; i < AP_TEMPO_SIZES - 1 && rows > last + step; i++) {
        last += step;
        if (i % 2) step *= 2;
    }
    return i;
}

/* The most rows of a size. */
static int rows_of(int size)
{
    int last = 8, step = 2;
    if (size < 8) return size + 1;
    for (int i = 8; i < size; i++) {
        last += step;
        if (i % 2) step *= 2;
    }
    return last + step;
}

void ap_tempo_learn(ap_tempo *t, int rows, double us)
{
    int i = size_of(rows);
    if (us <= 0) return;
    if (t->n[i] && us > OUTLIER * t->us[i]) us = OUTLIER * t->us[i];
    if (t->n[i] < AVERAGED) t->n[i]++;
    t->us[i] += (us - t->us[i]) / t->n[i];
}

void ap_tempo_learn_draft(ap_tempo *t, int depth, double us)
{
    if (us <= 0 || depth < 1) return;
    us /= depth;
    if (t->n_draft && us > OUTLIER * t->draft_us) us = OUTLIER * t->draft_us;
    if (t->n_draft < AVERAGED) t->n_draft++;
    t->draft_us += (us - t->draft_us) / t->n_draft;
}

/* What a row more takes beyond the sizes that are known, of which `at` is the nearest: as much as between the least and the
 * most of them, or what it is thought to where there is but one. */
static double row_us(const ap_tempo *t, int at)
{
    int low = 0, high = AP_TEMPO_SIZES - 1;
    while (!t->n[low]) low++;
    while (!t->n[high]) high--;
    if (low == high) return t->us[at] * ROW_SHARE / (1 + ROW_SHARE * (rows_of(at) - 1));
    double each = (t->us[high] - t->us[low]) / (rows_of(high) - rows_of(low));
    return each > LEAST_SHARE * t->us[low] ? each : LEAST_SHARE * t->us[low];
}

/* Between the nearest sizes that are known, or beyond them. */
double ap_tempo_us(const ap_tempo *t, int rows)
{
    int at = size_of(rows), low = at, high = at;
    while (low >= 0 && !t->n[low]) low--;
    while (high < AP_TEMPO_SIZES && !t->n[high]) high++;
    if (low < 0 && high == AP_TEMPO_SIZES) return 1 + ROW_SHARE * (rows - 1);
    if (low == high) return t->us[low];
    if (low >= 0 && high < AP_TEMPO_SIZES) {
        double part = (double)(rows - rows_of(low)) / (rows_of(high) - rows_of(low));
        return t->us[low] + part * (t->us[high] - t->us[low]);
    }
    int known = low >= 0 ? low : high;
    double us = t->us[known] + row_us(t, known) * (rows - rows_of(known));
    return us > 0 ? us : t->us[known];
}

/* ---------------------------------------------------------------- chances */

void ap_odds_learn(ap_odds *o, int n, int hits, bool looked_at)
{
    for (int i = 0; i < AP_MOST_DRAFTS; i++) {
        o->tried[i] *= KEEP;
        o->hit[i] *= KEEP;
    }
    for (int i = 0; i < n && i < hits + looked_at; i++) {
        o->tried[i] += 1;
        o->hit[i] += i < hits;
    }
    o->rounds++;
    o->drafted += n;
    o->accepted += hits;
    o->idle = 0;
    if (hits) o->wait = 0;
}

double ap_odds_at(const ap_odds *o, int depth)
{
    double prior = (double)(PRIOR_HIT / PRIOR_SEEN), chance = prior;
    for (int i = 0; i <= depth; i++) {
        double seen = (double)o->tried[i], hit = (double)o->hit[i];
        chance = (hit + (double)PRIOR_SEEN * prior) / (seen + (double)PRIOR_SEEN);
        prior = PRIOR_LESS * chance;
    }
    return chance;
}

/* ---------------------------------------------------------------- deciding */

/* Whose next guess is the most likely to count, or -1. */
static int next_row(ap_odds *const *odds, const int *found, int n, const int *use,
                    const double *sure, double *chance)
{
    int best = -1;
    *chance = 0;
    for (int i = 0; i < n; i++) {
        if (use[i] >= found[i]) continue;
        double p = sure[i] * ap_odds_at(odds[i], use[i]);
        if (p > *chance) *chance = p, best = i;
    }
    return best;
}

/* Add guesses one by one, at most `steps`. With t: and tell after how many of them the tokens in a second were most, if
 * more than *best_rate. */
static void add_rows(ap_odds *const *odds, const int *found, int n, int steps, int *use,
                     double *best_rate, int *best_steps, const ap_tempo *t)
{
    double tokens = n, chance, sure[AP_KEPT_ROWS * 4];
    double draft_us = t && t->n_draft ? t->draft_us : t ? DRAFT_SHARE * ap_tempo_us(t, 1) : 0;
    int depth = 0; /* of computed guesses: those of all sequences are computed together */
    int most = ap_min_int(n, (int)(sizeof sure / sizeof *sure));
    for (int i = 0; i < n; i++) use[i] = 0;
    for (int i = 0; i < most; i++) sure[i] = 1;
    for (int k = 1; k <= steps; k++) {
        int i = next_row(odds, found, most, use, sure, &chance);
        if (i < 0) break;
        use[i]++;
        sure[i] = chance;
        tokens += chance;
        if (odds[i]->computed) depth = ap_max_int(depth, use[i]);
        double rate = t ? tokens / (ap_tempo_us(t, n + k) + depth * draft_us) : 0;
        if (t && rate > *best_rate) *best_rate = rate, *best_steps = k;
    }
}

/* A sequence that has left out many guesses tries one, after ever more of them. */
static bool is_due(ap_odds *o)
{
    if (!o->wait) o->wait = FIRST_WAIT;
    if (++o->idle < o->wait) return false;
    o->wait = ap_min_int(2 * o->wait, MOST_WAIT);
    return true;
}

void ap_odds_share(const ap_tempo *t, ap_odds *const *odds, const int *found, int n, int rows,
                   int *use)
{
    double rate = WORTH * n / ap_tempo_us(t, n);
    int steps = 0, left = t->n[size_of(n)] < SURE_TIMES ? 0 : rows - n;
    add_rows(odds, found, n, left, use, &rate, &steps, t);
    add_rows(odds, found, n, steps, use, NULL, NULL, NULL);
    for (int i = 0; i < n; i++) {
        if (use[i] || !found[i] || !is_due(odds[i])) continue;
        if (steps < left) use[i] = 1, steps++;
    }
}
