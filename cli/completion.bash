# bash completion for apus
_apus() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local common="--threads --cpumask --prefill-chunk --ctx --precision --kv --help"
    local sampling="--temp --top-k --top-p --min-p --seed --repetition-penalty --presence-penalty --frequency-penalty --think --no-think"
    if [ "$COMP_CWORD" = 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "run chat info tokenize render logits bench perplexity quantize synth --help --version" -- "$cur")
        return
    fi
    if [ "$prev" = --cpumask ]; then
        mapfile -t COMPREPLY < <(compgen -W "auto ref avx2 avx512 amx neon dot i8mm" -- "$cur")
        return
    fi
    if [ "$prev" = --precision ]; then
        mapfile -t COMPREPLY < <(compgen -W "high exact fast" -- "$cur")
        return
    fi
    if [ "$prev" = --kv ]; then
        mapfile -t COMPREPLY < <(compgen -W "auto f32 bf16 q8" -- "$cur")
        return
    fi
    if [ "$prev" = --to ]; then
        mapfile -t COMPREPLY < <(compgen -W "q8_0 q6_k q5_k q4_k q3_k q2_k q5_1 q5_0 q4_1 q4_0 iq4_xs iq4_nl mxfp4 bf16 f16 f32 mlx2 mlx3 mlx4 mlx5 mlx6 mlx8" -- "$cur")
        return
    fi
    if [[ $cur == -* ]]; then
        local own=
        case ${COMP_WORDS[1]} in
        run) own="--prompt --file --system --max-tokens --raw --json --ids --print-ids --ignore-eos $sampling" ;;
        chat) own="--system --max-tokens $sampling" ;;
        info) own="--json --check" ;;
        tokenize) own="--decode --no-special --no-bos" ;;
        render) own="--messages --tools --tokens --no-generation-prompt --think --no-think" ;;
        logits) own="--ids --positions --output --force" ;;
        bench) own="--prompt --generate --depth --repeat --profile --output" ;;
        perplexity) own="--file --kl-against --kl-base --force --json" ;;
        quantize) own="--to --recipe --group --force" ;;
        synth) own="--to --layers --seed --force" ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$own $common" -- "$cur")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}
complete -o filenames -F _apus apus
