"""The script for zsh."""

from collections.abc import Iterator, Mapping

from clinvk.cli.admin.completion.grammar import Flag, Grammar
from clinvk.cli.parse.commands import GROUPS

_STATE = r"""#compdef clinvk
# clinvk completion for zsh: source <(clinvk completion zsh), or this as a file _clinvk in a folder of $fpath

_clinvk_listed() {
    local id about
    local -a ids
    while read -r id about; do
        [[ $id == ID ]] || ids+=("$id:$about")
    done < <(command clinvk $1 list --limit 100 </dev/null 2>/dev/null)
    _describe id ids
}

_clinvk_sessions() {
    _clinvk_listed sessions
}

_clinvk_runs() {
    _clinvk_listed runs
}

_clinvk_worktrees() {
    compadd -- "${CLINVK_HOME:-$HOME/.clinvk}"/worktrees/*(N/:t)
}

_clinvk() {
    local flag= dashes= word
    local -a args offered
    for word in "${(@)words[2,CURRENT-1]}"; do
        if [[ -n $dashes ]]; then
            args+=("$word")
        elif [[ -n $flag ]]; then
            flag=
        else
            case $word in
                --) dashes=1 ;;
                --*=*) ;;
                (@VALUED@) flag=$word ;;
                -?*) ;;
                *) args+=("$word") ;;
            esac
        fi
    done
    if [[ -z $dashes && $words[CURRENT] == --*=* ]]; then
        flag=${words[CURRENT]%%=*}
        compset -P '*='
    fi
    local name=$args[1] count=$#args
    case $name in
        (@GROUPS@)
            name="$name $args[2]"
            count=$((count - 1))
            ;;
    esac
"""

_TAIL = """
if [[ $funcstack[1] == _clinvk ]]; then
    _clinvk "$@"
else
    compdef _clinvk clinvk
fi"""


def script(grammar: Grammar) -> str:
    """Give the script."""
    state = _STATE.replace("@VALUED@", "|".join(grammar.names_with_value)).replace("@GROUPS@", "|".join(GROUPS))
    return "\n".join([state.rstrip("\n"), *_values(grammar), *_flags(grammar), *_words(grammar), "}", _TAIL])


def _values(grammar: Grammar) -> Iterator[str]:
    yield "    if [[ -n $flag ]]; then"
    yield "        case $flag in"
    for flag in grammar.with_value:
        match flag.value:
            case "DIR":
                yield f"            ({'|'.join(flag.names)}) _files -/ ;;"
            case "FILE":
                yield f"            ({'|'.join(flag.names)}) _files ;;"
            case _ if flag.words and flag.is_list:
                words = " ".join(map(quoted, flag.words))
                yield f"            ({'|'.join(flag.names)}) compset -P '*,'; compadd -qS , -- {words} ;;"
            case _ if flag.words:
                yield f"            ({'|'.join(flag.names)}) compadd -- {' '.join(map(quoted, flag.words))} ;;"
            case _:
                yield f"            ({'|'.join(flag.names)}) _message {quoted(flag.value)} ;;"
    yield "        esac"
    yield "        return"
    yield "    fi"


def _flags(grammar: Grammar) -> Iterator[str]:
    yield "    if [[ -z $dashes && $words[CURRENT] == -* ]]; then"
    yield "        case $name in"
    for command in grammar.commands:
        yield f"            ({quoted(command.name)})"
        yield f"                offered=({' '.join(_described(_long(command.flags)))})"
        yield "                _describe flag offered"
        yield "                ;;"
    yield "        esac"
    yield "        return"
    yield "    fi"


def _long(flags: tuple[Flag, ...]) -> dict[str, str]:
    return {name: flag.about for flag in flags for name in flag.names if name.startswith("--")}


def _words(grammar: Grammar) -> Iterator[str]:
    yield '    case "$args" in'
    for beginning, words in grammar.after.items():
        yield f"        ({quoted(beginning)})"
        yield f"            offered=({' '.join(_described(words))})"
        yield "            _describe command offered"
        yield "            ;;"
    for key, values in grammar.values.items():
        yield f"        ({quoted(f'config set {key}')}) compadd -- {' '.join(map(quoted, values))} ;;"
    yield "        (*)"
    yield "            case $name:$count in"
    keyed = "|".join(quoted(f"{command.name}:1") for command in grammar.commands if command.words[:1] == ("KEY",))
    plain = " ".join(key for key in grammar.keys if not key.endswith("."))
    open_ended = " ".join(key for key in grammar.keys if key.endswith("."))
    yield f"                ({keyed}) compadd -- {plain}; compadd -S '' -- {open_ended} ;;"
    for command in grammar.commands:
        if command.ids:
            place = f"{quoted(command.name + ':')}*" if command.takes_several else quoted(command.name + ":1")
            yield f"                ({place}) _clinvk_{command.ids} ;;"
    yield "            esac"
    yield "            ;;"
    yield "    esac"


def _described(words: Mapping[str, str]) -> list[str]:
    return [quoted(f"{word}:{about}" if about else word) for word, about in words.items()]


def quoted(text: str) -> str:
    """Quote a text for the shell."""
    return "'" + text.replace("'", "'\\''") + "'"
