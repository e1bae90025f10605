"""What Codex may do: the approval and sandbox words as flags, and what would reopen them.

The only fence of Codex is its sandbox: nobody can be asked, so its approval policy is always `never`. Tried with
`codex exec` and `codex app-server` of 0.163.0, 0.169.0 and 0.171.0 against a scripted model that calls shell, patch and
MCP tools. What was found to act outside the sandbox all the same, and is closed here:

- `rules/*.rules` of the user or of a trusted project run the commands that they allow; `codex app-server` has no flag
  against them, and so is not used where there are any;
- MCP servers of the user or of a trusted project run; no flag ignores them all, so each is disabled;
- `notify` programs and hooks run, and from 0.171 on the program that gives telemetry its headers, without which there
  is no telemetry;
- the programs of the user's `environments.toml` run, and are what holds the commands in them; no flag leaves the file
  out, and so `read-only` is refused where there is one, or an address of such a program in the environment;
- the features `apps` and `memories` are on where they are by their older names, whatever is said by those of today;
  it is not so with `codex_hooks`;
- a trusted project's `.codex/config.toml` adds MCP servers and hooks, also from a parent of the working directory;
- 0.163 trusts any project by itself as soon as its sandbox lets it write there.

The user's own settings are the user's word: only `read-only`, which lets nothing be written, overrules them, and
`workspace` in what may be written. A project's settings act where the user has said that it is trusted. The command
that gives a model provider its key runs everywhere: it is the user's login.

What keeps a project closed is to mark it untrusted. 0.169 would keep closed one that nobody has marked, but 0.163 would
trust it, and nothing else was found that stops it. Codex then leaves out the project's `AGENTS.md` too, which therefore
comes from clinvk, unless the user's own settings say that the project is untrusted.

`sandbox_mode`, `default_permissions` and permission profiles of the settings, agent roles with a sandbox, MCP
servers and hooks of their own, and git's own hooks were tried too: they reopen nothing.
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

_WORKSPACE_ONLY = {
    "sandbox_workspace_write.writable_roots": "[]",
    "sandbox_workspace_write.exclude_slash_tmp": "true",
    "sandbox_workspace_write.exclude_tmpdir_env_var": "false",
}
_READ_ONLY = {
    "notify": "[]",
    "features.hooks": "false",
    "features.plugins": "false",
    "features.apps": "false",
    "features.memories": "false",
    "features.image_generation": "false",
    "features.shell_snapshot": "false",
}
_OLDER_NAMES = ("connectors", "memory_tool")
"""Of `apps` and `memories`. Codex warns of them, and so they are set only where the user has set them."""

_ENVIRONMENTS = "environments.toml"
"""The user's file of other places to run commands in."""

_EXEC_SERVER = "CODEX_EXEC_SERVER_URL"
"""Where a program listens that runs the commands instead, and holds them to the sandbox or not."""

_HEADERS_HELPER = "headers_helper"
"""In `[otel]`. 0.169 does not know it, which is an error there with `--strict-config`: set only where the user has."""


class Fence(msgspec.Struct, frozen=True):
    """What holds the agent.

    Attributes:
        mode: the CLI's word for the sandbox; "" leaves it to its settings.
        directories: what may be written besides the working directory.
        no_rules: rules are not to be followed.
        bypasses: there is neither approval nor sandbox.
        config: values for `-c`, in TOML.
        is_open: nothing is held back, so that no extra flag can weaken anything.
        has_folder: the agent's temporary folder is the private one.
        instructions: what Codex would have told the model, had the project not been marked untrusted.
        own_instructions: those of the user's settings, whose place they would take.
        has_rules: there are rules that would be followed all the same, but for a flag of `codex exec`.
    """

    mode: str = ""
    directories: tuple[str, ...] = ()
    no_rules: bool = False
    bypasses: bool = False
    config: dict[str, str] = {}
    is_open: bool = False
    has_folder: bool = False
    instructions: str = ""
    own_instructions: str = ""
    has_rules: bool = False

    @property
    def approval(self) -> tuple[str, ...]:
        """Flags of `codex` itself, before `exec`."""
        return () if self.bypasses else ("--ask-for-approval=never",)

    @property
    def sandbox(self) -> tuple[str, ...]:
        """Flags of `codex exec`."""
        mode = "--dangerously-bypass-approvals-and-sandbox" if self.bypasses else f"--sandbox={self.mode}"
        return (
            *([mode] if self.mode else []),
            *(["--ignore-rules"] if self.no_rules else []),
            *(f"--add-dir={path}" for path in self.directories),
        )

    @property
    def env(self) -> dict[str, str]:
        """The agent's environment. Its `TMPDIR` is writable in the sandbox."""
        return {"TMPDIR": f"{PRIVATE}/{_TEMPORARY}"} if self.has_folder else {}

    @property
    def files(self) -> dict[str, bytes]:
        """What makes the private folder."""
        return {f"{_TEMPORARY}/.keep": b""} if self.has_folder else {}


def fence(request: RunRequest, host: Host) -> Fence:
    """Give the flags for the approval and sandbox words of a request.

    Raises:
        Unsupported: a word that Codex cannot honour.
    """
    if request.approval_mode == "always":
        raise Unsupported(
            "codex cannot ask before each action; have approval_mode default, auto or none, "
            "with sandbox_mode read-only where it shall write nothing",
            "approval_mode",
        )
    if request.allowed_tools is not None:
        raise Unsupported(
            "codex cannot be limited to named tools; sandbox_mode read-only or workspace limits what its tools may do",
            "allowed_tools",
        )
    known = _Known(request, host)
    held = _held(request, known)
    if held.no_rules:
        held = msgspec.structs.replace(held, has_rules=known.has_rules())
    if "projects" not in held.config:
        return held
    return msgspec.structs.replace(
        held, instructions=known.instructions(), own_instructions=known.settings.developer_instructions or ""
    )


def _held(request: RunRequest, known: "_Known") -> Fence:
    directories = request.add_dirs
    match request.sandbox_mode or "default", request.approval_mode or "default":
        case "read-only", _:  # all can be read: `add_dirs` need nothing
            return Fence("read-only", no_rules=True, config=known.read_only())
        case "workspace", _:
            config = {**_WORKSPACE_ONLY, **known.distrust()}
            return Fence("workspace-write", directories, no_rules=True, config=config, has_folder=True)
        case "full", _:
            return Fence("danger-full-access", directories, config=known.distrust(), is_open=True)
        case "default", "none":
            return Fence("danger-full-access", directories, bypasses=True, config=known.distrust(), is_open=True)
        case "default", "auto":
            return Fence("workspace-write", directories, config=known.distrust())
        case _:
            return Fence("", directories, config=known.distrust() if known.settings.names_a_sandbox else {})


class _Known:
    """The settings that a run will meet, and what overrules them. The project is looked at where that matters."""

    def __init__(self, request: RunRequest, host: Host) -> None:
        self._host = host
        self._named = request.workdir or ""
        self._problem: user_files.Unreadable | None = None
        try:
            self.settings = user_files.read(host, self._named)
        except user_files.Unreadable as exc:  # which Codex itself will tell, unless a promise rests on them
            self._problem = exc
            self.settings = user_files.Settings()

    @cached_property
    def _workdir(self) -> PurePath:
        return PurePath(self._host.resolve(self._named))

    @property
    def _places(self) -> list[str]:
        return [str(place) for place in (self._workdir, *self._workdir.parents)]

    @cached_property
    def _trust(self) -> str:
        top = root(self._host, None, self._workdir)  # of git, whichever root the settings give to the project
        return self.settings.trust([str(self._workdir), *([str(top)] if top else [])])

    def instructions(self) -> str:
        """Give what the mark keeps from the model."""
        if self._trust == "untrusted":  # the user's word, by which Codex leaves it out too
            return ""
        return project_instructions(self._host, self.settings, self._workdir)

    def has_rules(self) -> bool:
        """Say whether the user or a project, trusted or not, has any."""
        projects = (PurePath(place, ".codex") for place in self._places)
        folders = (user_files.folder(self._host, str(self._workdir)), *projects)
        return any(self._host.find(f"{folder}/rules", "*.rules") for folder in folders)

    def distrust(self) -> dict[str, str]:
        """Let the settings of a project act only where the user has trusted it.

        Said of a project, this makes `workspace-write` its default sandbox: for runs whose sandbox is chosen.
        """
        return {} if self._trust == "trusted" else _untrusted(self.settings.untrusted(self._places))

    def read_only(self) -> dict[str, str]:
        """Close all that acts outside the sandbox."""
        if self._problem:
            raise _unpromised(
                f"the MCP servers in codex's settings cannot be disabled: {self._problem}"
            ) from self._problem
        path = f"{user_files.folder(self._host, str(self._workdir))}/{_ENVIRONMENTS}"
        if self._host.read(path):
            raise _unpromised(f"codex would run its commands where {path} says, and start the programs that it names")
        if self._host.env.get(_EXEC_SERVER):
            raise _unpromised(f"codex would run its commands through the program that ${_EXEC_SERVER} names")
        servers = dict.fromkeys(self.settings.mcp_servers, "{enabled = false}")
        return {
            **_READ_ONLY,
            **_untrusted(self._places),
            **({"mcp_servers": shared.table(servers)} if servers else {}),
            **{f"features.{name}": "false" for name in _OLDER_NAMES if name in self.settings.features},
            **({f"otel.{_HEADERS_HELPER}": '""'} if _HEADERS_HELPER in self.settings.otel else {}),
        }


def _unpromised(why: str) -> Unsupported:
    return Unsupported(f"sandbox_mode read-only cannot be promised: {why}", "sandbox_mode")


def _untrusted(places: list[str]) -> dict[str, str]:
    return {"projects": shared.table(dict.fromkeys(places, '{trust_level = "untrusted"}'))} if places else {}
