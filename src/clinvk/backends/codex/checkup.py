"""Check whether the installed Codex can be used, from the answers of 0.169.0 and 0.171.0 to flags followed by `--help`.

Codex reports an unknown flag as an error before it shows the help.
"""

import re

from clinvk.backends.base import PRIVATE, Backend, Host
from clinvk.backends.checkup_base import Checkup, FlagProbe, LoginProbe, LoginStatus, ProbeOutput, launches
from clinvk.backends.codex import user_files

_UNKNOWN = re.compile(r"(?:unexpected argument|unrecognized subcommand) '([^'=]+)")


def checkup(backend: Backend, host: Host) -> Checkup:
    """Return the checks for the installed Codex."""
    return Checkup(
        empty_home={"CODEX_HOME": PRIVATE},
        probes=(FlagProbe((*next(launches(backend)).argv, "--help"), _lacking),),  # every launch has the same flags
        login=_by_provider(host) or LoginProbe((backend.executable, "login", "status"), _login, in_user_home=True),
    )


def _lacking(answer: ProbeOutput) -> tuple[str, ...] | None:
    if unknown := _UNKNOWN.search(answer.text):
        return (unknown[1],)
    return () if answer.exit_code == 0 else None


def _login(answer: ProbeOutput) -> LoginStatus:
    said = [line for line in answer.text.splitlines() if line and not line.startswith("WARNING")]
    if answer.exit_code == 0:
        return LoginStatus(True, said[0].partition(" - ")[0] if said else "logged in")  # part of the key follows
    if any("Not logged in" in line for line in said):
        return LoginStatus(False, "not logged in; CODEX_API_KEY is not set", "codex login")
    return LoginStatus(None, "codex login status reports no login")


def _by_provider(host: Host) -> LoginStatus | None:
    """Return the login state of a user-defined model provider, which needs no OpenAI login, or None."""
    if host.env.get("CODEX_API_KEY"):
        return LoginStatus(True, "API key in CODEX_API_KEY")
    try:
        config = user_files.load(host, f"{user_files.folder(host, '')}/config.toml")
    except user_files.ConfigUnreadable as exc:
        return LoginStatus(False, str(exc))
    provider = config.model_providers.get(config.model_provider)
    if provider is None or provider.requires_openai_auth:
        return None
    about, variable = f"asks {config.model_provider}, the provider of its config.toml", provider.env_key
    if not variable:
        return LoginStatus(None, about)
    is_set = bool(host.env.get(variable))
    return LoginStatus(
        is_set, f"{about}, its key in {variable}" if is_set else f"{about}, whose key {variable} is not set"
    )
