#include "common.h"

#include <limits.h>
#include <stdlib.h>

#include "input.h"

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

const opt tower_table[] = {{"mmproj", 0, OPT_STRING, &common.mmproj, NULL, 0, 0, "FILE",
                            "the towers of a GGUF model (default: the mmproj*.gguf in its folder)"},
                           {"-mm", 0, OPT_STRING, &common.mmproj, NULL, 0, 0, "FILE", NULL},
                           {0}};

const opt threads_table[] = {{"threads", 't', OPT_INT, &common.threads, NULL, 1, 1024, "N",
                              "worker threads (default: one per physical core)"},
                             {0}};

const opt speculate_table[] = {
    {"speculate", 0, OPT_STRING, &common.speculate, NULL, 0, 0, "HOW",
     "guess what follows, several tokens a step; the text is the same. auto (default: as far as it "
     "pays), off, ngram (what repeats; also where bits may differ: --precision fast, and cards "
     "unless --kv f32), mtp (by a Qwen model's own head; likewise), or a number of 1 to 14: as "
     "many guesses as there are up to it, always"},
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
    {"memory", 0, OPT_STRING, &common.memory, NULL, 0, 0, "SIZE",
     "memory that may be used in all, such as 8G or 6500M (default: what is available); experts of "
     "a mixture that do not fit are read from disk when they are chosen"},
    {"experts", 0, OPT_STRING, &common.experts, NULL, 0, 0, "FILE",
     "read experts from FILE, which 'apus repack' made (default: MODEL.gguf.experts or "
     "MODEL/experts.apus, if it is there)"},
    {"offline", 0, OPT_FLAG, &common.offline, NULL, 0, 0, NULL,
     "use what is in the cache, and fetch nothing"},
    CTX_OPTION("ctx-size"),
    CTX_OPTION("num-ctx"),
    CTX_OPTION("max-model-len"),
    CHUNK_OPTION("batch-size", 'b'),
    CHUNK_OPTION("-ub", 0),
    CHUNK_OPTION("ubatch-size", 0),
    CHUNK_OPTION("prefill-step-size", 0),
    {0}};

const opt recall_table[] = {
    {"no-recall", 0, OPT_FLAG, &common.no_recall, NULL, 0, 0, NULL,
     "with experts on disk: neither begin with those that were in memory last time, which "
     "~/.cache/apus tells, nor write that down"},
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

int guarded_settings(const command *c, apus_chat_settings *out)
{
    int rc = template_settings(c, out);
    out->guarded = true;
    return rc;
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
