/* A file with sound, decoded and prepared for both kinds of models that hear. */
#include <math.h>
#include <stdlib.h>

#include "../fuzz.h"
#include "media/sound.h"

static void require(bool ok)
{
    if (!ok) abort();
}

static void prepare(ap_media_kind kind, const ap_sound *s)
{
    apus_diag d = {0};
    ap_media_settings set;
    ap_patches p;
    ap_media_settings_default(kind, &set);
    set.sound.max_samples = 1000;
    if (ap_prepare_sound(&set, s, "fuzz", &p, &d)) {
        require(d.text[0] && !p.values);
        return;
    }
    require(p.n > 0 && p.n <= p.padded && p.soft_tokens > 0 && p.soft_tokens <= p.n);
    for (size_t i = 0; i < p.n * p.width; i++) require(isfinite(p.values[i]));
    ap_patches_clear(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    apus_diag d = {0};
    ap_sound s;
    ap_source src = {"fuzz", data, size, ap_media_limits_default()};
    src.limits.samples = 100000;
    apus_err err = ap_sound_decode(&src, &s, &d);
    if (err) {
        require(d.code == err && d.text[0] && !s.sample);
        return 0;
    }
    require(s.n > 0 && s.rate >= 1000);
    for (size_t i = 0; i < s.n; i++) require(isfinite(s.sample[i]));
    if (s.n > 2000) s.n = 2000;
    prepare(AP_MEDIA_GEMMA, &s);
    prepare(AP_MEDIA_EMBEDDER, &s);
    ap_sound_clear(&s);
    return 0;
}
