# clinvk completion for bash (3.2 and later): source <(clinvk completion bash)
_clinvk() {
    local cur=${COMP_WORDS[COMP_CWORD]} word about
    [[ $cur == = ]] && cur=
    COMPREPLY=()
    while IFS=$'\t' read -r word about; do
        COMPREPLY+=("$word")
    done < <(command clinvk __complete "${COMP_WORDS[@]:1:COMP_CWORD}" </dev/null 2>/dev/null)
    local IFS=$'\n'
    case ${COMPREPLY[0]} in
        :dirs) COMPREPLY=($(compgen -d -- "$cur")); compopt -o filenames 2>/dev/null ;;
        :files) COMPREPLY=($(compgen -f -- "$cur")); compopt -o filenames 2>/dev/null ;;
        *.) compopt -o nospace 2>/dev/null ;;
    esac
    return 0
}
complete -F _clinvk clinvk
