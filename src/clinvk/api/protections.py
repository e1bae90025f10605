"""Settings that promise a protection: each is kept, or the server does not start."""

from collections.abc import Mapping

from clinvk.config import ServerSettings, Settings
from clinvk.errors import ConfigError

_NOT_ENFORCED = (
    "api_keys_gopass_path",
    "rate_limit_enabled",
    "trusted_proxies",
    "cors_allowed_origins",
    "cors_allow_credentials",
    "cors_max_age",
    "allowed_workdir_prefixes",
    "blocked_workdir_prefixes",
    "allowed_hosts",
)
_NOT_READ = ("CLINVK_API_KEYS", "CLINVK_API_KEYS_GOPASS_PATH")


def refuse_unenforced(settings: Settings, environ: Mapping[str, str]) -> None:
    """Refuse to start with a protection that would not be there.

    Raises:
        ConfigError: names the setting.
    """
    for variable in _NOT_READ:
        if environ.get(variable):
            raise ConfigError(f"{variable} is set, but this version of clinvk does not check API keys; unset it")
    without = ServerSettings()
    for key in _NOT_ENFORCED:
        value: object = getattr(settings.server, key)
        if value != getattr(without, key):
            raise ConfigError(
                f"server.{key} is {value!r}, but this version of clinvk does not enforce it; remove it to start without"
            )
