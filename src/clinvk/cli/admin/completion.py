"""Shell completion for bash, zsh and fish: the shells ask clinvk at each TAB, so one place knows the command line.

Each script calls `clinvk __complete WORD...`, with the word under the cursor last. The answer is one candidate a line,
with its description after a tab, or the single line `:dirs` or `:files`. Libraries do not fit: shtab needs a tree of
argparse subparsers, where clinvk takes flags and prompts in any place, and argcomplete would put itself into every
start of clinvk.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from clinvk.backends.registry import Backends
from clinvk.cli.parse import commands
from clinvk.cli.parse.flag import Flag
from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.terminal.output import print_text, time_ago
from clinvk.config import setting_values
from clinvk.types.errors import InvalidRequest
from clinvk.types.interaction import Choice
from clinvk.types.text import on_one_line, unknown_name

_ALIASES = ("fast", "balanced", "best")
_NEWEST = 100
_PATHS = (":dirs", ":files")

_SCRIPTS = {shell: Path(__file__).with_name(f"completion.{shell}") for shell in ("bash", "zsh", "fish")}


def completion(flags: Flags, context: CommandContext) -> int:
    """Print the script for a shell.

    Raises:
        InvalidRequest: the shell is unknown.
    """
    shell = flags.words[0]
    if shell not in _SCRIPTS:
        raise InvalidRequest(unknown_name("shell", shell, _SCRIPTS))
    print_text(_SCRIPTS[shell].read_text().rstrip("\n"))
    return 0


def complete(words: Sequence[str], context: CommandContext) -> int:
    """Print the candidates for the last word."""
    lines = [f"{word}\t{about}" if about else word for word, about in candidates(words, context).items()]
    if lines:
        print_text("\n".join(lines))
    return 0


def candidates(words: Sequence[str], context: CommandContext) -> dict[str, str]:
    """Return the candidates for the last word, with their descriptions. A path is a single candidate, `:files`."""
    backends = context.backends
    *before, current = _joined(words) or [""]
    arguments, values, flag, is_ended = commands.split_words(before)
    is_assigned = not is_ended and current.startswith("--") and "=" in current
    if is_assigned:
        name, _, current = current.partition("=")
        flag = commands.all_flags().get(name)
    if flag:
        backend = values.get("backend", "")
        found = _values(flag, current, backends, {backend: backends[backend]} if backend in backends else backends)
    elif is_assigned or (is_ended and not arguments):
        found = {}
    else:
        command = " ".join(arguments[: 2 if arguments[:1] and arguments[0] in commands.GROUPS else 1])
        command = command if command in commands.COMMANDS else ""
        if current.startswith("-") and not is_ended:
            found = {spec.names[0]: spec.help for spec in commands.flags_shown(command) if spec.help}
        else:
            found = _words(arguments, command, context)
    return {word: about for word, about in found.items() if word.startswith(current) or word in _PATHS}


def _joined(words: Sequence[str]) -> list[str]:
    """Join `--flag`, `=` and a value, which bash splits."""
    found: list[str] = []
    for word in words:
        if found and found[-1].startswith("--") and (word == "=" or found[-1].endswith("=")):
            found[-1] += word
        else:
            found.append(word)
    return found


def _values(flag: Flag, current: str, backends: Backends, chosen: Backends) -> dict[str, str]:
    """Return the values of a flag, with the models of the chosen backends. A comma separates the items of a list."""
    earlier = current[: current.rfind(",") + 1]
    aliases = {alias for backend in chosen.values() for alias in backend.aliases}
    models = (model for backend in chosen.values() for model in backend.models)
    values: dict[str, Iterable[str]] = {
        "DIR": _PATHS[:1],
        "FILE": _PATHS[1:],
        "NAME": backends,
        "A,B": (earlier + name for name in backends if flag.field in ("backends", "fallback")),
        "MODEL": (*(alias for alias in _ALIASES if alias in aliases), *models),
    }
    return dict.fromkeys(values.get(flag.metavar, flag.words), "")


def _words(arguments: Sequence[str], command: str, context: CommandContext) -> dict[str, str]:
    """Return the candidates for an argument: what may follow all words so far, or what the command takes here."""
    match arguments:
        case [] | ["help"]:
            pages = ("prompt", *(f"topic {name}" for name in commands.topics())) if arguments else ()
            return {word.removeprefix("topic "): commands.summary(word) for word in (*commands.FIRST_WORDS, *pages)}
        case [group] | ["help", group] if group in commands.GROUPS:
            return {word: commands.summary(f"{group} {word}") for word in commands.members(group)}
        case ["config", "set", key]:
            return dict.fromkeys(_setting_values(key, context.backends), "")
        case _:
            taken = commands.command_of(command).arguments if command else ()
            position = len(arguments) - len(command.split())
            kind = next(iter(taken[position:]), taken[-1] if taken and taken[-1].endswith("...") else "")
            return _arguments(kind.rstrip("?."), command, context)


def _arguments(kind: str, command: str, context: CommandContext) -> dict[str, str]:
    words: Iterable[str] = ()
    match kind:
        case "SHELL":
            words = _SCRIPTS
        case "KEY":  # a key that ends with a dot continues with a name
            keys = setting_values.all_keys(context.backends)
            words = (".".join(key) + ("." if setting_values.is_section(kind) else "") for key, kind in keys)
        case "CHOICE":
            words = get_args(Choice)
        case "ID" if command.startswith("worktrees "):
            words = (path.name for path in (context.home / "worktrees").glob("*/"))
        case "ID":
            return asyncio.run(_newest(command, context))
        case _:
            pass
    return dict.fromkeys(words, "")


def _setting_values(wanted: str, backends: Backends) -> tuple[str, ...]:
    kinds = {".".join(key): kind for key, kind in setting_values.all_keys(backends)}
    if wanted == "default_backend" or wanted.endswith(".fallback"):
        return tuple(backends)
    return setting_values.allowed_words(kinds[wanted]) if wanted in kinds else ()


async def _newest(command: str, context: CommandContext) -> dict[str, str]:
    """Return the short ids of the newest records that a command may name, with what they are about."""
    from clinvk.cli.sessions import runs, session_text
    from clinvk.store.opening import open_store
    from clinvk.store.protocol import InteractionQuery, RunQuery, SessionQuery

    now = time.time()
    settings = context.trace(setting_values.ignore_invalid).settings
    async with open_store(settings, context.environ) as store:
        if command.startswith("approvals "):
            pending = await store.interactions(InteractionQuery(status="pending", limit=_NEWEST))
            about = {each.id: f"{each.backend}: {on_one_line(each.command or each.title)}" for each in pending}
        elif command.startswith("runs ") or command == "show":
            found = (await store.runs(RunQuery(limit=_NEWEST))).items
            about = {run.id: f"{run.backend} {time_ago(run.created_at, now)}: {runs.run_summary(run)}" for run in found}
        else:
            about = {
                each.id: f"{each.backend} {time_ago(each.last_used, now)}: {session_text.session_title(each)}"
                for each in (await store.sessions(SessionQuery(archived=None, limit=_NEWEST))).items
            }
    return {session_text.short_id(id_): text for id_, text in about.items()}
