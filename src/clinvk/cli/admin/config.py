"""`clinvk config`: the settings in force, where each comes from, and changes to the file.

Secrets are hidden, except in a single value that `config get` prints.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import msgspec

from clinvk.backends.registry import PRESETS, unknown_backend
from clinvk.cli.parse.flags import Flags, JsonFlags
from clinvk.cli.parse.settings import CommandContext, redefinitions
from clinvk.cli.terminal.output import WOULD_EXECUTE, print_json, print_text
from clinvk.config import setting_values
from clinvk.config.load import nested, settings_file, trace
from clinvk.config.model import Settings
from clinvk.config.setting_values import OnInvalid, SourcedValue, Value, is_agent_variable
from clinvk.runtime.process.resource_limits import capacity
from clinvk.types.errors import ClinvkError, ConfigError

if TYPE_CHECKING:
    from clinvk.config.edit import SettingsText

_HIDDEN = "********"
_TARGETS = ("notifications", "targets")
_PATH_OF_URL = re.compile(r"(?<=[^/:])/.+")
"""The path of a target's address, which is often as good as a password."""

_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+(?=@)")


def without_secrets(name: tuple[str, ...], value: Value) -> Value:
    """Return a setting with secrets hidden; `name` is the key from the top down."""
    if isinstance(value, str):
        if name[:2] == _TARGETS and name[-1] in ("ntfy", "webhook"):
            return _PATH_OF_URL.sub(f"/{_HIDDEN}", value)
        if is_agent_variable(name) and value and setting_values.SECRET_NAME.search(name[-1]):
            return _HIDDEN
        return _without_password(value)
    if isinstance(value, tuple):
        return tuple(_flag(item) for item in value)
    return value


def _flag(text: str) -> str:
    flag, equals, value = text.partition("=")
    if equals and value and flag.startswith("-") and setting_values.SECRET_NAME.search(flag):
        return f"{flag}={_HIDDEN}"
    return _without_password(text)


def _without_password(text: str) -> str:
    return _PASSWORD_IN_URL.sub(rf"\1:{_HIDDEN}", text)


_DEFAULT = "default"
_RUNS = ("server", "max_concurrent_runs")
_SOURCE_COLUMN = 44
_INDEX = re.compile(r"\[\d+\]")


def show(flags: JsonFlags, context: CommandContext) -> int:
    """Print all settings, and where each comes from.

    Raises:
        ConfigError: they are invalid.
    """
    found = context.trace()
    settings = {name: without_secrets(name, value) for name, value in _flat(found.settings, context.backends).items()}
    file, _ = settings_file(flags.config, context.environ)
    if flags.wants_json:
        sources = {".".join(name): found.places.get(name, _DEFAULT) for name in settings}
        shown_file = str(file) if file.exists() else None
        print_json({"home": str(context.home), "file": shown_file, "settings": nested(settings), "sources": sources})
        return 0
    from clinvk.config.yaml_file import document  # `config get` of one value does not wait for the import of YAML

    reasons = {_RUNS: f"{_DEFAULT}: {capacity(found.settings.server).reason}"} | found.places
    lines = [
        f"{line:<{_SOURCE_COLUMN}}  # {reasons.get(name, _DEFAULT)}" if name else line
        for line, name in document(settings)
    ]
    print_text("\n".join([f"# {file}" if file.exists() else f"# {file}: not there", *lines]))
    return 0


def get(flags: JsonFlags, context: CommandContext) -> int:
    """Print one setting or section.

    Raises:
        ConfigError: there is no such key, or the settings are invalid.
    """
    name = setting_values.split(flags.words[0])
    kind = setting_values.kind_of(SourcedValue(name, None, "config get", ""), context.backends)
    settings = _flat(context.trace().settings, name[1:2] or context.backends)
    if setting_values.is_section(kind):
        depth = len(name)
        inside = {
            whole[depth:]: without_secrets(whole, value) for whole, value in settings.items() if whole[:depth] == name
        }
        inside.pop((), None)
        if flags.wants_json:
            print_json(nested(inside))
        else:
            from clinvk.config.yaml_file import document

            print_text("\n".join(line for line, _ in document(inside)) or "{}")
        return 0
    if name not in settings:
        raise ConfigError(f"config get: {'.'.join(name)!r} is not set")
    _tell_value(settings[name], flags.wants_json)
    return 0


def _tell_value(value: Value, as_json: bool) -> None:
    match value:
        case _ if as_json:
            print_json(value)
        case tuple():
            from clinvk.config.yaml_file import written

            print_text("\n".join(f"- {written(item)}" for item in value) or "[]")
        case bool():
            print_text("true" if value else "false")
        case _:
            print_text(str(value))


def set_key(flags: Flags, context: CommandContext) -> int:
    """Write one setting into the settings file.

    Raises:
        ConfigError: there is no such key, it cannot have this value, or the file cannot be changed. It was not.
    """
    from clinvk.config.edit import setting_change

    dotted, text = flags.words
    keys = setting_values.split(dotted)
    preset = keys[1] if keys[0] == "backends" and len(keys) > 1 and keys[1] in PRESETS else ""
    if preset and preset not in context.backends and not setting_values.is_definition(keys):
        raise ConfigError(f"config set: {unknown_backend(preset, context.backends)}")
    wanted = setting_change(dotted, text, context.backends, context.environ)
    shown = without_secrets(wanted.keys, wanted.value if isinstance(wanted.value, tuple) else text)
    done = f"{dotted} = {(','.join(shown) if isinstance(shown, tuple) else shown) or '(empty)'}"
    same = f"{dotted} was already set so"
    _write(flags, context, lambda file, left: file.with_setting(wanted, left), done, same)
    _warn_if_beaten(wanted.keys, context)
    return 0


def unset(flags: Flags, context: CommandContext) -> int:
    """Take a setting or a section out of the settings file.

    Raises:
        ConfigError: there is no such key, or the file cannot be changed. It was not.
    """
    dotted = flags.words[0]
    done, same = f"removed {dotted}", f"{dotted} was not set"
    _write(flags, context, lambda file, left: file.without_setting(dotted, left), done, same)
    _warn_if_beaten(setting_values.split(dotted), context)
    return 0


def path(flags: Flags, context: CommandContext) -> int:
    """Print the path of the settings file, which need not exist."""
    print_text(str(settings_file(flags.config, context.environ)[0]))
    return 0


def edit(flags: Flags, context: CommandContext) -> int:
    """Open the settings file in the user's editor, and check the settings.

    Raises:
        ConfigError: the settings are invalid after the change.
        ClinvkError: the editor cannot be started, or failed.
    """
    import shlex
    import subprocess

    file, _ = settings_file(flags.config, context.environ)
    command = [*shlex.split(context.environ.get("VISUAL") or context.environ.get("EDITOR") or "vi"), str(file)]
    if flags.dry_run:
        print_text(f"{WOULD_EXECUTE}\n{shlex.join(command)}")
        return 0
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as exc:
        raise ClinvkError(f"cannot start the editor {command[0]!r}: {exc.strerror}; set VISUAL or EDITOR") from exc
    if code:
        raise ClinvkError(f"the editor {command[0]!r} exited with {code}")
    context.trace()
    context.notes.info(f"{file}: the settings are valid" if file.exists() else f"{file}: not written")
    return 0


Edit = Callable[["SettingsText", OnInvalid], str]
"""Return the changed text; pass each mistake that remains in the text to the second argument."""


def _write(flags: Flags, context: CommandContext, edit: Edit, done: str, same: str) -> None:
    from clinvk.config.edit import SettingsText
    from clinvk.config.saving import change_file

    file, is_named = settings_file(flags.config, context.environ)
    left: list[ConfigError] = []

    def checked(text: str) -> str:
        before = SettingsText(text, file, context.backends, context.environ)
        after = edit(before, left.append)
        old, new = (_unserved(each.settings(), context) for each in (before, before._replace(text=after)))
        if added := [message for mistake, message in new.items() if mistake not in old]:
            raise ConfigError(f"{file}: not changed: {added[0]}")
        left.extend(map(ConfigError, new.values()))
        return after

    is_changed = change_file(file, checked, make_folder=not is_named, dry_run=flags.dry_run)
    only = "dry run, nothing written: " if flags.dry_run else ""
    context.notes.info(f"{only}{file}: {done if is_changed else same}")
    for error in left:
        context.notes.info(f"still wrong: {error.message}")


def _unserved(settings: Settings, context: CommandContext) -> dict[str, str]:
    """Return the settings that commands, or only `serve`, refuse on this machine, although each value is of its type.

    The keys are the messages without their index in a list, which another change moves.
    """
    from clinvk.api.access import auth, workdirs  # only a change waits for them

    mistakes = [*map(ConfigError, redefinitions(settings).values()), *auth.access_mistakes(settings.server)]
    try:
        settings.notifications.check()
        workdirs.WorkdirPolicy(settings, context.environ, context.backends).check_default()
    except ConfigError as exc:
        mistakes.append(exc)
    return {_INDEX.sub("", mistake.message, count=1): mistake.message for mistake in mistakes}


def _warn_if_beaten(name: tuple[str, ...], context: CommandContext) -> None:
    """Print a note if an environment variable overrides the setting. Mistakes in other settings are ignored."""
    errors: list[ConfigError] = []
    place = trace(None, context.environ, {}, context.backends, errors.append).places.get(name)
    if place and place in context.environ:
        context.notes.info(f"the variable {place} overrides the file while it is set")


def _leaves(section: dict[str, object]) -> Iterator[tuple[tuple[str, ...], Value]]:
    """Yield the keys and values inside a section with free names."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from (((name, *keys), item) for keys, item in _leaves(msgspec.convert(value, dict[str, object])))
        else:
            yield (name,), msgspec.convert(value, str | bool | tuple[str, ...])


def _flat(settings: Settings, backends: Collection[str]) -> dict[tuple[str, ...], Value]:
    """Return every setting in order, as written in a file; the variables of an agent one by one.

    A setting that is left open is a number if the machine decides it, else `all` for a list, or an empty text.
    """
    found: dict[tuple[str, ...], Value] = {}
    for name, kind in setting_values.all_keys(backends):
        is_of_agent = name[0] == "backends"
        value: object = settings.backend(name[1]) if is_of_agent else settings
        for key in name[2:] if is_of_agent else name:
            value = getattr(value, key)
        if isinstance(value, dict) and value:
            found |= {(*name, *inner): item for inner, item in _leaves(msgspec.to_builtins(value))}
        elif value is None:
            left_open = capacity(settings.server).runs if name == _RUNS else ""
            found[name] = "all" if setting_values.is_list(kind) else left_open
        else:
            found[name] = msgspec.convert(value, Value)
    return found
