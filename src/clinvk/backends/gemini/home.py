"""A home of the agent's own for Gemini CLI, by `GEMINI_CLI_HOME`, in the private folder of a launch.

Gemini CLI 0.61.0 takes settings from files only, and a file of its user cannot be put in front of the others:
`GEMINI_CLI_SYSTEM_SETTINGS_PATH` is skipped, with no more than a warning, unless the file and every folder above it
belong to root and are writable by root alone. With a home of its own the CLI has our settings in the place of its
user's. The administrator's (/etc/gemini-cli) are in force as ever, and go before ours.

What lies in the user's home and is needed is linked: the login, and the record of conversations unless the run is
ephemeral; what is recorded in the private folder is gone with it.

Each run that keeps its conversation needs this, the open ones too: a start of the CLI deletes, with its default
settings, all conversations of the project whose files look empty, and such a file is left by each resumption and by
whoever is just starting. Only a setting prevents it.
"""

import json
import re
from collections.abc import Sequence

from msgspec import DecodeError, ValidationError, convert
from msgspec.json import decode

from clinvk.backends.base import PRIVATE, Host, effort_of
from clinvk.backends.gemini.permissions import EDITS, READS, Leave
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import RunRequest

HOME = f"{PRIVATE}/home"
_FOLDER = "home/.gemini"
_SETTINGS = f"{_FOLDER}/settings.json"

_RECORDS = ("tmp", "history")
_LOGIN = ("oauth_creds.json", "google_accounts.json", "gemini-credentials.json", "installation_id")
_CONTEXT = ("GEMINI.md", "policies")
_ALL = (
    *_LOGIN,
    *_CONTEXT,
    ".env",
    "state.json",
    "trustedFolders.json",
    "trusted_hooks.json",
    "mcp-oauth-tokens.json",
    "mcp-oauth-tokens-v2.json",
    "mcp-server-enablement.json",
    "a2a-oauth-tokens.json",
    "acknowledgments",
    "agents",
    "commands",
    "extensions",
    "skills",
)

_KEPT = (
    "security.auth",
    "model",
    "modelConfigs",
    "billing",
    "privacy.usageStatisticsEnabled",
    "general.maxAttempts",
    "general.retryFetchErrors",
    "general.enableAutoUpdate",
    "general.enableAutoUpdateNotification",
    "context.fileFiltering",
    "tools.exclude",
    "tools.confirmationRequired",
    "tools.useRipgrep",
    "advanced.dnsResolutionOrder",
    "policyPaths",
    "adminPolicyPaths",
)
"""What of the user's settings holds under a strict word: nothing that starts a program or permits a tool."""

_RETENTION = "general.sessionRetention.enabled"

_STRICT = {
    "security.folderTrust.enabled": False,
    "advanced.ignoreLocalEnv": True,
    "general.plan.enabled": False,
    _RETENTION: False,
    "hooksConfig.enabled": False,
    "skills.enabled": False,
}
"""`folderTrust` is off because an untrusted folder ends the CLI otherwise; GEMINI_CLI_TRUST_WORKSPACE tells it."""

_THINKING: dict[str, tuple[str, int]] = {
    "none": ("MINIMAL", 1024),
    "minimal": ("MINIMAL", 1024),
    "low": ("LOW", 1024),
    "medium": ("MEDIUM", 8192),
    "high": ("HIGH", 24576),
    "xhigh": ("HIGH", 24576),
    "max": ("HIGH", 24576),
}
"""What each effort is to models from Gemini 3 on, a level, and to Gemini 2.5, a number of tokens.

So does Google's own door for OpenAI's `reasoning_effort`: https://ai.google.dev/gemini-api/docs/openai#thinking
"""

_STRING_OR_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)


def user_folder(host: Host) -> str:
    """Give the folder of the user's settings, with `~` for the home."""
    return f"{_user_home(host)}/.gemini"


def chosen_login(host: Host) -> str | None:
    """Give the word for the login that the user chose in the settings.

    Raises:
        InvalidRequest: the user's settings cannot be read.
    """
    chosen = _get(_user_settings(user_folder(host), host), "security.auth.selectedType")
    return chosen if isinstance(chosen, str) else None


def conversation_files(conversation: str, host: Host) -> Sequence[str]:
    """Give the files of a conversation, the whole one first: the others have no more than a beginning."""
    folder, name = user_folder(host), f"tmp/*/chats/session-*-{conversation[:8]}.json"
    return host.find(folder, f"{name}l") or host.find(folder, name)


def has_rules(host: Host) -> bool:
    """Say whether the user has rules of his own for tools."""
    settings = _user_settings(user_folder(host), host)
    named = any(_get(settings, path) for path in ("policyPaths", "adminPolicyPaths"))
    return named or bool(host.find(f"{user_folder(host)}/policies", "*.toml"))


def limits_turns(host: Host) -> bool:
    """Say whether the user has set a limit of turns."""
    return _get(_user_settings(user_folder(host), host), "model.maxSessionTurns") not in (None, -1)


def read_at_start(workdir: str, host: Host) -> tuple[str, ...]:
    """Give the variables and settings that a process started now would find beside its home."""
    folders = (user_folder(host), "~", workdir, f"{workdir}/.gemini")
    return (*(f"{folder}/.env" for folder in folders), f"{workdir}/.gemini/settings.json")


def strict(leave: Leave, request: RunRequest, host: Host) -> tuple[dict[str, bytes], dict[str, str]]:
    """Give the files and links of a home in which neither the project nor the user opens what `leave` closes.

    The project's GEMINI.md is context for the model as ever, though nothing else of the project is trusted.

    Raises:
        InvalidRequest: the user's settings cannot be read; the CLI would not start with them.
    """
    user = user_folder(host)
    own = _user_settings(user, host)
    settings: dict[str, object] = {}
    for path in _KEPT:
        if (value := _get(own, path)) is not None:
            _set(settings, path, value)
    for path, value in _STRICT.items():
        _set(settings, path, value)
    _think(settings, request)
    if leave.only is not None and set(leave.only) <= {*READS, *EDITS}:
        _set(settings, "tools.core", leave.only)
    links = {f"{_FOLDER}/{name}": f"{user}/{name}" for name in (*_LOGIN, *_CONTEXT)}
    links["home/.env"] = f"{user}/.env" if host.read(f"{user}/.env") is not None else "~/.env"
    if request.workdir:
        links[f"{_FOLDER}/project.md"] = f"{request.workdir}/GEMINI.md"
        _set(settings, "context.fileName", ["GEMINI.md", "project.md"])
    files = {_SETTINGS: json.dumps(settings).encode()}
    if leave.may_edit:
        # The CLI's tools may write what this leads to, and a project's folder of the name `%2e%2e` gets them there
        # past the checker of paths: see `words`. A copy goes with the run.
        del links[f"{_FOLDER}/GEMINI.md"]
        files[f"{_FOLDER}/GEMINI.md"] = host.read(f"{user}/GEMINI.md") or b""
    return files, links


def as_the_users(request: RunRequest, host: Host) -> tuple[dict[str, bytes], dict[str, str]]:
    """Give the files and links of a home that is as the user's own, without its records.

    Where the prompt is data there are no commands of the user's, whose folder would be the place of ours.

    Raises:
        InvalidRequest: the user's settings cannot be read; the CLI would not start with them.
    """
    user = user_folder(host)
    settings = _user_settings(user, host)
    _set(settings, _RETENTION, False)
    _think(settings, request)
    links = {f"{_FOLDER}/{name}": f"{user}/{name}" for name in _ALL if not (request.literal and name == "commands")}
    links |= {f"home/{name}": f"{_user_home(host)}/{name}" for name in (".agents", ".env")}
    return {_SETTINGS: json.dumps(settings).encode()}, links


def records(host: Host) -> dict[str, str]:
    """Give the links to where the CLI keeps its conversations."""
    return {f"{_FOLDER}/{name}/": f"{user_folder(host)}/{name}" for name in _RECORDS}


def _think(settings: dict[str, object], request: RunRequest) -> None:
    """Set how hard the models of a conversation think: by what all of a generation extend, the CLI's helpers not."""
    thinking = effort_of(request, _THINKING)
    if thinking is None:
        return
    level, tokens = thinking
    overrides = _get(settings, "modelConfigs.customOverrides")
    kept = convert(overrides, list[object]) if isinstance(overrides, list) else []
    ours = [_override("chat-base-3", "thinkingLevel", level), _override("chat-base-2.5", "thinkingBudget", tokens)]
    _set(settings, "modelConfigs.customOverrides", [*kept, *ours])


def _override(base: str, key: str, value: str | int) -> dict[str, object]:
    return {"match": {"model": base}, "modelConfig": {"generateContentConfig": {"thinkingConfig": {key: value}}}}


def _user_home(host: Host) -> str:
    return host.env.get("GEMINI_CLI_HOME") or "~"


def _user_settings(user: str, host: Host) -> dict[str, object]:
    path = f"{user}/settings.json"
    text = (host.read(path) or b"{}").decode(errors="replace")
    try:
        return decode(_STRING_OR_COMMENT.sub(lambda found: found[1] or " ", text), type=dict[str, object])
    except DecodeError as exc:
        raise InvalidRequest(f"{path} is not what the Gemini CLI can read: {exc}") from exc


def _get(settings: dict[str, object], path: str) -> object:
    key, _, rest = path.partition(".")
    value = settings.get(key)
    return _get(_branch(value), rest) if rest else value


def _set(settings: dict[str, object], path: str, value: object) -> None:
    key, _, rest = path.partition(".")
    if rest:
        branch = _branch(settings.get(key))
        _set(branch, rest, value)
        settings[key] = branch
    else:
        settings[key] = value


def _branch(value: object) -> dict[str, object]:
    try:
        return convert(value, dict[str, object])
    except ValidationError:
        return {}
