"""The restrictions on Codex: approval and sandbox modes as flags, and overrides for settings that would weaken them.

The sandbox is the only protection of Codex, unless the user is asked for approval. Tried with `codex app-server` of
0.163.0, 0.169.0 and 0.171.0 against a scripted model that calls shell, patch and MCP tools. The following act outside
the sandbox, and this module disables them:

- `rules/*.rules` of the user or of a trusted project allow commands outside the sandbox, and no setting ignores rules.
  But Codex runs no command outside a sandbox that denies reading a path: such a command could read the path. So if the
  user has rules, the sandbox is a permission profile that denies reading the rules;
- MCP servers of the user or of a trusted project run; no flag ignores every server, so clinvk disables each server;
- `notify` programs and hooks run; from 0.171 on, so does the program that supplies the headers of telemetry;
- the programs of the user's `environments.toml` run and confine the commands that run in them; no flag ignores the
  file, so `read-only` is refused if the file exists or if the environment has the address of such a program;
- the older names of the features `apps` and `memories` turn the features on, whatever the current names say;
  `codex_hooks` does not behave this way;
- a trusted project's `.codex/config.toml` adds MCP servers and hooks, also from a parent of the working directory;
- 0.163 trusts any project by itself as soon as the sandbox lets Codex write in the project.

The user's own settings express the user's choice. Only `read-only`, which forbids all writing, overrides them, as does
`workspace` for the writable directories. A project's settings apply if the user has marked the project as trusted. The
command that supplies a model provider's key runs in every mode, because the key is the user's login.

Marking a project as untrusted disables the project's settings. 0.169 would also ignore the settings of an unmarked
project, but 0.163 would trust the project, and nothing else was found to prevent the trust. For an untrusted project,
Codex also omits the project's `AGENTS.md`, so clinvk supplies the text, unless the user's own settings mark the project
as untrusted.

`sandbox_mode`, `default_permissions` and permission profiles in the settings, agent roles with a sandbox, MCP servers
and hooks of the roles, and git's own hooks were tried too: none weakens the sandbox.
"""

from functools import cached_property
from pathlib import PurePath

import msgspec

from clinvk.backends import shared
from clinvk.backends.base import PRIVATE, Host
from clinvk.backends.codex import user_files
from clinvk.backends.codex.user_files import project_instructions, root
from clinvk.types.errors import Unsupported
from clinvk.types.request import RunRequest

_TEMPORARY = "temporary"
_FULL = "danger-full-access"
_READ = "read-only"
_WORKSPACE = "workspace-write"

_PROFILE = "clinvk"
"""The name of the permission profile."""

_WORKSPACE_ONLY = {
    "sandbox_workspace_write.writable_roots": "[]",
    "sandbox_workspace_write.exclude_slash_tmp": "true",
    "sandbox_workspace_write.exclude_tmpdir_env_var": "false",
}
_NO_FEATURES = ("hooks", "plugins", "apps", "memories", "image_generation", "shell_snapshot")
_READ_ONLY = {"notify": "[]", **{f"features.{name}": "false" for name in _NO_FEATURES}}
_OLDER_NAMES = ("connectors", "memory_tool")
"""The older names of `apps` and `memories`. Codex warns about them, so clinvk sets only the names that the user set."""

_ASKING_POLICIES = {"default": "on-request", "full": "untrusted"}
"""The approval policy of a run that asks, by sandbox mode. An accepted command runs unsandboxed, so the other sandbox
modes never ask. With `on-request`, Codex asks for edits that the sandbox forbids, and for commands that the model wants
to run unsandboxed. With `untrusted`, it asks for all edits and commands, even `ls`.
"""

_ENVIRONMENTS = "environments.toml"
"""The user's file of remote places to run commands in."""

_EXEC_SERVER = "CODEX_EXEC_SERVER_URL"
"""The variable with the address of a program that runs the commands instead, with or without the sandbox."""

_HEADERS_HELPER = "headers_helper"
"""The key of `[otel]` with a program. Codex refuses to start with an empty program, and runs none without exporters."""

_NO_TELEMETRY = {f"otel.{name}": '"none"' for name in ("exporter", "trace_exporter", "metrics_exporter")}


class Sandbox(msgspec.Struct, frozen=True):
    """The restrictions on the agent.

    Attributes:
        mode: the CLI's name for the sandbox mode; "" leaves the mode to the settings, or to a profile in `config`.
        directories: writable directories in addition to the working directory.
        has_folder: the agent's temporary directory is inside the private folder.
        config: values for `-c`, in TOML.
        instructions: the project instructions that Codex omits because clinvk marks the project as untrusted.
        own_instructions: the developer instructions in the user's settings, which `instructions` would replace.
        policy: when Codex asks its user.
    """

    mode: str = ""
    directories: tuple[str, ...] = ()
    has_folder: bool = False
    config: dict[str, str] = {}
    instructions: str = ""
    own_instructions: str = ""
    policy: str = "never"

    @property
    def is_open(self) -> bool:
        """Whether the agent is unrestricted, so that no extra flag can weaken the restrictions."""
        return self.mode == _FULL

    @property
    def env(self) -> dict[str, str]:
        """The agent's environment variables. `TMPDIR` is writable in the sandbox."""
        return {"TMPDIR": f"{PRIVATE}/{_TEMPORARY}"} if self.has_folder else {}

    @property
    def files(self) -> dict[str, bytes]:
        """The files that create the temporary directory in the private folder."""
        return {f"{_TEMPORARY}/.keep": b""} if self.has_folder else {}


def sandbox(request: RunRequest, host: Host) -> Sandbox:
    """Return the restrictions for the approval and sandbox modes of a request.

    Raises:
        Unsupported: Codex cannot enforce a mode, or the allowed tools.
    """
    if request.approval_mode == "always":
        raise Unsupported(
            "codex cannot ask before each action; use approval_mode default, auto, ask or none, "
            "with sandbox_mode read-only to forbid writing",
            "approval_mode",
        )
    if request.allowed_tools is not None:
        raise Unsupported(
            "codex cannot be limited to named tools; sandbox_mode read-only or workspace limits what its tools may do",
            "allowed_tools",
        )
    settings = _EffectiveSettings(request, host)
    restrictions = _restrictions(request, settings)
    if request.approval_mode == "ask":
        policy = _ASKING_POLICIES.get(request.sandbox_mode or "default", restrictions.policy)
        restrictions = msgspec.structs.replace(restrictions, policy=policy)
    if "projects" not in restrictions.config:
        return restrictions
    return msgspec.structs.replace(
        restrictions,
        instructions=settings.instructions(),
        own_instructions=settings.settings.developer_instructions or "",
    )


def _restrictions(request: RunRequest, settings: "_EffectiveSettings") -> Sandbox:
    directories = request.add_dirs
    match request.sandbox_mode or "default", request.approval_mode or "default":
        case "read-only", _:  # every file is readable without `add_dirs`
            return settings.against_rules(Sandbox(_READ, config=settings.read_only()))
        case "workspace", _:
            config = {**_WORKSPACE_ONLY, **settings.untrusted_projects()}
            return settings.against_rules(Sandbox(_WORKSPACE, directories, has_folder=True, config=config))
        case ("full", _) | ("default", "none"):
            return Sandbox(_FULL, directories, config=settings.untrusted_projects())
        case "default", "auto":
            return Sandbox(_WORKSPACE, directories, config=settings.untrusted_projects())
        case _:
            config = settings.untrusted_projects() if settings.settings.names_a_sandbox else {}
            return Sandbox("", directories, config=config)


class _EffectiveSettings:
    """The settings that apply to a run, and the overrides for them. Reads project files only if needed."""

    def __init__(self, request: RunRequest, host: Host) -> None:
        self._host = host
        self._named = request.workdir or ""
        self._problem: user_files.ConfigUnreadable | None = None
        try:
            self.settings = user_files.read(host, self._named)
        except user_files.ConfigUnreadable as exc:
            # Codex reports the error itself, unless clinvk relies on the settings.
            self._problem = exc
            self.settings = user_files.CodexConfig()

    @cached_property
    def _workdir(self) -> PurePath:
        return PurePath(self._host.resolve(self._named))

    @property
    def _places(self) -> list[str]:
        return [str(place) for place in (self._workdir, *self._workdir.parents)]

    @cached_property
    def _trust(self) -> str:
        top = root(self._host, None, self._workdir)  # the git root, whatever root markers the settings name
        return self.settings.trust([str(self._workdir), *([str(top)] if top else [])])

    def instructions(self) -> str:
        """Return the project instructions that Codex omits because clinvk marks the project as untrusted."""
        if self._trust == "untrusted":  # the user's choice, for which Codex omits the instructions too
            return ""
        return project_instructions(self._host, self.settings, self._workdir)

    def against_rules(self, sandbox: Sandbox) -> Sandbox:
        """Return the same sandbox as a permission profile that rules cannot leave, if the user has rules.

        Codex ignores the rules of a project that is marked as untrusted, and a profile holds against the rules of any
        other project as well.
        """
        folder = f"{user_files.folder(self._host, str(self._workdir))}/rules"
        if not self._has_rules(folder):
            return sandbox
        if folder.startswith("~"):
            folder = self._host.env.get("HOME", "") + folder[1:]
        access = {folder: "deny"} if sandbox.mode == _READ else {folder: "deny", ":slash_tmp": "read"}
        profile = {
            "extends": shared.toml_string(":read-only" if sandbox.mode == _READ else ":workspace"),
            "filesystem": shared.toml_table({path: shared.toml_string(right) for path, right in access.items()}),
        }
        if sandbox.mode == _WORKSPACE and self.settings.sandbox_workspace_write.get("network_access") is True:
            profile["network"] = "{enabled = true}"
        config = {
            **sandbox.config,
            "default_permissions": shared.toml_string(_PROFILE),
            f"permissions.{_PROFILE}": shared.toml_table(profile),
        }
        return msgspec.structs.replace(sandbox, mode="", config=config)

    def _has_rules(self, folder: str) -> bool:
        """Return whether the user, or a project, has rules."""
        projects = (f"{place.rstrip('/')}/.codex/rules" for place in self._places)
        return any(self._host.find(each, "*.rules") for each in (folder, *projects))

    def untrusted_projects(self) -> dict[str, str]:
        """Return overrides that ignore a project's settings unless the user trusts the project.

        For a project, the override makes `workspace-write` the default sandbox, so use it only for runs with a chosen
        sandbox.
        """
        return {} if self._trust == "trusted" else _untrusted(self.settings.untrusted(self._places))

    def read_only(self) -> dict[str, str]:
        """Return overrides that disable all features with effects outside the sandbox.

        Raises:
            Unsupported: The settings cannot be read, or send the commands to another program.
        """
        if self._problem:
            raise _cannot_enforce(
                f"the MCP servers in codex's settings cannot be disabled: {self._problem}"
            ) from self._problem
        path = f"{user_files.folder(self._host, str(self._workdir))}/{_ENVIRONMENTS}"
        if self._host.read(path):
            raise _cannot_enforce(
                f"codex would run its commands in the environments of {path}, and start their programs"
            )
        if self._host.env.get(_EXEC_SERVER):
            raise _cannot_enforce(f"codex would run its commands through the program that ${_EXEC_SERVER} names")
        servers = dict.fromkeys(self.settings.mcp_servers, "{enabled = false}")
        return {
            **_READ_ONLY,
            **_untrusted(self._places),
            **({"mcp_servers": shared.toml_table(servers)} if servers else {}),
            **{f"features.{name}": "false" for name in _OLDER_NAMES if name in self.settings.features},
            **(_NO_TELEMETRY if _HEADERS_HELPER in self.settings.otel else {}),
        }


def _cannot_enforce(why: str) -> Unsupported:
    return Unsupported(f"sandbox_mode read-only cannot be promised: {why}", "sandbox_mode")


def _untrusted(places: list[str]) -> dict[str, str]:
    return {"projects": shared.toml_table(dict.fromkeys(places, '{trust_level = "untrusted"}'))} if places else {}
