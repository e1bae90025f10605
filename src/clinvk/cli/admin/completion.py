"""Shell completion for bash, zsh and fish: the shells ask clinvk at each TAB, so one place knows the command line.

Each script calls `clinvk __complete WORD...`, with the word under the cursor last. The answer is one candidate a line,
with its description after a tab, or the single line `:dirs` or `:files`. Libraries do not fit: shtab needs a tree of
argparse subparsers, where clinvk takes flags and prompts in any place, and argcomplete would put itself into every
start of clinvk.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse.commands import COMMANDS, FIRST_WORDS, GROUPS, command_of, members
from clinvk.cli.parse.flags import Flags, FlagSpec, specs_of
from clinvk.cli.parse.help import summary
from clinvk.cli.terminal.output import Notes, print_text
from clinvk.config import setting_values
from clinvk.config.load import home
from clinvk.types.errors import InvalidRequest

MANAGERS = ("systemd", "launchd")
_ALIASES = ("fast", "balanced", "best")
_NEWEST = 100
_DIRECTORIES, _FILES = ":dirs", ":files"

_SCRIPTS = {shell: Path(__file__).with_name(f"completion.{shell}") for shell in ("bash", "zsh", "fish")}


def completion(flags: Flags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the script for a shell.

    Raises:
        InvalidRequest: the shell is unknown.
    """
    shell = flags.words[0]
    if shell not in _SCRIPTS:
        raise InvalidRequest(f"no completion for {shell!r}; have {', '.join(_SCRIPTS)}")
    print_text(_SCRIPTS[shell].read_text().rstrip("\n"))
    return 0


def complete(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the candidates for the last word."""
    lines = [f"{word}\t{about}" if about else word for word, about in candidates(words, environ).items()]
    if lines:
        print_text("\n".join(lines))
    return 0


def candidates(words: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the candidates for the last word, with their descriptions. A path is a single candidate, `:files`."""
    *before, current = _joined(words) or [""]
    line = _Line(before)
    specs = {name: spec for spec in specs_of(command_of(line.command).flags) for name in spec.names}
    flag, is_joined, value = current.partition("=")
    if not line.is_ended and current.startswith("--") and is_joined:
        return _values(_every_flag().get(flag), value)
    if line.flag:
        return _values(line.flag, current)
    if not line.is_ended and current.startswith("-"):
        found = {name: spec.help for name, spec in specs.items() if name.startswith("--")}
    else:
        found = dict(_words(line, environ))
    return _beginning_with(current, found)


def _joined(words: Sequence[str]) -> list[str]:
    """Join `--flag`, `=` and a value, which bash splits."""
    found: list[str] = []
    for word in words:
        if found and found[-1].startswith("--") and (word == "=" or found[-1].endswith("=")):
            found[-1] += word
        else:
            found.append(word)
    return found


class _Line:
    """The words before the cursor.

    Attributes:
        arguments: the words that are neither flags nor values of flags.
        flag: the flag whose value is under the cursor, if any.
        is_ended: whether `--` ended the flags.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.arguments: list[str] = []
        self.flag: FlagSpec | None = None
        self.is_ended = False
        flags = _every_flag()
        for word in words:
            if self.flag:
                self.flag = None
            elif self.is_ended or word == "-" or not word.startswith("-"):
                self.arguments.append(word)
            elif word == "--":
                self.is_ended = True
            else:
                spec = flags.get(word)
                self.flag = spec if spec and spec.metavar else None

    @property
    def command(self) -> str:
        """The command; empty for a prompt, and where the second word of a group is missing."""
        name = " ".join(self.arguments[: 2 if self.arguments[:1] and self.arguments[0] in GROUPS else 1])
        return name if name in COMMANDS else ""

    @property
    def position(self) -> int:
        """The index of the word under the cursor among the arguments of the command."""
        return len(self.arguments) - len(self.command.split())


def _every_flag() -> dict[str, FlagSpec]:
    """Return the flags of all commands, which may stand before their command, by name."""
    kinds = {command_of(name).flags for name in ("", *COMMANDS)}
    return {name: spec for kind in kinds for spec in specs_of(kind) for name in spec.names}


def _values(flag: FlagSpec | None, current: str) -> dict[str, str]:
    """Return the values of a flag. The items of a list are separated by commas."""
    match flag.metavar if flag else "":
        case "DIR":
            return {_DIRECTORIES: ""}
        case "FILE":
            return {_FILES: ""}
        case "NAME":
            values = tuple(BACKENDS)
        case "A,B" if flag and flag.field == "backends":
            earlier = current[: current.rfind(",") + 1]
            values = tuple(earlier + name for name in BACKENDS)
        case "MODEL":
            values = (*_ALIASES, *(model for backend in BACKENDS.values() for model in backend.models))
        case _:
            values = flag.choices if flag else ()
    return _beginning_with(current, dict.fromkeys(values, ""))


def _words(line: _Line, environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Return the candidates for an argument: what may follow all words so far, or what the command takes here."""
    match line.arguments:
        case [] if line.is_ended:
            return ()
        case [] | ["help"]:
            return [(word, summary(word)) for word in FIRST_WORDS]
        case [group] | ["help", group] if group in GROUPS:
            return [(word, summary(f"{group} {word}")) for word in members(group)]
        case ["config", "set", key]:
            return _plain(_setting_values(key))
        case _ if not line.command:
            return ()
        case _:
            taken = command_of(line.command).arguments
            last = taken[-1] if taken and taken[-1].endswith("...") else ""
            kind = taken[line.position] if line.position < len(taken) else last
            return _arguments(kind.rstrip("?."), line.command, environ)


def _arguments(kind: str, command: str, environ: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    match kind:
        case "SHELL":
            return _plain(_SCRIPTS)
        case "MANAGER":
            return _plain(MANAGERS)
        case "KEY":
            return _plain(_settings())
        case "ID" if command.startswith("worktrees "):
            return _plain(path.name for path in (home(environ) / "worktrees").glob("*/"))
        case "ID":
            return asyncio.run(_newest(command.startswith("runs "), environ))
        case _:
            return ()


def _plain(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((word, "") for word in words)


def _settings() -> Iterator[str]:
    """Yield the keys of the settings; a key that ends with a dot continues with a name."""
    for key, kind in setting_values.all_keys(BACKENDS):
        yield ".".join(key) + ("." if setting_values.is_section(kind) else "")


def _setting_values(wanted: str) -> tuple[str, ...]:
    if wanted == "default_backend":
        return tuple(BACKENDS)
    kinds = {".".join(key): kind for key, kind in setting_values.all_keys(BACKENDS)}
    return setting_values.allowed_words(kinds[wanted]) if wanted in kinds else ()


async def _newest(wants_runs: bool, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the short ids of the newest sessions or runs, with what they are about."""
    from clinvk.cli.sessions import runs, session_text
    from clinvk.cli.sessions.local_store import open_store
    from clinvk.cli.terminal.times import time_ago
    from clinvk.store.protocol import RunQuery, SessionQuery

    now = time.time()
    async with open_store(environ) as store:
        if wants_runs:
            found = (await store.runs(RunQuery(limit=_NEWEST))).items
            about = [f"{run.backend} {time_ago(run.created_at, now)}: {runs.run_summary(run)}" for run in found]
        else:
            found = (await store.sessions(SessionQuery(limit=_NEWEST))).items
            about = [
                f"{one.backend} {time_ago(one.last_used, now)}: {session_text.session_title(one)}" for one in found
            ]
    return list(zip(session_text.short_ids([record.id for record in found]), about, strict=True))


def _beginning_with(text: str, found: Mapping[str, str]) -> dict[str, str]:
    return {word: about for word, about in found.items() if word.startswith(text)}
