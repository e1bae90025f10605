# clinvk completion for bash (3.2 and later): source <(clinvk completion bash)
_clinvk() {
    local cur=${COMP_WORDS[COMP_CWORD]} word about line has_about=
    local -a lines
    [[ $cur == = ]] && cur=
    COMPREPLY=()
    while IFS=$'\t' read -r word about; do
        COMPREPLY+=("$word")
        has_about+=$about
        printf -v line '%-16s  %s' "$word" "$about"
        lines+=("${line:0:${COLUMNS:-80}-2}")
    done < <(command clinvk __complete "${COMP_WORDS[@]:1:COMP_CWORD}" </dev/null 2>/dev/null)
    local IFS=$'\n'
    case ${COMPREPLY[0]} in
        :dirs) COMPREPLY=($(compgen -d -- "$cur")); compopt -o filenames 2>/dev/null ;;
        :files) COMPREPLY=($(compgen -f -- "$cur")); compopt -o filenames 2>/dev/null ;;
        *.) compopt -o nospace 2>/dev/null ;;
        # COMP_TYPE 63 is the second TAB, which only lists: no description can get into the command line.
        *) [[ ${COMP_TYPE-} == 63 && $has_about && ${#lines[@]} -gt 1 ]] && COMPREPLY=("${lines[@]}") ;;
    esac
    return 0
}
complete -F _clinvk clinvk
