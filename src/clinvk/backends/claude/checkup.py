"""Checks whether the installed Claude Code can be used, by starts without a prompt (2.1.197 to 2.1.332).

The help text of Claude Code omits some flags, so the check passes all flags in a trial start. Claude Code reports an
unknown flag before any other problem, and exits because the prompt is missing.
"""

import re

import msgspec

from clinvk.backends.base import PRIVATE, Backend, Host
from clinvk.backends.checkup_base import Checkup, FlagProbe, LoginProbe, LoginStatus, ProbeOutput, Remark, launches
from clinvk.backends.claude.permissions import NO_SHELL, SHELL_PACKAGES, can_confine_shell

_UNKNOWN = re.compile(r"unknown option '(-[^'=]+)")
_ACCEPTED = ("Input must be provided", "No conversation found")
_QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "ANTHROPIC_BASE_URL": "http://127.0.0.1:9",
    "CLAUDE_CODE_MAX_RETRIES": "0",
}
"""Makes the model API unreachable, in case a version takes a command of the checkup for a prompt."""


class _Status(msgspec.Struct):
    """The output of `claude auth status`."""

    loggedIn: bool  # the CLI's spelling
    authMethod: str = ""
    apiProvider: str = ""


def checkup(backend: Backend, host: Host) -> Checkup:
    """Return the checks for Claude Code."""
    argv = {word.partition("=")[0]: word for launch in launches(backend) for word in launch.argv[1:]}
    has_home = host.read(f"{host.env.get('CLAUDE_CONFIG_DIR') or '~'}/.claude.json") is not None
    return Checkup(
        empty_home={"CLAUDE_CONFIG_DIR": PRIVATE, **_QUIET},
        probes=(FlagProbe((backend.executable, *map(_with_file, argv.values())), _lacking),),
        login=LoginProbe((backend.executable, "auth", "status"), _login, has_home, _QUIET),
        remarks=_remarks(host),
    )


def _with_file(word: str) -> str:
    flag, _, value = word.partition("=")
    return f"{flag}=/dev/null" if value.startswith(PRIVATE) else word


def _lacking(answer: ProbeOutput) -> tuple[str, ...] | None:
    """Return the first flag that Claude Code rejected, or None if the output is inconclusive."""
    if unknown := _UNKNOWN.search(answer.text):
        return (unknown[1],)
    return () if answer.exit_code == 0 or any(text in answer.text for text in _ACCEPTED) else None


def _login(answer: ProbeOutput) -> LoginStatus:
    start, end = answer.text.find("{"), answer.text.rfind("}")
    try:
        status = msgspec.json.decode(answer.text[start : end + 1], type=_Status)
    except msgspec.DecodeError:
        return LoginStatus(None, "claude auth status reports no login")
    if not status.loggedIn:
        return LoginStatus(False, "not logged in; ANTHROPIC_API_KEY is not set", "claude /login")
    how = status.authMethod if status.apiProvider in ("", "firstParty") else status.apiProvider
    return LoginStatus(True, f"logged in ({how.replace('_', ' ') or 'as it says'})")


def _remarks(host: Host) -> tuple[Remark, ...]:
    found: list[Remark] = []
    if not can_confine_shell(host):
        found.append(Remark(NO_SHELL, SHELL_PACKAGES))
    if host.is_root and not host.env.get("IS_SANDBOX"):
        found.append(Remark("approval_mode none is refused to root; IS_SANDBOX=1 allows it"))
    return tuple(found)
