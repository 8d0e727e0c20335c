# bash completion for apus
_apus() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local engine="--model --offline --threads --cpumask --device --prefill-chunk --ctx --memory --experts --precision --kv"
    local answers="$engine --speculate"
    local think="--think --no-think --chat-template-kwargs --chat-template-file"
    local sampling="--temp --top-k --top-p --min-p --seed --repetition-penalty --presence-penalty --frequency-penalty"
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "run chat serve info tokenize render logits patches bench perplexity quantize synth repack pull list rm --help --version" -- "$cur")
        return
    fi
    if [ "$prev" = --cpumask ]; then
        mapfile -t COMPREPLY < <(compgen -W "auto ref avx2 avx512 amx neon dot i8mm" -- "$cur")
        return
    fi
    if [ "$prev" = --device ]; then
        mapfile -t COMPREPLY < <(compgen -W "auto cpu cuda:0 cuda:1" -- "$cur")
        return
    fi
    if [ "$prev" = --precision ]; then
        mapfile -t COMPREPLY < <(compgen -W "high exact fast" -- "$cur")
        return
    fi
    if [ "$prev" = --log-format ]; then
        mapfile -t COMPREPLY < <(compgen -W "text json" -- "$cur")
        return
    fi
    if [ "$prev" = --kv ]; then
        mapfile -t COMPREPLY < <(compgen -W "auto f32 bf16 q8" -- "$cur")
        return
    fi
    if [ "$prev" = --speculate ]; then
        mapfile -t COMPREPLY < <(compgen -W "auto off ngram mtp 4" -- "$cur")
        return
    fi
    if [ "$prev" = --to ]; then
        mapfile -t COMPREPLY < <(compgen -W "q8_0 q6_k q5_k q4_k q3_k q2_k q5_1 q5_0 q4_1 q4_0 iq4_xs iq4_nl mxfp4 bf16 f16 f32 mlx2 mlx3 mlx4 mlx5 mlx6 mlx8" -- "$cur")
        return
    fi
    if [[ $cur == -* ]]; then
        local own=
        case ${COMP_WORDS[1]} in
        run) own="--prompt --file --system --messages --tools --max-tokens --stop --json-schema --grammar --raw --json --prompt-cache --ids --print-ids --ignore-eos --image --audio --image-tokens $think $sampling $answers --no-recall --mmproj" ;;
        chat) own="--system --max-tokens $think $sampling $answers --no-recall --mmproj" ;;
        serve) own="--models --max-loaded --host --port --alias --api-key-file --tls-cert --tls-key --allow-host --allow-origin --parallel --max-queue --step --cache-ram --cache-disk --cache-disk-size --cache-redis --cache-redis-password-file --cache-redis-ttl --max-body --max-images --max-pixels --image-tokens --allow-media-from --text-only --max-connections --header-timeout --idle-timeout --ping --drain --log-format --quiet $answers --no-recall --mmproj" ;;
        info) own="--json --check --mmproj $engine" ;;
        tokenize) own="--decode --no-special --no-bos --model" ;;
        render) own="--messages --tools --tokens --guarded --no-generation-prompt --model $think" ;;
        logits) own="--ids --image --audio --positions --output --force --mmproj $engine" ;;
        patches) own="--image-tokens --still --output --force --model --mmproj" ;;
        bench) own="--prompt --generate --depth --repeat --profile --output $engine" ;;
        perplexity) own="--file --kl-against --kl-base --force --json $engine" ;;
        quantize) own="--to --recipe --group --force --threads" ;;
        pull) own="--dry-run" ;;
        list) own="--json" ;;
        rm) own="--yes" ;;
        synth) own="--to --layers --seed --router-skew --force --threads" ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$own --help" -- "$cur")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    case ${COMP_WORDS[1]} in
    run | chat | serve | info | bench | rm) # names of models in the cache, which may have colons
        local names
        names=$(apus list --json 2>/dev/null | sed -n 's/^ *"name": "\(.*\)",$/\1/p')
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$names" -- "$cur")
        ;;
    esac
}
complete -o filenames -F _apus apus
