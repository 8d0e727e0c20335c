/* habits.c - options that people know from llama.cpp, ollama, mlx-lm and vLLM, answered in one
 * sentence. What can be understood is an entry without help in the tables of the commands. */
#include "habits.h"

#include <string.h>

#include "common.h"

typedef struct habit {
    const char *words; /* separated by spaces */
    const char *answer;
} habit;

static const habit habits[] = {
    {"-ngl --gpu-layers --n-gpu-layers -sm --split-mode -ts --tensor-split -mg --main-gpu -cmoe "
     "--cpu-moe -ncmoe --n-cpu-moe -ot --override-tensor",
     "a model runs on one device as a whole, there are no layers to place; --device names it"},
    {"-ctk -ctv --cache-type-k --cache-type-v --kv-cache-dtype --kv-bits",
     "keys and values are kept as one type: --kv f32, bf16 or q8"},
    {"--logit-bias", "single tokens cannot be favoured; --repetition-penalty, --presence-penalty "
                     "and --frequency-penalty act on those seen, --stop TEXT ends an answer"},
    {"--chat-template", "a template comes from a file: --chat-template-file FILE"},
    {"--messages -msgs", "a conversation is answered by 'apus run MODEL --messages FILE' and shown "
                         "by 'apus render MODEL --messages FILE'"},
    {"--tools", "tools are given to 'apus run MODEL --tools FILE' and 'apus render MODEL --tools "
                "FILE'"},
    {"--prompt-cache --prompt-cache-all --prompt-cache-ro --slot-save-path --kv-disk-dir",
     "a prompt is kept by 'apus run MODEL --prompt-cache FILE'"},
    {"--format",
     "an answer's form is given to 'apus run MODEL --json-schema FILE' or --grammar FILE"},
    {"-md --model-draft --draft-model --spec-type",
     "no second model drafts; --speculate guesses what repeats"},
    {"--draft --draft-max --num-draft-tokens", "--speculate N guesses as many tokens"},
    {"--tensor-parallel-size --tp --gpu-memory-utilization",
     "a model runs on one device, in as much memory as it needs; --device names it"},
    {"--image --video",
     "pictures and videos are shown to 'apus run MODEL -i FILE', and by /image in 'apus chat'"},
    {"--audio", "sounds are given to 'apus run MODEL --audio FILE', and by /audio in 'apus chat'"},
    {"--lora --lora-scaled --adapter-path", "adapters are not read; merge them into the model"},
    {"-fa --flash-attn", "attention never stores its scores here; leave it out"},
    {"--mlock --no-mmap --mmap --numa",
     "weights are packed into memory of their own; leave it out"},
    {"--jinja -cnv --conversation -st --single-turn",
     "the chat template is always used; --raw goes without"},
    {"-no-cnv --no-conversation --no-jinja --ignore-chat-template",
     "--raw goes without the chat template"},
    {"-i --interactive -if --interactive-first --instruct -ins",
     "a conversation is 'apus chat MODEL'"},
    {"--reasoning-budget --reasoning-format --reasoning -rea --nothink --hidethinking --thinking "
     "--enable-thinking",
     "--think lets the model think, --no-think does not; --json tells thinking apart"},
    {"--mirostat --mirostat-lr --mirostat-ent --typical --typical-p --top-nsigma --top-n-sigma "
     "--xtc-probability --xtc-threshold --dry-multiplier --dry-base --dynatemp-range --samplers "
     "--sampler-seq --sampling-seq",
     "there are --temp, --top-k, --top-p, --min-p and penalties"},
    {"--repeat-last-n", "penalties look at all tokens; leave it out"},
    {"-e --escape --no-escape", "the shell writes line breaks: -p $'one\\ntwo', or use -f FILE"},
    {"--verbose-prompt", "the prompt is shown by 'apus render MODEL --messages FILE'"},
    {"-v --verbose --log-disable --log-file --log-verbosity --no-display-prompt --color "
     "--simple-io --no-perf --perf --no-warmup --warmup",
     "the answer alone goes to standard output, the rest to standard error; leave it out"},
    {"--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --yarn-orig-ctx",
     "rotary embeddings follow the model's own configuration; leave it out"},
    {"--api-key",
     "arguments can be read by everybody here; a key comes from a file: --api-key-file "
     "FILE of 'apus serve'"},
    {"--slots --props --metrics", "/metrics is always there; leave it out"},
    {"--ssl-key-file --ssl-cert-file",
     "encryption is for a proxy before it, such as nginx; docs/server.md has an example"},
    {"-cb --cont-batching --keep --context-shift --no-context-shift -gan -gaw",
     "a full context ends the answer; -c N makes room for more"},
    {"-tb --threads-batch", "prompts and answers use the same threads: -t N"},
    {"--keepalive", "apus keeps nothing after it ends; leave it out"},
    {"-o --output", "the answer goes to standard output: apus run ... > FILE"},
    {"--q-bits", "bits are part of the type: --to mlx4"},
    {"--q-group-size", "it is called --group"},
    {"--imatrix", "there is no importance matrix; --recipe FILE gives single matrices more bits"},
    {"--allow-requantize", "a quantised source is always read as numbers and written anew; leave "
                           "it out"},
    {"--pure --output-tensor-type --token-embedding-type --tensor-type",
     "types of single matrices are lines of --recipe FILE"},
};

/* Is word one of words? */
static bool has_word(const char *words, const char *word, size_t len)
{
    for (const char *p = words; *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        if (n == len && !memcmp(p, word, n)) return true;
        p += n;
    }
    return false;
}

/* "is an option of run and chat; 'apus tokenize' has no use for it" */
static const char *belongs_elsewhere(const command *c, const char *name, size_t len)
{
    static char text[256];
    size_t at = 0;
    int found = 0;
    text[0] = 0;
    for (const command *const *k = commands; *k; k++)
        if (*k != c && option_listed(*k, name, len)) {
            at += (size_t)snprintf(text + at, sizeof text - at, "%s%s",
                                   found++ ? ", " : "it is an option of ", (*k)->name);
            if (at + 64 > sizeof text) break;
        }
    if (!found) return NULL;
    snprintf(text + at, sizeof text - at, "; '%s' has no use for it", c->name);
    return text;
}

const char *habit_answer(const command *c, const char *word)
{
    size_t len = strcspn(word, "=");
    if (len > 2 && word[1] == '-') { /* an answer may name an option that this command has not */
        const char *other = belongs_elsewhere(c, word + 2, len - 2);
        if (other) return other;
    }
    for (size_t i = 0; i < sizeof habits / sizeof *habits; i++)
        if (has_word(habits[i].words, word, len)) return habits[i].answer;
    return NULL;
}
