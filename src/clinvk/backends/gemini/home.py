"""The private home of Gemini CLI (`GEMINI_CLI_HOME`), in the private folder of a launch.

Gemini CLI 0.61.0 reads settings only from files, and a normal user cannot put a file ahead of the others:
`GEMINI_CLI_SYSTEM_SETTINGS_PATH` is skipped, with only a warning, unless the file and every folder above the file
belong to root and only root can write them. In a private home, the CLI reads clinvk's settings instead of the user's.
The administrator's settings (/etc/gemini-cli) stay in force and override clinvk's.

The private home links to the needed files of the user's home: the login, and the record of conversations unless the run
is ephemeral. A record in the private folder is deleted with the folder.

Every run that keeps its conversation needs a private home, even an unrestricted run. With default settings, each start
of the CLI deletes all conversations of the project whose files look empty. Each resumption, and each CLI that is still
starting, leaves such a file. Only a setting prevents the deletion.
"""

import json
import re
from collections.abc import Sequence

from msgspec import DecodeError, ValidationError, convert
from msgspec.json import decode

from clinvk.backends.base import PRIVATE, Host
from clinvk.backends.gemini import client_tools
from clinvk.backends.gemini.permissions import EDITS, READS, ToolPermissions
from clinvk.backends.shared import native_effort
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import RunRequest

HOME = f"{PRIVATE}/home"
_FOLDER = "home/.gemini"
_SETTINGS = f"{_FOLDER}/settings.json"

_RECORDS = ("tmp", "history")
_LOGIN = ("oauth_creds.json", "google_accounts.json", "gemini-credentials.json", "installation_id")
_CONTEXT = ("GEMINI.md", "policies")
_MIRRORED = (
    *(*_LOGIN, *_CONTEXT, ".env", "state.json", "trustedFolders.json", "trusted_hooks.json", "mcp-oauth-tokens.json"),
    *("mcp-oauth-tokens-v2.json", "mcp-server-enablement.json", "a2a-oauth-tokens.json", "acknowledgments"),
    *("agents", "commands", "extensions", "skills"),
)
_KEPT_SETTINGS = (
    *("security.auth", "model", "modelConfigs", "billing", "privacy.usageStatisticsEnabled"),
    *("general.maxAttempts", "general.retryFetchErrors"),
    *("general.enableAutoUpdate", "general.enableAutoUpdateNotification"),
    *("context.fileFiltering", "tools.exclude", "tools.confirmationRequired", "tools.useRipgrep"),
    *("advanced.dnsResolutionOrder", "policyPaths", "adminPolicyPaths"),
)
"""The user's settings that stay in force for a restricted agent: none starts a program or permits a tool."""

_RETENTION = "general.sessionRetention.enabled"

_STRICT = {
    "security.folderTrust.enabled": False,
    "advanced.ignoreLocalEnv": True,
    "general.plan.enabled": False,
    _RETENTION: False,
    "hooksConfig.enabled": False,
    "skills.enabled": False,
}
"""Settings of a restricted agent. `folderTrust` is off because the CLI exits in an untrusted folder;
GEMINI_CLI_TRUST_WORKSPACE denies trust instead.
"""

_THINKING: dict[str, tuple[str, int]] = {
    **dict.fromkeys(("none", "minimal"), ("MINIMAL", 1024)),
    "low": ("LOW", 1024),
    "medium": ("MEDIUM", 8192),
    **dict.fromkeys(("high", "xhigh", "max"), ("HIGH", 24576)),
}
"""The thinking for each effort: a level for models from Gemini 3 on, and a number of tokens for Gemini 2.5.

The values match Google's OpenAI-compatible `reasoning_effort`: https://ai.google.dev/gemini-api/docs/openai#thinking
"""

_STRING_OR_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)


def user_folder(host: Host) -> str:
    """Return the folder of the user's settings, with `~` for the home directory."""
    return f"{_user_home(host)}/.gemini"


def chosen_login(host: Host) -> str | None:
    """Return the login type that the user chose in the settings.

    Raises:
        InvalidRequest: The user's settings cannot be read.
    """
    chosen = _get(_user_settings(user_folder(host), host), "security.auth.selectedType")
    return chosen if isinstance(chosen, str) else None


def conversation_files(conversation: str, host: Host) -> Sequence[str]:
    """Return the files of a conversation, the complete file first. The other files hold only a beginning."""
    folder, name = user_folder(host), f"tmp/*/chats/session-*-{conversation[:8]}.json"
    return host.find(folder, f"{name}l") or host.find(folder, name)


def has_rules(host: Host) -> bool:
    """Return whether the user has custom rules for tools."""
    settings = _user_settings(user_folder(host), host)
    named = any(_get(settings, path) for path in ("policyPaths", "adminPolicyPaths"))
    return named or bool(host.find(f"{user_folder(host)}/policies", "*.toml"))


def limits_turns(host: Host) -> bool:
    """Return whether the user has set a turn limit."""
    return _get(_user_settings(user_folder(host), host), "model.maxSessionTurns") not in (None, -1)


def read_at_start(workdir: str, host: Host) -> tuple[str, ...]:
    """Return the environment and settings files outside the private home that a process reads at start."""
    folders = (user_folder(host), "~", workdir, f"{workdir}/.gemini")
    return (*(f"{folder}/.env" for folder in folders), f"{workdir}/.gemini/settings.json")


def restricted(
    permissions: ToolPermissions, request: RunRequest, host: Host
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files and links of a home in which neither the project nor the user can lift the limits.

    The project's GEMINI.md still is context for the model, although the project is not trusted in any other way.

    Raises:
        InvalidRequest: The user's settings cannot be read; the CLI would not start with the settings.
    """
    user = user_folder(host)
    own = _user_settings(user, host)
    settings: dict[str, object] = {}
    kept = {path: value for path in _KEPT_SETTINGS if (value := _get(own, path)) is not None}
    for path, value in {**kept, **_STRICT, **client_tools.settings(request, host)}.items():
        _set(settings, path, value)
    _set_thinking(settings, request)
    if permissions.only is not None and set(permissions.only) <= {*READS, *EDITS}:
        _set(settings, "tools.core", permissions.only)
    links = {f"{_FOLDER}/{name}": f"{user}/{name}" for name in _LOGIN}
    links["home/.env"] = f"{user}/.env" if host.read(f"{user}/.env") is not None else "~/.env"
    if not request.own_tools:
        return {_SETTINGS: json.dumps(settings).encode()}, links
    links |= {f"{_FOLDER}/{name}": f"{user}/{name}" for name in _CONTEXT}
    if request.workdir:
        links[f"{_FOLDER}/project.md"] = f"{request.workdir}/GEMINI.md"
        _set(settings, "context.fileName", ["GEMINI.md", "project.md"])
    files = {_SETTINGS: json.dumps(settings).encode()}
    if permissions.may_edit:
        # The CLI's tools may write the target of the link, and a project folder named `%2e%2e` gets a path past the
        # path checker: see `permissions`. A copy is deleted with the run.
        del links[f"{_FOLDER}/GEMINI.md"]
        files[f"{_FOLDER}/GEMINI.md"] = host.read(f"{user}/GEMINI.md") or b""
    return files, links


def mirrored(request: RunRequest, host: Host) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files and links of a home that mirrors the user's home, without the records.

    If the prompt is data, the home omits the user's commands, because clinvk's command takes the place of the folder.

    Raises:
        InvalidRequest: The user's settings cannot be read; the CLI would not start with the settings.
    """
    user = user_folder(host)
    settings = _user_settings(user, host)
    for path, value in {_RETENTION: False, **client_tools.settings(request, host)}.items():
        _set(settings, path, value)
    _set_thinking(settings, request)
    links = {
        f"{_FOLDER}/{name}": f"{user}/{name}" for name in _MIRRORED if not (request.literal and name == "commands")
    }
    links |= {f"home/{name}": f"{_user_home(host)}/{name}" for name in (".agents", ".env")}
    return {_SETTINGS: json.dumps(settings).encode()}, links


def records(host: Host) -> dict[str, str]:
    """Return the links to the CLI's record of conversations."""
    return {f"{_FOLDER}/{name}/": f"{user_folder(host)}/{name}" for name in _RECORDS}


def _set_thinking(settings: dict[str, object], request: RunRequest) -> None:
    """Set the thinking of the conversation's models.

    The overrides apply to the base configuration of each model generation, which the CLI's helper models do not extend.
    """
    thinking = native_effort(request, _THINKING)
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
        value = branch
    settings[key] = value


def _branch(value: object) -> dict[str, object]:
    try:
        return convert(value, dict[str, object])
    except ValidationError:
        return {}
