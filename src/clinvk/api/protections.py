"""Settings that promise a protection: each is kept, or the server does not start."""

import msgspec

from clinvk.config import ServerSettings, Settings
from clinvk.errors import ConfigError

_NOT_ENFORCED = (
    "rate_limit_enabled",
    "trusted_proxies",
    "allowed_hosts",
)


def refuse_unenforced(settings: Settings) -> None:
    """Refuse to start with a protection that would not be there.

    Raises:
        ConfigError: names the setting.
    """
    without = ServerSettings()
    for key in _NOT_ENFORCED:
        value: object = getattr(settings.server, key)
        if value != getattr(without, key):
            raise ConfigError(
                f"server.{key} is {_shown(value)}, but this version of clinvk does not enforce it; "
                "remove it to start without"
            )


def _shown(value: object) -> str:
    """Show a value as the settings file does."""
    return msgspec.json.encode(value).decode()
