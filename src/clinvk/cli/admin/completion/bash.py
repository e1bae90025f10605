"""The script for bash, 3.2 (that of macOS) and later; it needs no other package."""

from collections.abc import Iterable, Iterator

from clinvk.cli.admin.completion.grammar import Flag, Grammar
from clinvk.cli.parse.commands import GROUPS

_HEAD = r"""# clinvk completion for bash: source <(clinvk completion bash)

_clinvk_offer() {
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "${1// /$'\n'}" -- "$cur"))
    [[ ${#COMPREPLY[@]} == 1 && $COMPREPLY == *. ]] && compopt -o nospace 2>/dev/null
    return 0
}

_clinvk_list() {
    local before=
    [[ $cur == *,* ]] && before=${cur%,*},
    _clinvk_offer "$before${1// / $before}"
}

_clinvk_listed() {
    local id rest ids=
    while read -r id rest; do
        [[ $id == ID ]] || ids+="$id "
    done < <(command clinvk "$1" list --limit 100 </dev/null 2>/dev/null)
    _clinvk_offer "${ids% }"
}

_clinvk_sessions() {
    _clinvk_listed sessions
}

_clinvk_runs() {
    _clinvk_listed runs
}

_clinvk_worktrees() {
    COMPREPLY=($(cd "${CLINVK_HOME:-$HOME/.clinvk}/worktrees" 2>/dev/null && compgen -d -- "$cur"))
}

_clinvk_paths() {
    local IFS=$'\n'
    COMPREPLY=($(compgen "$1" -- "$cur"))
    compopt -o filenames 2>/dev/null
    return 0
}
"""

_STATE = r"""
_clinvk() {
    local cur= flag= dashes= word
    local -a line=() args=()
    COMPREPLY=()
    # bash parts --flag=value in three words.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if ((${#line[@]})) && [[ $word == = || ${line[${#line[@]} - 1]} == --*= ]]; then
            line[${#line[@]} - 1]+=$word
        else
            line+=("$word")
        fi
    done
    cur=${line[${#line[@]} - 1]}
    for word in "${line[@]:0:${#line[@]} - 1}"; do
        if [[ $dashes ]]; then
            args+=("$word")
        elif [[ $flag ]]; then
            flag=
        else
            case $word in
                --) dashes=1 ;;
                --*=*) ;;
                @VALUED@) flag=$word ;;
                -?*) ;;
                *) args+=("$word") ;;
            esac
        fi
    done
    if [[ ! $dashes && $cur == --*=* ]]; then
        flag=${cur%%=*} cur=${cur#*=}
    fi
    local name=${args[0]} count=${#args[@]}
    case $name in
        @GROUPS@)
            name="$name ${args[1]}"
            count=$((count - 1))
            ;;
    esac
"""


def script(grammar: Grammar) -> str:
    """Give the script."""
    state = _STATE.replace("@VALUED@", "|".join(grammar.names_with_value)).replace("@GROUPS@", "|".join(GROUPS))
    body = [*_values(grammar.with_value), *_flags(grammar), *_words(grammar)]
    return "\n".join([_HEAD, state.strip("\n"), *body, "}", "", "complete -F _clinvk clinvk"])


def _values(flags: Iterable[Flag]) -> Iterator[str]:
    """Offer the values of the flag that stands before."""
    yield "    if [[ $flag ]]; then"
    yield "        case $flag in"
    for flag in flags:
        match flag.value:
            case "DIR":
                yield f"            {'|'.join(flag.names)}) _clinvk_paths -d ;;"
            case "FILE":
                yield f"            {'|'.join(flag.names)}) _clinvk_paths -f ;;"
            case _ if flag.words:
                offer = "_clinvk_list" if flag.is_list else "_clinvk_offer"
                yield f"            {'|'.join(flag.names)}) {offer} '{' '.join(flag.words)}' ;;"
            case _:
                pass
    yield "        esac"
    yield "        return"
    yield "    fi"


def _flags(grammar: Grammar) -> Iterator[str]:
    yield "    if [[ ! $dashes && $cur == -* ]]; then"
    yield "        case $name in"
    for command in grammar.commands:
        names = " ".join(name for flag in command.flags for name in flag.names if name.startswith("--"))
        yield f"            '{command.name}') _clinvk_offer '{names}' ;;"
    yield "        esac"
    yield "        return"
    yield "    fi"


def _words(grammar: Grammar) -> Iterator[str]:
    """Offer words: what may follow the whole beginning, or what the command takes at this place."""
    yield "    case ${args[*]} in"
    for beginning, words in grammar.after.items():
        yield f"        '{beginning}') _clinvk_offer '{' '.join(words)}' ;;"
    for key, words in grammar.values.items():
        yield f"        'config set {key}') _clinvk_offer '{' '.join(words)}' ;;"
    yield "        *)"
    yield "            case $name:$count in"
    keyed = "|".join(f"'{command.name}:1'" for command in grammar.commands if command.words[:1] == ("KEY",))
    yield f"                {keyed}) _clinvk_offer '{' '.join(grammar.keys)}' ;;"
    for command in grammar.commands:
        if command.ids:
            place = f"'{command.name}:'*" if command.takes_several else f"'{command.name}:1'"
            yield f"                {place}) _clinvk_{command.ids} ;;"
    yield "            esac"
    yield "            ;;"
    yield "    esac"
