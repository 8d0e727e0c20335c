/* audio_config.c - audio_config of config.json. Source: Gemma4AudioConfig and Gemma4UnifiedAudioConfig of the
 * reference, whose defaults are those of the released models. */
#include <stdio.h>

#include "file/config_in.h"
#include "file/tower_config.h"

#define MAX_CHANNELS  4096
#define MAX_REACH     256
#define NEVER_CLIPPED 1e6 /* bounds of the residual stream that only 16-bit floats need */

static void channels(const ap_fields *f, ap_audio_config *a)
{
    const ap_json *v = ap_field_array(f, "subsampling_conv_channels");
    a->channels[0] = 128;
    a->channels[1] = 32;
    if (!v) return;
    const ap_json *e = v->first;
    for (int i = 0; i < 2; i++, e = e ? e->next : NULL) {
        bool good = v->len == 2 && e && e->type == AP_JSON_INT && e->integer >= 1 &&
                    e->integer <= MAX_CHANNELS;
        if (!good) {
            ap_field_fail(f, APUS_EUNSUPPORTED, "subsampling_conv_channels", v,
                          "expected two numbers from 1 to %d", MAX_CHANNELS);
            return;
        }
        a->channels[i] = (int)e->integer;
    }
}

/* The reference works in blocks of rows with those before them; positions are told from the middle of such a
 * context on, which is the distance itself where a block has as many rows as are before it. */
static void sight(const ap_fields *f, ap_audio_config *a)
{
    int block = (int)ap_field_int(f, "attention_chunk_size", 1, 1 << 16, 12);
    int past = (int)ap_field_int(f, "attention_context_left", 2, MAX_REACH + 1, 13) - 1;
    if (ap_field_int(f, "attention_context_right", 0, 1 << 16, 0))
        ap_field_fail(f, APUS_EUNSUPPORTED, "attention_context_right",
                      ap_field(f, "attention_context_right"), "only 0 is supported");
    a->reach = past;
    a->shift = (block + past) / 2 - past;
}

static void conformer(const ap_fields *f, const ap_config *text, ap_audio_config *a)
{
    *a = (ap_audio_config){.kind = AP_AUDIO_CONFORMER, .out = text->hidden};
    channels(f, a);
    a->n_layer = (int)ap_field_int(f, "num_hidden_layers", 1, AP_MAX_LAYERS, 12);
    a->hidden = (int)ap_field_int(f, "hidden_size", 1, AP_CFG_MAX_HIDDEN, 1024);
    a->n_head = (int)ap_field_int(f, "num_attention_heads", 1, AP_CFG_MAX_HEADS, 8);
    a->n_tap = (int)ap_field_int(f, "conv_kernel_size", 1, 64, 5);
    a->middle = (int)ap_field_int(f, "output_proj_dims", 1, AP_CFG_MAX_HIDDEN, 1536);
    a->share = (float)ap_field_num(f, "residual_weight", -1e6, 1e6, 0.5);
    a->cap = (float)ap_field_num(f, "attention_logit_cap", 1e-6, 1e30, 50);
    a->norm_eps = (float)ap_field_num(f, "rms_norm_eps", 0, 1, 1e-6);
    a->clipped = ap_field_bool(f, "use_clipped_linears", true);
    ap_field_expect(f, "hidden_act", "silu");
    ap_field_num(f, "gradient_clipping", NEVER_CLIPPED, 1e300, 1e10);
    sight(f, a);
    if (*f->err) return;
    if (a->hidden % a->n_head || a->hidden % 2 || a->channels[0] < 4)
        ap_field_fail(f, APUS_EUNSUPPORTED, "hidden_size", NULL,
                      "expected an even multiple of %d heads and at least 4 channels, found %d and "
                      "%d",
                      a->n_head, a->hidden, a->channels[0]);
    a->head_dim = a->hidden / a->n_head;
    a->ffn = 4 * a->hidden;
    a->width = a->channels[0] / 4 * a->channels[1];
}

static void embedder(const ap_fields *f, const ap_config *text, ap_audio_config *a)
{
    static const char *const names[] = {"audio_embed_dim", "hidden_size", "output_proj_dims",
                                        "audio_samples_per_token"};
    *a = (ap_audio_config){.kind = AP_AUDIO_EMBEDDER, .out = text->hidden};
    a->width = 640;
    for (int i = 3; i >= 0; i--)
        a->width = (int)ap_field_int(f, names[i], 1, AP_CFG_MAX_HIDDEN, a->width);
    a->norm_eps = (float)ap_field_num(f, "rms_norm_eps", 0, 1, 1e-6);
}

static void read_audio(const ap_fields *f, const ap_config *text, ap_audio_config *a)
{
    ap_fields t = *f;
    t.prefix = "audio_config.";
    t.o = ap_field_object(f, "audio_config");
    bool known = text->media == AP_MEDIA_GEMMA || text->media == AP_MEDIA_EMBEDDER;
    if (!*f->err && (!t.o || !known))
        ap_field_fail(f, APUS_EUNSUPPORTED, "audio_config", NULL,
                      "there is no audio tower of a known kind: this model does not hear");
    if (*f->err) return;
    if (text->media == AP_MEDIA_EMBEDDER)
        embedder(&t, text, a);
    else
        conformer(&t, text, a);
}

apus_err ap_audio_config_parse(const ap_config_text *file, const ap_config *text,
                               ap_audio_config *out, apus_diag *diag)
{
    ap_arena arena;
    ap_json *root = NULL;
    ap_audio_config a = {0};
    ap_arena_init(&arena, AP_CFG_MAX_TREE);
    apus_err err = ap_json_parse(&arena, file->text, file->len, file->name, 0, &root, diag);
    if (!err) read_audio(&(ap_fields){file->name, "", root, diag, &err}, text, &a);
    if (!err) *out = a;
    ap_arena_free(&arena);
    return err;
}
