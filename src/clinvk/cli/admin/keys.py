"""`clinvk keys`: the API keys of the server."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from clinvk.api.access.key_file import BURSTS, RATES_RPS, ApiKey, KeyFile, KeyLimits, Right, key_source
from clinvk.backends.registry import Backends
from clinvk.cli.parse.flags import ConfirmedFlags, Flags, JsonFlags, KeyFlags
from clinvk.cli.parse.settings import CommandContext, age_s, backend_names, directory
from clinvk.cli.sessions.session_text import Fields, TextView
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.input import confirm
from clinvk.cli.terminal.output import columns, date_and_time, print_json, print_text
from clinvk.cli.terminal.table import Column
from clinvk.config.setting_values import ignore_invalid
from clinvk.dialects.rest import views
from clinvk.store.opening import open_store
from clinvk.types.errors import ConfigError, InvalidRequest

_MAX_S = 100 * 365 * 86_400

_T = TypeVar("_T")


def create(flags: KeyFlags, context: CommandContext) -> int:
    """Create a key and print it.

    Raises:
        InvalidRequest: the name is taken or invalid, a limit or the expiry is out of range, or there is no such target.
        BackendUnavailable: one of the backends does not exist.
        ConfigError: the key file cannot be used.
    """
    name = flags.words[0]
    limits, expires_at = _limits(flags, context.backends), _expires_at(flags.expires)
    if message := context.trace(ignore_invalid).settings.notifications.unknown_name(limits.notify):
        raise InvalidRequest(f"--notify: {message}")
    rights = tuple(dict.fromkeys(flags.right))

    async def add(file: KeyFile) -> tuple[bool, str]:
        return not await file.read(), await file.create(name, limits, flags.dry_run, expires_at, rights)

    is_first, key = _over_keys(context, add)
    described = _describe(limits, rights) + (f"; expires {date_and_time(expires_at)}" if expires_at else "")
    if flags.dry_run:
        context.notes.info(f"would create key {name!r}: {described}")
        return 0
    context.notes.info(f"created key {name!r}: {described}. Copy it now; it is not shown again")
    if is_first:
        context.notes.info("every request to a server of this home needs a key from now on")
    print_text(key)
    return 0


def list_all(flags: JsonFlags, context: CommandContext) -> int:
    """Print the keys.

    Raises:
        ConfigError: the key file cannot be used.
    """
    keys = _over_keys(context, KeyFile.read)
    if flags.wants_json:
        print_json({"keys": [*map(_as_json, keys or ())]})
    elif keys:
        view = TextView(time.time(), most=columns())
        fields: Fields[ApiKey] = (
            (Column("NAME", 8), lambda key: key.name),
            (Column("CREATED"), lambda key: view.ago(key.created_at)),
            (Column("LAST USED"), lambda key: view.ago(key.last_used) if key.last_used else "never"),
            (Column("EXPIRES"), lambda key: _expiry(key, view)),
            (Column("LIMITS", 8), lambda key: _describe(key.limits, key.rights)),
        )
        print_text("\n".join(view.table(fields, keys)))
    elif keys is None:
        context.notes.info("no keys yet: create one with clinvk keys create NAME")
    else:
        context.notes.info(_NONE_LEFT)
    return 0


def revoke(flags: Flags, context: CommandContext) -> int:
    """Revoke a key.

    Raises:
        InvalidRequest: no key has this name.
        ConfigError: the key file cannot be used.
    """
    name = flags.words[0]

    async def remove(file: KeyFile) -> None:
        await file.revoke(name, flags.dry_run)
        context.notes.info(f"{'would revoke' if flags.dry_run else 'revoked'} key {name!r}")
        if not await file.read():
            context.notes.info(_NONE_LEFT)

    _over_keys(context, remove)
    return 0


def off(flags: ConfirmedFlags, context: CommandContext) -> int:
    """Remove all keys, so that servers require none; on a terminal ask first.

    Raises:
        InvalidRequest: keys exist, stdin is not a terminal, and `--yes` is missing.
        ConfigError: the key file cannot be used.
    """
    notes, keys = context.notes, _over_keys(context, KeyFile.read)
    if keys is None:
        notes.info("there are no keys, so none is required")
        return 0
    names = [key.name for key in keys]
    if names and not (flags.yes or flags.dry_run) and not confirm("revoke", names, "keys"):
        notes.info("nothing was revoked")
        return exits.CANCELLED
    if not flags.dry_run:
        _over_keys(context, KeyFile.remove)
    done = "would remove all keys" if flags.dry_run else "removed all keys; restart running servers"
    notes.info(f"{done}. A server that other machines can reach creates a key at each start")
    return 0


def _over_keys(context: CommandContext, work: Callable[[KeyFile], Awaitable[_T]]) -> _T:
    """Return the result of work on the keys. Only an error in `store` matters."""
    errors: list[ConfigError] = []
    settings = context.trace(errors.append).settings
    for error in errors:
        if " store." in error.message:
            raise error

    async def run() -> _T:
        async with open_store(settings, context.environ) as store:
            return await work(key_source(store, context.environ))

    return asyncio.run(run())


_NONE_LEFT = (
    "no key is left, so servers refuse every request, and none starts. Create a key: clinvk keys create NAME. "
    "To require none: clinvk keys off"
)


def _limits(flags: KeyFlags, backends: Backends) -> KeyLimits:
    names = [] if flags.backends is None else backend_names(flags.backends, backends)
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
        notify=tuple(dict.fromkeys(flags.notify)),
    )


def _expires_at(text: str | None) -> float | None:
    if text is None:
        return None
    if (seconds := age_s(text, "--expires")) > _MAX_S:
        raise InvalidRequest(f"--expires: {text!r} is over 100 years; leave --expires out for a key that never expires")
    return round(time.time() + seconds, 3)


def _check_range(flag: str, value: float | None, allowed: tuple[float, float]) -> None:
    least, most = allowed
    if value is not None and not least <= value <= most:
        raise InvalidRequest(f"{flag}: {value} is not from {least:g} to {most:,.0f}")


def _as_json(key: ApiKey) -> dict[str, object]:
    """Return a key as JSON, with times as RFC 3339."""
    return {
        "name": key.name,
        "created_at": views.time(key.created_at),
        "last_used": views.time(key.last_used) if key.last_used else None,
        "expires_at": None if key.expires_at is None else views.time(key.expires_at),
        "expired": key.has_expired,
        "limits": key.limits,
        "rights": key.rights,
    }


def _expiry(key: ApiKey, view: TextView) -> str:
    if key.expires_at is None:
        return "never"
    return f"expired {view.ago(key.expires_at)}" if key.has_expired else date_and_time(key.expires_at)


def _describe(limits: KeyLimits, rights: Sequence[Right]) -> str:
    rate = f"{limits.rate_rps or 0:g} request{'' if limits.rate_rps == 1 else 's'}/s"
    parts = {
        ", ".join(limits.backends): limits.backends,
        f"in {', '.join(limits.workdirs)}": limits.workdirs,
        rate + (f", {limits.burst} at once" if limits.burst else ""): limits.rate_rps,
        f"{limits.max_runs} run{'' if limits.max_runs == 1 else 's'} at once": limits.max_runs,
        f"{limits.tokens_per_day or 0:,} tokens/day": limits.tokens_per_day,
        f"{limits.cost_usd_per_day or 0:g} USD/day": limits.cost_usd_per_day,
        f"notifies {', '.join(limits.notify)}": limits.notify,
    }
    described = "; ".join(text for text, limit in parts.items() if limit) or "no restrictions"
    return f"{described}; may also {', '.join(rights)}" if rights else described
