#compdef clinvk
# clinvk completion for zsh: source <(clinvk completion zsh), or this as a file _clinvk in a folder of $fpath
_clinvk() {
    local line
    local -a plain open
    for line in "${(@f)$(command clinvk __complete "${(@Q)words[2,CURRENT]}" </dev/null 2>/dev/null)}"; do
        case $line in
            ('') ;;
            (*.) open+=("$line") ;;
            (*) plain+=("${${line//:/\\:}/$'\t'/:}") ;;
        esac
    done
    [[ $words[CURRENT] == --*=* ]] && compset -P '*='
    case $plain[1] in
        (\\:dirs) _files -/ ;;
        (\\:files) _files ;;
        (*)
            (($#plain)) && _describe clinvk plain
            (($#open)) && compadd -S '' -- $open
            ;;
    esac
}
if [[ $funcstack[1] == _clinvk ]]; then
    _clinvk "$@"
else
    compdef _clinvk clinvk
fi
