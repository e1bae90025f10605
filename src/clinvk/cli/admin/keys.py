"""`clinvk keys`: the API keys of the server."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from clinvk.api.access.key_file import BURSTS, RATES_RPS, ApiKey, KeyFile, KeyLimits
from clinvk.api.access.workdirs import WorkdirPolicy
from clinvk.backends import registry
from clinvk.cli.parse.flags import Flags, JsonFlags, KeyFlags
from clinvk.cli.parse.settings import directory, trace_of
from clinvk.cli.terminal import times
from clinvk.cli.terminal.output import Notes, columns, print_json, print_text
from clinvk.cli.terminal.table import Column, table
from clinvk.config.load import home
from clinvk.config.setting_values import split_list
from clinvk.dialects.rest import views
from clinvk.types.errors import ConfigError, InvalidRequest

_COLUMNS = (Column("NAME", 8), Column("CREATED"), Column("LAST USED"), Column("EXPIRES"), Column("MAY DO", 8))
_MAX_S = 100 * 365 * 86_400


class KeyItem(msgspec.Struct, frozen=True, kw_only=True):
    """A key in a list; times are RFC 3339."""

    name: str
    created_at: str
    last_used: str | None
    expires_at: str | None
    expired: bool
    limits: KeyLimits


class KeyList(msgspec.Struct, frozen=True):
    """All keys of the key file, the oldest first."""

    keys: list[KeyItem]


def create(flags: KeyFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Create a key and print it.

    Raises:
        InvalidRequest: the name is taken or invalid, or a limit or the expiry is out of range.
        BackendUnavailable: one of the backends does not exist.
        ConfigError: the key file cannot be used.
    """
    name = flags.words[0]
    limits, expires_at = _limits(flags), _expires_at(flags.expires)
    _warn_closed_directories(limits, flags, environ, notes)
    key = KeyFile(home(environ)).create(name, limits, flags.dry_run, expires_at)
    described = _describe(limits) + (f"; it expires on {times.long_duration(expires_at)}" if expires_at else "")
    if flags.dry_run:
        notes.info(f"would create key {name!r}: {described}")
        return 0
    notes.info(f"created key {name!r}: {described}. Copy it now; it is not shown again")
    print_text(key)
    return 0


def list_all(flags: JsonFlags, environ: Mapping[str, str], notes: Notes) -> int:
    """Print the keys.

    Raises:
        ConfigError: the key file cannot be used.
    """
    file = KeyFile(home(environ))
    keys = file.read()
    if flags.wants_json:
        print_json(KeyList([_item(key) for key in keys or ()]))
    elif keys:
        print_text("\n".join(table(_COLUMNS, [_row(key, time.time()) for key in keys], columns())))
    elif keys is None:
        notes.info("no keys yet: create one with clinvk keys create NAME")
    else:
        _warn_none_left(file, notes)
    return 0


def revoke(flags: Flags, environ: Mapping[str, str], notes: Notes) -> int:
    """Revoke a key.

    Raises:
        InvalidRequest: no key has this name.
        ConfigError: the key file cannot be used.
    """
    name = flags.words[0]
    file = KeyFile(home(environ))
    file.revoke(name, flags.dry_run)
    if flags.dry_run:
        notes.info(f"would revoke key {name!r}")
        return 0
    notes.info(f"revoked key {name!r}")
    if not file.read():
        _warn_none_left(file, notes)
    return 0


def _warn_none_left(file: KeyFile, notes: Notes) -> None:
    notes.info(f"no key is left: servers refuse every request until {file.path} has a key or is removed")


def _limits(flags: KeyFlags) -> KeyLimits:
    names = split_list(flags.backends or ())
    if flags.backends is not None and not names:
        raise InvalidRequest("--backends names none")
    for name in names:
        registry.backend_named(name)
    if flags.burst and not flags.rate:
        raise InvalidRequest("--burst needs --rate")
    _check_range("--rate", flags.rate, RATES_RPS)
    _check_range("--burst", flags.burst, BURSTS)
    return KeyLimits(
        backends=tuple(dict.fromkeys(names)),
        workdirs=tuple(os.path.realpath(directory(path, "--allow-dir")) for path in flags.allow_dir),
        rate_rps=flags.rate,
        burst=flags.burst,
        tokens_per_day=flags.tokens_per_day,
        cost_usd_per_day=flags.cost_per_day,
        max_runs=flags.max_runs,
    )


def _expires_at(text: str | None) -> float | None:
    if text is None:
        return None
    if (seconds := times.age_s(text, "--expires")) > _MAX_S:
        raise InvalidRequest(f"--expires: {text!r} is over 100 years; leave --expires out for a key that never expires")
    return round(time.time() + seconds, 3)


def _check_range(flag: str, value: float | None, allowed: tuple[float, float]) -> None:
    least, most = allowed
    if value is not None and not least <= value <= most:
        raise InvalidRequest(f"{flag}: {value} is not from {least:g} to {most:,.0f}")


def _warn_closed_directories(limits: KeyLimits, flags: KeyFlags, environ: Mapping[str, str], notes: Notes) -> None:
    """Print a warning for each directory of the key that the settings or built-in rules close to every request."""
    if not limits.workdirs:
        return
    errors: list[ConfigError] = []
    workdirs = WorkdirPolicy(trace_of(flags, environ, {}, errors.append).settings, environ, registry.BACKENDS)
    for path in limits.workdirs:
        if why := workdirs.refusal_throughout(path):
            notes.info(f"warning: no request gets into {path!r} with this key: it {why}")


def _item(key: ApiKey) -> KeyItem:
    return KeyItem(
        name=key.name,
        created_at=views.time(key.created_at),
        last_used=views.time(key.last_used) if key.last_used else None,
        expires_at=None if key.expires_at is None else views.time(key.expires_at),
        expired=key.has_expired,
        limits=key.limits,
    )


def _row(key: ApiKey, now: float) -> Sequence[str]:
    used = times.time_ago(key.last_used, now) if key.last_used else "never"
    return key.name, times.time_ago(key.created_at, now), used, _expiry(key, now), _describe(key.limits)


def _expiry(key: ApiKey, now: float) -> str:
    if key.expires_at is None:
        return "never"
    return f"expired {times.time_ago(key.expires_at, now)}" if key.has_expired else times.long_duration(key.expires_at)


def _describe(limits: KeyLimits) -> str:
    return "; ".join(_limit_texts(limits)) or "no restrictions"


def _limit_texts(limits: KeyLimits) -> Iterator[str]:
    if limits.backends:
        yield ", ".join(limits.backends)
    if limits.workdirs:
        yield f"in {', '.join(limits.workdirs)}"
    if limits.rate_rps:
        unit = "request" if limits.rate_rps == 1 else "requests"
        yield f"{limits.rate_rps:g} {unit}/s" + (f", {limits.burst} at once" if limits.burst else "")
    if limits.max_runs:
        yield f"{limits.max_runs} run{'' if limits.max_runs == 1 else 's'} at once"
    if limits.tokens_per_day:
        yield f"{limits.tokens_per_day:,} tokens/day"
    if limits.cost_usd_per_day:
        yield f"{limits.cost_usd_per_day:g} USD/day"
