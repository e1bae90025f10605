"""The script for fish."""

from collections.abc import Iterator

from clinvk.cli.admin.completion.grammar import Flag, Grammar
from clinvk.cli.parse.commands import GROUPS

_STATE = r"""# clinvk completion for fish: clinvk completion fish | source

function __clinvk_args --description 'the words before the cursor that are no flags and no values of flags'
    set -l flag
    set -l dashes
    for word in (commandline -opc)[2..]
        if set -q dashes[1]
            echo -- $word
        else if set -q flag[1]
            set -e flag
        else
            switch $word
                case --
                    set dashes 1
                case '--*=*'
                case @VALUED@
                    set flag 1
                case '-?*'
                case '*'
                    echo -- $word
            end
        end
    end
end

function __clinvk_follows --description 'whether these are all the words before the cursor'
    set -l args (__clinvk_args)
    test "$args" = "$argv"
end

function __clinvk_in --description 'whether this is the command'
    set -l args (__clinvk_args)
    switch "$args[1]"
        case @GROUPS@
            test "$args[1..2]" = "$argv"
        case '*'
            test "$args[1]" = "$argv"
    end
end

function __clinvk_list --description 'these words, behind what stands before the last comma'
    set -l before (commandline -ct | string replace -r '^--[^=]*=' '' | string replace -r '[^,]*$' '')
    printf '%s\n' "$before"$argv
end

function __clinvk_worktrees --description 'their ids'
    set -l home ~/.clinvk
    set -q CLINVK_HOME[1]; and set home $CLINVK_HOME
    for found in $home/worktrees/*/
        string replace -r '.*/([^/]+)/$' '$1' -- $found
    end
end

function __clinvk_listed --description 'the ids of the newest, with the rest of what is listed'
    command clinvk $argv list --limit 100 </dev/null 2>/dev/null | string match -v 'ID *' | string replace -r ' +' \t
end

function __clinvk_sessions --description 'their ids'
    __clinvk_listed sessions
end

function __clinvk_runs --description 'their ids'
    __clinvk_listed runs
end

complete -c clinvk -f
"""


def script(grammar: Grammar) -> str:
    """Give the script."""
    state = _STATE.replace("@VALUED@", " ".join(grammar.names_with_value)).replace("@GROUPS@", " ".join(GROUPS))
    return "\n".join([state.rstrip("\n"), *_words(grammar), *_flags(grammar)])


def _words(grammar: Grammar) -> Iterator[str]:
    for beginning, words in grammar.after.items():
        for word, about in words.items():
            yield _complete(f"__clinvk_follows {beginning}", f"-a {_quoted(word)}", about)
    for command in grammar.commands:
        if command.words[:1] == ("KEY",):
            yield _complete(f"__clinvk_follows {command.name}", f"-a {_quoted(' '.join(grammar.keys))}")
        if command.ids:
            where = "__clinvk_in" if command.takes_several else "__clinvk_follows"
            yield _complete(f"{where} {command.name}", f"-a '(__clinvk_{command.ids})'")
    for key, values in grammar.values.items():
        yield _complete(f"__clinvk_follows config set {key}", f"-a {_quoted(' '.join(values))}")


def _flags(grammar: Grammar) -> Iterator[str]:
    everywhere = set(grammar.commands[0].flags).intersection(*(command.flags for command in grammar.commands))
    for flag in grammar.commands[0].flags:
        if flag in everywhere:
            yield _complete("", _flag(flag), flag.about)
    for command in grammar.commands:
        for flag in command.flags:
            if flag not in everywhere:
                yield _complete(f"__clinvk_in {command.name}".strip(), _flag(flag), flag.about)


def _flag(flag: Flag) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    match flag.value:
        case "":
            takes = ""
        case "DIR":
            takes = " -x -a '(__fish_complete_directories)'"
        case "FILE":
            takes = " -r -F"
        case _ if flag.is_list and flag.words:
            takes = f" -x -a '(__clinvk_list {' '.join(flag.words)})'"
        case _:
            takes = f" -x -a {_quoted(' '.join(flag.words))}" if flag.words else " -x"
    return " ".join(names) + takes


def _complete(condition: str, what: str, about: str = "") -> str:
    only = f" -n {_quoted(condition)}" if condition else ""
    return f"complete -c clinvk{only} {what}" + (f" -d {_quoted(about)}" if about else "")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
